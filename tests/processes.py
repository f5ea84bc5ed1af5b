# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs that run beside each other; nothing that they have started outlives us."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

# Names a file that is locked as long as the VM layer has to make do with one machine.
BESIDE = "PERSIST_TEST_BESIDE"
LOOK_SEC = 0.05
_PR_SET_CHILD_SUBREAPER = 36


class Processes:
    """Each leads a session of its own. What is left below one that has ended becomes our child, as otherwise
    that of process 1. For a program with one thread."""

    def __init__(self) -> None:
        self.own: list[subprocess.Popen[bytes]] = []
        self._starting = False
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
        signal.signal(signal.SIGCHLD, lambda number, frame: self._reap())

    def start(
        self, argv: Sequence[str], said: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start one, whose output goes to a file."""
        self._starting = True
        try:
            with said.open("wb") as file:
                # Should we be killed, the first of them at least is asked to end.
                process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            self.own.append(process)
        finally:
            self._starting = False
        self._reap()
        return process

    def stop(self, grace: float) -> None:
        """End all: as Ctrl-C does, so that tests take apart what they have made; then with less patience."""
        try:
            for number, patience in ((signal.SIGINT, grace), (signal.SIGTERM, grace / 6)):
                for process in self.own:
                    if process.poll() is None:
                        os.killpg(process.pid, number)
                deadline = time.monotonic() + patience
                while time.monotonic() < deadline and any(one.poll() is None for one in self.own):
                    time.sleep(LOOK_SEC)
        finally:  # also at a second Ctrl-C
            self.kill()

    def kill(self) -> None:
        """End whatever is left, ours or what has become ours."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while left := _children():
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            for process in self.own:
                process.wait()
            for pid in set(_children()) & set(left):
                os.waitpid(pid, 0)

    def _reap(self) -> None:
        """What has become ours, and has ended: who waits until it is gone must not wait for us."""
        if self._starting:
            return  # what was just started would be taken for a stranger
        for pid in set(_children()) - {one.pid for one in self.own if one.returncode is None}:
            os.waitpid(pid, os.WNOHANG)


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()]


class Stopped(BaseException):
    """A signal has asked us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stop_at_signals() -> None:
    """From now on Ctrl-C and its like raise Stopped."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
