# SPDX-License-Identifier: LGPL-2.1-or-later
"""A worker that has to end: nothing of ours may hold up a boot.

timeout(1) would do half of it. It leaves the worker's children behind, a signal runs no context manager, and
a worker that the kernel does not let go is waited for. Here somebody stays who tidies up and goes on.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from persist.record import Record

# Allow so many seconds, and more than none, from now on, where that is more than what is left.
Extend = Callable[[float], None]
_PR_SET_PDEATHSIG = 1
_GRACE = 5.0  # seconds between asking and killing, and again for the kernel to let go


class Ended(Record):
    """How a worker ended: its exit status (128 and the signal as in a shell), 124 where its time was up.

    ``left`` is the id of a worker that even SIGKILL has not ended (it waits for a disk), 0 where it is gone.
    """

    status: int
    left: int = 0


def _child(work: Callable[[Extend], int], write: int, parent: int) -> None:
    """Do the work in a group of its own, which ends with the supervisor. Does not return."""
    status = 1
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            return
        status = work(lambda seconds: _tell(write, seconds))
    finally:
        os._exit(status)


def _tell(write: int, seconds: float) -> None:
    with suppress(BlockingIOError, BrokenPipeError):  # whoever says it so often says it again
        os.write(write, b"%.1f\n" % seconds)


def _told(read: int) -> float:
    """The longest time that was asked for since the last look, 0 for none."""
    with suppress(BlockingIOError):
        return max((float(line) for line in os.read(read, 4096).split(b"\n") if line), default=0.0)
    return 0.0


def _ends(pidfd: int, seconds: float) -> bool:
    return bool(select.select([pidfd], [], [], max(seconds, 0.0))[0])


def _kill(pid: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, how)


def supervised(work: Callable[[Extend], int], seconds: float, grace: float = _GRACE) -> Ended:
    """Run ``work`` in a child and return how it ended, after ``seconds`` (by the monotonic clock) and twice
    ``grace`` at the latest, whatever it does. Its children end with it. Raises OSError where none can be
    started.
    """
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _child(work, write, parent)
    os.close(write)
    with suppress(ProcessLookupError, PermissionError):  # it has done so itself, or is gone
        os.setpgid(pid, pid)
    pidfd = os.pidfd_open(pid)
    try:
        in_time = _wait(pidfd, read, seconds)
        if not in_time:
            _kill(pid, signal.SIGTERM)
            _ends(pidfd, grace)
        _kill(pid, signal.SIGKILL)  # what it has left behind, too
        if not _ends(pidfd, grace):
            return Ended(124, pid)
        _, how = os.waitpid(pid, 0)
        status = os.waitstatus_to_exitcode(how)
        return Ended((status if status >= 0 else 128 - status) if in_time else 124)
    except BaseException:  # somebody ends us: nothing that was started here goes on
        _kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(pidfd)
        os.close(read)


def _wait(pidfd: int, read: int, seconds: float) -> bool:
    """Whether the worker ends within the time that it has and asks for."""
    deadline = time.monotonic() + seconds
    watched = [pidfd, read]
    while True:
        ready = select.select(watched, [], [], max(deadline - time.monotonic(), 0.0))[0]
        if pidfd in ready:
            return True
        if not ready:
            return False
        more = _told(read)
        if more > 0:
            deadline = max(deadline, time.monotonic() + more)
        else:
            watched = [pidfd]  # closed: it asks for nothing more
