# SPDX-License-Identifier: LGPL-2.1-or-later
"""One migration, run: a snapshot, the word that it has begun, ``Exec=``, all of it on the disk, the stamp."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence

from persist.boot.paths import STORE, VOLUME
from persist.boot.plan import Plan, Planned
from persist.boot.rare.migrations import AFTER, BEFORE, PlannedMigration
from persist.errors import CommandError, PersistError
from persist.migrate import flags, snapshot
from persist.migrate.at_boot import MOST_CUTS, remedy
from persist.migrate.records import BACK, DUE, FAILED, HELD, RUNNING, Records, Run, Stamp, now, overlap
from persist.migrate.restore import in_snapshots
from persist.migrate.steps import step
from persist.note import NOTICE, WARNING, Note, Say
from persist.record import replace
from persist.seed import marker
from persist.system import mountinfo
from persist.system.run import run as run_program
from persist.system.run import status as run_for_status
from persist.system.safepath import Dir

Start = Callable[[Sequence[str], Mapping[str, str]], int]


def start(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command line for as long as it takes; what it says is what we say. Returns its exit status, with
    a minus the signal that ended it. Raises CommandError."""
    return run_for_status(*command, timeout=None, more=environment, loud=True)


def inactive(units: Sequence[str]) -> str:
    """The first of some units that is not active, '' where all are. Raises CommandError."""
    for unit in units:
        state = run_program("systemctl", "is-active", unit, ok=range(256)).strip()
        if state not in ("active", "reloading"):
            return unit
    return ""


class NotNow(PersistError):
    """It is not run, and nothing is wrong with it."""


