# SPDX-License-Identifier: LGPL-2.1-or-later
"""The live system's side of an entry: its mount point, or the symbolic link that takes its place."""

from __future__ import annotations

import errno
import os
import stat

from persist.errors import PersistError
from persist.seed.copy import Source, copy
from persist.seed.steps import step
from persist.seed.store import Store
from persist.seed.tree import Progress
from persist.system.safepath import Dir, rename_noreplace, split

ASIDE = ".persist-orig"


class LivePath:
    """The path of an entry as the live system has it. ``links`` and ``mounts`` are names of the volume."""

    def __init__(
        self, path: str, live: Dir, links: str, mounts: tuple[str, ...], otherwise: str = ""
    ) -> None:
        self.path = path
        self.otherwise = otherwise or ", or keep one of its parents by Method=overlay"
        self.live = live
        self.name = split(path)[-1]
        self.target = links + path
        self.targets = {self.target} | {mount + path for mount in mounts}

    def is_home(self, place: Dir) -> bool:
        """Whether the path lies in ``place``, the directory on the volume that its content is in: an entry
        above is kept by a bind, whatever it says (entries/as_seeded.py). It is in sight there, and a link
        would lead to itself."""
        try:
            with self.live.sub(self.path.rpartition("/")[0]) as parent:
                return os.path.samestat(os.fstat(parent.fd), os.fstat(place.fd))
        except FileNotFoundError:
            return False  # and can be made

    # -- mount point

    def check_mount_point(self, kind: str) -> None:
        """Raise PersistError now, before anything is copied, when mount_point() is going to."""
        try:
            with self.live.descend(split(self.path)[:-1], self._writable) as parent:
                if not self._usable(parent, kind):
                    self._writable(parent, self.name)
        except FileNotFoundError:
            return  # a directory above it, which can be made

    def _writable(self, here: Dir, path: str) -> None:
        """Raise PersistError where nothing can be made in a directory, such as what ``path`` ends in."""
        if here.read_only():
            error = OSError(errno.EROFS, os.strerror(errno.EROFS))
            raise self._cannot(here.path(os.path.basename(path)), error)

    def mount_point(self, kind: str) -> None:
        """Make a directory or file to mount on, with parents, where there is none.

        Raises PersistError when something else is there, or nothing can be made.
        """
        with self._parent() as parent:
            if not self._usable(parent, kind):
                try:
                    if kind == "directory":
                        os.mkdir(self.name, 0o755, dir_fd=parent.fd)
                    else:
                        parent.write(self.name, b"", 0o644)
                except OSError as e:
                    raise self._cannot(parent.path(self.name), e) from e
                parent.sync()

    def _usable(self, parent: Dir, kind: str) -> bool:
        """Whether something of the right kind is there to mount on. Raises PersistError for a wrong kind."""
        there = parent.lstat(self.name)
        if there is None:
            return False
        if stat.S_ISLNK(there.st_mode):
            raise PersistError(
                f"'{parent.path(self.name)}' is a symbolic link and cannot be a mount point.",
                hint="Register the path that it leads to, or use Method=symlink.",
            )
        if stat.S_ISDIR(there.st_mode) != (kind == "directory"):
            raise PersistError(
                f"'{parent.path(self.name)}' is not a {kind}, so no {kind} can be mounted on it.",
                hint="Correct Type=, or move away what is there.",
            )
        return True

    def _parent(self) -> Dir:
        """Open the directory that holds the path, made where missing."""
        return self.live.descend(split(self.path)[:-1], self._make)

    def _make(self, here: Dir, path: str) -> None:
        name = os.path.basename(path)
        try:
            os.mkdir(name, 0o755, dir_fd=here.fd)
        except OSError as e:
            # Where another entry's seed just made the same one, descend() looks at what it is.
            if e.errno != errno.EEXIST:
                raise self._cannot(here.path(name), e) from e
        here.sync()

    def _cannot(self, at: str, e: OSError) -> PersistError:
        return PersistError(
            f"'{at}' does not exist and cannot be made: {e.strerror}.",
            hint=f"Add '{self.path}' to the image{self.otherwise}.",
            message_id="SEED_FAILED",
        )

    # -- link

    def _link(self, parent: Dir) -> str | None:
        """What kind of thing the path is: ``ours``, ``real``, or None for nothing. Another link raises."""
        there = parent.lstat(self.name)
        if there is None:
            return None
        if not stat.S_ISLNK(there.st_mode):
            return "real"
        target = os.readlink(self.name, dir_fd=parent.fd)
        if os.path.normpath(os.path.join(os.path.dirname(self.path), target)) in self.targets:
            return "ours"
        raise PersistError(
            f"'{self.path}' is a symbolic link to '{target}', and not to the state volume.",
            hint=f"Make it a link to '{self.target}', or register the path that it leads to.",
        )

    def check(self, kind: str) -> None:
        """Raise PersistError now, before anything is copied, when put() could not do its part."""
        with self._parent() as parent:
            what = self._link(parent)
            if what == "ours":
                return
            if parent.read_only():
                raise PersistError(
                    f"'{self.path}' has to become a link into the state volume, and '{parent.name}' is "
                    "read-only.",
                    hint=f"Make it a link to '{self.target}' in the image, or use Method=bind.",
                )
            if what == "real":
                if parent.lstat(self.name + ASIDE) is not None:
                    raise PersistError(
                        f"Both '{self.path}' and '{self.path}{ASIDE}' exist; neither is overwritten.",
                        hint="Remove or rename one of them.",
                    )
                there = parent.lstat(self.name)
                if there is not None and stat.S_ISDIR(there.st_mode) != (kind == "directory"):
                    raise PersistError(
                        f"'{self.path}' is not a {kind}, as it is on the state volume.",
                        hint="Move one of them away.",
                    )

    def put(self, store: Store, progress: Progress) -> None:
        """Make the path a link into the volume; what is there is kept as ``<path>.persist-orig``, never
        deleted. ``progress`` hears how far a copy of it is."""
        with self._parent() as parent:
            if self._link(parent) == "real":
                self._aside(parent, store, progress)
            if self._link(parent) is None:
                temporary = f".{self.name}.persist-link"
                parent.remove(temporary)
                os.symlink(self.target, temporary, dir_fd=parent.fd)
                rename_noreplace(parent, temporary, parent, self.name)
                parent.sync()
            step("linked")

    def take_away(self, kind: str) -> None:
        """Make a path that is a link into the volume what can be mounted on: what put() has laid aside, else
        something empty. Raises PersistError."""
        with self._parent() as parent:
            if self._link(parent) == "ours":
                self._writable(parent, self.name)
                os.unlink(self.name, dir_fd=parent.fd)
                step("unlinked")
            aside = parent.lstat(self.name + ASIDE)
            fits = aside is not None and (stat.S_ISDIR if kind == "directory" else stat.S_ISREG)(
                aside.st_mode
            )
            if fits and self._link(parent) is None:
                try:
                    rename_noreplace(parent, self.name + ASIDE, parent, self.name)
                except OSError as e:
                    if e.errno != errno.EXDEV:
                        raise  # a directory of a lower layer stays where it is
            parent.sync()
            step("link-back")
        self.mount_point(kind)

    def _aside(self, parent: Dir, store: Store, progress: Progress) -> None:
        aside = self.name + ASIDE
        if parent.lstat(aside) is None:
            try:
                rename_noreplace(parent, self.name, parent, aside)
            except OSError as e:
                if e.errno != errno.EXDEV:
                    raise
                self._copy_aside(parent, store, progress)
        elif store.work.lstat("aside") is None:
            raise PersistError(
                f"Both '{self.path}' and '{self.path}{ASIDE}' exist; neither is overwritten.",
                hint="Remove or rename one of them.",
            )
        if store.work.lstat("aside") is not None:
            # The copy aside is complete, this one is the same; a cut between these lines comes back here.
            parent.remove(self.name)
        parent.sync()
        step("link-aside")

    def _copy_aside(self, parent: Dir, store: Store, progress: Progress) -> None:
        """For a directory of a lower layer, which overlayfs does not rename: a full copy, and only then the
        removal.

        ``aside`` in the work directory says that what is called .persist-orig is our copy and complete.
        """
        temporary = f".{self.name}.persist-copy"
        parent.remove(temporary)
        store.work.remove("aside")
        fd = os.open(self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
        try:
            kind = "directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
            copy(Source(fd, kind, self.path), parent, temporary, progress)
        finally:
            os.close(fd)
        parent.sync_filesystem()
        store.work.write("aside", b"")
        store.work.sync()
        step("link-aside-copied")
        rename_noreplace(parent, temporary, parent, self.name + ASIDE)
        parent.sync()
