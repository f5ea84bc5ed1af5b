# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tree that is sealed, by descriptors. It may be anybody's chroot: nothing is reached through a link that
leads out of it, nothing but a regular file is opened, and a link is only followed where its maker could have
done to the target what we do."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from persist.boot.dropins import DIRECTORIES
from persist.boot.ini import ERROR, WARNING, Problem
from persist.record import Record
from persist.system.safepath import Dir, node_in_root

MOST_BYTES = 1 << 20  # of a file of configuration
DEEPEST = 200  # directories in one another: more is an attack on whoever walks through them
_MOST_OPEN = 100  # directories that are kept open
MOST_LINKS = 40  # as the kernel has it (MAXSYMLINKS)

Parts = tuple[str, ...]  # the components of a path below the tree's top, none of them a link


class Link(Record):
    """Where a link leads. ``parts`` is the place behind it, None with ``why``: "dangling", "leaves" (more
    ``..`` than there are directories), "loop", or "stranger" (whoever made it does not own what it leads to).
    """

    parts: Parts | None
    why: str = ""


class Tree:
    """A directory that a system lies in, held open; a context manager."""

    def __init__(self, path: str, *, looking: bool = False) -> None:
        """``looking``: nothing is ever to be changed, and so it may be read-only."""
        self.path = path
        self.looking = looking
        self.top = Dir.at(path)
        self._names: dict[Parts, dict[str, os.stat_result]] = {}
        self._seen: dict[Parts, os.stat_result | None] = {}
        self._real: dict[str, Link] = {}
        self._open: dict[Parts, Dir] = {}

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()
        self.top.close()

    def forget(self) -> None:
        """What was seen may have changed: look anew."""
        self._names.clear()
        self._seen.clear()
        self._real.clear()
        while self._open:
            self._open.popitem()[1].close()

    def _above(self, parts: Parts) -> Dir:
        """A directory that was opened to look into it, and stays open: patterns share most of their way.
        Raises as Dir.sub()."""
        if not parts:
            return self.top
        if parts not in self._open:
            found = self._above(parts[:-1]).sub(parts[-1])
            if len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[parts] = found
        return self._open[parts]

    def directory(self, parts: Sequence[str]) -> Dir:
        """Open a directory. Raises as Dir.sub()."""
        return self.top.descend(list(parts))

    def entries(self, parts: Parts) -> dict[str, os.stat_result]:
        """What lies in a directory that has no link above it, as lstat(2) has it; looked at once."""
        if parts not in self._names:
            found = {}
            with self.directory(parts) as there, os.scandir(there.fd) as names:
                for entry in names:
                    found[entry.name] = entry.stat(follow_symlinks=False)
            self._names[parts] = dict(sorted(found.items()))
        return self._names[parts]

    def lstat(self, parts: Parts) -> os.stat_result | None:
        """What is at a place, its parents being no links; None where nothing is. The top is what it is.
        Looked at once."""
        if not parts:
            return os.fstat(self.top.fd)
        if parts[:-1] in self._names:
            return self._names[parts[:-1]].get(parts[-1])
        if parts not in self._seen:
            try:
                self._seen[parts] = self._above(parts[:-1]).lstat(parts[-1])
            except FileNotFoundError:
                self._seen[parts] = None
        return self._seen[parts]

    def text_of_link(self, parts: Parts) -> str:
        """What a link says. Raises OSError."""
        with self.directory(parts[:-1]) as parent:
            return os.readlink(parts[-1], dir_fd=parent.fd)

    def real(self, path: str, *, any_owner: bool = False) -> Link:
        """The place of a path with all its links followed inside the tree, the last one too.

        ``any_owner``: also through links of those who do not own what they lead to, for what is only read.
        """
        parts = [p for p in path.split("/") if p not in ("", ".")]
        if not any_owner:
            return self._follow((), parts, any_owner)
        if path not in self._real:
            self._real[path] = self._follow((), parts, any_owner)
        return self._real[path]

    def behind(self, parts: Parts) -> Link:
        """The place that a link leads to."""
        return self._follow(parts[:-1], [parts[-1]], False)

    def _follow(self, at: Parts, rest: list[str], any_owner: bool) -> Link:
        makers: list[int] = []  # of links, whom the target has to belong to
        links = 0
        while rest:
            name, rest = rest[0], rest[1:]
            if name == "..":
                if not at:
                    return Link(None, "leaves")
                at = at[:-1]
                continue
            there = self.lstat((*at, name))
            if there is None:
                return Link(None, "dangling")
            if not stat.S_ISLNK(there.st_mode):
                if rest and not stat.S_ISDIR(there.st_mode):
                    return Link(None, "dangling")
                at = (*at, name)
                continue
            links += 1
            if links > MOST_LINKS:
                return Link(None, "loop")
            makers += self._makers(at, there)
            text = self.text_of_link((*at, name))
            rest = [p for p in text.split("/") if p not in ("", ".")] + rest
            if text.startswith("/"):
                at = ()
        found = self.lstat(at)
        if found is None:
            return Link(None, "dangling")
        if not any_owner and any(maker != found.st_uid for maker in makers):
            return Link(None, "stranger")
        return Link(at)

    def _makers(self, directory: Parts, link: os.stat_result) -> set[int]:
        """Who but root can have put a link where it is: users, -1 for anybody."""
        around = self.lstat(directory)
        makers = {link.st_uid}
        if around is None or around.st_mode & 0o002 and not around.st_mode & stat.S_ISVTX:
            makers.add(-1)
        elif not around.st_mode & stat.S_ISVTX:
            makers.add(around.st_uid)  # who may have moved a link of root's there
        return makers - {0}

    def read(self, path: str, limit: int = MOST_BYTES) -> bytes | None:
        """The first bytes of a regular file, links followed inside the tree; None where there is none. Raises
        OSError."""
        try:
            fd = node_in_root(self.top, path)
        except OSError as e:
            if e.errno != errno.ELOOP:
                raise
            fd = None
        if fd is None:
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            # Looked at before it is opened: opening a device does something.
            with open(f"/proc/self/fd/{fd}", "rb") as f:
                return f.read(limit)
        finally:
            os.close(fd)

    def names(self, path: str) -> list[str]:
        """The names in a directory, links followed inside the tree, sorted; none where there is none. Raises
        OSError."""
        found = self.real(path, any_owner=True).parts
        there = None if found is None else self.lstat(found)
        if found is None or there is None or not stat.S_ISDIR(there.st_mode):
            return []
        return list(self.entries(found))

    def masks(self, path: str) -> bool:
        """Whether a name is a link to /dev/null, which the tree need not have."""
        parent, _, name = path.rpartition("/")
        above = self.real(parent, any_owner=True).parts
        there = None if above is None else self.lstat((*above, name))
        if above is None or there is None or not stat.S_ISLNK(there.st_mode):
            return False
        return self.text_of_link((*above, name)) == "/dev/null"


