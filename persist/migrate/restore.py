# SPDX-License-Identifier: LGPL-2.1-or-later
"""``Path=`` as a snapshot has it, put back on the volume before anything is mounted from there.

The copy is made beside, synced, and exchanged with what is at the place in one rename. All of it can be done
again from the snapshot, which nothing changes.
"""

from __future__ import annotations

import ctypes
import os
import stat
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from persist.boot.paths import VOLUME, escape
from persist.errors import PersistError
from persist.migrate import snapshot
from persist.migrate.records import Records, Run
from persist.migrate.steps import step
from persist.record import Record
from persist.seed.copy import Source, copy
from persist.seed.tree import Progress, walk
from persist.system.safepath import Dir, rename_noreplace, split

_RENAME_EXCHANGE = 2
_STUB = 2  # the inode of what a snapshot has in the place of a subvolume
_TEMPORARY = "migration:"  # below .persist/tmp; no entry has such a name


def place(run: Run) -> tuple[str, str]:
    """Where the data of a run are on the volume: the directory, and the name in it. Raises PersistError for a
    record that names no such place."""
    parts = [] if ".." in run.path.split("/") else split(run.path)
    inside = (run.path + "/").startswith(run.entry + "/") and run.entry.startswith("/")
    if run.method == "overlay" and parts:
        parts = [".persist", "overlay", escape(run.entry), "upper", *split(run.path[len(run.entry) :])]
    elif run.method not in ("bind", "symlink") or parts[:1] == [".persist"]:
        parts = []
    if not inside or not parts:
        raise PersistError(
            f"{run.path} ({run.method} on {run.entry}) has no place for the migration {run.id}."
        )
    return "/".join(parts[:-1]), parts[-1]


