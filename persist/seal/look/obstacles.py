# SPDX-License-Identifier: LGPL-2.1-or-later
"""What would keep a file of a tree from being wiped, or its content in the image although it was: found
before anything is touched."""

from __future__ import annotations

import ctypes
import os
import re
import stat
import sys
from collections.abc import Collection, Sequence

from persist.boot.paths import RUNNING
from persist.seal.look.tree import DEEPEST, Parts, Tree
from persist.system.mountinfo import Mount, unescape
from persist.system.safepath import Dir

_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_BASIC = 0x7FF
_STATX_ATTRIBUTES = 8  # the offset of stx_attributes in struct statx (linux/stat.h)
_IMMUTABLE, _APPEND = 0x10, 0x20  # STATX_ATTR_IMMUTABLE, _APPEND: what chattr(1) calls i and a
_libc = ctypes.CDLL(None, use_errno=True)


def attribute(directory: Dir, name: str) -> str:
    """The letter for what chattr(1) has made immutable (i) or append-only (a), else ''. Nothing is opened for
    it: not every name is that of a file. Raises OSError."""
    buffer = ctypes.create_string_buffer(256)
    if (
        _libc.statx(
            directory.fd, os.fsencode(name), _AT_SYMLINK_NOFOLLOW, ctypes.c_uint(_STATX_BASIC), buffer
        )
        != 0
    ):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), directory.path(name))
    flags = int.from_bytes(buffer.raw[_STATX_ATTRIBUTES : _STATX_ATTRIBUTES + 8], sys.byteorder)
    return "i" if flags & _IMMUTABLE else "a" if flags & _APPEND else ""


def lowers(mount: Mount) -> list[str]:
    r"""The lower directories of an overlay, as far as mountinfo names them. A colon or a backslash in a name
    has a backslash before it; newer kernels write octal escapes around that."""
    found: list[str] = []
    for option in mount.super_options.split(",") if mount.fstype == "overlay" else ():
        key, _, value = option.partition("=")
        if key in ("lowerdir", "lowerdir+", "datadir+"):
            names = re.findall(r"(?:\\.|[^:\\])+", unescape(value))
            found += [re.sub(r"\\(.)", r"\1", name) for name in names]
    return found


def _is_of_the_image(mount: Mount, every: Sequence[Mount], top: str) -> bool:
    """Whether a mount below the tree is a filesystem of its own on a disk, such as /boot/efi or /var of the
    image: and not memory, nor a part of the machine that does the work, such as its package cache."""
    if not mount.source.startswith("/dev/"):
        return False
    options = mount.super_options.split(",")
    if mount.root != "/" and f"subvol={mount.root}" not in options:
        return False  # a directory of a filesystem
    return not any(
        other.device == mount.device and other.root == mount.root and not _is_below(other.mount_point, top)
        for other in every
    )


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


class Surroundings:
    """The mounts at and below a tree. ``foreign`` are the places, by their parts, where something is mounted
    that is not the image's; ``own`` those of filesystems that are."""

    def __init__(self, top: str, every: Sequence[Mount]) -> None:
        """``top``: the real path of the tree; ``every``: all mounts of this process."""
        self.top = top
        inside = [m for m in every if _is_below(m.mount_point, top) and m.mount_point != top]
        # A mount that another one covers is not seen.
        seen = {m.mount_point: m for m in inside}
        self.foreign: dict[Parts, Mount] = {}
        self.own: dict[Parts, Mount] = {}
        for point, mount in seen.items():
            parts = tuple(p for p in point[len(top.rstrip("/")) :].split("/") if p)
            (self.own if _is_of_the_image(mount, every, top) else self.foreign)[parts] = mount
        above = [m for m in every if _is_below(top, m.mount_point)]
        self.around = max(above, key=lambda m: len(m.mount_point), default=None)
        for mount in above:  # of two on one place, the later one is on top
            if self.around is not None and mount.mount_point == self.around.mount_point:
                self.around = mount

    def hides(self, parts: Parts) -> bool:
        """Whether what is mounted at a place of ``foreign`` can hide something of the image: not where every
        chroot has mounts."""
        return "/" + parts[0] not in RUNNING

    def notes(self, met: Collection[Parts]) -> list[str]:
        """What is worth a word: filesystems that are sealed too, and what is not looked at; ``met`` are
        places of ``foreign`` of which there is an error."""
        found = []
        unseen = self.unseen()
        if unseen:
            found.append(
                f"'{unseen}' is an overlay, and what lies under it cannot be looked at: what is removed from "
                "the tree may still be there."
            )
        for point, mount in self.own.items():
            found.append(f"'/{'/'.join(point)}' is a filesystem of its own, '{mount.source}', sealed too.")
        for point, mount in self.foreign.items():
            if self.hides(point) and point not in met:
                found.append(
                    f"'/{'/'.join(point)}' is a mount of '{mount.source}', which is not the image's: what "
                    "the image has under it was not looked at. No section asks for it."
                )
        return found

    def inside(self, parts: Parts) -> list[str]:
        """The mount points at or below a place."""
        return [
            "/" + "/".join(point)
            for point in sorted({*self.foreign, *self.own})
            if point[: len(parts)] == parts
        ]

    def below_overlay(self, parts: Parts) -> str:
        """The directory under an overlay in which a place of the tree exists as well, or ''. Lowers that
        cannot be seen from here are passed over (``unseen()``)."""
        mount, rest = self._mount_of(parts)
        for lower in lowers(mount) if mount is not None else ():
            try:
                there = os.lstat(lower + rest)
            except OSError:
                continue  # not in this one, or out of sight
            if stat.S_ISCHR(there.st_mode) and there.st_rdev == 0:
                return ""  # a whiteout
            return lower
        return ""

    def unseen(self) -> str:
        """The mount point of an overlay whose lower directories cannot be looked at, or ''."""
        for mount in [*self.own.values(), *([self.around] if self.around is not None else [])]:
            if mount.fstype == "overlay" and not (
                lowers(mount) and all(os.path.isdir(lower) and lower[0] == "/" for lower in lowers(mount))
            ):
                return mount.mount_point
        return ""

    def _mount_of(self, parts: Parts) -> tuple[Mount | None, str]:
        """The mount that a place lies on, and its path in that filesystem."""
        for length in range(len(parts), 0, -1):
            for mounts in (self.own, self.foreign):
                if parts[:length] in mounts:
                    mount = mounts[parts[:length]]
                    return mount, mount.root.rstrip("/") + "/" + "/".join(parts[length:])
        if self.around is None:
            return None, ""
        path = f"{self.top.rstrip('/')}/{'/'.join(parts)}"
        rest = path[len(self.around.mount_point.rstrip("/")) :]
        return self.around, self.around.root.rstrip("/") + rest


