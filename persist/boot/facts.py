# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the generator knows of the machine: the closed list of inputs, read once. Boot-safe.

Each input can be put elsewhere for tests, with the variables that systemd's own generators know
(``SYSTEMD_PROC_CMDLINE``, ``SYSTEMD_FSTAB``) and with ``root``.
"""

from __future__ import annotations

import errno
import os
import stat

from .paths import EARLY, parents

TYPE_CHECKING = False  # typing.TYPE_CHECKING without the import (collections.abc costs 2 ms)
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .registry import Registry

UNIT_DIRECTORIES = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system",
                    "/usr/lib/systemd/system", "/lib/systemd/system")
ENABLED = ("local-fs.target.wants", "sysinit.target.wants", "multi-user.target.wants", "basic.target.wants",
           "local-fs.target.requires", "sysinit.target.requires")


class Facts:
    """A record of the machine. ``root`` is '' for the running system."""

    __slots__ = ("root", "cmdline", "in_initrd", "container", "user_scope", "enabled", "fstab", "shipped", "early",
                 "aliases", "links")

    def __init__(self) -> None:
        self.root = ""
        self.cmdline = ""
        self.in_initrd = False
        self.container = ""
        self.user_scope = False
        self.enabled = False
        self.fstab: dict[str, str] = {}
        self.shipped: dict[str, str] = {}
        self.early: set[str] = set()
        self.aliases: dict[str, str] = {}  # entry path -> the path without the image's links among its parents
        self.links: dict[str, str] = {}  # path without such links -> target, where it is itself a symbolic link

    def option(self, key: str) -> str | None:
        """The last value of a kernel command line option, '' for a bare word, None when it is not there."""
        return option(self.cmdline, key)


def option(cmdline: str, key: str) -> str | None:
    """The last value of ``key=`` on a kernel command line; quotes around a value are taken away (kernel-command-line(7))."""
    if key not in cmdline:
        return None
    value = None
    for word in _words(cmdline):
        if word == key:
            value = ""
        elif word.startswith(key + "="):
            value = word[len(key) + 1 :]
    return value


def _words(cmdline: str) -> list[str]:
    if '"' not in cmdline:
        return cmdline.split()
    words, word, inside, any_ = [], [], False, False
    for c in cmdline:
        if c == '"':
            inside = not inside
            any_ = True
        elif c.isspace() and not inside:
            if word or any_:
                words.append("".join(word))
            word, any_ = [], False
        else:
            word.append(c)
    if word or any_:
        words.append("".join(word))
    return words


def _text(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""  # not there or not readable: the same as empty, for /proc/cmdline and fstab alike
    try:
        data = b""
        while len(data) < 1 << 20:
            piece = os.read(fd, 1 << 16)
            if not piece:
                break
            data += piece
        return data.decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


def _octal(text: str) -> str:
    r"""Undo getmntent(3)'s escapes: ``\040`` and the like."""
    if "\\" not in text:
        return text
    out = []
    i = 0
    while i < len(text):
        digits = text[i + 1 : i + 4]
        if text[i] == "\\" and len(digits) == 3 and all(c in "01234567" for c in digits):
            out.append(chr(int(digits, 8) & 255))
            i += 4
        else:
            out.append(text[i])
            i += 1
    return "".join(out)


def _fstab(path: str, shown: str) -> dict[str, str]:
    mounts = {}
    number = 0
    for line in _text(path).split("\n"):
        number += 1
        words = line.split()
        if len(words) >= 3 and words[0][0] != "#" and words[1][0] == "/" and words[2] != "swap":
            mounts[_octal(words[1]).rstrip("/") or "/"] = "%s:%d" % (shown, number)
    return mounts


def _is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


def enabled(root: str) -> bool:
    """Whether a link enables persist-setup.target: the master switch."""
    for base in UNIT_DIRECTORIES[:4]:
        if base != "/run/systemd/system" and _masked(root + base + "/persist-setup.target"):
            return False
        for wants in ENABLED:
            if _is_link(root + base + "/" + wants + "/persist-setup.target"):
                return True
    return False


def _masked(path: str) -> bool:
    try:
        return os.readlink(path) == "/dev/null"
    except OSError:
        return False


def _shipped(root: str) -> dict[str, str]:
    units: dict[str, str] = {}
    for base in UNIT_DIRECTORIES:
        try:
            names = os.listdir(root + base)
        except OSError:
            continue  # a directory that is not there ships nothing
        for name in names:
            if name.endswith(".mount") and name not in units:
                units[name] = "" if _masked(root + base + "/" + name) else base + "/" + name
    return units


def gather(root: str, environ: Mapping[str, str]) -> Facts:
    """Read all facts. ``root`` is '' for the running system."""
    facts = Facts()
    facts.root = root
    facts.in_initrd = environ.get("SYSTEMD_IN_INITRD") == "1"
    facts.user_scope = environ.get("SYSTEMD_SCOPE") == "user"
    virtualization = environ.get("SYSTEMD_VIRTUALIZATION", "")
    if virtualization.startswith("container:"):
        facts.container = virtualization[len("container:") :]
    override = environ.get("SYSTEMD_PROC_CMDLINE")
    # A container sees its host's command line, which says nothing about it (systemd reads /proc/1/cmdline there).
    facts.cmdline = override if override is not None else "" if facts.container else _text(root + "/proc/cmdline").strip()
    facts.enabled = enabled(root)
    return facts


def gather_paths(facts: Facts, registry: Registry, environ: Mapping[str, str]) -> None:
    """The facts that only matter where there are entries: fstab, shipped mount units, what the initrd mounted, links."""
    root = facts.root
    known: dict[str, str] = {}
    for entry in registry.entries:
        path = entry.path
        real = _resolve(root, path, known)
        target = _link_target(root, real)
        if target and entry.method != "symlink":
            # The entry is an alias itself (/lib -> usr/lib): what counts is the directory behind it.
            real = _resolve(root, real + "/.", {}).rpartition("/")[0] or "/"
        facts.aliases[path] = real
        if target:
            facts.links[path] = target
    facts.fstab = _fstab(environ.get("SYSTEMD_FSTAB", root + "/etc/fstab"), "/etc/fstab")
    facts.shipped = _shipped(root)
    try:
        facts.early = set(os.listdir(root + EARLY))
    except OSError:
        facts.early = set()  # no initrd stage on this boot


def _resolve(root: str, path: str, known: dict[str, str]) -> str:
    """``path`` with the links among its parents resolved as chroot(2) to ``root`` would; its last component is not followed.

    ``known`` caches the directories looked at. A loop of links is left as it is; the mount will fail there and say so.
    """
    parent = path.rpartition("/")[0]
    if not parent:
        return path
    if parent in known:
        return known[parent] + path[len(parent) :]
    resolved = ""
    todo = parent[1:].split("/")
    hops = 0
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            resolved = resolved.rpartition("/")[0]
            continue
        at = resolved + "/" + part
        target = _link_target(root, at)
        if not target:
            resolved = at
            continue
        hops += 1
        if hops > 40:
            return path
        if target[0] == "/":
            resolved = ""
        todo = target.split("/") + todo
    known[parent] = resolved
    return resolved + path[len(parent) :]


def _link_target(root: str, path: str) -> str:
    try:
        return os.readlink(root + path)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
            raise
        return ""


def above(path: str, mounts: Mapping[str, object]) -> str:
    """The nearest strict ancestor of ``path`` that is in ``mounts``, or an empty string."""
    for parent in parents(path):
        if parent in mounts:
            return parent
    return ""
