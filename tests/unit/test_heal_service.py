# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frame of persist-heal.service: word, lock, failures, and the verdict at its end. What it does to disks
is in tests/storage."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.boot.config import Config
from persist.errors import PersistError
from persist.services import heal as heal_service
from persist.system import btrfs, mountinfo
from persist.system.mountinfo import Mount
from persist.verdict import announce
from persist.volume import outcome
from persist.volume.heal import health, lock
from persist.volume.heal.loop import Act
from persist.volume.members import in_kernel, lost
from persist.volume.members.in_kernel import LiveDevice
from persist.volume.ondisk.degraded_mark import DegradedMark


class Scene:
    """What the service was asked and did."""

    def __init__(self, base: Path) -> None:
        self.word = base / "heal"
        self.failed = base / "heal-failed"
        self.booted = base / "booted"
        self.order: list[str] = []
        self.ours: list[bool] = []
        self.patient: list[bool] = []
        self.word_comes = 0  # in how many looks somebody leaves word
        self.error: BaseException | None = None
        self.mount: Mount | None = Mount(
            2, 1, "0:30", "/@persist-state", "/run/persist/volume", "rw", "btrfs", "/dev/vdb2", "rw"
        )

    def again(self) -> int:
        """Stands in for the verdict."""
        self.order.append("verdict")
        return 0


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A mounted volume, and all notes in a scratch directory."""
    made = Scene(tmp_path)
    made.booted.touch()

    class Round:
        """Stands in for what looks at disks."""

        status = 0

        def __init__(self, path: str, config: object, verdict: Act, *, ours: bool, patient: bool) -> None:
            made.ours.append(ours)
            made.patient.append(patient)
            self.healer = self

        def picture(self) -> str:
            """What was there."""
            return "picture"

        def verdict(self) -> None:
            """Passed on."""
            made.again()

        def look(self) -> Act | None:
            """A look that may raise."""
            made.order.append("word" if made.word.exists() else "look")
            if made.error is not None:
                raise made.error
            if made.word_comes:
                made.word_comes -= 1
                made.word.touch()
            return None

    monkeypatch.setattr(outcome, "HEAL", str(made.word))
    monkeypatch.setattr(health, "HEAL_FAILED", str(made.failed))
    monkeypatch.setattr(lock, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(heal_service, "BOOTED", str(made.booted))
    monkeypatch.setattr(heal_service, "Round", Round)
    monkeypatch.setattr(announce, "again", made.again)
    monkeypatch.setattr(mountinfo, "at", lambda path: made.mount)
    before = signal.getsignal(signal.SIGTERM)
    yield made
    signal.signal(signal.SIGTERM, before)


def test_word_that_comes_while_it_looks(scene: Scene) -> None:
    """A start of a service that runs is none: it looks for itself whether there is more to do."""
    scene.word.touch()
    scene.word_comes = 2
    assert heal_service.heal_main() == 0
    assert scene.order == ["look", "verdict"] * 3, "the word is taken away before each look"
    assert not scene.word.exists()


@pytest.mark.parametrize("asked", [False, True])
def test_what_failed_is_tried_again_by_hand_and_hourly_and_not_by_each_event(
    scene: Scene, asked: bool
) -> None:
    if asked:
        scene.word.touch()
    assert heal_service.heal_main() == 0
    assert scene.patient == [asked]


def test_who_changes_the_volume_by_hand_is_not_waited_for(scene: Scene) -> None:
    """Members that go are marked all the same; word is left when the lock is free again."""
    with lock.by_hand():
        assert heal_service.heal_main() == 0
        assert scene.ours == [False] and not scene.word.exists()
    assert scene.word.exists()
    assert heal_service.heal_main() == 0
    assert scene.ours == [False, True]


@pytest.mark.parametrize("why", ["booting", "not mounted", "ext4"])
def test_word_never_stays(scene: Scene, why: str) -> None:
    """persist-heal.path would start the service again and again."""
    scene.word.touch()
    if why == "booting":
        scene.booted.unlink()
    elif scene.mount is not None:
        scene.mount = (
            Mount(2, 1, "0:30", "/", scene.mount.mount_point, "rw", "ext4", "/dev/vdb2", "rw")
            if why == "ext4"
            else None
        )
    assert heal_service.heal_main() == 0
    assert (scene.word.exists(), scene.order) == (False, ["verdict"] if why == "ext4" else [])


def test_a_failure_is_in_the_verdict(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said, kept for the verdict, and the exit status tells."""
    scene.error = PersistError("The disk does not answer.", hint="Replace it.")
    scene.word.touch()
    assert heal_service.heal_main() == 1
    assert "failed: The disk does not answer. Replace it." in capsys.readouterr().err
    assert (
        scene.failed.read_text() == "Healing of the state volume failed: The disk does not answer.\npicture\n"
    )
    assert scene.order == ["look", "verdict"] and not scene.word.exists()
    assert heal_service.failed_with("picture") and not heal_service.failed_with("another disk came")
    os.utime(scene.failed, (0, 0))
    assert not heal_service.failed_with("picture"), "an hour later it is tried again"


def test_a_stop_is_no_failure(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it taken for an error of whatever was being done at that moment."""
    interrupted: list[str] = []
    monkeypatch.setattr(heal_service, "interrupt", lambda path, uuid: interrupted.append(uuid))
    monkeypatch.setattr(btrfs, "filesystem_uuid", lambda path: "uuid")
    scene.error = heal_service.Stopped()
    assert heal_service.heal_main() == 0
    assert interrupted == ["uuid"] and not scene.failed.exists() and not isinstance(scene.error, Exception)


@pytest.mark.parametrize("marked", [False, True])
def test_a_volume_that_an_earlier_version_mounted_gets_its_first_mark(
    marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At an upgrade without a restart nobody else would write one."""
    mark = DegradedMark("uuid", 0, "a" * 16) if marked else None
    devices = [LiveDevice(n, f"uuid-{n}", f"/dev/vd{n}", 1, 0, "ok", None, mark) for n in (1, 2)]
    done: list[str] = []
    monkeypatch.setattr(btrfs, "filesystem_uuid", lambda path: "uuid")
    monkeypatch.setattr(in_kernel, "settled", lambda path, say: devices)
    monkeypatch.setattr(lost, "mark_lost", lambda uuid, found: [])
    monkeypatch.setattr(in_kernel, "begin", lambda path: done.append("begin"))
    monkeypatch.setattr(in_kernel, "level", lambda found: done.append("level"))
    heal_service.Round("/there", Config(), lambda: 0, ours=False, patient=False).look()
    assert done == ["level" if marked else "begin"]