def second_names(tree: Tree, places: Sequence[Parts]) -> list[list[Parts]]:
    """Those of some places whose files have still other names (hard links), put together by files."""
    files: dict[tuple[int, int], list[Parts]] = {}
    names: dict[tuple[int, int], int] = {}
    for place in places:
        there = tree.lstat(place)
        if there is not None and stat.S_ISREG(there.st_mode) and there.st_nlink > 1:
            files.setdefault((there.st_dev, there.st_ino), []).append(place)
            names[there.st_dev, there.st_ino] = there.st_nlink
    return [found for key, found in files.items() if names[key] > len(found)]


class Obstacles:
    """Reasons why one place of a tree cannot be changed, or why changing it would not take it out of the
    image."""

    def __init__(self, tree: Tree, around: Surroundings) -> None:
        self.tree = tree
        self.around = around
        self._read_only: dict[Parts, bool] = {}

    def of(self, parts: Parts, *, unlink: bool, mode: int) -> str:
        """What stands in the way of changing a place, or of removing it (``unlink``), or ''. Raises OSError,
        PersistError."""
        lower = self.around.below_overlay(parts)
        if lower:
            return (
                f"an overlay shows it from '{lower}', where it would stay: seal that tree, or one that has "
                "no image below it"
            )
        parent = parts[:-1]
        with self.tree.directory(parent) as directory:
            if parent not in self._read_only:
                self._read_only[parent] = not self.tree.looking and directory.read_only()
            if self._read_only[parent]:
                return "its filesystem is read-only: mount it with 'rw'"
            mark = attribute(directory, parts[-1])
            if not mark and unlink:
                mark = attribute(directory, ".")
            if mark:
                return f"chattr(1) has it held: 'chattr -{mark}' lets it go"
        if stat.S_ISDIR(mode):
            return self._within(parts, unlink)
        return ""

    def _within(self, parts: Parts, unlink: bool) -> str:
        """The same for all that is in a directory, which goes with it."""
        mounted = [m for m in self.around.inside(parts) if unlink or m != "/" + "/".join(parts)]
        if mounted:
            return f"something is mounted on '{mounted[0]}': unmount it"
        todo = [parts]
        while todo:
            here = todo.pop()
            if len(here) > DEEPEST:
                return f"it has more than {DEEPEST} directories in one another: remove it by hand"
            with self.tree.directory(here) as directory:
                if here != parts or not unlink:
                    mark = attribute(directory, ".")
                    if mark:
                        return f"chattr(1) has '/{'/'.join(here)}' held: 'chattr -{mark}' lets it go"
                for name, st in self.tree.entries(here).items():
                    if stat.S_ISDIR(st.st_mode):
                        todo.append((*here, name))
                    elif stat.S_ISREG(st.st_mode) and (mark := attribute(directory, name)):
                        return f"chattr(1) has '/{'/'.join((*here, name))}' held: 'chattr -{mark}' lets it go"
        return ""
