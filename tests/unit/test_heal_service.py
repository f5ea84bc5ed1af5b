# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frame of persist-heal.service: word that is left while it works, and the verdict at its end. What it does to disks is in tests/storage."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.state import verify_service
from persist.volume import heal_service, health, mountinfo, outcome
from persist.volume.mountinfo import Mount


class Scene:
    """What the service was asked and did."""

    def __init__(self, base: Path) -> None:
        self.word = base / "heal"
        self.failed = base / "heal-failed"
        self.steps = [0]  # how many steps each healing takes
        self.word_comes = 0  # in how many of them somebody leaves word
        self.error: PersistError | None = None
        self.healed: list[bool] = []  # whether word was there when it began
        self.verdicts = self.looked = 0

    def heal(self, path: str) -> int:
        """Stands in for the healer."""
        self.healed.append(self.word.exists())
        if self.error is not None:
            raise self.error
        if len(self.healed) <= self.word_comes:
            self.word.touch()
        return self.steps[len(self.healed) - 1]

    def run(self, *argv: str) -> str:
        """Stands in for systemctl."""
        assert argv == ("systemctl", "--no-block", "start", "persist-health.service")
        self.looked += 1
        return ""

    def again(self) -> int:
        """Stands in for the verdict."""
        self.verdicts += 1
        return 0


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A mounted volume, and all notes in a scratch directory."""
    made = Scene(tmp_path)
    monkeypatch.setattr(outcome, "HEAL", str(made.word))
    monkeypatch.setattr(health, "HEAL_FAILED", str(made.failed))
    monkeypatch.setattr(heal_service, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(heal_service, "_heal", made.heal)
    monkeypatch.setattr(verify_service, "again", made.again)
    monkeypatch.setattr(heal_service, "run", made.run)
    monkeypatch.setattr(mountinfo, "at", lambda path: Mount(2, 1, "0:30", "/@persist-state", path, "rw", "btrfs", "/dev/vdb2", "rw"))
    before = signal.getsignal(signal.SIGTERM)
    yield made
    signal.signal(signal.SIGTERM, before)


def test_word_that_comes_while_it_heals(scene: Scene) -> None:
    """A start of a service that runs is none: it looks for itself whether there is more to do."""
    scene.word.touch()
    scene.steps, scene.word_comes = [3, 1, 0], 2
    assert heal_service.heal_main() == 0
    assert scene.healed == [False, False, False], "taken away before each"
    assert (scene.verdicts, scene.word.exists()) == (1, False)


@pytest.mark.parametrize(("steps", "failed_before", "verdicts"), [(0, False, 0), (2, False, 1), (0, True, 1)])
def test_the_verdict_is_made_where_something_has_changed(scene: Scene, steps: int, failed_before: bool, verdicts: int) -> None:
    """Not by persist-health.service, which may be at its end just now."""
    scene.steps = [steps]
    if failed_before:
        scene.failed.touch()
    assert heal_service.heal_main() == 0
    assert (scene.verdicts, scene.looked, scene.failed.exists()) == (verdicts, verdicts, False)


def test_a_failure_is_in_the_verdict(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said, kept for the verdict, and the exit status tells."""
    scene.error = PersistError("The disk does not answer.", hint="Replace it.")
    assert heal_service.heal_main() == 1
    assert "failed: The disk does not answer. Replace it." in capsys.readouterr().err
    assert scene.failed.read_text() == "Healing of the state volume failed: The disk does not answer.\n"
    assert scene.verdicts == 1
