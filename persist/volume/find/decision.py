# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the volume is chosen from, what a machine knows of it, and what the choice may be."""

from __future__ import annotations

from collections.abc import Callable

from persist.record import Record
from persist.volume.members.ancestry import Member

BTRFS = "btrfs"
FILESYSTEM = "filesystem"  # as libblkid calls it
# What else can be a volume, where Device= names it: an overlay needs extended attributes and names for
# whiteouts in its upper.
NATIVE = ("ext4", "ext3", "xfs", "f2fs", "bcachefs")


class Candidate(Record):
    """One filesystem, or one member of a btrfs: its node, device numbers (major:minor) of it and of its disk,
    ids and labels, and why it is not trusted or ''. ``disk_node`` is the whole disk. ``usage`` is what
    libblkid says of its content: a filesystem, raid, crypto, other (swap) or ''."""

    node: str
    device: str
    disk_device: str
    uuid: str
    uuid_sub: str
    label: str
    part_id: str = ""
    part_label: str = ""
    untrusted: str = ""
    fstype: str = BTRFS
    disk_node: str = ""
    usage: str = FILESYSTEM


class Known(Record):
    """What a machine knows of its volume beside the configuration.

    ``named``: an id that somebody gave for this boot (persist.volume=), which must be it; ``wrong``: what
    stands there and is no id. ``known``: the volume that this machine had, and ``source`` who says so (a
    credential, the note on a writable root); another one is not taken in its place unless Device= names it by
    its id. ``bound``: whether formatting bound the disk of a candidate to this machine. ``member``: a
    candidate as a member, None where it cannot be read.
    """

    named: str = ""
    known: str = ""
    bound: Callable[[Candidate], bool] = lambda candidate: False
    member: Callable[[Candidate], Member | None] = lambda candidate: None
    wrong: str = ""
    source: str = ""


class Found(Record):
    """The volume: mounted from ``node``; ``members`` are all its devices that are here, ``forget`` are those
    that the kernel must not mix in: copies, and members on disks that are not trusted. ``others``: node and
    UUID of filesystems that could be the volume, too, and are not used."""

    node: str
    uuid: str
    members: tuple[str, ...]
    forget: tuple[str, ...] = ()
    fstype: str = BTRFS
    others: tuple[tuple[str, str], ...] = ()


class Missing(Record):
    """There is no volume."""

    message: str
    hint: str
    code: str = "missing"


class Ambiguous(Record):
    """Nothing tells which filesystem is the volume. ``code`` is duplicate-label or cloned-disk."""

    code: str
    nodes: tuple[str, ...]
    message: str
    hint: str


class Untrusted(Record):
    """There is one, but where it must not be used without being named."""

    nodes: tuple[str, ...]
    message: str
    hint: str
    code: str = "untrusted"


Decision = Found | Missing | Ambiguous | Untrusted
