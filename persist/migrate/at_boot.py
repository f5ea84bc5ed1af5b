# SPDX-License-Identifier: LGPL-2.1-or-later
"""Before anything is mounted from the volume: what a run that was cut has left is put back, and PID 1 is told
which migrations have their stamps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from persist.boot.load import Loaded
from persist.boot.paths import READONLY, STORE, VOLUME
from persist.errors import PersistError
from persist.migrate import flags
from persist.migrate.records import BACK, DUE, FAILED, HELD, RUNNING, Records, Run
from persist.note import ERR, WARNING, Note, Say, Status
from persist.record import replace
from persist.system import mountinfo
from persist.volume.outcome import Outcome

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from persist.migrate.restore import Places

MOST_CUTS = 3


def _fields(run: Run) -> dict[str, str]:
    return {"PERSIST_PATH": run.path, "PERSIST_MIGRATION": run.id}


def remedy(id: str) -> str:
    """What to do about one that has failed."""
    return (
        f"See 'journalctl -u persist-migrate@{id}.service', mend what it says, then run 'persistctl migrate "
        f"retry {id}' and restart the machine."
    )


class AtBoot:
    """One look at the volume before anything is mounted from it. ``known``: the ids that this image knows, in
    force or not. ``say`` and ``status`` as ever."""

    def __init__(
        self, records: Records, known: Collection[str], say: Say, status: Status, places: Places | None = None
    ) -> None:
        self.records, self.known, self.say, self.status, self.places = records, known, say, status, places

    def _note(self, priority: int, run: Run, text: str, name: str) -> None:
        self.say(Note(priority, text, name, _fields(run)))

    def _restore(self, run: Run, becomes: Run | None, *, keep: bool = False) -> str | None:
        """As restore(); None where the path is in use: its entry is mounted, as /etc over a soft reboot."""
        if mountinfo.at(run.entry) is not None:
            text = f"{run.path} is to be restored from {run.snapshot}, and is in use: restart the machine."
            self._note(WARNING, run, text, "MIGRATION_FAILED")
            return None
        from persist.migrate.restore import HERE, restore
        from persist.seed.tree import Progress

        self.status(f"Restoring {run.path}", 60)
        progress = Progress(lambda text: self.status(text, 60))
        return restore(run, becomes, self.records, progress, keep=keep, places=self.places or HERE)

    def _cut(self, run: Run) -> None:
        """Go on with one that did not end."""
        cuts = run.cuts + 1
        if not run.snapshot:
            text = (
                f"The migration {run.id} of {run.path} was cut, and no snapshot was made before it: the data "
                f"may be half migrated, and it is not run again by itself. {remedy(run.id)}"
            )
            why = "it was cut, and there is no way back"
            self.records.write(replace(run, state=FAILED, cuts=cuts, why=why))
            self._note(ERR, run, text, "MIGRATION_FAILED")
            return
        if cuts < MOST_CUTS:
            # With a snapshot of its own: what is written until it runs is not for it to take away.
            before = run.before if run.before != run.snapshot else ""
            becomes = replace(run, state=DUE, cuts=cuts, snapshot="", before=before)
            end = "is begun anew."
        else:
            becomes = replace(run, state=FAILED, cuts=cuts, why=f"it was cut {cuts} times")
            end = f"is not run again by itself. {remedy(run.id)}"
        if self._restore(run, becomes) is not None:
            text = f"{run.path} was restored from {run.snapshot}: the migration {run.id} was cut, and {end}"
            self._note(WARNING, run, text, "MIGRATION_RESTORED")

    def _back(self, run: Run, becomes: Run | None, why: str) -> None:
        """Undo one, for people or for an image that does not know it; nothing is lost."""
        aside = self._restore(run, becomes, keep=True)
        if aside is not None:
            text = f"{run.path} was restored from {run.snapshot}: {why}."
            if aside:
                text += f" What was there is {STORE}/replaced/{aside}."
            self._note(WARNING, run, text, "MIGRATION_RESTORED")

    def _is_of_another(self, run: Run) -> bool:
        """Whether this image does not know it. What is declared in /etc or /usr/local is not known before
        that is mounted."""
        image = not run.file.startswith(("/etc/", "/usr/local/"))
        return image and run.id not in self.known and run.when == "before-services"

    def _of_another_image(self, run: Run) -> None:
        """This image has the data as they were before it, where there is a way back, and the record goes:
        what it writes from now on is not for a later restoration to take away."""
        origin = run.before or run.snapshot
        if origin:
            why = f"this image does not know the migration {run.id}, which was not done"
            self._back(replace(run, snapshot=origin), None, why)
        elif run.state == DUE:
            self.records.forget(run.id)

    def go_on(self, id: str) -> None:
        """Go on with what has a record of a run. Raises PersistError and OSError."""
        from persist.migrate.restore import HERE, tidy  # rare

        run = self.records.run(id)
        if run is not None and run.state == BACK:
            becomes = replace(run, state=HELD, snapshot="", before="", why="it was rolled back")
            self._back(run, becomes, f"the migration {id} is rolled back")
            return
        if self.records.has(id):
            self.records.forget(id)  # the cut came after the stamp
        elif run is not None and self._is_of_another(run):
            self._of_another_image(run)
        elif run is not None and run.state == RUNNING:
            if run.when == "before-services":
                self._cut(run)
            return
        tidy(id, self.places or HERE)  # the cut came when it was restored

    def flag(self, id: str) -> None:
        """Have PID 1 skip one that has its stamp. Raises PersistError and OSError."""
        if self.records.has(id):
            flags.write(id)

    def each(self, ids: Iterable[str], work: Callable[[str], None]) -> None:
        """Do something for each; what fails is said, and costs that one."""
        for id in ids:
            try:
                work(id)
            except (PersistError, OSError) as e:
                text = f"Failed to go on with the migration {id}: {e}"
                self.say(Note(ERR, text, "MIGRATION_FAILED", {"PERSIST_MIGRATION": id}))


def begin(result: Outcome, loaded: Loaded, say: Say, status: Status) -> None:
    """Put back what was cut or is to be undone, and write the flags. What fails is said, and costs its
    migration. Raises OSError."""
    flags.clear()
    if result.kind == "none" or result.read_only:
        return
    known = [m.id for m in loaded.registry.migrations]
    for volume in (READONLY, VOLUME):
        try:
            with Records(volume) as records:
                one = AtBoot(records, known, say, status)
                # With persist=ro, what is below memory counts, and is not touched.
                one.each(records.begun() if volume == VOLUME else (), one.go_on)
                one.each(records.stamped(), one.flag)
        except (PersistError, OSError) as e:
            say(Note(ERR, f"Failed to look at migrations: {e}", "MIGRATION_FAILED"))
