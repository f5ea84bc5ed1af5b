# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl migrate: what was done to data of older images, what is to be done again, or undone."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from persist.boot.paths import STORE, VOLUME
from persist.cli import show
from persist.errors import PersistError

if TYPE_CHECKING:
    from collections.abc import Callable

    from persist.boot.load import Loaded
    from persist.migrate.records import Records, Run


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser(
        "migrate",
        help="what was done once to data of older images",
        description="Look at the migrations of the registry and of the state volume, and have one run again.",
    )
    actions = sub.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="each migration, with what became of it")
    show.options(listed)
    show.full(listed)
    listed.set_defaults(run=run)
    retry = actions.add_parser("retry", help="have one that has failed run again")
    show.options(retry)
    retry.add_argument("id", metavar="ID", help="its Id=")
    retry.set_defaults(run=run)
    back = actions.add_parser("rollback", help="have the data as they were before one, at the next boot")
    show.options(back)
    show.yes(back)
    back.add_argument("id", metavar="ID", help="its Id=")
    back.set_defaults(run=run)


def _there(records: Records) -> None:
    if not records.there:
        raise PersistError(
            f"No state volume with a place for migrations is mounted at {VOLUME}.",
            hint="See 'persistctl status'.",
        )


def _state(id: str, records: Records) -> tuple[str, str]:
    """What became of a migration, and why. A record that cannot be read is said."""
    try:
        found = records.run(id)
        if found is not None and found.state == "back":
            return "back", "it is rolled back at the next boot"
        stamp = records.stamp(id)
        if stamp is not None:
            return ("seeded", "its data came from that image") if stamp.how == "seeded" else ("done", "")
    except PersistError as e:
        return "unknown", e.message
    if found is None:
        return "due", ""
    if found.state in ("failed", "held"):
        return found.state, found.why
    return ("running", "") if found.state == "running" and records.busy() else ("due", _cut(found))


def _cut(found: Run) -> str:
    return "it was cut" if found.state == "running" or found.cuts else ""


def _image(id: str, records: Records) -> str:
    try:
        stamp = records.stamp(id)
    except PersistError:
        return ""
    return stamp.image if stamp is not None else ""


def _rows(loaded: Loaded, records: Records) -> list[dict[str, str]]:
    """All migrations that the image or the volume knows, those of the image first."""
    rows = []
    known = {m.migration.id: m for m in loaded.plan.migrations}
    others = [id for id in dict.fromkeys([*records.stamped(), *records.begun()]) if id not in known]
    for id in [*known, *others]:
        state, why = _state(id, records)
        if id in known:
            path, source = known[id].path, known[id].migration.source
        else:
            path, source = _path(id, records), "another image"
        rows.append(
            {
                "id": id,
                "path": path,
                "state": state,
                "image": _image(id, records),
                "source": source,
                "reason": why,
            }
        )
    return rows


def _path(id: str, records: Records) -> str:
    try:
        found = records.stamp(id) or records.run(id)
    except PersistError:
        return ""
    return found.path if found is not None else ""


def _list(arguments: argparse.Namespace, records: Records) -> int:
    from persist.boot.load import load
    from persist.verdict.current import environment

    rows = _rows(load("", environment()), records)
    if arguments.json:
        show.print_json({"migrations": rows})
        return 0
    if not rows:
        print("Neither the registry nor the state volume has a migration.")
        return 0
    show.table(
        ("ID", "PATH", "STATE", "IMAGE", "DECLARED IN"),
        [(r["id"], r["path"], r["state"], r["image"] or "-", r["source"]) for r in rows],
        flexible=(1, 4),
        full=arguments.full,
    )
    for row in rows:
        if row["reason"]:
            print(show.safe(f"{row['id']}: {row['state']}, {row['reason']}"))
    return 0


