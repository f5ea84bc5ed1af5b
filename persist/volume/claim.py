# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write a claim: what ``persistctl claim`` does."""

from __future__ import annotations

import os

from ..boot.config import Config
from ..errors import PersistError
from ..run import run
from . import blockdev, claimable, header, layout, refused
from .blockdev import Disk
from .header import Mark


def _write(disk: Disk, data: bytes, offset: int) -> None:
    fd = os.open(disk.node, os.O_WRONLY | os.O_CLOEXEC)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done:], offset + done)
        os.fsync(fd)
    finally:
        os.close(fd)


def _erase(disk: Disk, mark: Mark) -> None:
    """Make a disk blank as claimable.check_blank() has it: signatures, first and last MiB, and where our partitions will begin."""
    for part in blockdev.partitions(disk):
        run("wipefs", "--all", "--force", part.node)
    run("wipefs", "--all", "--force", disk.node)
    zeros = bytes(layout.MIB)
    _write(disk, zeros, 0)
    _write(disk, zeros, disk.size - layout.MIB)
    for planned in layout.parts(mark, disk.mib):
        _write(disk, zeros, planned.start * layout.MIB)
    if blockdev.partitions(disk):
        run("partx", "--delete", disk.node)


def write_claim(node: str, config: Config, force: bool = False) -> None:
    """Mark a disk for persist by the first magic header of the configuration; it is formatted where udev reports it, or at the next boot.

    ``force`` erases what is on the disk and lets a disk be claimed that only another configuration would trust; a disk in use, a
    partition, a read-only or too small one is refused with it too. Raises Refusal, CommandError and PersistError (locked, no permission).
    """
    disk = blockdev.by_node(node)
    try:
        fd = os.open(disk.node, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise PersistError(f"{disk.node} cannot be opened: {e.strerror}.", hint="Run this as root.", PERSIST_DEVICE=disk.node) from e
    try:
        blockdev.lock(fd, disk.node, timeout=10)
        claimable.check_usable(disk)
        mark = claimable.new_mark(disk, config)
        if force:
            _erase(disk, mark)
        else:
            claimable.check_trust(disk, config)
        claimable.check_blank(disk, mark, skip=0)
        _write(disk, header.encode(config.magic_headers[0]), 0)
        refused.forget(disk)
    except OSError as e:
        raise PersistError(f"{disk.node} cannot be claimed: {e.strerror}.", PERSIST_DEVICE=disk.node) from e
    finally:
        os.close(fd)
    blockdev.trigger(disk.node)
