# SPDX-License-Identifier: LGPL-2.1-or-later
"""A link into the volume that was replaced by a file while the machine ran: what writes beside a file and
renames (ssh-keygen -A) does so. The file goes to the volume, what was there to ``.persist/replaced``, and the
path is the link again. Nothing is lost in between: a run that is cut is begun again.

Only for links that were there in this boot, which PID 1 knows (persist-link@.service): a file that the image
has must not take the place of what the machine has kept.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable
from functools import partial

from persist.boot.paths import VOLUME
from persist.errors import PersistError
from persist.note import NOTICE, Note
from persist.seed.copy import Source, copy
from persist.seed.steps import step
from persist.seed.store import Store, copy_there
from persist.seed.tree import Progress
from persist.system.files import exchange
from persist.system.safepath import Dir, rename_noreplace, split

_TRIES = 5
KEEP = 5  # of each entry in .persist/replaced: some programs replace their file each minute
COPYING = partial(copy, reserve=False)  # what would not be kept otherwise is what the room is for


def _same(a: os.stat_result, b: os.stat_result | None) -> bool:
    return b is not None and (a.st_ino, a.st_size, a.st_mtime_ns) == (b.st_ino, b.st_size, b.st_mtime_ns)


def _written(parent: Dir, name: str) -> bool:
    """Whether a program has a file open for writing. Raises OSError."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent.fd)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as e:
        return e.errno == errno.EAGAIN  # else the filesystem knows no leases
    finally:
        os.close(fd)
    return False


class TakeBack:
    """One entry. ``root`` and ``volume`` are where things are; ``copying`` and ``progress`` as ever;
    ``last``: programs have ended, and what one has open all the same is taken as it is."""

    def __init__(
        self,
        path: str,
        progress: Progress,
        root: str = "/",
        volume: str = VOLUME,
        copying: Callable[[Source, Dir, str, Progress], object] = COPYING,
        *,
        last: bool = False,
    ) -> None:
        self.path, self.progress, self.root, self.volume = path, progress, root, volume
        self.copying, self.last = copying, last
        self.name = split(path)[-1]
        # What was at the path, from when the link is there again until it is known to be on the volume.
        self.out = f".{self.name}.persist-taken"
        self.was = "what was there"  # what is in .persist/replaced

    def run(self) -> Note | None:
        """Take the path back; what is to be said, None where it is no file. Raises PersistError and
        OSError."""
        with Dir.at(self.root) as live, live.sub(os.path.dirname(self.path)) as parent:
            if self._source(parent) == "":
                return None
            with Store(self.volume, self.path) as store, store.parents(self.path, [live]) as place:
                aside = ""
                for number in range(_TRIES):
                    source = self._source(parent)
                    if not source:
                        store.tidy()
                        return self._said(aside)
                    # Since a run was cut, others may have written through the link.
                    old = number == 0 and source == self.out
                    aside = self._once(parent, source, store, place, old=old) or aside
        raise PersistError(
            f"'{self.path}' changed while it was copied, {_TRIES} times.",
            hint="Find out who writes there.",
        )

    def _source(self, parent: Dir) -> str:
        """The name of a file that is to go to the volume, '' for none."""
        for name in (self.out, self.name):
            there = parent.lstat(name)
            if there is not None and stat.S_ISREG(there.st_mode):
                return name
        return ""

    def _once(self, parent: Dir, source: str, store: Store, place: Dir, *, old: bool) -> str:
        """Raises PersistError and OSError. Returns where what was there is now."""
        self._no_writer(parent, source)
        fd = os.open(source, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
        try:
            before = os.fstat(fd)
            aside = self._to_the_volume(fd, store, place, old=old)
        finally:
            os.close(fd)
        if source == self.name:
            parent.remove(self.out)
            os.symlink(self.volume + self.path, self.out, dir_fd=parent.fd)
            exchange(parent.fd, self.out, self.name)
            parent.sync()
            step("taken-linked")
        there = parent.lstat(self.out)
        if there is not None:
            self._no_writer(parent, self.out)  # who had opened it before still writes there
        if _same(before, there):
            os.unlink(self.out, dir_fd=parent.fd)
            parent.sync()
        return aside

    def _no_writer(self, parent: Dir, name: str) -> None:
        """Raise PersistError where a program would go on writing to what nobody finds any more."""
        if not self.last and _written(parent, name):
            raise PersistError(
                f"a program has '{parent.path(name)}' open for writing. It stays where it is until shutdown.",
                hint=f"See which one: fuser -v '{parent.path(name)}'.",
            )

    def _to_the_volume(self, fd: int, store: Store, place: Dir, *, old: bool) -> str:
        """``old``: what is newer on the volume stays there."""
        store.wipe()
        self.copying(Source(fd, "file", self.path), store.work, "tree", self.progress)
        store.work.sync_filesystem()
        step("taken-copied")
        there = place.lstat(self.name)
        if there is not None and not stat.S_ISREG(there.st_mode):
            raise PersistError(f"'{place.path(self.name)}' is not a file.", hint="Move one of them away.")
        if there is not None and self._equal(store, place):
            store.work.remove("tree")  # of a run that was cut
            return ""
        if old and there is not None and there.st_mtime_ns >= os.fstat(fd).st_mtime_ns:
            self.was = "an older one"
            return self._aside(store, store.work, "tree")
        # A subvolume of its own (Snapshot=no): nothing is renamed into it, or out of it.
        apart = os.fstat(place.fd).st_dev != os.fstat(store.work.fd).st_dev
        near = copy_there(store.work, "tree", place, self.name) if apart else ""
        aside = ""
        if there is not None and apart:
            aside = self._aside(store, store.work, copy_there(place, self.name, store.work, "was"))
        elif there is not None:
            aside = self._aside(store, place, self.name)
        step("taken-aside")
        if apart:
            os.rename(near, self.name, src_dir_fd=place.fd, dst_dir_fd=place.fd)
        else:
            rename_noreplace(store.work, "tree", place, self.name)
        place.sync()
        step("taken-placed")
        return aside

    def _aside(self, store: Store, old: Dir, name: str) -> str:
        """Keep a file in .persist/replaced; returns its name there."""
        aside = f"{store.name}.{time.time_ns():019}"
        with store.persist.own("replaced") as kept:
            rename_noreplace(old, name, kept, aside)
            kept.sync()
            old.sync()
            ours = re.compile(re.escape(store.name) + r"\.[0-9]{19}")
            for too_many in sorted(n for n in os.listdir(kept.proc()) if ours.fullmatch(n))[:-KEEP]:
                os.unlink(too_many, dir_fd=kept.fd)
        return aside

    def _equal(self, store: Store, place: Dir) -> bool:
        with open(store.work.proc("tree"), "rb") as a, open(place.proc(self.name), "rb") as b:
            one, other = os.fstat(a.fileno()), os.fstat(b.fileno())
            if (one.st_size, one.st_mode, one.st_uid, one.st_gid) != (
                other.st_size,
                other.st_mode,
                other.st_uid,
                other.st_gid,
            ):
                return False
            while block := a.read(1 << 20):
                if block != b.read(1 << 20):
                    return False
        return True

    def _said(self, aside: str) -> Note:
        was = f"; {self.was} is {self.volume}/.persist/replaced/{aside}" if aside else ""
        return Note(
            NOTICE,
            f"The link '{self.path}' was replaced by a file while the machine ran. The file is on the state "
            f"volume now, and the link is there again{was}.",
            "LINK_TAKEN_BACK",
            {"PERSIST_PATH": self.path, "PERSIST_METHOD": "symlink"},
        )