def retry(id: str, records: Records) -> str:
    """Have a migration that has failed run again, on the data as they are. Returns what was done. Raises
    PersistError where there is nothing to do, or it is not the time, and OSError."""
    from persist.migrate.records import BACK, DUE, FAILED, HELD
    from persist.record import replace

    if records.busy():
        raise PersistError("A migration is running.", hint="See 'persistctl migrate list', and wait.")
    records.lock()
    found = records.run(id)
    if found is None or found.state == DUE:
        if records.has(id):
            raise PersistError(f"The migration {id} is done.")
        known = "runs at the next boot anyway" if found is not None else "has not failed"
        raise PersistError(f"The migration {id} {known}.", hint="See 'persistctl migrate list'.")
    if found.state == BACK and records.has(id):
        records.forget(id)
        return f"The migration {id} is not rolled back."
    if found.state not in (FAILED, HELD) and found.snapshot:
        raise PersistError(
            f"The migration {id} was cut: at the next boot its data are restored, and it runs again.",
            hint="Restart the machine.",
        )
    records.write(replace(found, state=DUE, snapshot="", cuts=0, why=""))
    return (
        f"The migration {id} runs at the next boot, on the data as they are. To have it run now: "
        f"'systemctl start persist-migrate@{id}.service', then its services."
    )


def _undone(id: str, records: Records, loaded: Loaded) -> Run:
    """What is to be undone of a migration, from what is known of it. Raises PersistError where nothing can
    be."""
    from persist.entries.stores import seeded_for
    from persist.migrate.records import BACK, Run
    from persist.record import replace

    found, stamp = records.run(id), records.stamp(id)
    if found is not None and stamp is None:
        origin = found.before or found.snapshot
        return replace(found, state=BACK, snapshot=origin, before="")
    if stamp is None:
        raise PersistError(f"The migration {id} was not done.", hint="See 'persistctl migrate list'.")
    planned = next((m for m in loaded.plan.migrations if m.migration.id == id), None)
    if planned is None:
        raise PersistError(
            f"This image does not know the migration {id}.", hint="Boot the one that does, and undo it there."
        )
    above = [other for other in map(records.stamp, records.stamped()) if other is not None]
    later = [o.id for o in above if stamp.path.startswith(o.path + "/") and o.time >= stamp.time]
    if later:
        raise PersistError(
            f"The migration {', '.join(later)} was done to what is above {stamp.path} since.",
            hint=f"Roll that back first: 'persistctl migrate rollback {later[-1]}'.",
        )
    keeper = planned.planned
    with records.volume() as volume:
        method = seeded_for(volume, keeper.name) or keeper.entry.method
    migration = planned.migration
    return Run(
        id=id,
        path=stamp.path,
        entry=keeper.path,
        method=method,
        when=migration.when,
        state=BACK,
        snapshot=stamp.snapshot,
        old="",
        new=stamp.image,
        file=migration.file,
    )


def rollback(id: str, records: Records, loaded: Loaded, there: Callable[[str], bool]) -> Run:
    """What has to be written to have a migration undone at the next boot; ``there``: whether there is a
    snapshot of a name. Raises PersistError where it cannot be, and OSError."""
    if records.busy():
        raise PersistError("A migration is running.", hint="See 'persistctl migrate list', and wait.")
    records.lock()
    undone = _undone(id, records, loaded)
    if not undone.snapshot:
        raise PersistError(f"There is no way back from the migration {id}: no snapshot was made before it.")
    if not there(undone.snapshot):
        raise PersistError(f"The snapshot {undone.snapshot} of before the migration {id} is gone.")
    return undone


def _rollback(arguments: argparse.Namespace, records: Records) -> str:
    from persist.boot.load import load
    from persist.migrate import snapshot
    from persist.verdict.current import environment

    undone = rollback(arguments.id, records, load("", environment()), snapshot.there)
    what = f"At the next boot {undone.path} is as it was in {undone.snapshot}"
    if show.somebody(arguments) and not show.ask(
        [f"{what}; what was written there since is kept in {STORE}/replaced."], "Roll it back?"
    ):
        raise PersistError("Nothing was changed.")
    records.write(undone)
    id = arguments.id
    return f"{what}, and the migration {id} is held until 'persistctl migrate retry {id}'."


def run(arguments: argparse.Namespace, volume: str = VOLUME) -> int:
    """Do one action."""
    from persist.migrate.records import Records

    try:
        records = Records(volume)
    except PermissionError as e:
        raise PersistError(f"Only root may look at {STORE}.", hint="Run it as root.") from e
    with records:
        _there(records)
        if arguments.action == "list":
            return _list(arguments, records)
        if arguments.action == "retry":
            message = retry(arguments.id, records)
        else:
            message = _rollback(arguments, records)
    if arguments.json:
        show.print_json({"id": arguments.id, "message": message})
    else:
        show.print_lines(message)
    return 0
