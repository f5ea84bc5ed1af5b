# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether there is a udev to talk to: not in a chroot, and not where our rights end."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from persist.system import udevd

TOP = Path(__file__).resolve().parents[2]


def _proc(top: Path, root: Path | None, pid: str = "1") -> str:
    """A /proc in which PID 1 has this root; ``self`` is there as in every one."""
    proc = top / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / pid).mkdir()
    if root is not None:
        (proc / pid / "root").symlink_to(root)
    return str(proc)


def test_the_root_of_the_first_process(tmp_path: Path) -> None:
    root, control = tmp_path / "root", tmp_path / "control"
    root.mkdir()
    control.touch()
    proc = _proc(tmp_path, root)
    assert not udevd.in_chroot(proc, str(root))
    assert udevd.in_chroot(proc, str(tmp_path))
    assert udevd.runs(str(control), proc, str(root))
    assert not udevd.runs(str(control), proc, str(tmp_path))
    assert not udevd.runs(str(tmp_path / "nothing"), proc, str(root))


def test_no_proc_is_a_chroot(tmp_path: Path) -> None:
    assert udevd.in_chroot(str(tmp_path / "proc"), str(tmp_path))


def test_a_first_process_that_is_hidden_is_none(tmp_path: Path) -> None:
    """hidepid= of proc(5): all processes but our own are."""
    assert not udevd.in_chroot(_proc(tmp_path, None, "2"), str(tmp_path))


# $1: a directory that becomes a root, $2: where we are; the others are run. The shell is process 1 of a
# namespace of its own, and stays it.
_INSIDE = """
mount -t tmpfs none "$1"
mkdir "$1/usr" "$1/proc" "$1/top"
cp -a /bin /lib* "$1"
mount --rbind /usr "$1/usr"
mount --rbind /proc "$1/proc"
mount --bind "$2" "$1/top"
shift 2
"$@"
exit $?
"""
_LOOK = """
import os, sys
sys.path[:0] = ["/top", sys.argv[1]]
from persist.system import udevd
try:
    os.stat("/proc/1/root")
except OSError as e:
    print(e.strerror, end=" ")
print(udevd.in_chroot(), udevd.runs("/proc/self/status"))
"""


def _seen(root: Path, *before: str) -> str:
    """What a process sees that was started with this in front of it."""
    shell = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-ec", _INSIDE, "sh"]
    return subprocess.run(
        [*shell, str(root), str(TOP), *before, "/usr/bin/python3", "-Bc", _LOOK, str(TOP)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="root and setpriv")
def test_real_processes(own_mounts: None, tmp_path: Path) -> None:
    assert _seen(tmp_path) == "False True\n"
    assert _seen(tmp_path, "chroot", str(tmp_path)) == "True False\n"
    # As persist-format.service, which has no CAP_SYS_PTRACE: it is not in a chroot for that.
    dropped = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    assert _seen(tmp_path, *dropped) == "Permission denied False True\n"


class Queue:
    """A clock, and a queue that is there in certain seconds of it."""

    def __init__(self, path: Path, *busy: tuple[float, float]) -> None:
        self.path, self.busy, self.now = path, busy, 0.0
        self._show()

    def _show(self) -> None:
        if any(begin <= self.now < end for begin, end in self.busy):
            self.path.touch()
        else:
            self.path.unlink(missing_ok=True)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._show()

    def idle(self, timeout: float) -> bool:
        return udevd.idle(timeout, str(self.path), quiet=0.3, clock=lambda: self.now, sleep=self.sleep)


@pytest.mark.parametrize(
    ("busy", "idle", "after"),
    [
        ([], True, 0.3),
        ([(0.0, 1.0)], True, 1.3),
        ([(0.2, 1.0)], True, 1.3),  # what is about to come has not come yet
        ([(0.0, 1.0), (1.2, 2.0)], True, 2.3),
        ([(0.0, 99.0)], False, 5.0),
    ],
)
def test_udevd_is_idle_when_its_queue_stays_away(
    tmp_path: Path, busy: list[tuple[float, float]], idle: bool, after: float
) -> None:
    queue = Queue(tmp_path / "queue", *busy)
    assert queue.idle(5.0) == idle
    assert queue.now == pytest.approx(after, abs=0.11)
