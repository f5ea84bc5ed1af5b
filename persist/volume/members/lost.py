# SPDX-License-Identifier: LGPL-2.1-or-later
"""Members that went away while the volume was in use: those that are left are marked at once."""

from __future__ import annotations

from collections.abc import Collection

from persist.boot import paths
from persist.system.files import write_atomically
from persist.volume.members import in_kernel
from persist.volume.members.in_kernel import LiveDevice
from persist.volume.ondisk import degraded_mark
from persist.volume.ondisk.degraded_mark import DegradedMark

GONE = paths.MEMBERS_GONE


def _shown(mark: DegradedMark | None) -> str:
    # Healed, it has the same id and another counter: it is not for the next one that goes.
    return f"{mark.uuid} {mark.id} {mark.counter}" if mark is not None else ""


def noted(mark: DegradedMark | None, path: str = GONE) -> set[int]:
    """The devids of the members that went away after this mark was written, as far as that was noted."""
    try:
        with open(path, encoding="ascii") as f:
            first, _, second = f.read().partition("\n")
    except (FileNotFoundError, UnicodeDecodeError):
        return set()
    return (
        {int(w) for w in second.strip().split(" ") if w.isascii() and w.isdigit()}
        if first == _shown(mark)
        else set()
    )


def mark_lost(uuid: str, devices: list[LiveDevice], known: Collection[int] = ()) -> list[LiveDevice]:
    """Mark those that are left, at once, for members that went away since the mount; returns those. Raises
    OSError.

    ``known``: devids of members that were gone before, and of the one that is being replaced, whose
    superblock is written anew.

    Without a mark such a member would be told from the others by its generation alone, which a NOCOW file
    does not change.
    """
    lost = [m for m in devices if m.devid and m.state in ("lost", "behind")]
    left = in_kernel.newest_first(m for m in devices if m.devid)
    head = in_kernel.head(devices)
    before = noted(head)
    fresh = [m for m in lost if m.devid not in before and m.devid not in known]
    if fresh and left:
        newest = max(
            (m.block for m in devices if m.ok and m.block is not None),
            key=lambda b: b.newness,
        )
        mark = degraded_mark.following(uuid, head, newest.generation, newest.log_root, mounted=True)
        degraded_mark.write(left, mark)
        write_atomically(GONE, f"{_shown(mark)}\n{' '.join(str(m.devid) for m in lost)}\n")
    return fresh if left else []


def were_in_use(gone: list[LiveDevice], devices: list[LiveDevice]) -> list[LiveDevice]:
    """Those of ``gone`` that were written with the others until then: not one that was away at the mount, and
    has come back since. ``devices``: as they were before they were marked. Pure."""
    head = in_kernel.head(devices)
    return [
        m for m in gone if m.state == "lost" or head is None or (m.mark is not None and m.mark.id == head.id)
    ]
