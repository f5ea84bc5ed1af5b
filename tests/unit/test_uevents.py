# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting by the kernel's own events: what is one, what is lost, and when another look is due."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from persist.system import uevents

DISK = (
    b"add@/devices/virtual/block/loop3\0ACTION=add\0DEVPATH=/devices/virtual/block/loop3\0SUBSYSTEM=block\0"
    b"MAJOR=7\0MINOR=3\0DEVNAME=loop3\0DEVTYPE=disk\0DISKSEQ=40\0SEQNUM=2301\0"
)
OTHER = (
    b"add@/devices/virtual/net/SUBSYSTEM=block\0ACTION=add\0DEVPATH=/devices/virtual/net/SUBSYSTEM=block\0"
    b"SUBSYSTEM=net\0INTERFACE=SUBSYSTEM=block\0IFINDEX=9\0SEQNUM=2302\0"
)


class Socket:
    """Gives what it was given; errors are raised."""

    def __init__(self, *heard: tuple[bytes, int] | OSError) -> None:
        self.heard = [*heard, BlockingIOError()]

    def recvfrom(self, bufsize: int, /) -> tuple[bytes, Any]:
        one = self.heard.pop(0)
        if isinstance(one, OSError):
            raise one
        return one[0][:bufsize], (one[1], 1)


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        ([], False),
        ([(DISK, 0)], True),
        ([(OTHER, 0)], False),
        ([(OTHER, 0), (DISK, 0), (OTHER, 0)], True),
        ([(DISK, 4711)], False),  # a process that calls itself the kernel
        ([OSError(errno.ENOBUFS, ""), (OTHER, 0)], True),  # what was lost may have been one
    ],
)
def test_all_that_has_come_is_read(heard: list[tuple[bytes, int] | OSError], told: bool) -> None:
    listening = Socket(*heard)
    assert uevents.drained(listening) == told
    assert listening.heard == []


def test_an_error_is_not_an_event() -> None:
    with pytest.raises(OSError, match="gone"):
        uevents.drained(Socket(OSError(errno.EBADF, "gone")))


class World:
    """A clock, and events at certain seconds of it."""

    def __init__(self, *events: float) -> None:
        self.now = 0.0
        self.events = list(events)
        self.looks: list[float] = []

    @contextmanager
    def kernel(self) -> Iterator[uevents.Wait]:
        yield self.wait

    def wait(self, timeout: float) -> None:
        end = self.now + timeout
        self.now = min([end, *(e for e in self.events if e > self.now)])

    def wait_for(self, at: float, timeout: float) -> bool | None:
        """What is looked for is there from second ``at`` on."""

        def look() -> bool | None:
            self.looks.append(self.now)
            return self.now >= at or None

        return uevents.wait_for(look, timeout, again=2.0, clock=lambda: self.now, events=self.kernel)


def test_a_look_at_once_after_each_event_and_now_and_then() -> None:
    world = World(0.5, 3.0)
    assert world.wait_for(3.0, 60) is True
    assert world.looks == [0.0, 0.5, 2.5, 3.0]


def test_the_last_look_is_at_the_end() -> None:
    world = World()
    assert world.wait_for(5.0, 5.0) is True
    assert world.looks == [0.0, 2.0, 4.0, 5.0]
    world = World()
    assert world.wait_for(9.0, 5.0) is None
    assert world.looks == [0.0, 2.0, 4.0, 5.0]


def test_no_time_is_one_look() -> None:
    world = World()
    assert world.wait_for(1.0, 0.0) is None
    assert world.looks == [0.0]


def test_where_nobody_may_listen_the_clock_is_enough() -> None:
    """As in a sandbox without AF_NETLINK; here there is no descriptor left for a socket."""
    code = (
        "import resource, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from persist.system import uevents\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "began = time.monotonic()\n"
        "print(uevents.wait_for(lambda: time.monotonic() - began > 0.5 or None, 60, again=0.1))\n"
        "with uevents.kernel_events() as wait:\n    print(wait is time.sleep)"
    )
    top = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-Bc", code, top], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.stdout == "True\nTrue\n", done.stderr
