# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which members of the volume may be mounted together? ``assemble`` is pure: superblocks and degraded marks
in, a decision out.

The kernel mounts whatever has the right UUID: a member that was away, or two that were each written alone,
without a word, and serves old data from the stale one. docs/volume.md, "Members at a boot", has the rules,
and ancestry.py knows who is an ancestor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from persist.record import Record
from persist.system import superblock
from persist.volume.members import oddity
from persist.volume.members.ancestry import IsAncestor, Member, ancestor, later, newest_generation, sides
from persist.volume.members.oddity import Oddity
from persist.volume.ondisk import binding, degraded_mark
from persist.volume.ondisk.degraded_mark import UNKNOWN, DegradedMark


class Assembly(Record):
    """The decision. ``use`` are mounted together, the first one is named to mount(8); none may be used where
    it is empty, and ``odd`` says why.

    ``absent`` is how many devices the newest superblock counts beyond them, ``stale`` and ``split`` are left
    out, ``head`` is the newest degraded mark of those in use.
    """

    use: tuple[Member, ...]
    absent: int
    stale: tuple[Member, ...]
    split: tuple[Member, ...]
    head: DegradedMark | None
    odd: tuple[Oddity, ...]

    @property
    def degraded(self) -> bool:
        """Whether members are missing, so that the kernel mounts it only with ``degraded``."""
        return self.absent > 0

    @property
    def awaited(self) -> int:
        """How many members nobody has seen yet: one that is here and may not be used is not worth waiting
        for, nor is one that is being replaced."""
        seen = {m.superblock.devid for m in (*self.use, *self.stale, *self.split)}
        newest = max((m.superblock for m in self.use), key=lambda s: s.generation, default=None)
        return 0 if newest is None else min(self.absent, max(0, newest.num_devices - len(seen)))

    @property
    def heal(self) -> bool:
        """Whether there may be something for persist-heal.service: a member missing or stale, a mark that was
        not cleared, a replace not finished."""
        unfinished = any(not m.superblock.devid or (m.mark is not None and m.mark.counter) for m in self.use)
        return bool(self.use) and (self.degraded or bool(self.stale) or unfinished)

    @property
    def nodes(self) -> tuple[str, ...]:
        """What is mounted together."""
        return tuple(m.node for m in self.use)

    @property
    def unused(self) -> tuple[str, ...]:
        """What the kernel must forget before the mount."""
        return tuple(m.node for m in (*self.stale, *self.split))


def newest_first(members: Iterable[Member]) -> list[Member]:
    """The order in which a new mark is written: a cut between two must not have it on one that lacks what
    another one has."""
    return sorted(members, key=lambda m: m.superblock.newness, reverse=True)


def _rank(side: list[Member]) -> tuple[int, int, str]:
    mark = degraded_mark.newest(m.mark for m in side)
    return (
        (newest_generation(side), mark.counter, mark.id)
        if mark is not None
        else (newest_generation(side), 0, "")
    )


def _left_behind(own: list[Member], others: list[Member]) -> bool:
    """Whether the marks of others say that they were used after this side, or may do so where the sector is
    full."""
    over = any(m.mark is not None and later(m, o) for m in own for o in others)
    return over or any(
        o.mark is not None and o.mark.full and o.superblock.generation > newest_generation(own)
        for o in others
    )


def _chosen(apart: list[list[Member]], bound: Callable[[Member], bool]) -> list[Member] | None:
    """Which of several sides is used, None where nothing tells. Whichever it is, the others are not
    touched."""
    if len(apart) == 1:
        return apart[0]
    own = [side for side in apart if any(bound(m) for m in side)]
    others = [m for side in apart if side not in own for m in side]
    # Of a device and its copy neither is used: the copy may have been made to take its place.
    if (
        len(own) == 1
        and not {m.superblock.devid for m in own[0]} & {m.superblock.devid for m in others}
        and not _left_behind(own[0], others)
    ):
        return own[0]
    # A mark that was written over another one is the later of the two: what the other side has beyond it was
    # written before.
    last = [
        side
        for side in apart
        if not any(later(m, o) for m in side for other in apart if other is not side for o in other)
    ]
    if all(m.superblock.num_devices > 1 for side in apart for m in side) and all(
        m.mark is not None and m.mark.id != UNKNOWN for side in last for m in side
    ):
        # By their marks they are this volume's, and each was written without the others.
        return max(last, key=_rank)
    return None


