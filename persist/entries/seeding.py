# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry of the plan as seeding has to know it, and what came of that."""

from __future__ import annotations

from collections.abc import Mapping

from persist.boot.paths import above
from persist.boot.plan import Planned
from persist.note import INFO, NOTICE, Note
from persist.record import Record
from persist.seed.request import Result, SeedRequest, fields


class _Request(Record):
    """An entry at the path that its unit has: without the image's aliases (/var/run is /run)."""

    path: str
    method: str
    type: str
    user: str
    group: str
    mode: str
    seed_from: str
    source: str
    below_mount: bool


def request(planned: Planned, fstab: Mapping[str, object]) -> SeedRequest:
    """What seeding is asked for an entry; ``fstab`` has what others mount."""
    e = planned.entry
    return _Request(
        planned.path,
        e.method,
        e.type,
        e.user,
        e.group,
        e.mode,
        e.seed_from,
        e.source,
        above(planned.path, fstab) != "",
    )


def told(entry: SeedRequest, result: Result) -> list[Note]:
    """What the journal should have of a seed."""
    how = {
        "present": "was seeded before",
        "adopted": "was already on the state volume",
        "empty": "begins empty",
        "seeded": f"was seeded from {result.source}: {result.summary}"
        if result.source
        else "is ready for changes",
    }[result.state]
    priority = INFO if result.state == "present" else NOTICE
    return [*result.notes, Note(priority, f"'{entry.path}' {how}.", "SEED_DONE", fields(entry))]
