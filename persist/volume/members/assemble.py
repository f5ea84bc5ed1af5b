# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which members of the volume may be mounted together? ``assemble`` is pure: superblocks and degraded marks
in, a decision out.

The kernel mounts whatever has the right UUID: a member that was away, or two that were each written alone,
without a word, and serves old data from the stale one. docs/volume.md, "Members at a boot", has the rules;
packaging/initramfs-tools/persist-early has the plain cases in shell, and leaves the others to the service.
ancestry.py knows who is an ancestor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from persist.record import Record
from persist.system import superblock
from persist.volume.members.ancestry import Member, ancestor, later, sides
from persist.volume.ondisk import binding, degraded_mark
from persist.volume.ondisk.degraded_mark import UNKNOWN, DegradedMark

MISSING, STALE, SPLIT, CLONED, NONE = (
    "member-missing",
    "member-stale",
    "member-split",
    "cloned-disk",
    "no-member",
)
UNDECIDED = "member-undecided"
REPLACING = "replace-unfinished"
_MESSAGES = {
    MISSING: "MEMBER_MISSING",
    STALE: "MEMBER_STALE",
    SPLIT: "MEMBER_SPLIT",
    REPLACING: "MEMBER_STALE",
}


class Note(Record):
    """Something odd about the members, for the journal and the verdict. ``code`` is stable; ``nodes`` are
    whom it is about."""

    code: str
    message: str
    hint: str
    nodes: tuple[str, ...] = ()

    @property
    def message_id(self) -> str:
        """The name of its MESSAGE_ID in persist.messages."""
        return _MESSAGES.get(self.code, "VOLUME_AMBIGUOUS")


class Assembly(Record):
    """The decision. ``use`` are mounted together, the first one is named to mount(8); none may be used where
    it is empty, and ``notes`` say why.

    ``absent`` is how many devices the newest superblock counts beyond them, ``stale`` and ``split`` are left
    out, ``head`` is the newest degraded mark of those in use.
    """

    use: tuple[Member, ...]
    absent: int
    stale: tuple[Member, ...]
    split: tuple[Member, ...]
    head: DegradedMark | None
    notes: tuple[Note, ...]

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
    return sorted(members, key=lambda m: (m.superblock.generation, m.superblock.log_root), reverse=True)


def _same(one: DegradedMark | None, other: DegradedMark | None) -> bool:
    return one is other if one is None or other is None else one.id == other.id


def _newest(members: list[Member]) -> int:
    return max(m.superblock.generation for m in members)


def _rank(side: list[Member]) -> tuple[int, int, str]:
    mark = _head(side)
    return (_newest(side), mark.counter, mark.id) if mark is not None else (_newest(side), 0, "")


def _head(side: list[Member]) -> DegradedMark | None:
    """The newest mark of members that hold the same: not all carry it where a cut came between two."""
    marks = [m.mark for m in side if m.mark is not None]
    newest = [m for m in marks if not any(m.id in other.earlier for other in marks)]
    return max(newest, key=lambda m: (m.counter, m.id), default=None)


