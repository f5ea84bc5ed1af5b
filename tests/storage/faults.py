# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults on demand: each system call that the product makes, seen where Python makes it, can fail or be the
last one of its process."""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import posix
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from persist.system import newmount, safepath

KILL = 0  # instead of an errno: the process ends here, as by SIGKILL
KILLED = 137
_HERE = os.path.dirname(os.path.abspath(safepath.__file__)).removesuffix("/state")
# What the services call; os has the same functions as posix, under names of its own.
_POSIX = (
    "open",
    "read",
    "write",
    "pread",
    "fsync",
    "stat",
    "fstat",
    "lstat",
    "statvfs",
    "fstatvfs",
    "listdir",
    "scandir",
    "readlink",
    "mkdir",
    "rmdir",
    "unlink",
    "rename",
    "replace",
    "symlink",
    "chmod",
    "fchmod",
    "chown",
    "ftruncate",
    "access",
    "dup",
)
# Calls that change nothing: who is killed at one might as well have been killed at the next that does.
_LOOKS = (
    "open",
    "read",
    "pread",
    "stat",
    "fstat",
    "lstat",
    "statvfs",
    "fstatvfs",
    "listdir",
    "scandir",
    "readlink",
    "access",
    "dup",
    "flock",
)
_CREATES = (
    "create",
    "mkdir",
    "rename",
    "replace",
    "symlink",
    "write",
    "fsync",
    "process",
    "overlay",
    "move_mount",
)
Site = tuple[str, ...]


def _site(name: str) -> Site | None:
    """The call as the lines of the product that lead to it, None where it is not one of the product's own (or
    only the import of a module)."""
    frame = sys._getframe(3)
    lines: list[str] = []
    while frame is not None:
        file = frame.f_code.co_filename
        if "importlib" in file:
            return None
        if file.startswith(_HERE):
            if file.endswith(("/log.py", "/record.py")):
                return None
            lines.append(f"{file[len(_HERE) + 1 :]}:{frame.f_lineno}")
            if len(lines) == 2:
                break
        frame = frame.f_back  # type: ignore[assignment]
    return (name, *lines) if lines else None


def _creates(how: object) -> bool:
    """Whether open() is told to make a file, by its mode or by its flags."""
    return bool(how & os.O_CREAT) if isinstance(how, int) else isinstance(how, str) and how[0] in "wxa"


class Faults:
    """Wraps the calls of this process, which ends with its test, from now on. Without a target they are
    written down in ``seen``, each site once."""

    def __init__(self, target: Site | None = None, code: int = KILL) -> None:
        self.seen: dict[Site, int] = {}
        self.target, self.code = target, code
        self.struck = False
        self._install()

    def __call__(self, name: str) -> None:
        site = _site(name)
        if site is None:
            return
        if self.target is None:
            self.seen[site] = self.seen.get(site, 0) + 1
        elif site == self.target and not self.struck:
            self.struck = True
            if self.code == KILL:
                os._exit(KILLED)
            raise OSError(self.code, os.strerror(self.code))

    def _wrap(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self("create" if name == "open" and len(args) > 1 and _creates(args[1]) else name)
            return original(*args, **kwargs)

        return call

    def _install(self) -> None:
        for name in _POSIX:
            for module in (posix, os):
                setattr(module, name, self._wrap(name, getattr(module, name)))
        builtins.open = self._wrap("open", io.open)
        fcntl.ioctl = self._wrap("ioctl", fcntl.ioctl)
        fcntl.flock = self._wrap("flock", fcntl.flock)
        subprocess.run = self._wrap("process", subprocess.run)
        whole = newmount._call

        def call(what: str, number: int, *arguments: object) -> int:
            self("move_mount" if what == "move_mount" else "mount")
            return whole(what, number, *arguments)

        newmount._call = call
        newmount.overlay = self._wrap("overlay", newmount.overlay)


def errors(site: Site, number: int) -> list[int]:
    """With what a call is made to fail: killed where it changes something, and one errno that fits it, in
    turn EIO, ENOSPC, and EMFILE."""
    fitting = [errno.EIO]
    if site[0] in _CREATES:
        fitting.append(errno.ENOSPC)
    if site[0] in ("open", "create", "process", "listdir", "scandir"):
        fitting.append(errno.EMFILE)
    return [fitting[number % len(fitting)], *([] if site[0] in _LOOKS else [KILL])]
