# SPDX-License-Identifier: LGPL-2.1-or-later
"""A worker ends, whatever it does, and so does all that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from persist.early.supervisor import Ended, Extend, supervised

_STUBBORN = "trap '' TERM; echo $$ >\"$1\"; exec sleep 1000"


def _gone(pid: int) -> bool:
    """Whether a process ends within 5 s: the kernel does it after the signal."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def _started(file: Path) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if file.exists() and file.read_text().strip():
            return int(file.read_text())
        time.sleep(0.01)
    raise AssertionError("it was not started")


def test_status_of_a_worker() -> None:
    assert supervised(lambda extend: 0, 10) == Ended(0)
    assert supervised(lambda extend: 3, 10) == Ended(3)


def test_worker_that_raises_has_failed(capfd: object) -> None:
    def work(extend: Extend) -> int:
        raise RuntimeError("nobody thought of it")

    assert supervised(work, 10) == Ended(1)


def test_worker_that_is_killed() -> None:
    def work(extend: Extend) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert supervised(work, 10) == Ended(128 + signal.SIGKILL)


def test_worker_without_end_and_its_stubborn_child(tmp_path: Path) -> None:
    """timeout(1) without --kill-after waits for such a child."""

    def work(extend: Extend) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.run(["sh", "-c", _STUBBORN, "sh", tmp_path / "pid"], check=False)
        return 0

    begin = time.monotonic()
    assert supervised(work, 0.5, grace=0.5) == Ended(124)
    assert time.monotonic() - begin < 30
    assert _gone(_started(tmp_path / "pid"))


def test_what_a_worker_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    def work(extend: Extend) -> int:
        subprocess.Popen(["sh", "-c", _STUBBORN, "sh", tmp_path / "pid"])
        _started(tmp_path / "pid")
        return 0

    assert supervised(work, 30) == Ended(0)
    assert _gone(_started(tmp_path / "pid"))


def test_a_worker_that_asks_for_time_gets_it() -> None:
    def work(extend: Extend) -> int:
        extend(60)
        time.sleep(1.5)
        return 0

    assert supervised(work, 1) == Ended(0)


def test_a_worker_that_does_not_ask_has_its_time() -> None:
    def work(extend: Extend) -> int:
        time.sleep(10)
        return 0

    assert supervised(work, 0.3, grace=1) == Ended(124)


def test_asking_for_less_takes_nothing_away() -> None:
    def work(extend: Extend) -> int:
        extend(0.1)
        time.sleep(0.5)
        return 0

    assert supervised(work, 60) == Ended(0)


def test_worker_ends_with_its_supervisor(tmp_path: Path) -> None:
    def work(extend: Extend) -> int:
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(1000)
        return 0

    supervisor = os.fork()
    if supervisor == 0:
        supervised(work, 1000)
        os._exit(0)
    worker = _started(tmp_path / "pid")
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    assert _gone(worker)