class Migration:
    """One of the plan, with what runs it. ``image`` is the version of this image; ``say`` as ever."""

    def __init__(
        self, found: PlannedMigration, plan: Plan, image: str, say: Say, start: Start = start
    ) -> None:
        self.found, self.plan, self.image, self.say, self.start = found, plan, image, say, start
        self.id, self.path, self.asked = found.migration.id, found.path, found.migration

    def _note(self, priority: int, message: str, name: str) -> None:
        fields = {
            "PERSIST_PATH": self.path,
            "PERSIST_MIGRATION": self.id,
            "PERSIST_SOURCE": self.asked.source,
        }
        self.say(Note(priority, message, name, fields))

    @property
    def _name(self) -> str:
        return f"The migration {self.id} of {self.path}"

    def _failed(self, message: str, hint: str = "") -> PersistError:
        fields = {
            "PERSIST_PATH": self.path,
            "PERSIST_MIGRATION": self.id,
            "PERSIST_SOURCE": self.asked.source,
        }
        return PersistError(message, hint=hint, message_id="MIGRATION_FAILED", **fields)

    # -- whether it may

    def _may(self) -> None:
        """Raise PersistError where it must not run now."""
        if self.plan.read_only:
            raise self._failed(
                f"{self._name} is not run: nothing is written on the volume on this boot (persist=ro).",
                "Boot without it.",
            )
        if not in_place(self.found.planned):
            raise self._failed(
                f"The migration {self.id} is not run: {self.found.planned.path} does not show the state "
                "volume.",
                "See 'persistctl status'.",
            )
        if not os.access(self.asked.exec[0], os.X_OK):
            raise self._failed(
                f"{self._name} is not run: {self.asked.exec[0]} is not there, or no program.",
                f"Correct Exec= in {self.asked.source}, or the image.",
            )
        for other in self._before():
            if not self.records.has(other.migration.id):
                text = f"{self._name} is not run: {other.migration.id} comes before it, and is not done."
                if self.asked.when == AFTER:
                    raise NotNow(text)  # nobody waits for it
                raise self._failed(text, f"See 'systemctl status {other.unit}'.")
        waits = inactive(self.asked.services) if self.asked.when == AFTER else ""
        if waits:
            raise NotNow(f"{self._name} is not run on this boot: {waits} is not active.")

    def _before(self) -> list[PlannedMigration]:
        """Those of the same data that come first: in the order of the files, and those that run before
        services."""
        at = self.plan.migrations.index(self.found)
        return [
            other
            for number, other in enumerate(self.plan.migrations)
            if overlap(other.path, self.path)
            and (
                (number < at and other.migration.when == self.asked.when)
                or (other.migration.when == BEFORE and self.asked.when == AFTER)
            )
        ]

    def _left(self) -> Run | None:
        """What an earlier run has left, where that does not stand in the way. Raises PersistError."""
        left = self.records.run(self.id)
        if left is None or left.state == DUE:
            return left
        if left.state == RUNNING and self.asked.when == AFTER:
            cuts = left.cuts + 1
            if cuts < MOST_CUTS:
                return replace(left, state=DUE, cuts=cuts)
            left = replace(left, state=FAILED, cuts=cuts, why=f"it was cut {cuts} times")
            self.records.write(left)
        if left.state == RUNNING:
            raise self._failed(
                f"{self._name} did not end, and is not begun anew before the path is restored.",
                "Restart the machine." if left.snapshot else remedy(self.id),
            )
        if left.state == BACK:
            raise self._failed(f"{self._name} is to be rolled back.", "Restart the machine.")
        if left.state == HELD:
            hint = f"To have it run again: 'persistctl migrate retry {self.id}'."
            raise self._failed(f"{self._name} was rolled back, and is held.", hint)
        raise self._failed(
            f"{self._name} has failed ({left.why}), and is not repeated by itself.",
            remedy(self.id),
        )

    # -- the run

    def _old(self) -> str:
        """The version of the image that the data were last seen by, '' where nobody knows."""
        found = []
        for id in self.records.stamped():
            try:
                stamp = self.records.stamp(id)
            except PersistError:
                continue  # of a later persist
            if stamp is not None and overlap(stamp.path, self.path):
                found.append((stamp.time, stamp.image))
        if found:
            return max(found)[1]
        with Dir.at(VOLUME) as volume, volume.inner(".persist/seed") as seeds:
            data = seeds.read(f"{self.found.planned.name}.json", marker.LIMIT)
        try:
            seeded = marker.parse(data or b"{}")
        except ValueError:
            return ""  # a name for the program, and no more: it may do without
        return "" if seeded.get("adopted") else str(seeded.get("image_version") or "")

    def _snapshot(self, run: Run) -> str:
        """The snapshot of the data as they are now, '' where there can be none. Raises PersistError and
        OSError."""
        if self.asked.when == AFTER:
            return ""
        with Dir.at(VOLUME) as volume:
            good = snapshot.possible() and in_snapshots(volume, run)
        if not good:
            self._note(
                WARNING,
                f"There is no way back from the migration {self.id} of {self.path}: no snapshot of the state "
                "volume has it.",
                "MIGRATION_BEGUN",
            )
            return ""
        name = snapshot.as_good(self.path)
        if not name:
            name = snapshot.take(self.id, self.records.snapshots())
        step("snapshot")
        return name

    def _begin(self, left: Run | None) -> Run:
        """Note that it begins, and from what. Raises PersistError and OSError."""
        entry = self.found.planned
        run = Run(
            id=self.id,
            path=self.path,
            entry=entry.path,
            method=entry.entry.method,
            when=self.asked.when,
            state=RUNNING,
            snapshot="",
            old=self._old() if left is None else left.old,
            new=self.image,
            file=self.asked.file,
            cuts=0 if left is None else left.cuts,
        )
        kept = self._snapshot(run)
        run = replace(run, snapshot=kept, before=left.before if left is not None and left.before else kept)
        snapshot.begins(self.path)
        self.records.write(run)
        step("begun")
        text = f"{self._name} begins ({run.old or 'unknown'} to {run.new or 'unknown'})."
        if run.snapshot:
            text += f" The data of before are in the snapshot {run.snapshot}."
        self._note(NOTICE, text, "MIGRATION_BEGUN")
        return run

    def _execute(self, run: Run) -> str:
        """Why the command failed, '' where it did not. Raises PersistError where it was ended from
        outside."""
        environment = {
            "PERSIST_ID": self.id,
            "PERSIST_PATH": self.path,
            "PERSIST_FROM": run.old,
            "PERSIST_TO": run.new,
        }
        try:
            status = self.start(self.asked.exec, environment)
        except CommandError as e:
            return e.message
        if status == -signal.SIGTERM:
            raise self._failed(f"{self._name} was stopped before it ended.", "Restart the machine.")
        if status < 0:
            return f"it was killed by signal {-status}"
        return f"it ended with status {status}" if status else ""

    def run(self) -> None:
        """Run it, unless it was done. Raises PersistError and OSError: it has no stamp then. NotNow is no
        failure."""
        with Records(make=True) as self.records:
            self.records.lock()
            if not self.records.has(self.id):
                left = self._left()
                self._may()
                self._run(left)
            flags.write(self.id)

    def _run(self, left: Run | None) -> None:
        run = self._begin(left)
        why = self._execute(run)
        if why:
            self._give_up(run, why)
        step("executed")
        with Dir.at(VOLUME) as volume:
            volume.sync_filesystem()
        step("synced")
        m = self.asked
        more = ("run", m.file, run.before, now())
        stamp = Stamp(self.id, self.path, tuple(m.services), m.downgrade, self.image, *more)
        self.records.write(stamp)
        step("stamped")
        self.records.forget(self.id)
        step("run-done")
        self._note(NOTICE, f"Migration {self.id} of {self.path} is done.", "MIGRATION_DONE")

    def _give_up(self, run: Run, why: str) -> None:
        """Raise PersistError for a run that has failed."""
        text = f"{self._name} has failed: {why}."
        if run.before:
            text += f" The data of before are in the snapshot {run.before}."
        error = self._failed(text, remedy(self.id))
        try:
            self.records.write(replace(run, state=FAILED, why=why))
        except OSError as e:
            # It counts as cut then: the path is restored, which frees what it wrote.
            error.message += (
                f" That could not be noted ({e.strerror}): it is restored and run again at the next boot."
            )
        step("failed")
        raise error


def in_place(planned: Planned) -> bool:
    """Whether the path of an entry shows what the volume has. Raises OSError."""
    if planned.entry.method == "overlay":
        at = mountinfo.at(planned.path)
        return at is not None and at.upper == f"{STORE}/overlay/{planned.name}/upper"
    with Dir.at(VOLUME) as volume:
        fd = volume.node(planned.path)
    if fd is None:
        return planned.entry.method == "symlink"  # of a file that nobody has yet
    try:
        return os.path.samestat(os.fstat(fd), os.stat(planned.path))
    except FileNotFoundError:
        return False
    finally:
        os.close(fd)
