# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the volume knows of migrations: ``.persist/migrations/ID``, the stamp of one that was done, and
``ID:run``, a run that has begun and has no stamp. Each is written whole or not at all, and on the disk."""

from __future__ import annotations

import fcntl
import json
import os
import time
from types import TracebackType

from persist.boot.paths import VOLUME
from persist.errors import PersistError
from persist.record import Record, as_dict
from persist.system.safepath import Dir

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Any, Self

    from persist.record import AnyRecord

VERSION = 1
RUN = ":run"  # no Id= has a colon
_NEW = ":new"
_LIMIT = 1 << 16  # bytes; ours have some hundred
_ID = "0123456789abcdefghijklmnopqrstuvwxyz._-"
RUNNING, DUE, FAILED, BACK, HELD = "running", "due", "failed", "back", "held"
STATES = (RUNNING, DUE, FAILED, BACK, HELD)


class Stamp(Record):
    """A migration that was done: ``image`` is the version of the image that did it, ``how`` is ``run``, or
    ``seeded`` where its data came from that image; ``snapshot`` has the data as they were before, '' where
    nothing has. ``file`` is the registry file that declared it."""

    id: str
    path: str
    services: tuple[str, ...]
    downgrade: str
    image: str
    how: str
    file: str
    snapshot: str
    time: str


class Run(Record):
    """A run without a stamp, or one that is to be undone. ``path`` lies in the entry of that ``method`` at
    ``entry``; ``old`` and ``new`` are versions of images, ``file`` is the registry file that declares it.
    ``snapshot`` has the data as this run began, '' where nothing has, and ``before`` as the first one of
    those that failed did, '' where they are so now. ``cuts``: how often it did not end; ``why`` it failed."""

    id: str
    path: str
    entry: str
    method: str
    when: str
    state: str
    snapshot: str
    old: str
    new: str
    file: str
    before: str = ""
    cuts: int = 0
    why: str = ""


def now() -> str:
    """The time as records have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def is_id(name: str) -> bool:
    """Whether a name of a file can be that of a stamp."""
    return bool(name) and not name.strip(_ID) and name[0] not in "._-"


def overlap(one: str, other: str) -> bool:
    """Whether one of two paths is the other, or lies below it."""
    return (one + "/").startswith(other + "/") or (other + "/").startswith(one + "/")


def _parse(data: bytes, kind: type[Record]) -> dict[str, Any]:
    """The fields of a record from its text. Raises ValueError."""
    try:
        found = json.loads(data)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ValueError("not of this version")
    fields = {}
    for name in kind._names:
        value = found.get(name)
        if name == "services":
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                raise ValueError(f"'{name}' has the wrong type")
            value = tuple(value)
        elif type(value) is not (int if name == "cuts" else str):
            raise ValueError(f"'{name}' has the wrong type")
        fields[name] = value
    return fields


def _dump(record: Record) -> bytes:
    return (json.dumps({"version": VERSION} | as_dict(record), indent=1) + "\n").encode("ascii")


class Records:
    """The records of the volume at a path. A context manager; ``there`` is False where it has no place for
    them."""

    def __init__(self, volume: str = VOLUME, *, make: bool = False) -> None:
        self._dir: Dir | None = None
        self._volume = volume
        try:
            with Dir.at(volume) as top:
                if make:
                    with top.own(".persist") as store:
                        self._dir = store.own("migrations")
                else:
                    self._dir = top.inner(".persist/migrations")
                    self._dir.must_be_ours()
        except FileNotFoundError:
            self._dir = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._dir is not None:
            self._dir.close()

    @property
    def there(self) -> bool:
        """Whether the volume has a place for records."""
        return self._dir is not None

    @property
    def _at(self) -> Dir:
        if self._dir is None:
            raise PersistError("The state volume has no place for migrations.", hint="Restart the machine.")
        return self._dir

    def volume(self) -> Dir:
        """The volume that they are on. Raises OSError."""
        return Dir.at(self._volume)

    def lock(self) -> None:
        """Wait until no other process runs a migration, and let none begin as long as this is open."""
        fcntl.flock(self._at.fd, fcntl.LOCK_EX)

    def busy(self) -> bool:
        """Whether another process runs a migration. Raises OSError."""
        if self._dir is None:
            return False
        try:
            fcntl.flock(self._dir.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._dir.fd, fcntl.LOCK_UN)
        return False

    def _names(self) -> list[str]:
        # Not by the descriptor: on btrfs (Linux 6.5 and later) that lists what was there when it was opened.
        return sorted(os.listdir(self._dir.proc())) if self._dir is not None else []

    def stamped(self) -> list[str]:
        """The ids of all stamps."""
        return [name for name in self._names() if is_id(name)]

    def begun(self) -> list[str]:
        """The ids of all runs."""
        found = [name.removesuffix(RUN) for name in self._names() if name.endswith(RUN)]
        return [name for name in found if is_id(name)]

    def has(self, id: str) -> bool:
        """Whether a migration has its stamp, whatever that says: it may be of a later persist. Raises
        PersistError where something else has its name, OSError."""
        return self._dir is not None and self._dir.read(id, _LIMIT) is not None

    def stamp(self, id: str) -> Stamp | None:
        """What a stamp says, None where there is none. Raises PersistError where it cannot be understood,
        OSError."""
        return self._read(id, Stamp)

    def run(self, id: str) -> Run | None:
        """A run, None where there is none. Raises as stamp()."""
        found = self._read(id + RUN, Run)
        if found is not None and (found.id != id or found.state not in STATES):
            raise self._strange(id + RUN, "it contradicts itself")
        return found

    def _strange(self, name: str, why: str) -> PersistError:
        return PersistError(
            f"'{self._at.path(name)}' is no record of a migration: {why}.",
            hint="Look at what has written it; remove it where the data are as they should be.",
            message_id="MIGRATION_FAILED",
        )

    def _read(self, name: str, kind: type[AnyRecord]) -> AnyRecord | None:
        data = self._dir.read(name, _LIMIT) if self._dir is not None else None
        if data is None:
            return None
        try:
            return kind(**_parse(data, kind))
        except ValueError as e:
            raise self._strange(name, str(e)) from e

    def snapshots(self) -> set[str]:
        """Those that runs may go back to. Raises OSError."""
        found = set()
        for id in self.begun():
            try:
                run = self.run(id)
            except PersistError:
                continue  # whoever needs it says so
            if run is not None:
                found |= {run.snapshot, run.before}
        return found

    def write(self, record: Stamp | Run) -> None:
        """Write a stamp or a run. Raises PersistError and OSError."""
        name = record.id + (RUN if isinstance(record, Run) else "")
        self._at.write(record.id + _NEW, _dump(record))
        os.rename(record.id + _NEW, name, src_dir_fd=self._at.fd, dst_dir_fd=self._at.fd)
        self._at.sync()

    def forget(self, id: str) -> None:
        """Remove a run. Raises OSError."""
        self._remove(id + RUN)

    def unstamp(self, id: str) -> None:
        """Remove a stamp. Raises OSError."""
        self._remove(id)

    def _remove(self, name: str) -> None:
        if self._at.lstat(name) is not None:
            self._at.remove(name)
            self._at.sync()
