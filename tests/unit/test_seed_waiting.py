# SPDX-License-Identifier: LGPL-2.1-or-later
"""Seeding waits for nothing without end, and whatever fails leaves nothing behind: local-fs.target waits for
it."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.errors import CommandError, PersistError
from persist.seed.tree import Progress, Summary, in_time
from persist.system import run as runner
from tests.unit.test_seed_basic import Rig

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root")


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def left(rig: Rig) -> list[str]:
    """What lies in the directory for temporary copies."""
    tmp = rig.volume / ".persist/tmp"
    return [str(p.relative_to(tmp)) for p in tmp.rglob("*")] if tmp.exists() else []


@pytest.mark.parametrize("target", ["/proc/kmsg", "/proc", "/sys/kernel", "/dev", "/run/initctl"])
def test_a_link_that_leads_to_the_running_system_is_no_source(rig: Rig, target: str) -> None:
    rig.put("/proc/kmsg", "endless")
    for directory in ("sys/kernel", "dev"):
        (rig.root / directory).mkdir(parents=True)
    rig.put("/run/initctl", "endless")
    rig.put("/srv/x", "").unlink()
    (rig.root / "srv/source").symlink_to(target)
    with pytest.raises(PersistError, match="running system") as caught:
        rig.seed("/srv/data", seed_from="/srv/source")
    assert caught.value.message_id == "SEED_FAILED"
    assert left(rig) == []


def test_a_source_on_a_root_elsewhere_is_one(rig: Rig) -> None:
    rig.put("/usr/share/seed/a", "text")
    (rig.root / "srv").mkdir()
    (rig.root / "srv/source").symlink_to("/usr/share/seed")
    assert rig.seed("/srv/data", seed_from="/srv/source").state == "seeded"
    assert (rig.volume / "srv/data/a").read_text() == "text"


def test_pipes_and_devices_are_copied_and_not_opened(rig: Rig) -> None:
    rig.put("/srv/data/file", "text")
    os.mkfifo(rig.root / "srv/data/pipe")
    os.mknod(rig.root / "srv/data/zero", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    (rig.root / "srv/data/kmsg").symlink_to("/proc/kmsg")
    (rig.root / "srv/data/loop").symlink_to("loop")
    assert rig.seed("/srv/data").state == "seeded"
    kept = rig.volume / "srv/data"
    assert stat.S_ISFIFO((kept / "pipe").lstat().st_mode) and stat.S_ISCHR((kept / "zero").lstat().st_mode)
    assert os.readlink(kept / "kmsg") == "/proc/kmsg"


def test_a_tree_that_does_not_answer_is_left_behind() -> None:
    answer = threading.Event()

    def stuck(summary: Summary) -> None:
        summary.files += 1
        answer.wait()

    with pytest.raises(PersistError, match="no progress") as caught:
        in_time(stuck, "/srv/data", Progress(print, stalled=0.2))
    answer.set()
    assert caught.value.message_id == "SEED_FAILED" and "/srv/data" in caught.value.message


def test_a_program_is_followed() -> None:
    runner.follow("true", tick=lambda: "too late")
    with pytest.raises(CommandError, match="exit status 3: why") as failed:
        runner.follow("sh", "-c", "echo why >&2; exit 3", tick=str)
    assert failed.value.returncode == 3
    with pytest.raises(CommandError, match="not installed"):
        runner.follow("persist-no-such-program", tick=str)
    with pytest.raises(CommandError, match="enough"):
        runner.follow("sleep", "1000", tick=lambda: "enough", every=0.01)


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file may be longer than a few words: what is copied fits, the list of it and the marker do not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("method", ["bind", "symlink", "overlay"])
def test_what_fails_in_the_middle_costs_the_entry_and_is_tidied(rig: Rig, method: str) -> None:
    rig.put("/srv/data/file", "text")
    with pytest.raises(PersistError, match="File too large") as caught, small_files():
        rig.seed("/srv/data", method)
    assert caught.value.message_id == "SEED_FAILED" and caught.value.fields["PERSIST_PATH"] == "/srv/data"
    assert left(rig) == []
    assert not list(rig.volume.glob(".persist/seed/*.json"))


def test_whatever_is_raised_costs_the_entry_and_is_tidied(tmp_path: Path) -> None:
    def fails(text: str) -> None:
        raise OverflowError("Python int too large to convert to C long")

    rig = Rig(tmp_path, progress=Progress(fails))
    rig.put("/srv/data/file", "text")
    with pytest.raises(PersistError, match="OverflowError") as caught:
        rig.seed("/srv/data")
    assert caught.value.message_id == "SEED_FAILED"
    assert left(rig) == []


@pytest.mark.parametrize("user", ["99999999999999999999", "4294967295", "٣", "²"])
def test_a_number_that_is_no_users_is_a_name_that_nobody_has(rig: Rig, user: str) -> None:
    rig.put("/srv/data/file", "text")
    with pytest.raises(PersistError, match="Unknown user"):
        rig.seed("/srv/data", user=user)
    assert left(rig) == []
