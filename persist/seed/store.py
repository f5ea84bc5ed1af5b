# SPDX-License-Identifier: LGPL-2.1-or-later
"""The volume's side of seeding: the marker, and the work directory that makes every step one that can be
repeated.

``.persist/tmp/<escaped>/`` holds, in the order in which they appear:

``tree``      what is being made, until it is renamed to its final place
``manifest``  the list of what is in it
``marker``    the marker to be. Marker there and tree gone means: the rename to the final place has happened

All of it is synced before the rename. So the next start sees either a tree (made again from the beginning),
or content at its final place that is known to be ours, or a finished seed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from types import TracebackType

from persist.boot.paths import escape, unescape
from persist.errors import PersistError
from persist.seed.copy import Source, copy
from persist.seed.intent import Intent
from persist.seed.steps import step
from persist.seed.tree import Progress
from persist.system.btrfs import make_subvolume
from persist.system.safepath import Dir, rename_noreplace, split

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Self


class Store:
    """The store of one entry on the volume, locked. A context manager."""

    def __init__(self, volume: str, path: str) -> None:
        self.entry_path = path
        self.name = escape(path)
        self._open: list[Dir] = []
        try:
            self.volume = self._keep(Dir.at(volume))
            if self.volume.read_only():
                raise PersistError("The state volume is read-only.", hint="See why in 'journalctl -k'.")
            self.persist = self._keep(self.volume.own(".persist"))
            self.seeds = self._keep(self.persist.own("seed"))
            self.tmp = self._keep(self.persist.own("tmp"))
            self.overlays = self._keep(self.persist.own("overlay"))
            step("store")
            self.work = self._keep(self._locked())
            step("work")
        except BaseException:
            self.close()
            raise

    def _locked(self) -> Dir:
        """Our work directory. A second process for the same entry waits here, and then finds the marker."""
        while True:
            work = self.tmp.own(self.name)
            fcntl.flock(work.fd, fcntl.LOCK_EX)
            there, mine = self.tmp.lstat(self.name), os.fstat(work.fd)
            if there is not None and (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                return work
            work.close()  # whoever had the lock before tidied it away

    def _keep(self, d: Dir) -> Dir:
        self._open.append(d)
        return d

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all directories, which also gives the lock back."""
        while self._open:
            self._open.pop().close()

    def marker(self) -> Intent | None:
        """What the marker says, or None when the entry was not seeded yet."""
        data = self.seeds.read(self.name + ".json")
        return None if data is None else Intent.from_json(data, self.seeds.path(self.name + ".json"))

    def placed(self) -> Intent | None:
        """What an earlier, cut attempt had already put at its final place."""
        if self.work.lstat("tree") is not None:
            return None
        data = self.work.read("marker")
        return None if data is None else Intent.from_json(data, self.work.path("marker"))

    def wipe(self) -> None:
        """Remove what a cut attempt left. The marker goes first, and for good: without a tree it means
        placed."""
        self.work.remove("marker")
        self.work.sync()
        for name in _names(self.work):
            self.work.remove(name)

    def begin(self, *, nested: bool) -> None:
        """Make an empty directory of what is going to be placed, root's and 0755. ``nested``: a subvolume
        of its own, where the filesystem has some. Snapshots of the state leave it out, and it can be moved
        to wherever it belongs, into another subvolume too (tried)."""
        if not nested or not make_subvolume(self.work.proc(), "tree"):
            os.mkdir("tree", 0o755, dir_fd=self.work.fd)
            os.chmod(self.work.proc("tree"), 0o755)

    def one_at_a_time(self) -> None:
        """Wait until no other entry is being copied, so that what is free now is free for us. Held until
        intend()."""
        fcntl.flock(self.tmp.fd, fcntl.LOCK_EX)

    def intend(self, intent: Intent, listing: bytes) -> None:
        """Write down what is about to be placed, and make all of it safe."""
        if intent.listed:
            self.work.write("manifest", listing)
        self.work.sync_filesystem()
        step("synced")
        self.work.write("marker.new", intent.to_json(self.name))
        os.rename("marker.new", "marker", src_dir_fd=self.work.fd, dst_dir_fd=self.work.fd)
        self.work.sync()
        fcntl.flock(self.tmp.fd, fcntl.LOCK_UN)
        step("intent")

    def place(self, parent: Dir, name: str) -> None:
        """Rename the tree to its final place. What is there already is never replaced: FileExistsError."""
        try:
            rename_noreplace(self.work, "tree", parent, name)
        except OSError as e:
            made = self.work.lstat("tree")
            if e.errno != errno.EXDEV or made is None or not stat.S_ISREG(made.st_mode):
                raise
            temporary = copy_there(self.work, "tree", parent, name)
            # Gone before the name is there: together they would mean that the content is somebody else's.
            self.work.remove("tree")
            self.work.sync()
            step("near")
            rename_noreplace(parent, temporary, parent, name)
        parent.sync()
        self.work.sync()
        step("placed")

    def commit(self, intent: Intent) -> None:
        """Move manifest and marker to where they count, the marker last, and tidy up."""
        if intent.listed and self.work.lstat("manifest") is not None:
            os.rename("manifest", self.name + ".manifest", src_dir_fd=self.work.fd, dst_dir_fd=self.seeds.fd)
            self.seeds.sync()
        step("manifest")
        os.rename("marker", self.name + ".json", src_dir_fd=self.work.fd, dst_dir_fd=self.seeds.fd)
        self.seeds.sync()
        step("marker")
        self.tidy()
        step("done")

    def say_anew(self, intent: Intent) -> None:
        """Replace the marker, whole or not at all."""
        name = self.name + ".json"
        self.work.write("marker.new", intent.to_json(self.name))
        os.rename("marker.new", name, src_dir_fd=self.work.fd, dst_dir_fd=self.seeds.fd)
        self.seeds.sync()
        step("said-anew")

    def tidy(self) -> None:
        """Remove the work directory with all that is in it."""
        self.wipe()
        os.rmdir(self.name, dir_fd=self.tmp.fd)

    def parents(self, path: str, attributes: list[Dir]) -> Dir:
        """Open the directory on the volume that holds ``path``; missing ones appear with owner and mode
        complete.

        They take after the directory of the same path in the first of ``attributes`` that has it, else root
        0755.
        """
        return self.volume.descend(
            split(path)[:-1], lambda here, above: self._parent(here, above, attributes)
        )

    def _parent(self, here: Dir, path: str, attributes: list[Dir]) -> None:
        name = os.path.basename(path)
        uid, gid, mode = 0, 0, 0o755
        for root in attributes:
            fd = root.node(path)
            if fd is None:
                continue
            st = os.fstat(fd)
            os.close(fd)
            if stat.S_ISDIR(st.st_mode):
                uid, gid, mode = st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)
                break
        self.work.remove("parent")
        os.mkdir("parent", 0o700, dir_fd=self.work.fd)
        os.chown("parent", uid, gid, dir_fd=self.work.fd, follow_symlinks=False)
        os.chmod(self.work.proc("parent"), mode)
        try:
            rename_noreplace(self.work, "parent", here, name)
            here.sync()
        except FileExistsError:
            # The seed of a sibling entry was faster. Its directory took after the same one.
            self.work.remove("parent")
        except OSError as e:
            if e.errno != errno.EXDEV:
                raise
            self._parent_there(here, name, (uid, gid, mode))

    def _parent_there(self, here: Dir, name: str, attributes: tuple[int, int, int]) -> None:
        """In a subvolume of an entry with Snapshot=no: no directory is moved there from here."""
        uid, gid, mode = attributes
        temporary = f".{name}.persist-parent"
        self.work.remove("parent")
        here.remove(temporary)
        os.mkdir(temporary, 0o700, dir_fd=here.fd)
        os.chown(temporary, uid, gid, dir_fd=here.fd, follow_symlinks=False)
        os.chmod(here.proc(temporary), mode)
        try:
            rename_noreplace(here, temporary, here, name)
        except FileExistsError:
            here.remove(temporary)
        here.sync()

    def kept_below(self) -> list[str]:
        """Paths on the volume that other entries below this one have their content at."""
        found = []
        for name in _names(self.seeds):
            if name.endswith(".json"):
                try:
                    path = unescape(name.removesuffix(".json"))
                except ValueError:
                    continue  # no name that we gave
                if path.startswith(self.entry_path + "/"):
                    found.append(path)
        return found


