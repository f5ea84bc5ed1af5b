# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keep udev off disks for a moment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from persist.errors import PersistError
from persist.system import blockdev

_PATIENCE = 5.0  # seconds until udev is done with a disk, or we go on


@contextmanager
def without_udev(nodes: Iterable[str]) -> Iterator[None]:
    """Keep udev from looking at these devices, and telling the kernel about them: what it has begun is waited
    for, what comes waits for us."""
    with ExitStack() as stack:
        locked: set[str] = set()
        for node in nodes:
            try:
                disk = blockdev.whole(blockdev.by_node(node)).node
                if disk in locked:
                    continue
                locked.add(disk)
                fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                blockdev.lock(fd, disk, _PATIENCE)
            except (PersistError, OSError):
                continue  # it went away, or somebody has it; what comes next will say
        yield
