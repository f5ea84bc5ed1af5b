# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which members of the volume may be mounted together? ``assemble`` is pure: superblocks and degraded marks in, a decision out.

The kernel mounts whatever has the right UUID: a member that was away, or two that were each written alone, without a word, and serves old
data from the stale one. docs/volume.md, "Members at a boot", has the rules; packaging/initramfs-tools/persist-early has them in shell.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..record import Record
from . import degraded, superblock
from .degraded import Mark
from .superblock import Superblock

MISSING, STALE, SPLIT, CLONED, NONE = "member-missing", "member-stale", "member-split", "cloned-disk", "no-member"
REPLACING = "replace-unfinished"
_MESSAGES = {MISSING: "MEMBER_MISSING", STALE: "MEMBER_STALE", SPLIT: "MEMBER_SPLIT", REPLACING: "MEMBER_STALE"}


class Member(Record):
    """One member as it is on its disk."""

    node: str
    superblock: Superblock
    mark: Mark | None = None


class Note(Record):
    """Something odd about the members, for the journal and the verdict. ``code`` is stable; ``nodes`` are whom it is about."""

    code: str
    message: str
    hint: str
    nodes: tuple[str, ...] = ()

    @property
    def message_id(self) -> str:
        """The name of its MESSAGE_ID in persist.messages."""
        return _MESSAGES.get(self.code, "VOLUME_AMBIGUOUS")


class Assembly(Record):
    """The decision. ``use`` are mounted together, the first one is named to mount(8); none may be used where it is empty, and ``notes`` say why.

    ``absent`` is how many devices the newest superblock counts beyond them, ``stale`` and ``split`` are left out, ``head`` is the newest degraded
    mark of those in use.
    """

    use: tuple[Member, ...]
    absent: int
    stale: tuple[Member, ...]
    split: tuple[Member, ...]
    head: Mark | None
    notes: tuple[Note, ...]

    @property
    def degraded(self) -> bool:
        """Whether members are missing, so that the kernel mounts it only with ``degraded``."""
        return self.absent > 0

    @property
    def awaited(self) -> int:
        """How many members nobody has seen yet: one that is here and may not be used is not worth waiting for, nor is one that is being replaced."""
        seen = {m.superblock.devid for m in (*self.use, *self.stale, *self.split)}
        newest = max((m.superblock for m in self.use), key=lambda s: s.generation, default=None)
        return 0 if newest is None else min(self.absent, max(0, newest.num_devices - len(seen)))

    @property
    def heal(self) -> bool:
        """Whether there may be something for persist-heal.service: a member missing or stale, a mark that was not cleared, a replace not finished."""
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


def _heads(members: list[Member]) -> list[Mark]:
    """The marks that no other one succeeds, in order of their ids."""
    marks = {m.mark.id: m.mark for m in members if m.mark is not None}
    succeeded = {old for mark in marks.values() for old in mark.earlier if old != mark.id}
    return [marks[i] for i in sorted(marks) if i not in succeeded]


def _same(one: Mark | None, other: Mark | None) -> bool:
    return one is other if one is None or other is None else one.id == other.id


def _newest(members: list[Member]) -> int:
    return max(m.superblock.generation for m in members)


def _with_mark(members: list[Member], head: Mark) -> list[Member]:
    return [m for m in members if m.mark is not None and m.mark.id == head.id]


def _by_marks(members: list[Member]) -> tuple[list[Member], list[Member], list[Member], Mark | None]:
    """Current, stale and split members by rule 1, and the mark of the current ones. The target of a replace carries no mark of its own."""
    ready = [m for m in members if m.superblock.devid]
    heads = _heads(ready)
    if not heads:
        return ready, [], [], None
    head = max(heads, key=lambda h: (_newest(_with_mark(ready, h)), h.counter, h.id))
    current = _with_mark(ready, head)
    # What the head does not succeed belongs to the other side, also an ancestor of another head.
    split = [m for m in ready if m.mark is not None and m.mark.id != head.id and m.mark.id not in head.earlier]
    return current, [m for m in ready if m not in current and m not in split], split, head


def _lagging(current: list[Member], targets: list[Member]) -> list[Member]:
    """Those of rule 2: they were pulled while the others were written. What a replace was copying to is written along with the others."""
    newest = _newest(current)
    behind = [m for m in current if m.superblock.generation < newest] + [m for m in targets if m.superblock.generation != newest]
    level = [m for m in (*targets, *current) if m.superblock.generation == newest]
    lowest = min(level, key=lambda m: m.superblock.devid)
    # Of equal generation the kernel takes the superblock of the lowest devid, and would not see what the others have synced.
    if not lowest.superblock.log_root and any(m.superblock.log_root for m in level):
        behind += [m for m in level if not m.superblock.log_root]
    return behind