def fragments(
    tree: Tree,
    directory: str,
    problems: list[Problem],
    bases: tuple[str, ...] = DIRECTORIES,
    suffix: str = ".conf",
) -> list[str]:
    """The files of e.g. ``persist.d`` in force, sorted by name: the same name in a higher directory replaces,
    as persist.boot.dropins has it; that one follows links of directories out of an image."""
    found: dict[str, str] = {}
    for base in bases:
        shown = f"{base}/{directory}"
        try:
            names = tree.names(shown)
        except OSError as e:
            problems.append(Problem(ERROR, shown, f"Failed to list: {e.strerror}. The directory is ignored."))
            continue
        for name in names:
            if not name.endswith(suffix) or name.startswith(".") or name in found:
                continue
            if not name.isprintable():
                wrong = f"The file name {name!a} is not printable UTF-8 text, the file is ignored. Rename it."
                problems.append(Problem(WARNING, shown, wrong))
                continue
            found[name] = f"{shown}/{name}"
    return [found[name] for name in sorted(found)]


def content(tree: Tree, path: str, problems: list[Problem]) -> bytes:
    """What a file of configuration says, nothing for one that masks, with a problem where it cannot be
    read."""
    if tree.masks(path):
        return b""
    try:
        data = tree.read(path, MOST_BYTES + 1)
    except OSError as e:
        problems.append(Problem(ERROR, path, f"Failed to read: {e.strerror}. The file is ignored."))
        return b""
    if data is None:
        problems.append(Problem(ERROR, path, "Is not a regular file, ignoring it."))
        return b""
    if len(data) > MOST_BYTES:
        problems.append(Problem(ERROR, path, "Larger than 1 MiB, the file is ignored."))
        return b""
    return data
