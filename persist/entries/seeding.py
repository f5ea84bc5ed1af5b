# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry of the plan as seeding has to know it, and what came of that."""

from __future__ import annotations

from persist.boot.paths import above
from persist.boot.plan import Plan, Planned
from persist.note import INFO, NOTICE, Note
from persist.record import Record
from persist.seed import from_above
from persist.seed.request import Result, SeedRequest, fields
from persist.system.safepath import Dir


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
    snapshot: bool
    overlay_above: str


def request(planned: Planned, plan: Plan) -> SeedRequest:
    """What seeding is asked for an entry of a plan."""
    e = planned.entry
    below_mount = above(planned.path, plan.fstab) != ""
    # Below a mount, an overlay has what the path shows below it: nothing gets out of sight.
    overlays = () if below_mount else [p.path for p in plan.entries if p.entry.method == "overlay"]
    return _Request(
        planned.path,
        e.method,
        e.type,
        e.user,
        e.group,
        e.mode,
        e.seed_from,
        e.source,
        below_mount,
        e.snapshot,
        planned.parent if planned.parent in overlays else "",
    )


def copies(entry: SeedRequest, volume: str) -> bool:
    """Whether seeding an entry copies, so that it may take long. Raises PersistError and OSError."""
    if entry.method != "overlay":
        return True
    with Dir.at(volume) as top:
        kept = from_above.find(top, entry.overlay_above, entry.path)
        if kept is not None:
            kept.layer.close()
    return kept is not None


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