def _names(of: Dir) -> list[str]:
    """What is in a directory now. Not by its own descriptor: on btrfs (Linux 6.5 and later, tried with
    6.18) that lists what was there when it was opened."""
    return sorted(os.listdir(of.proc()))


def copy_there(old: Dir, name: str, new: Dir, as_name: str) -> str:
    """Copy a file into a directory that it cannot be renamed into, since that is in another subvolume.
    Returns its temporary name there."""
    temporary = f".{as_name}.persist-new"
    new.remove(temporary)
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=old.fd)
    try:
        copy(Source(fd, "file", old.path(name)), new, temporary, Progress(lambda _: None), reserve=False)
    finally:
        os.close(fd)
    new.sync_filesystem()
    return temporary


def only_leads_to(top: Dir, name: str, path: str, kept: list[str]) -> bool:
    """Whether a directory on the volume holds nothing but the way to other entries' content, and empty
    directories."""
    with top.sub(name) as here:
        for child in os.listdir(here.fd):
            at = f"{path}/{child}"
            if at in kept:
                continue
            there = here.lstat(child)
            if there is None or not stat.S_ISDIR(there.st_mode) or not only_leads_to(here, child, at, kept):
                return False
    return True


def remove_empty(top: Dir, name: str) -> None:
    """Remove a directory that holds nothing but empty directories; anything else makes rmdir(2) fail."""
    with top.sub(name) as here:
        for child in os.listdir(here.fd):
            remove_empty(here, child)
    os.rmdir(name, dir_fd=top.fd)


def explain(e: Exception, what: str) -> PersistError:
    """An error that nothing knew better about, as a sentence, with the error as its cause."""
    text, hint = f"{what}: {type(e).__name__}: {e}", "Please report this."
    if isinstance(e, OSError):
        text = f"{what}: {e.strerror or e}{f' ({e.filename!r})' if e.filename else ''}."
        hint = {
            errno.ENOSPC: "The state volume is full.",
            errno.EDQUOT: "A quota of the state volume is used up.",
            errno.EROFS: "The filesystem is read-only.",
            errno.EIO: "The disk has errors; see 'journalctl -k'.",
        }.get(e.errno or 0, "")
    error = PersistError("; ".join([text, *getattr(e, "__notes__", [])]), hint=hint)
    error.__cause__ = e
    return error
