# SPDX-License-Identifier: LGPL-2.1-or-later
"""Before anything is mounted from the volume: what a run that was cut has left is put back, and PID 1 is told
which migrations have their stamps."""

from __future__ import annotations

from collections.abc import Callable

from persist.boot.paths import READONLY, VOLUME
from persist.errors import PersistError
from persist.migrate import flags
from persist.migrate.records import DUE, FAILED, RUNNING, Records, Run
from persist.note import ERR, WARNING, Note, Say, Status
from persist.record import replace
from persist.system import mountinfo
from persist.volume.outcome import Outcome

MOST_CUTS = 3


def _fields(run: Run) -> dict[str, str]:
    return {"PERSIST_PATH": run.path, "PERSIST_MIGRATION": run.id}


def _in_use(run: Run) -> bool:
    """Whether its entry is mounted already, as /etc is over a soft reboot."""
    return mountinfo.at(run.entry) is not None


def _cut(run: Run, records: Records, say: Say, status: Status) -> None:
    """Go on with one that did not end. Raises PersistError and OSError."""
    cuts = run.cuts + 1
    if not run.snapshot:
        text = (
            f"The migration {run.id} of {run.path} was cut, and no snapshot was made before it: the data may "
            "be half migrated, and it is not run again by itself."
        )
        records.write(replace(run, state=FAILED, cuts=cuts, why="it was cut, and there is no way back"))
        say(Note(ERR, f"{text} {remedy(run.id)}", "MIGRATION_FAILED", _fields(run)))
        return
    if _in_use(run):
        text = f"The migration {run.id} of {run.path} was cut, and the path is in use: restart the machine."
        say(Note(WARNING, text, "MIGRATION_FAILED", _fields(run)))
        return
    from persist.migrate.restore import restore
    from persist.seed.tree import Progress

    state = DUE if cuts < MOST_CUTS else FAILED
    why = "" if state == DUE else f"it was cut {cuts} times"
    becomes = replace(run, state=state, cuts=cuts, why=why)
    status(f"Restoring {run.path}", 60)
    restore(run, becomes, records, Progress(lambda text: status(text, 60)))
    end = "is begun anew" if state == DUE else f"is not run again by itself. {remedy(run.id)}"
    text = f"{run.path} was restored from {run.snapshot}: the migration {run.id} was cut, and {end}"
    say(Note(WARNING, text.removesuffix(".") + ".", "MIGRATION_RESTORED", _fields(run)))


def remedy(id: str) -> str:
    """What to do about one that has failed."""
    return (
        f"See 'journalctl -u persist-migrate@{id}.service', mend what it says, then run 'persistctl migrate "
        f"retry {id}' and restart the machine."
    )


def _go_on(id: str, records: Records, say: Say, status: Status) -> None:
    from persist.migrate.restore import tidy  # rare

    if records.has(id):
        records.forget(id)  # the cut came after the stamp
        tidy(id)
        return
    run = records.run(id)
    if run is not None and run.state == RUNNING and run.when == "before-services":
        _cut(run, records, say, status)
    elif run is not None and run.snapshot:
        tidy(id)  # the cut came when it was restored


def _flag(id: str, records: Records) -> None:
    if records.has(id):
        flags.write(id)


def _each(id: str, work: Callable[[str], None], say: Say) -> None:
    """Do something for one migration; what fails costs that one."""
    try:
        work(id)
    except (PersistError, OSError) as e:
        text = f"Failed to go on with the migration {id}: {e}"
        say(Note(ERR, text, "MIGRATION_FAILED", {"PERSIST_MIGRATION": id}))


def begin(result: Outcome, say: Say, status: Status) -> None:
    """Put back what was cut, and write the flags. What fails is said, and costs its migration. Raises
    OSError."""
    flags.clear()
    if result.kind == "none" or result.read_only:
        return
    for volume in (READONLY, VOLUME):
        try:
            with Records(volume) as records:
                # With persist=ro, what is below memory counts, and is not touched.
                for id in records.begun() if volume == VOLUME else ():
                    _each(id, lambda name: _go_on(name, records, say, status), say)
                for id in records.stamped():
                    _each(id, lambda name: _flag(name, records), say)
        except (PersistError, OSError) as e:
            say(Note(ERR, f"Failed to look at migrations: {e}", "MIGRATION_FAILED"))
