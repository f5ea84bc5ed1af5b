# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write claims: what ``persistctl claim`` does."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from persist.boot.config import Config
from persist.errors import PersistError, Refusal
from persist.record import replace
from persist.system import blockdev, btrfs, superblock
from persist.system.blockdev import Disk
from persist.system.run import run
from persist.volume.format import blank, format_lock, may_format, refusals
from persist.volume.format.locked_disk import write
from persist.volume.format.under_lock import locked, trigger
from persist.volume.ondisk import binding, header, partition_table
from persist.volume.ondisk.header import FormatMark, Options

_PATIENCE = 10.0  # seconds; somebody is waiting at a terminal


def _erase(disk: Disk, mark: FormatMark) -> None:
    """Make a disk blank as blank.check_blank() has it: signatures, first and last MiB, and where our
    partitions could bring something back."""
    parts = [p.node for p in blockdev.partitions(disk)]
    # A member of our own volume that was left out: the kernel must not mix in what it remembers of it.
    try:
        btrfs.forget(disk.node, *parts)
    except OSError as e:
        if e.errno != errno.EBUSY:
            raise
        # udev told the kernel about it when the volume was mounted: it stands in the place of a missing
        # device and is not open (check_usable).
    for node in [*parts, disk.node]:
        run("wipefs", "--all", "--force", node)
    places = [(0, partition_table.MIB), (disk.size - partition_table.MIB, partition_table.MIB)]
    for planned in partition_table.parts(mark, disk.mib):
        places += blank.telling(planned)
    for offset, length in places:
        write(disk, bytes(length), offset)
    if blockdev.partitions(disk):
        run("partx", "--delete", disk.node)


def _check_once(disks: list[Disk]) -> None:
    for number, disk in enumerate(disks):
        if disk in disks[:number]:
            raise Refusal(
                "twice", f"{disk.node} is named twice.", hint="Name each disk once.", PERSIST_DEVICE=disk.node
            )


def _only_claimed(disk: Disk, config: Config) -> bool:
    """Whether a disk carries a claim that nobody has begun with: it may be claimed again, with other
    options."""
    head = superblock.read_at(disk.node, 0, header.LENGTH)
    return any(head.startswith(word.encode("ascii")) for word in config.magic_headers) and not head[
        header.MARK_OFFSET :
    ].strip(b"\0")


def _check(disks: list[Disk], config: Config, force: bool, bind_serial: bool) -> list[FormatMark]:
    """Raise Refusal unless all of these may be claimed, with their locks held. Returns what formatting each
    would begin with."""
    marks = []
    for disk in disks:
        may_format.check_usable(disk, config)
        marks.append(may_format.new_mark(disk, config, len(disks)))
        if not force:
            may_format.check_trust(disk, config)
            blank.check_blank(disk, marks[-1], skip=header.LENGTH if _only_claimed(disk, config) else 0)
        if bind_serial and binding.disk_serial(disk) == binding.NONE:
            raise Refusal(
                "no-serial",
                f"{disk.node} has no serial number.",
                hint="Claim it without --bind-serial.",
                PERSIST_DEVICE=disk.node,
            )
    return marks


def _claim(
    disks: list[Disk],
    marks: list[FormatMark],
    config: Config,
    options: Options,
    force: bool,
    bind_serial: bool,
) -> None:
    """Write to disks that were checked, with their locks held."""
    for disk, mark in zip(disks, marks, strict=True):
        if force:
            _erase(disk, mark)
            blank.check_blank(disk, mark, skip=0)
        own = replace(options, serial=binding.disk_serial(disk)) if bind_serial else options
        write(disk, header.encode(config.magic_headers[0], own), 0)
        refusals.forget(disk)


@contextmanager
def _taken(nodes: list[str], config: Config, patience: float = _PATIENCE) -> Iterator[list[Disk]]:
    """The disks behind these nodes under their locks, and that of the formatter: it sees all of these claims,
    or none.

    Raises Refusal and PersistError (locked, no permission).
    """
    disks = [blockdev.by_node(n) for n in nodes]
    _check_once(disks)
    shown = ", ".join(d.node for d in disks)
    try:
        for disk in disks:
            may_format.check_usable(disk, config)  # says more of a partition than a lock could
        with format_lock.by_hand(patience), locked(disks, patience):
            yield disks
    except PermissionError as e:
        raise PersistError(
            f"Failed to open {shown}: {e.strerror}.", hint="Run this as root.", PERSIST_DEVICE=shown
        ) from e
    except OSError as e:
        raise PersistError(f"Failed to claim {shown}: {e.strerror}.", PERSIST_DEVICE=shown) from e


def _what_is_on(disk: Disk) -> str:
    parts = [f"{p.node} {blockdev.probe(p.node).get('LABEL', '')}".strip() for p in blockdev.partitions(disk)]
    found = [*blockdev.signatures(disk.node), *parts]
    return f"carries {', '.join(found)}" if found else "without a signature"


def describe(
    nodes: list[str], config: Config, *, force: bool = False, bind_serial: bool = False
) -> list[str]:
    """What would be claimed, a line for each disk: its size, its maker's name for it, its serial number, and
    what is on it.

    Nothing is written. Raises what write_claims() would.
    """
    with _taken(nodes, config) as disks:
        _check(disks, config, force, bind_serial)
        found = []
        for disk in disks:
            serial = f"serial number {disk.serial}" if disk.serial else ""
            found.append(
                ", ".join(
                    filter(
                        None,
                        (f"{disk.node}: {disk.mib / 1024:.1f} GiB", disk.model, serial, _what_is_on(disk)),
                    )
                )
            )
        return found


def write_claims(
    nodes: list[str],
    config: Config,
    options: Options | None = None,
    *,
    force: bool = False,
    bind_serial: bool = False,
    patience: float = _PATIENCE,
) -> list[Disk]:
    """Mark disks for persist by the first magic header of the configuration; they are formatted where udev
    reports them, or at the next boot.

    Several become one volume: each header says how many there are, unless they join a volume that is there.
    None is claimed where one of them is refused. ``force`` erases what is on the disks and lets a disk be
    claimed that only another configuration would trust; a disk in use, a partition, a read-only or too small
    one is refused with it too. ``bind_serial`` binds each header to its disk. ``patience``: for how many
    seconds each lock is waited for. Returns the disks.

    Raises Refusal, CommandError and PersistError (locked, no permission).
    """
    options = options or Options()
    if len(nodes) > 1 and not options.join:
        if len(nodes) > header.MEMBERS_MAX:
            raise Refusal(
                "too-many",
                f"One volume takes at most {header.MEMBERS_MAX} disks, {len(nodes)} were named.",
                hint="Claim fewer, and let the others join it afterwards: 'persistctl claim --join'.",
            )
        options = replace(options, members=len(nodes))
    with _taken(nodes, config, patience) as disks:
        _claim(disks, _check(disks, config, force, bind_serial), config, options, force, bind_serial)
    trigger(disks)
    return disks


def write_claim(node: str, config: Config, force: bool = False, options: Options | None = None) -> None:
    """As write_claims(), for one disk."""
    write_claims([node], config, options, force=force)