def _exchange(old: Dir, old_name: str, new: Dir, new_name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(old_name), os.fsencode(new_name)
    if libc.renameat2(old.fd, names[0], new.fd, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new.path(new_name))


def _kind(parent: Dir, name: str) -> str:
    """What can be put back: directory, file, '' for nothing; a whiteout of an overlay is a device. Raises
    PersistError for anything else."""
    there = parent.lstat(name)
    if there is None:
        return ""
    if there.st_ino == _STUB:
        raise PersistError(f"'{parent.path(name)}' was a subvolume of its own.")
    if stat.S_ISDIR(there.st_mode):
        return "directory"
    if stat.S_ISREG(there.st_mode):
        return "file"
    if stat.S_ISCHR(there.st_mode) and there.st_rdev == 0:
        return "whiteout"
    raise PersistError(f"'{parent.path(name)}' is neither a directory nor a regular file.")


def in_snapshots(volume: Dir, run: Run) -> bool:
    """Whether the place of a run is in the state subvolume itself, and so in snapshots of it: the stores of
    entries that say Snapshot=no, or said it once, are not. Raises PersistError and OSError."""
    directory, name = place(run)
    try:
        with volume.sub(directory) as parent:
            there = parent.lstat(name) or os.fstat(parent.fd)
    except FileNotFoundError:
        return True
    return there.st_dev == os.fstat(volume.fd).st_dev


def _no_subvolumes(volume: Dir, parent: Dir, name: str) -> None:
    """Raise PersistError where something is, or lies below, that is in no snapshot."""
    own = os.fstat(volume.fd).st_dev
    for at, st in walk(parent.proc(name)):
        if st.st_dev != own:
            raise PersistError(
                f"'{parent.path(name)}{f'/{at}' if at else ''}' is a subvolume of its own, which no "
                "snapshot of the volume has.",
                hint="Move it away, and restart the machine.",
            )


class _Restoration:
    def __init__(self, run: Run, volume: Dir, kept: Dir, progress: Progress) -> None:
        self.run, self.volume, self.kept, self.progress = run, volume, kept, progress

    def _copy(self, to: Dir, as_name: str) -> str:
        """Copy what the snapshot has to a new name, synced; returns its kind."""
        directory, name = place(self.run)
        try:
            with self.kept.sub(directory) as parent:
                kind = _kind(parent, name)
                if kind == "whiteout":
                    os.mknod(as_name, stat.S_IFCHR, 0, dir_fd=to.fd)
                elif kind:
                    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
                    try:
                        label = f"{self.run.path} of {self.run.snapshot}"
                        copy(Source(fd, kind, label), to, as_name, self.progress)
                    finally:
                        os.close(fd)
        except FileNotFoundError:
            kind = ""  # the directory above it is newer, too
        to.sync_filesystem()
        step("restore-copied")
        return kind

    def _put(self, work: Dir, work_name: str, kind: str) -> bool:
        """Exchange it with what is at the place, in one rename; whether there was anything."""
        directory, name = place(self.run)
        try:
            parent = self.volume.sub(directory)
        except FileNotFoundError:
            if kind:
                raise
            return False
        with parent:
            there = _kind(parent, name)
            if there:
                _no_subvolumes(self.volume, parent, name)
            if there and kind:
                _exchange(work, work_name, parent, name)
            elif there:
                rename_noreplace(parent, name, work, work_name)
            elif kind:
                rename_noreplace(work, work_name, parent, name)
            parent.sync()
        work.sync()
        step("restore-placed")
        return bool(there)

    def remove(self) -> None:
        """Put it back; what is there is for tidy() to remove."""
        with self.volume.own(".persist") as store, store.own("tmp") as tmp:
            name = _TEMPORARY + self.run.id
            tmp.remove(name)
            with tmp.own(name) as work:
                self._put(work, "data", self._copy(work, "data"))

    def keep(self) -> str:
        """Put it back, and what is there into .persist/replaced; returns its name there, '' where nothing is.

        The copy is made there: whatever a cut leaves there is not removed by anybody.
        """
        with self.volume.own(".persist") as store, store.own("replaced") as kept:
            name = f"{_TEMPORARY}{self.run.id}.{time.time_ns()}"
            return name if self._put(kept, name, self._copy(kept, name)) else ""


def _unstamp(run: Run, kept: Dir, records: Records) -> None:
    """Take away the stamps of others for what lies in the path, where the snapshot has none: their work is
    gone, too."""
    try:
        with kept.inner(".persist/migrations") as old:
            before = set(os.listdir(old.proc()))
    except FileNotFoundError:
        before = set()
    for id in records.stamped():
        try:
            found = records.stamp(id)
        except PersistError:
            continue  # of a later persist, which will see what it makes of the data
        if found is not None and id not in before and (found.path + "/").startswith(run.path + "/"):
            records.unstamp(id)


class Places(Record):
    """Where things are: the volume, and what opens a snapshot of it by its name."""

    volume: str = VOLUME
    opened: Callable[[str], AbstractContextManager[Dir]] = snapshot.opened


HERE = Places()


def restore(
    run: Run,
    becomes: Run | None,
    records: Records,
    progress: Progress,
    *,
    keep: bool = False,
    places: Places = HERE,
) -> str:
    """Put the path of a run back as its snapshot has it, and write what it ``becomes``, None for nothing.
    What was there is removed; with ``keep`` it goes to .persist/replaced, and its name there is returned.
    Killed at any instant, the next call does all of it again. Raises PersistError and OSError; the path is
    then as it was."""
    aside = ""
    with Dir.at(places.volume) as volume, places.opened(run.snapshot) as kept:
        restoration = _Restoration(run, volume, kept, progress)
        if keep:
            aside = restoration.keep()
        else:
            restoration.remove()
        _unstamp(run, kept, records)
        if becomes is None:
            records.forget(run.id)
        else:
            records.write(becomes)
    step("restore-noted")
    tidy(run.id, places)
    step("restore-done")
    return aside


def tidy(id: str, places: Places = HERE) -> None:
    """Remove what a restoration has left. Raises PersistError and OSError."""
    with Dir.at(places.volume) as volume, volume.own(".persist") as store, store.own("tmp") as tmp:
        if tmp.lstat(_TEMPORARY + id) is not None:
            tmp.remove(_TEMPORARY + id)
            tmp.sync()
