# SPDX-License-Identifier: LGPL-2.1-or-later
"""What became of migrations on this boot: those that have failed keep their services down. Looks only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from persist.boot import paths
from persist.boot.load import Loaded
from persist.boot.rare.migrations import PlannedMigration
from persist.entries import stores
from persist.errors import PersistError
from persist.migrate.at_boot import remedy
from persist.migrate.records import BACK, DUE, FAILED, HELD, Records, Run
from persist.reason import Reason
from persist.system.run import run
from persist.verdict import remedies


def _of_run(found: Run, busy: bool) -> Reason | None:
    what = f"The migration {found.id} of {found.path}"
    if found.state == FAILED:
        return Reason("migration-failed", f"{what} has failed: {found.why}.", remedy(found.id), found.path)
    if found.state == HELD:
        hint = f"To have it run again: 'persistctl migrate retry {found.id}', then restart the machine."
        return Reason("migration-held", f"{what} was rolled back, and is held.", hint, found.path)
    if found.state == BACK:
        return Reason("migration-waiting", f"{what} is rolled back at the next boot.", "", found.path)
    if busy:
        return Reason("migration-waiting", f"{what} is running.", "", found.path)
    if found.state == DUE:
        return None  # as one that was never begun
    hint = "Restart the machine." if found.snapshot else remedy(found.id)
    return Reason("migration-failed", f"{what} did not end.", hint, found.path)


def _unit_failed(unit: str) -> bool:
    return run("systemctl", "is-failed", unit, ok=range(256)).strip() == "failed"


def _of_plan(found: PlannedMigration, failed: bool) -> Reason:
    """What is to be said of one that has not begun."""
    what = f"The migration {found.migration.id} of {found.path}"
    status = remedies.command("systemctl", "status", found.unit)
    if failed:
        return Reason("migration-failed", f"{what} is not done.", f"See {status}.", found.path)
    return Reason("migration-waiting", f"{what} has not run yet.", "", found.path)


def _all(loaded: Loaded, volume: str, unit_failed: Callable[[str], bool]) -> Iterator[Reason]:
    with Records(volume) as records:
        begun = records.begun()
        due = [m for m in loaded.plan.migrations if not records.has(m.migration.id)]
        busy = records.busy() if begun or due else False
        told = set()
        for id in begun:
            try:
                found = records.run(id)
            except PersistError as e:
                told.add(id)
                yield Reason("migration-failed", e.message, e.hint)
                continue
            if found is None or (found.state != BACK and records.has(id)):
                continue
            reason = _of_run(found, busy)
            if reason is not None:
                told.add(id)
                yield reason
        for planned in due:
            if planned.migration.id not in told and stores.flag(planned.planned.name, loaded.facts.root):
                yield _of_plan(planned, not busy and unit_failed(planned.unit))


def look(
    loaded: Loaded, volume: str = paths.VOLUME, unit_failed: Callable[[str], bool] = _unit_failed
) -> tuple[list[Reason], list[Reason]]:
    """What costs the verdict, and what is worth a word. ``unit_failed``: whether PID 1 says so of a unit."""
    if loaded.plan.reason:
        return [], []
    try:
        found = list(_all(loaded, volume, unit_failed))
    except (PersistError, OSError) as e:
        text = f"Failed to look at migrations: {e}"
        return [Reason("migration-failed", text, f"See what is in {paths.STORE}/migrations.")], []
    waiting = [r for r in found if r.code == "migration-waiting"]
    return [r for r in found if r not in waiting], waiting
