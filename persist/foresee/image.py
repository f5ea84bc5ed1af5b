# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a system image has, asked without booting it: an image below --root, or the running system's own
without what is mounted on it."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator

from persist.boot import paths
from persist.boot.facts import resolve as real_path
from persist.boot.ini import words
from persist.system.files import kind as kind_of
from persist.system.mountinfo import unescape

_PASSWD = {"user": "/etc/passwd", "group": "/etc/group"}
_SYSUSERS = tuple(base + "/sysusers.d" for base in paths.DIRECTORIES)
_MOST = 1 << 20  # bytes of a file that are read


class Image:
    """A look into an image. ``root`` is '' for the running system; links are followed within the image."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.top = root or (paths.IMAGE if os.path.ismount(paths.IMAGE) else "")
        self._known: dict[str, str] = {}

    def option(self) -> str:
        """What a command is told to work on this image, with a blank behind it: nothing for the running
        system."""
        return f"--root={shlex.quote(self.root)} " if self.root else ""

    def at(self, path: str) -> str:
        """A path of the image as a shell outside of it takes it."""
        return shlex.quote(self.root + path)

    def lstat(self, path: str) -> os.stat_result | None:
        """What is at a path whose parents have no links left (Planned.path), None where nothing is. Raises
        OSError where it cannot be looked at."""
        try:
            return os.lstat(self.top + path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def kind(self, path: str) -> str:
        """What is at a path: directory, file, symbolic link, device or pipe, or '' for nothing."""
        there = self.lstat(path)
        if there is None:
            return ""
        return kind_of(there.st_mode)

    def empty(self, path: str) -> bool:
        """Whether there is nothing at a path, or a directory with nothing in it."""
        return self.kind(path) in ("", "directory") and not self.names(path)

    def has(self, path: str) -> bool:
        """Whether there is something at a path, links followed."""
        try:
            return self.lstat(self.behind(path)) is not None
        except OSError:
            return False  # a loop of links, or what may not be searched, is nothing to run or to mount on

    def kind_behind(self, path: str) -> str:
        """As kind(), all links followed within the image; '' also where they cannot be, or nobody may
        look."""
        try:
            return self.kind(self.behind(path))
        except OSError:
            return ""  # it is as good as not there

    def behind(self, path: str) -> str:
        """The path with all links followed as in a chroot(2) of the image. Raises OSError where they cannot
        be."""
        return real_path(self.top, path, self._known) or "/"

    def place(self, path: str) -> str:
        """A path with the links above it followed, as lstat() wants it, and none at it. Raises OSError as
        behind() does."""
        above, _, name = path.rpartition("/")
        return f"{self.behind(above or '/').rstrip('/')}/{name}"

    def target(self, path: str) -> str:
        """Where the symbolic link at a path leads, '' for anything else."""
        try:
            return os.readlink(self.top + path)
        except OSError:
            return ""

    def link(self, path: str) -> str:
        """Where a link of the running system leads, or of the image below --root, '' for anything else: what
        is mounted counts here."""
        try:
            return os.readlink(self.root + path)
        except OSError:
            return ""

    def lines(self, path: str) -> Iterator[tuple[int, str]]:
        """The numbered lines of a text file of the image; none where it has no such file."""
        try:
            fd = os.open(
                self.top + self.behind(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            )
        except OSError:
            return
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return
        with open(fd, "rb") as f:
            text = f.read(_MOST).decode("utf-8", "surrogateescape")
        yield from enumerate(text.split("\n"), 1)

    def mounted_read_only(self, path: str) -> str:
        """The mount point of fstab(5) of the image that a path lies on where it is mounted read-only, else
        ''; without a word there nobody knows."""
        best, options = "", ""
        for _, line in self.lines("/etc/fstab"):
            fields = words(line)
            if len(fields) < 2 or fields[0].startswith("#"):
                continue
            at = unescape(fields[1]).rstrip("/")
            if (path + "/").startswith(at + "/") and len(at or "/") > len(best):
                best, options = at or "/", (fields[3:4] or [""])[0]
        return best if "ro" in options.split(",") else ""

    def root_read_only(self) -> bool:
        """Whether fstab(5) of the image mounts its root read-only; without a word there nobody knows."""
        return self.mounted_read_only("/") == "/"

    def names(self, directory: str) -> list[str]:
        """What a directory of the image holds; nothing where there is none."""
        try:
            return sorted(os.listdir(self.top + self.behind(directory)))
        except OSError:
            return []

    def has_account(self, kind: str, name: str) -> bool:
        """Whether the image has a 'user' or 'group' of a name, or makes it when it boots (sysusers.d(5))."""
        if any(line.split(":", 1)[0] == name for _, line in self.lines(_PASSWD[kind])):
            return True
        types = ("u", "u!") if kind == "user" else ("u", "u!", "g")  # a user's group is made along with it
        for directory in _SYSUSERS:
            for file in self.names(directory):
                made = (
                    [words(line)[:2] for _, line in self.lines(f"{directory}/{file}")]
                    if file.endswith(".conf")
                    else []
                )
                if any([each, name] in made for each in types):
                    return True
        return not self.root and _resolved(kind, name)

    def has_unit(self, name: str, directories: tuple[str, ...]) -> bool:
        """Whether the image ships a unit, or the template that it is an instance of (systemd.unit(5))."""
        stem, at, rest = name.partition("@")
        template = f"{stem}@.{rest.rpartition('.')[2]}" if at else name
        shipped = {each for directory in directories for each in self.names(directory)}
        return bool({name, template} & shipped)


def _resolved(kind: str, name: str) -> bool:
    """Whether the running system knows a name from elsewhere, a directory service for one
    (nsswitch.conf(5))."""
    try:
        if kind == "user":
            pwd.getpwnam(name)
        else:
            grp.getgrnam(name)
    except KeyError:
        return False
    return True
