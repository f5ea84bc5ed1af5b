# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine as it shows itself: the image with what the state volume keeps over it, in mounts that nobody
else sees. To be looked at, read-only; or with real overlays, for programs that are run in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from persist.boot.paths import SEALING, escape
from persist.boot.units import OVERLAY_OPTIONS
from persist.errors import PersistError
from persist.seal.look.tree import Tree
from persist.seal.volume.layers import Kept
from persist.seal.volume.where import Volume
from persist.system import newmount
from persist.system.safepath import Dir, split

PLACE = SEALING + "/view"


def _attach(source: Dir, path: str, view: Dir, target: str) -> None:
    """Show what is at a path below one directory below another one, where there is a place for it: a
    directory for a directory, a file for a file. Raises OSError, PersistError."""
    fds: list[int] = []
    try:
        for directory, at in ((source, path), (view, target)):
            fd = directory.node(at) if at != "/" else os.dup(directory.fd)
            if fd is None:
                return
            fds.append(fd)
        kinds = [stat.S_IFMT(os.fstat(fd).st_mode) for fd in fds]
        if kinds[0] == kinds[1] and kinds[0] in (stat.S_IFDIR, stat.S_IFREG):
            newmount.attach(fds[0], fds[1])
    finally:
        for fd in fds:
            os.close(fd)


def _overlay(volume: Dir, image: Dir, view: Dir, path: str, *, writable: bool) -> None:
    """One overlay, over what the image has, not over what is shown there. Raises OSError, PersistError."""
    with (
        volume.inner(f".persist/overlay/{escape(path)}") as store,
        store.inner("upper") as upper,
        image.descend(split(path)) as lower,
        view.descend(split(path)) as at,
    ):
        below, over = f"/proc/self/fd/{lower.fd}", f"/proc/self/fd/{upper.fd}"
        if not writable:
            newmount.overlay(at.fd, f"lowerdir={over}:{below},{OVERLAY_OPTIONS}")
            return
        with store.inner("work") as work:
            options = f"lowerdir={below},upperdir={over},workdir=/proc/self/fd/{work.fd},{OVERLAY_OPTIONS}"
            newmount.overlay(at.fd, options)


def show(image: str, volume: Volume, every: Iterable[Kept], *, writable: bool) -> Tree:
    """Make the view of an image, which is a tree of this process's own mounts. An entry whose path the image
    has not, or has as a link, is left out: its layer is looked at by itself. Raises PersistError, OSError."""
    os.makedirs(PLACE, 0o700, exist_ok=True)
    with Dir.at(image) as below, Dir.at(volume.path) as kept:
        with Dir.at(PLACE) as at:
            newmount.attach(below.fd, at.fd, recursive=True)
        with Dir.at(PLACE) as view:
            for one in every:
                try:
                    if not one.seeded:
                        continue
                    if one.overlay:
                        _overlay(kept, below, view, one.path, writable=writable)
                    else:
                        _attach(kept, one.path, view, one.path)
                except (FileNotFoundError, PersistError):
                    continue
            _public(kept, view, volume.public)
    return Tree(PLACE, looking=not writable)


def _public(kept: Dir, view: Dir, public: str) -> None:
    """The volume under its own name, into which the links of symlink entries lead."""
    try:
        with view.descend(split(public)):
            _attach(kept, "/", view, public)
    except (FileNotFoundError, PersistError):
        return  # the image has no such directory, and so no link that leads there