def _left_behind(own: list[Member], others: list[Member]) -> bool:
    """Whether the marks of others say that they were used after this side, or may do so where the sector is
    full."""
    over = any(m.mark is not None and later(m, o) for m in own for o in others)
    return over or any(
        o.mark is not None and o.mark.full and o.superblock.generation > _newest(own) for o in others
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
        return max(
            last, key=_rank
        )  # by their marks they are this volume's, and each was written without the others
    return None


def _beside(side: list[Member], ready: list[Member]) -> list[Member]:
    """Those of a side, and those that differ from it in their log alone, or hold nothing: they may be mounted
    with it."""
    newest, marks = max(side, key=lambda m: m.superblock.generation), [m.mark for m in side]
    same = [
        m
        for m in ready
        if any(_same(m.mark, mark) for mark in marks)
        and (m.superblock.generation, m.superblock.num_devices, m.superblock.root)
        == (newest.superblock.generation, newest.superblock.num_devices, newest.superblock.root)
    ]
    return [m for m in ready if m in side or m in same]


def _lagging(current: list[Member], targets: list[Member]) -> list[Member]:
    """Those of rule 2: they were pulled while the others were written. What a replace was copying to is
    written along with the others."""
    newest = _newest(current)
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


def _list(members: Iterable[Member]) -> str:
    return " and ".join(m.node for m in members)


def _notes(absent: int, stale: list[Member], split: list[Member], use: list[Member]) -> list[Note]:
    found = []
    shown = _list(use)
    if absent:
        what = "One disk of the state volume is" if absent == 1 else f"{absent} disks of the state volume are"
        found.append(
            Note(
                MISSING,
                f"{what} missing or may not be used; it runs on {shown} alone.",
                "Attach the disk again, or claim a blank one for this volume with 'persistctl claim --join'.",
                tuple(m.node for m in use),
            )
        )
    if stale:
        found.append(
            Note(
                STALE,
                f"{_list(stale)} did not see what was written last and is left out of the state volume.",
                "It is brought up to date by persist-heal.service.",
                tuple(m.node for m in stale),
            )
        )
    if split:
        found.append(
            Note(
                SPLIT,
                f"{_list(split)} may hold what {shown} never had: it was written alone, or is a copy. "
                f"{shown} is used, {_list(split)} is left "
                "as it is.",
                "Save what you need of it ('mount -o ro,degraded' on another machine), then detach it, or "
                "give it back: "
                "'persistctl claim --force --join'.",
                tuple(m.node for m in split),
            )
        )
    return found


def _undecided(apart: list[list[Member]]) -> Note:
    every = [m for side in apart for m in side]
    shown = " and ".join(f"{_list(side)} (generation {_newest(side)})" for side in apart)
    return Note(
        UNDECIDED,
        f"{shown} are of one filesystem, and nothing proves that one is only an older state of the other. "
        "None of them is used.",
        "One is a copy, or was written elsewhere: look at each alone ('mount -o ro,degraded' on another "
        "machine), and detach what this machine is "
        "not to use.",
        tuple(m.node for m in every),
    )


def _cloned(copies: list[Member]) -> Note:
    return Note(
        CLONED,
        f"{_list(copies)} are copies of one device of the state volume. None of them is used.",
        "Detach the copy.",
        tuple(m.node for m in copies),
    )


def _nobody(note: Note, head: DegradedMark | None = None) -> Assembly:
    return Assembly((), 0, (), (), head, (note,))


def assemble(members: Iterable[Member], bound: Callable[[Member], bool] = lambda member: False) -> Assembly:
    """Decide which members of one filesystem are mounted together. Pure but for ``bound``: whether a member's
    disk was bound to this machine, asked only where members went apart."""
    every = sorted(members, key=lambda m: (m.superblock.devid, m.node))
    ready = [m for m in every if m.superblock.devid]
    nodes = tuple(m.node for m in every)
    if not ready:
        return _nobody(
            Note(
                NONE,
                "No device of the state volume can be read.",
                "See 'journalctl -b -k' for errors of its disks.",
                nodes,
            )
        )
    apart = sides(ready)
    side = _chosen(apart, bound)
    if side is None:
        devids = [m.superblock.devid for m in ready]
        copies = [m for m in ready if devids.count(m.superblock.devid) > 1]
        return _nobody(_cloned(copies) if copies else _undecided(apart))
    head = _head(side)
    current = _beside(side, ready)
    # The target of a replace carries no mark of its own.
    targets = [m for m in every if not m.superblock.devid]
    behind = _lagging(current, targets)
    current, current_targets = ([m for m in some if m not in behind] for some in (current, targets))
    if not current:
        # Only one of several targets has a log: nothing tells what it was copied from.
        return _nobody(
            Note(
                NONE,
                "No member of the state volume has what was written last.",
                "See 'journalctl -b -k' for errors of its disks.",
                nodes,
            ),
            head,
        )
    newest = max(current, key=lambda m: m.superblock.generation).superblock
    others = [m for m in every if m not in current and m not in current_targets]
    stale = [m for m in others if m in behind or any(ancestor(m, c) for c in current)]
    ids = [m.superblock.devid for m in current]
    twice = [m for m in (*current_targets, *current) if ids.count(m.superblock.devid) > 1] or (
        current_targets if len(current_targets) > 1 else []
    )
    if twice:
        return _nobody(_cloned(twice), head)
    use = [*current, *current_targets]
    split = [m for m in others if m not in stale]
    absent = max(0, newest.num_devices - len(current))
    return Assembly(
        tuple(use), absent, tuple(stale), tuple(split), head, tuple(_notes(absent, stale, split, use))
    )


def _unreached(member: Member, assembly: Assembly) -> bool:
    """Whether the machine stopped between the writing of the newest mark to those in use and to this member,
    and nothing was synced under that mark."""
    own, head, block = member.mark, assembly.head, member.superblock
    before = head is not None and (head.earlier[:1] == (own.id,) if own is not None else not head.earlier)
    return before and any(
        (m.superblock.generation, m.superblock.log_root) == (block.generation, block.log_root)
        for m in assembly.use
    )


def torn(assembly: Assembly) -> Assembly | None:
    """For members that do not mount without those that lag behind: together with those that are behind by the
    last superblock, or by the last mark, alone. Pure.

    Of more than two disks, several lag only where the machine stopped within the writing of the superblocks,
    of the log's, or of a mark: the data was written to all of them before, and whoever waited for it to be
    synced never got an answer. None where there are no such members.
    """
    newest = max((m.superblock for m in assembly.use), key=lambda s: s.generation)
    ready = [m for m in (*assembly.use, *assembly.stale) if m.superblock.devid]
    # Whoever else may have been written under this mark, and is not here. Enough of them, and the others were
    # away while something was synced.
    healed = any(_same(m.mark, assembly.head) and m.mark is not None and not m.mark.counter for m in ready)
    with_mark = newest.num_devices - (
        assembly.head is not None and not degraded_mark.is_whole(assembly.head.id) and not healed
    )
    unseen = max(0, with_mark - sum(_same(m.mark, assembly.head) for m in ready))
    never_synced = sum(m in assembly.use for m in ready) + unseen < newest.num_devices - 1
    behind = [
        m
        for m in ready
        if m in assembly.stale
        and (
            (
                never_synced
                and _same(m.mark, assembly.head)
                and newest.generation - m.superblock.generation <= 1
            )
            or _unreached(m, assembly)
        )
    ]
    if not behind:
        return None
    use = sorted((*assembly.use, *behind), key=lambda m: (m.superblock.devid == 0, m.superblock.devid))
    if len({m.superblock.devid for m in use}) < len(use):
        return None
    stale = [m for m in assembly.stale if m not in behind]
    absent = max(0, assembly.absent - len(behind))
    return Assembly(
        tuple(use),
        absent,
        tuple(stale),
        assembly.split,
        assembly.head,
        tuple(_notes(absent, stale, list(assembly.split), use)),
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
