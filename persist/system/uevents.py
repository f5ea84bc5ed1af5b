# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wait for what the kernel tells of block devices (uevents), where no udev runs."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Any, Protocol, TypeVar

    Found = TypeVar("Found")
else:
    Protocol = object

Wait = Callable[[float], object]

_KOBJECT_UEVENT = 15  # linux/netlink.h
_KERNEL = 1  # the group of the kernel's own events; udev's are in another
_LARGEST = 8192  # the kernel's UEVENT_BUFFER_SIZE is 2048
_AGAIN = 1.0  # seconds: a node or a partition may come without a word that we hear


def about_block(message: bytes) -> bool:
    """Whether a uevent (lib/kobject_uevent.c: words that end in NUL) is about a block device."""
    return b"SUBSYSTEM=block" in message.split(b"\0")


class Listening(Protocol):
    """What is read of a socket."""

    def recvfrom(self, bufsize: int, /) -> tuple[bytes, Any]:
        """A message and who sent it. Raises OSError."""


def drained(listening: Listening) -> bool:
    """Read all that has come: whether any of it was about a block device. What was lost may have been. Raises
    OSError."""
    told = False
    while True:
        try:
            message, (sender, _) = listening.recvfrom(_LARGEST)
        except BlockingIOError:
            return told
        except OSError as e:
            if e.errno != errno.ENOBUFS:
                raise
            told = True  # more came than there is room for
            continue
        told = told or (sender == 0 and about_block(message))


def heard(listening: socket.socket, timeout: float, clock: Callable[[], float] = time.monotonic) -> bool:
    """Whether the kernel tells of a block device within so many seconds. Raises OSError."""
    import select

    deadline = clock() + timeout
    while True:
        left = deadline - clock()
        if left <= 0 or not select.select([listening], [], [], left)[0]:
            return False
        if drained(listening):
            return True


@contextmanager
def kernel_events() -> Iterator[Wait]:
    """What waits so many seconds, or until the kernel tells of a block device. It just waits where nobody may
    listen: in a sandbox without AF_NETLINK, or a kernel without it."""
    try:
        listening = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            _KOBJECT_UEVENT,
        )
    except OSError:
        yield time.sleep
        return
    with listening:
        try:
            listening.bind((0, _KERNEL))
        except OSError:
            yield time.sleep
            return
        yield lambda timeout: heard(listening, timeout)


def wait_for(
    look: Callable[[], Found | None],
    timeout: float,
    *,
    again: float = _AGAIN,
    clock: Callable[[], float] = time.monotonic,
    events: Callable[[], AbstractContextManager[Wait]] = kernel_events,
) -> Found | None:
    """Call ``look`` now, after each event of a block device and every ``again`` seconds, until it finds
    something or ``timeout`` seconds are over. As udev.wait_for(), without udev. Raises OSError."""
    deadline = clock() + timeout
    with events() as wait:
        while True:
            found = look()
            if found is not None:
                return found
            left = deadline - clock()
            if left <= 0:
                return None
            wait(min(left, again))