def _list(members: Iterable[Member]) -> str:
    return " and ".join(m.node for m in members)


def _notes(absent: int, stale: list[Member], split: list[Member], use: list[Member]) -> list[Note]:
    found = []
    shown = _list(use)
    if absent:
        what = "One disk of the state volume is" if absent == 1 else f"{absent} disks of the state volume are"
        found.append(Note(MISSING, f"{what} missing or may not be used; it runs on {shown} alone.",
                          "Attach the disk again, or claim a blank one for this volume with 'persistctl claim --join'.", tuple(m.node for m in use)))
    if stale:
        found.append(Note(STALE, f"{_list(stale)} did not see what was written last and is left out of the state volume.",
                          "It is brought up to date by persist-heal.service.", tuple(m.node for m in stale)))
    if split:
        found.append(Note(SPLIT, f"{_list(split)} and {shown} were each written alone; {shown} is newer and is used, {_list(split)} is left as it is.",
                          "Save what you need of it ('mount -o ro,degraded' on another machine), then give it back: 'persistctl claim --force --join'.",
                          tuple(m.node for m in split)))
    return found


def assemble(members: Iterable[Member]) -> Assembly:
    """Decide which members of one filesystem are mounted together. Pure."""
    every = sorted(members, key=lambda m: (m.superblock.devid, m.node))
    if not any(m.superblock.devid for m in every):
        note = Note(NONE, "No device of the state volume can be read.", "See 'journalctl -b -k' for errors of its disks.", tuple(m.node for m in every))
        return Assembly((), 0, (), (), None, (note,))
    current, stale, split, head = _by_marks(every)
    targets = [m for m in every if not m.superblock.devid]
    behind = _lagging(current, targets)
    current, current_targets = ([m for m in some if m not in behind] for some in (current, targets))
    if not current:
        # Only one of several targets has a log: nothing tells what it was copied from.
        note = Note(NONE, "No member of the state volume has what was written last.", "See 'journalctl -b -k' for errors of its disks.",
                    tuple(m.node for m in every))
        return Assembly((), 0, (), (), head, (note,))
    newest = max(current, key=lambda m: m.superblock.generation).superblock
    stale = [m for m in every if m in stale or m in behind]
    ids = [m.superblock.devid for m in current]
    twice = [m for m in (*current_targets, *current) if ids.count(m.superblock.devid) > 1] or (current_targets if len(current_targets) > 1 else [])
    if twice:
        note = Note(CLONED, f"{_list(twice)} are copies of one device of the state volume. None of them is used.", "Detach the copy.",
                    tuple(m.node for m in twice))
        return Assembly((), 0, (), (), head, (note,))
    use = [*current, *current_targets]
    absent = max(0, newest.num_devices - len(current))
    return Assembly(tuple(use), absent, tuple(stale), tuple(split), head, tuple(_notes(absent, stale, split, use)))


def _unreached(member: Member, assembly: Assembly) -> bool:
    """Whether the machine stopped between the writing of the newest mark to those in use and to this member, and nothing was synced under that mark."""
    own, head, block = member.mark, assembly.head, member.superblock
    before = head is not None and (head.earlier[:1] == (own.id,) if own is not None else not head.earlier)
    return before and any((m.superblock.generation, m.superblock.log_root) == (block.generation, block.log_root) for m in assembly.use)


def torn(assembly: Assembly) -> Assembly | None:
    """For members that do not mount without those that lag behind: together with those that are behind by the last superblock, or by the last mark,
    alone. Pure.

    Of more than two disks, several lag only where the machine stopped within the writing of the superblocks, of the log's, or of a mark: the data was
    written to all of them before, and whoever waited for it to be synced never got an answer. None where there are no such members.
    """
    newest = max(m.superblock.generation for m in assembly.use)
    behind = [m for m in assembly.stale if m.superblock.devid and (
        (_same(m.mark, assembly.head) and newest - m.superblock.generation <= 1) or _unreached(m, assembly))]
    if not behind:
        return None
    use = sorted((*assembly.use, *behind), key=lambda m: (m.superblock.devid == 0, m.superblock.devid))
    if len({m.superblock.devid for m in use}) < len(use):
        return None
    stale = [m for m in assembly.stale if m not in behind]
    absent = max(0, assembly.absent - len(behind))
    return Assembly(tuple(use), absent, tuple(stale), assembly.split, assembly.head, tuple(_notes(absent, stale, list(assembly.split), use)))


def read(nodes: Iterable[str], uuid: str) -> list[Member]:
    """The members of a filesystem that can be read; one that cannot is as good as absent."""
    found = []
    for node in nodes:
        block = superblock.read(node)
        if block is None or block.fsid != uuid.lower():
            continue
        try:
            found.append(Member(node, block, degraded.read(node, uuid)))
        except OSError:
            continue  # it went away between two looks
    return found
