# SPDX-License-Identifier: LGPL-2.1-or-later
"""Data that come from this image have been through all its migrations."""

from __future__ import annotations

from persist.boot.plan import Plan
from persist.migrate import flags
from persist.migrate.records import Records, Stamp, now
from persist.migrate.steps import step


def stamp(plan: Plan, name: str, image: str) -> None:
    """Stamp the migrations of the data in an entry, which was seeded from this image. For seed(), before its
    marker. Raises PersistError and OSError; then the entry is not seeded."""
    mine = [m for m in plan.migrations if m.planned.name == name]
    if not mine:
        return
    with Records(make=True) as records:
        for found in mine:
            m = found.migration
            if not records.has(m.id):
                seen = tuple(m.services), m.downgrade, image, "seeded", m.file, "", now()
                records.write(Stamp(m.id, found.path, *seen))
            records.forget(m.id)
            flags.write(m.id)
    step("seed-stamped")
