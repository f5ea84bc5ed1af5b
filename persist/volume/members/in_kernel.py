# SPDX-License-Identifier: LGPL-2.1-or-later
"""The members of the volume while it is mounted. Looks only.

The kernel goes on with a device that was pulled out as if nothing were, and takes the name of one that came
back for the device itself: what is true is on the disks (superblocks) and in sysfs (what is open), not in
``btrfs filesystem show``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from persist.errors import Refusal
from persist.note import DEBUG, Note, Say
from persist.record import Record, replace
from persist.system import blockdev, btrfs, superblock
from persist.system.superblock import Superblock
from persist.volume.members.ancestry import IsAncestor, Member, ancestor
from persist.volume.ondisk import degraded_mark
from persist.volume.ondisk.degraded_mark import DegradedMark

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Literal

    State = Literal["ok", "missing", "lost", "behind"]
else:
    State = str

_PAUSE = 0.5  # seconds between two looks at members whose superblocks differ: the kernel may be writing them


class LiveDevice(Record):
    """One device of the mounted volume; sizes in bytes.

    ``state``: ``missing`` from the mount on, ``lost`` since (pulled out, or it does not answer), ``behind``:
    it is there and was not written with the others, because it was away. ``node`` is '' where there is none.
    """

    devid: int
    uuid: str
    node: str
    size: int
    used: int
    state: State
    block: Superblock | None = None
    mark: DegradedMark | None = None

    @property
    def ok(self) -> bool:
        """Whether what is written reaches it."""
        return self.state == "ok"


def is_open(uuid: str, node: str) -> bool:
    """Whether the kernel has this very device open for the filesystem: one that came back under the name of a
    dead one has another place in sysfs."""
    try:
        disk = blockdev.by_node(node)
    except Refusal:
        return False
    link = f"{btrfs.SYSFS}/{uuid}/devices/{os.path.basename(disk.sys_path)}"
    return os.path.exists(link) and os.path.realpath(link) == os.path.realpath(disk.sys_path)


def _superblock(uuid: str, device: btrfs.Device) -> Superblock | None:
    """The superblock of a device in use, None where it is not its own any more."""
    found = superblock.read_in_use(device.node)
    return found if found is not None and (found.fsid, found.devid) == (uuid, device.devid) else None


def _look(uuid: str, device: btrfs.Device) -> LiveDevice:
    state: State = "ok"
    block, mark = None, None
    if device.missing or not device.node:
        state = "missing"
    else:
        block = _superblock(uuid, device)
        try:
            mark = degraded_mark.read(device.node, uuid)
        except OSError:
            block = None
        if block is None:
            state = "lost"
        elif not is_open(uuid, device.node):
            state = "behind"
    return LiveDevice(device.devid, device.uuid, device.node, device.size, device.used, state, block, mark)


def _generation(member: LiveDevice) -> int:
    return member.block.generation if member.block is not None else 0


def glance(path: str) -> list[LiveDevice]:
    """As members(), without telling who is behind the others while it is open."""
    uuid = btrfs.filesystem_uuid(path)
    return [_look(uuid, d) for d in btrfs.devices(path)]


def members(path: str) -> list[LiveDevice]:
    """The devices of the volume that is mounted at a path, by devid. Raises OSError.

    Costs some milliseconds; where superblocks differ a commit and a moment more.
    """
    found = glance(path)
    newest = max((_generation(m) for m in found), default=0)
    if all(_generation(m) == newest for m in found if m.ok):
        return found
    btrfs.sync(path)
    time.sleep(_PAUSE)
    # Whoever is still older than the newest was then has not been written since.
    return [replace(m, state="behind") if m.ok and _generation(m) < newest else m for m in glance(path)]


def settled(path: str, say: Say) -> list[LiveDevice]:
    """As members(); where one went away, after a commit without it: whatever generation it comes back with is
    then older than the mark says."""
    devices = members(path)
    if all(m.ok for m in devices if m.devid):
        return devices
    try:
        btrfs.sync(path)
    except OSError as e:
        # The mark is written all the more.
        say(Note(DEBUG, f"{path} cannot be synced: {e}", "FAILED", {"PERSIST_PATH": path}))
    return members(path)


def head(found: Iterable[LiveDevice]) -> DegradedMark | None:
    """The mark that the members in use carry: the newest one, should one have been written to some of them
    only."""
    return degraded_mark.newest(m.mark for m in found if m.ok)


def newest_first(found: Iterable[LiveDevice]) -> list[str]:
    """The nodes of members in use, in the order in which a new mark is written to them."""
    blocks = [(m.block, m.node) for m in found if m.ok and m.block is not None]
    return [node for _, node in sorted(blocks, key=lambda b: b[0].newness, reverse=True)]


def split(member: Member, found: Iterable[LiveDevice], is_ancestor: IsAncestor = ancestor) -> bool:
    """Whether a member that is not in use may hold what those in use (among ``found``) never had; such a one
    is never touched. Pure."""
    every = list(found)
    used = max((m for m in every if m.ok and m.block is not None), key=_generation, default=None)
    if used is None or used.block is None:
        return True
    return not is_ancestor(member, Member(used.node, used.block, head(every)))


def level(every: list[LiveDevice]) -> None:
    """Bring the mark of those in use onto each of them: the target of a replace, and a new device, whoever
    began with it. Raises OSError."""
    mark = head(every)
    if mark is not None:
        degraded_mark.write(
            (m.node for m in every if m.ok and (m.mark is None or m.mark.id != mark.id)), mark
        )


def begin_whole(path: str) -> None:
    """Where all are there again under a mark that began without one of them, begin a new one: should a member
    go and a cut come, the old one would not tell who was away while something was synced. Raises OSError."""
    mark = head(glance(path))
    if mark is not None and mark.id != degraded_mark.UNKNOWN and not degraded_mark.is_whole(mark.id):
        begin(path)


def begin(path: str) -> None:
    """Give a mounted volume, all of whose several members are there, a stretch of history of its own, as
    before a mount. Raises OSError."""
    every = glance(path)
    blocks = [m.block for m in every if m.ok and m.block is not None]
    if len(blocks) < 2 or len(blocks) < len(every):
        return
    newest = max(blocks, key=lambda b: b.newness)
    mark = degraded_mark.following(
        newest.fsid, head(every), newest.generation, newest.log_root, whole=True, mounted=True
    )
    degraded_mark.begin(newest_first(every), mark)