def _beside(side: list[Member], ready: list[Member]) -> list[Member]:
    """Those of a side, and those that differ from it in their log alone, or hold nothing: they may be mounted
    with it."""
    newest, marks = max(side, key=lambda m: m.superblock.generation), [m.mark for m in side]
    same = [
        m
        for m in ready
        if any(degraded_mark.same(m.mark, mark) for mark in marks)
        and (m.superblock.generation, m.superblock.num_devices, m.superblock.root)
        == (newest.superblock.generation, newest.superblock.num_devices, newest.superblock.root)
    ]
    return [m for m in ready if m in side or m in same]


def _lagging(current: list[Member], targets: list[Member]) -> list[Member]:
    """Those of rule 2: they were pulled while the others were written. What a replace was copying to is
    written along with the others."""
    newest = newest_generation(current)
    behind = [m for m in current if m.superblock.generation < newest] + [
        m for m in targets if m.superblock.generation != newest
    ]
    level = [m for m in (*targets, *current) if m.superblock.generation == newest]
    lowest = min(level, key=lambda m: m.superblock.devid)
    # Of equal generation the kernel takes the superblock of the lowest devid, and would not see what the
    # others have synced. What no chunk lies on is alone in having a log only where the machine stopped before
    # anybody was told of it.
    if not lowest.superblock.log_root and any(m.superblock.log_root for m in level if not m.superblock.empty):
        behind += [m for m in level if not m.superblock.log_root]
    return behind


def _nobody(odd: Oddity, head: DegradedMark | None = None) -> Assembly:
    return Assembly((), 0, (), (), head, (odd,))


def assemble(
    members: Iterable[Member],
    bound: Callable[[Member], bool] = lambda member: False,
    is_ancestor: IsAncestor = ancestor,
) -> Assembly:
    """Decide which members of one filesystem are mounted together. Pure but for ``bound``: whether a member's
    disk was bound to this machine, asked only where members went apart."""
    every = sorted(members, key=lambda m: (m.superblock.devid, m.node))
    ready = [m for m in every if m.superblock.devid]
    nodes = tuple(m.node for m in every)
    if not ready:
        return _nobody(oddity.none("No device of the state volume can be read.", nodes))
    apart = sides(ready, is_ancestor)
    side = _chosen(apart, bound)
    if side is None:
        devids = [m.superblock.devid for m in ready]
        copies = [m for m in ready if devids.count(m.superblock.devid) > 1]
        return _nobody(oddity.cloned(copies) if copies else oddity.undecided(apart))
    head = degraded_mark.newest(m.mark for m in side)
    current = _beside(side, ready)
    # The target of a replace carries no mark of its own.
    targets = [m for m in every if not m.superblock.devid]
    behind = _lagging(current, targets)
    current, current_targets = ([m for m in some if m not in behind] for some in (current, targets))
    if not current:
        # Only one of several targets has a log: nothing tells what it was copied from.
        return _nobody(
            oddity.none("No member of the state volume has what was written last.", nodes),
            head,
        )
    newest = max(current, key=lambda m: m.superblock.generation).superblock
    others = [m for m in every if m not in current and m not in current_targets]
    stale = [m for m in others if m in behind or any(is_ancestor(m, c) for c in current)]
    ids = [m.superblock.devid for m in current]
    twice = [m for m in (*current_targets, *current) if ids.count(m.superblock.devid) > 1] or (
        current_targets if len(current_targets) > 1 else []
    )
    if twice:
        return _nobody(oddity.cloned(twice), head)
    use = [*current, *current_targets]
    split = [m for m in others if m not in stale]
    absent = max(0, newest.num_devices - len(current))
    return Assembly(
        tuple(use),
        absent,
        tuple(stale),
        tuple(split),
        head,
        tuple(oddity.oddities(absent, stale, split, use)),
    )


def look(nodes: Iterable[str], uuid: str) -> Assembly:
    """Which members of a filesystem may be mounted together, as they are on the disks now. Mounts and changes
    nothing."""
    return assemble(read(nodes, uuid), lambda member: binding.is_here(member.node, uuid))


def read(nodes: Iterable[str], uuid: str) -> list[Member]:
    """The members of a filesystem that can be read; one that cannot is as good as absent."""
    found = []
    for node in nodes:
        block = superblock.read(node)
        if block is None or block.fsid != uuid.lower():
            continue
        try:
            found.append(Member(node, block, degraded_mark.read(node, uuid)))
        except OSError:
            continue  # it went away between two looks
    return found
