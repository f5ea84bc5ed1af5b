# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is what one member holds only an older state of what another one holds? Pure; docs/volume.md, "Who is an
ancestor", has the table.

Older is not enough: a raw copy, a restored backup or a snapshot of a disk is older too, and may hold what
nobody else has. A stretch of the volume's history that one kernel wrote has one mark, so that within it the
generation tells; from one stretch to the next the mark's earlier ids tell, and how far each had come. What
nothing proves an ancestor is never wiped, nor mounted with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from persist.record import Record
from persist.system.superblock import Superblock
from persist.volume.ondisk import degraded_mark
from persist.volume.ondisk.degraded_mark import DegradedMark


class Member(Record):
    """One member as it is on its disk."""

    node: str
    superblock: Superblock
    mark: DegradedMark | None = None


def _level(one: Superblock, other: Superblock) -> bool:
    """Whether two superblocks are of the same commit, as far as they say."""
    return (one.generation, one.num_devices, one.root) == (other.generation, other.num_devices, other.root)


def newest_generation(members: list[Member]) -> int:
    """The greatest generation of superblocks among them."""
    return max(m.superblock.generation for m in members)


def _marks(member: Member) -> Iterator[DegradedMark | None]:
    """Its mark; and the one before it, where nothing was written to it under that: a cut came between the
    marks of two members, or before the first commit."""
    mark, state = member.mark, member.superblock.newness
    yield mark
    while mark is not None and degraded_mark.nothing_since(mark, *state):
        mark = mark.before()
        yield mark


def _precedes(
    older: Superblock, mark: DegradedMark | None, other: Member, theirs: DegradedMark | None
) -> bool:
    block = other.superblock
    if mark is None and theirs is None:
        # It proves little, and is all there is to go by: persist has not mounted them yet.
        return _level(older, block)
    if theirs is None or degraded_mark.UNKNOWN in (theirs.id, mark.id if mark is not None else ""):
        return mark == theirs and _level(older, block)
    if mark is not None and mark.id == theirs.id:
        # The same log, or an older state of it: what differs was never acknowledged, unless a disk was pulled
        # within one transaction (docs/volume.md).
        return older.generation < block.generation or (
            _level(older, block) and (not older.log_root or bool(block.log_root))
        )
    line = degraded_mark.effective(theirs, block.generation, block.log_root)
    if mark is None:
        at = len(line) if other.mark is not None and not other.mark.full else 0
    else:
        at = line.index(mark.id) if mark.id in line else 0
    return at > 0 and degraded_mark.began_after(line[at - 1], older.generation, older.log_root)


def ancestor(older: Member, other: Member) -> bool:
    """Whether something proves that all that ``older`` holds was there when ``other`` became what it is; true
    of two that are level, too."""
    if older.superblock.empty:
        return True
    if older.superblock.num_devices < 2:
        return False  # it was never a mirror's: nobody else had what was written to it
    if older.superblock.generation > other.superblock.generation:
        return False
    return any(
        _precedes(older.superblock, mark, other, theirs) for mark in _marks(older) for theirs in _marks(other)
    )


def later(older: Member, other: Member) -> bool:
    """Whether the mark of ``other`` was written over that of ``older``, or over none, whatever each has
    beyond that."""
    if other.mark is None or (older.mark is not None and older.mark.id == other.mark.id):
        return False
    return not other.mark.full if older.mark is None else older.mark.id in other.mark.earlier


# ancestor(), or what remembers its answers for those who ask of the same members again and again.
IsAncestor = Callable[[Member, Member], bool]


def together(one: Member, other: Member, is_ancestor: IsAncestor = ancestor) -> bool:
    """Whether each is an ancestor of the other: both hold the same."""
    return is_ancestor(one, other) and is_ancestor(other, one)


def sides(members: list[Member], is_ancestor: IsAncestor = ancestor) -> list[list[Member]]:
    """Those that nothing proves an ancestor of another one, those that hold the same in one list. More than
    one list: they went apart, or nothing tells."""
    weighty = [m for m in members if not m.superblock.empty] or members
    tips = [m for m in weighty if not any(is_ancestor(m, o) and not is_ancestor(o, m) for o in weighty)]
    found: list[list[Member]] = []
    for tip in tips:
        side = next((s for s in found if all(m is tip or together(m, tip, is_ancestor) for m in s)), None)
        if side is None:
            found.append([tip])
        else:
            side.append(tip)
    return found
