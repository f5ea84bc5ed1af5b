# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frame of persist-heal.service: word, lock, failures, stops, and the verdict at its end. What it does to
disks is in test_heal.py and test_health.py."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persist.boot.config import Config
from persist.errors import PersistError
from persist.services import heal as heal_service
from persist.services.heal import serve
from persist.system import btrfs
from persist.volume import outcome
from persist.volume.heal import health, lock
from persist.volume.ondisk import degraded_mark

from . import healing
from .conftest import Make
from .rig import tool
from .volumes import Volume

FAILED, WORD = Path(health.HEAL_FAILED), Path(outcome.HEAL)


class Verdicts:
    """Stands in for the verdict: how often it was asked for, and what happens while it is made."""

    def __init__(self) -> None:
        self.count = 0
        self.meanwhile: list[Callable[[], None]] = []

    def __call__(self) -> int:
        self.count += 1
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return 0


@pytest.fixture
def verdicts() -> Iterator[Verdicts]:
    """Signals are as they were afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    yield Verdicts()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def volume(place: Path, make_disk: Make) -> Volume:
    """A volume that is mounted, on a machine that has booted."""
    (place / "booted").touch()
    v = healing.single(place, make_disk)
    # By its configuration a loop device is trusted.
    (place / "persist.conf").write_text("[Volume]\nAllowRemovable=yes\n")
    return v


def refuse() -> None:
    raise PersistError("The disk does not answer.", hint="Replace it.")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_word_that_comes_while_it_looks(volume: Volume, verdicts: Verdicts) -> None:
    """A start of a service that runs is none: it looks for itself whether there is more to do."""
    words: list[bool] = []

    def word() -> None:
        words.append(WORD.exists())
        WORD.touch()

    verdicts.meanwhile = [word, word]
    word()
    assert serve(verdicts) == 0
    assert words == [False] * 3 and verdicts.count == 3, "the word is taken away before each look"
    assert not WORD.exists()


def test_what_failed_is_tried_again_by_hand_and_hourly_and_not_by_each_event(
    place: Path, make_disk: Make, verdicts: Verdicts, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "booted").touch()
    v = healing.stale(place, make_disk)
    (place / "persist.conf").write_text("[Volume]\nAllowRemovable=yes\n")
    verdicts.meanwhile = [refuse]
    assert serve(verdicts) == 1 and FAILED.exists()
    WORD.touch()
    assert serve(verdicts) == 0 and FAILED.exists()
    assert "is healed now" not in capsys.readouterr().err
    assert serve(verdicts) == 0 and not FAILED.exists()
    healing.check_whole(v, 2, "new")


def test_who_changes_the_volume_by_hand_is_not_waited_for(
    place: Path, make_disk: Make, verdicts: Verdicts
) -> None:
    """Members that go are marked all the same; word is left when the lock is free again."""
    (place / "booted").touch()
    v = healing.stale(place, make_disk)
    (place / "persist.conf").write_text("[Volume]\nAllowRemovable=yes\n")
    before = v.profiles()
    with lock.by_hand():
        assert serve(verdicts) == 0
        assert v.profiles() == before and not WORD.exists()
    assert WORD.exists()
    assert serve(verdicts) == 0
    healing.check_whole(v, 2, "new")


@pytest.mark.parametrize("why", ["booting", "not mounted", "another filesystem"])
def test_word_never_stays(place: Path, volume: Volume, verdicts: Verdicts, why: str) -> None:
    """persist-heal.path would start the service again and again."""
    WORD.touch()
    if why == "booting":
        (place / "booted").unlink()
    else:
        volume.down()
    if why == "another filesystem":
        tool("mount", "-t", "tmpfs", "tmpfs", volume.at)
    assert serve(verdicts) == 0
    assert (WORD.exists(), verdicts.count) == (False, int(why == "another filesystem"))


def test_a_failure_is_in_the_verdict(
    volume: Volume, verdicts: Verdicts, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said, kept for the verdict, and the exit status tells."""
    verdicts.meanwhile = [refuse]
    WORD.touch()
    assert serve(verdicts) == 1
    assert "failed: The disk does not answer. Replace it." in capsys.readouterr().err
    said, picture = FAILED.read_text().splitlines()
    assert said == "Healing of the state volume failed: The disk does not answer."
    assert verdicts.count == 2 and not WORD.exists()
    assert heal_service.failed_with(picture) and not heal_service.failed_with("another disk came")
    os.utime(FAILED, (0, 0))
    assert not heal_service.failed_with(picture), "an hour later it is tried again"


def test_a_stop_is_no_failure(volume: Volume, verdicts: Verdicts, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor is it taken for an error of whatever was being done at that moment."""
    verdicts.meanwhile = [terminate]
    assert serve(verdicts) == 0
    assert "was stopped" in capsys.readouterr().err and not FAILED.exists()
    assert not issubclass(heal_service.Stopped, Exception)


def test_a_stop_ends_what_the_kernel_does(place: Path, make_disk: Make, verdicts: Verdicts) -> None:
    (place / "booted").touch()
    v = healing.stale(place, make_disk)
    (place / "persist.conf").write_text("[Volume]\nAllowRemovable=yes\n")

    copying: list[bool] = []

    def stop() -> None:
        until = time.monotonic() + 30
        while not copying and time.monotonic() < until:
            if btrfs.attribute(v.uuid, "exclusive_operation") == "device replace":
                copying.append(True)
                terminate()

    stopping = threading.Thread(target=stop)
    stopping.start()
    assert serve(verdicts) == 0
    stopping.join()
    assert copying
    assert not FAILED.exists()
    until = time.monotonic() + 10  # the kernel's own end of it
    while btrfs.attribute(v.uuid, "exclusive_operation") != "none":
        assert time.monotonic() < until
        time.sleep(0.01)
    assert serve(verdicts) == 0
    healing.check_whole(v, 2, "new")


@pytest.mark.parametrize("marked", [False, True])
def test_a_volume_that_an_earlier_version_mounted_gets_its_first_mark(
    place: Path, make_disk: Make, marked: bool
) -> None:
    """At an upgrade without a restart nobody else would write one."""
    v = Volume(place, [make_disk(healing.MIB, b""), make_disk(healing.MIB, b"")])
    v.up()
    nodes = [v.data(d) for d in v.disks]
    before = degraded_mark.read(nodes[0], v.uuid)
    for node in nodes if not marked else nodes[1:]:
        with open(node, "r+b") as f:
            os.pwrite(f.fileno(), bytes(degraded_mark.LENGTH), degraded_mark.OFFSET)
    heal_service.Round(v.at, Config(), lambda: 0, ours=False, patient=False).look()
    first, second = (degraded_mark.read(node, v.uuid) for node in nodes)
    assert first is not None and first == second and (first == before) == marked
