# SPDX-License-Identifier: LGPL-2.1-or-later
"""Members between which the machine stopped: the newest superblock, or the newest mark, came to some of them
only. Pure.
"""

from __future__ import annotations

from persist.volume.members.ancestry import Member
from persist.volume.members.assemble import Assembly
from persist.volume.members.oddity import oddities
from persist.volume.ondisk import degraded_mark


def _unreached(member: Member, assembly: Assembly) -> bool:
    """Whether the machine stopped between the writing of the newest mark to those in use and to this member,
    and nothing was synced under that mark."""
    own, head, block = member.mark, assembly.head, member.superblock
    before = head is not None and (head.earlier[:1] == (own.id,) if own is not None else not head.earlier)
    return before and any(m.superblock.newness == block.newness for m in assembly.use)


def mend(assembly: Assembly) -> Assembly | None:
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
    healed = any(
        degraded_mark.same(m.mark, assembly.head) and m.mark is not None and not m.mark.counter for m in ready
    )
    with_mark = newest.num_devices - (
        assembly.head is not None and not degraded_mark.is_whole(assembly.head.id) and not healed
    )
    unseen = max(0, with_mark - sum(degraded_mark.same(m.mark, assembly.head) for m in ready))
    never_synced = sum(m in assembly.use for m in ready) + unseen < newest.num_devices - 1
    behind = [
        m
        for m in ready
        if m in assembly.stale
        and (
            (
                never_synced
                and degraded_mark.same(m.mark, assembly.head)
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
        tuple(oddities(absent, stale, list(assembly.split), use)),
    )
