# SPDX-License-Identifier: LGPL-2.1-or-later
"""What seeding is given and gives back: the entry, where things are, the result; and whose the result shall
be."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable

from persist.boot.paths import IMAGE, LOWER, VOLUME, wrong_source
from persist.boot.rare.values import number
from persist.errors import PersistError
from persist.note import Note
from persist.record import Record, made
from persist.seed.tree import Summary
from persist.system.safepath import Dir, node_in_root

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object


class SeedRequest(Protocol):
    """What seeding has to know of an entry of the registry; persist.boot.registry has the real ones."""

    @property
    def path(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def seed_from(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def below_mount(
        self,
    ) -> bool: ...  # it lies on another filesystem than the root's, which fstab mounts above it
    @property
    def snapshot(self) -> bool: ...
    @property
    def overlay_above(self) -> str: ...  # the entry above, where that is an overlay, ''


def fields(entry: SeedRequest) -> dict[str, str]:
    """What each record about an entry has."""
    return {"PERSIST_PATH": entry.path, "PERSIST_METHOD": entry.method, "PERSIST_SOURCE": entry.source}


def _no_migrations(path: str) -> None:
    pass


class Roots(Record):
    """Where things are. The defaults are the running system's; ``links`` is what a symlink entry's link
    begins with."""

    volume: str = VOLUME
    image: str = IMAGE
    lower: str = LOWER
    root: str = "/"
    image_version: str = ""
    links: str = VOLUME
    mounts: tuple[str, ...] = ("/mnt/state",)  # other names of the volume that an image's link may have
    stamp: Callable[[str], None] = (
        _no_migrations  # called of an entry that comes from the image, before its marker
    )


class Result(Record, frozen=False):
    """What seeding did. ``state``: ``present`` (seeded before), ``seeded``, ``empty`` (no source) or
    ``adopted``."""

    state: str
    source: str = ""
    summary: Summary = made(Summary)
    notes: list[Note] = made(list)


def image_version(root: str) -> str:
    """The version of the image from os-release(5): IMAGE_VERSION=, else VERSION_ID=, else BUILD_ID=, else
    nothing."""
    found: dict[str, str] = {}
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            with open(os.path.join(root, name), encoding="utf-8", errors="replace", newline="\n") as f:
                lines = f.read(1 << 16).split("\n")
        except (FileNotFoundError, NotADirectoryError):
            continue
        for line in lines:
            key, equals, value = line.strip().partition("=")
            if equals:
                found[key] = value.strip("\"'")
        break
    return found.get("IMAGE_VERSION") or found.get("VERSION_ID") or found.get("BUILD_ID") or ""


def owner_of(entry: SeedRequest) -> tuple[int, int, int | None]:
    """User=, Group= and Mode= as numbers; -1 and None leave what is there. Raises PersistError for unknown
    names."""
    try:
        uid, gid = number(entry.user) if entry.user else -1, number(entry.group) if entry.group else -1
        uid = pwd.getpwnam(entry.user).pw_uid if uid is None else uid
        gid = grp.getgrnam(entry.group).gr_gid if gid is None else gid
    except KeyError as e:
        raise PersistError(
            f"Unknown user or group for '{entry.path}': {e.args[0]}.",
            hint=f"Correct User= or Group= in {entry.source}, or have sysusers.d(5) create it.",
        ) from e
    try:
        return uid, gid, int(entry.mode, 8) & 0o7777 if entry.mode else None
    except ValueError as e:
        raise PersistError(
            f"Mode={entry.mode} of '{entry.path}' is not octal.", hint=f"See {entry.source}."
        ) from e


def apply_owner(owner: tuple[int, int, int | None], parent: Dir, name: str) -> None:
    """Give a name what owner_of() said."""
    uid, gid, mode = owner
    st = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
    if uid not in (-1, st.st_uid) or gid not in (-1, st.st_gid):
        os.chown(name, uid, gid, dir_fd=parent.fd, follow_symlinks=False)
        os.chmod(parent.proc(name), stat.S_IMODE(st.st_mode))  # chown takes set-id bits away
    if mode is not None:
        os.chmod(parent.proc(name), mode)


def given_source(entry: SeedRequest, live: Dir, root: str) -> int | None:
    """A descriptor of what SeedFrom= leads to, links of the image followed. Raises PersistError where that is
    the running system's."""
    fd = node_in_root(live, entry.seed_from)
    if fd is not None:
        real = os.readlink(f"/proc/self/fd/{fd}").removeprefix(root.rstrip("/"))
        wrong = wrong_source(real) if real.startswith("/") and real != "/" else ""
        if wrong:
            os.close(fd)
            raise PersistError(
                f"SeedFrom={entry.seed_from} leads to {real}, which {wrong}.", hint=f"Correct {entry.source}."
            )
    return fd
