# SPDX-License-Identifier: LGPL-2.1-or-later
"""Overlays of entries that came up read-only, because the volume was full: mounted again, once it takes
writes."""

from __future__ import annotations

import errno
import os
import re

from persist.boot.paths import STORE
from persist.entries import stores
from persist.note import NOTICE, Note
from persist.system import mountinfo, newmount
from persist.system.safepath import Dir

_COMMA = re.compile(r"(?<!\\),")
# Of what the kernel shows as options of an overlay, what it also takes.
_OPTIONS = frozenset(
    (
        "lowerdir",
        "upperdir",
        "workdir",
        "redirect_dir",
        "index",
        "nfs_export",
        "xino",
        "metacopy",
        "uuid",
        "volatile",
        "userxattr",
    )
)


def _overlay_options(mount: mountinfo.Mount) -> str:
    return ",".join(o for o in _COMMA.split(mount.super_options) if o.split("=")[0] in _OPTIONS)


def _place(path: str) -> int:
    """A descriptor of a mount point: what lies above it may be a user's, and no link is followed. Raises
    PersistError and OSError."""
    with Dir.at("/") as live:
        fd = live.node(path)
    if fd is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return fd


def _reopen(mount: mountinfo.Mount, children: list[str]) -> None:
    """Mount an overlay again over itself, and what was mounted below it over that. Raises PersistError and
    OSError."""
    kept = []
    try:
        for child in children:
            kept.append((child, _place(child)))
        target = _place(mount.mount_point)
        try:
            newmount.overlay(target, _overlay_options(mount), newmount.known(mount.options))
        finally:
            os.close(target)
        for child, source in kept:
            place = _place(child)
            try:
                newmount.attach(source, place, recursive=True)
            finally:
                os.close(place)
    finally:
        for _, source in kept:
            os.close(source)


def reopen_overlays(store: str = STORE) -> list[str]:
    """Mount overlays of entries, which came up read-only on a full volume, again over themselves; returns
    their paths. Raises PersistError and OSError.

    Only to be called once something can be made on the volume. Who has a file of the old one open keeps it.
    """
    done = []
    for point in sorted({m.mount_point for m in mountinfo.mounts()}):
        every = mountinfo.mounts()
        at = next(m for m in reversed(every) if m.mount_point == point)
        if (
            at.fstype != "overlay"
            or "ro" not in at.super_options.split(",")
            or f"upperdir={store}/overlay/" not in at.super_options
        ):
            continue
        # The kernel is given the names once more: looked at as before the first time.
        with Dir.at(os.path.dirname(store)) as volume:
            stores.look(volume, point, os.path.basename(os.path.dirname(at.upper)), "overlay")
        children = [m.mount_point for m in every if m.parent_id == at.mount_id and m.mount_point != point]
        _reopen(at, list(dict.fromkeys(children)))
        done.append(point)
    return done


def reopened() -> list[Note]:
    """Mount overlays that came up read-only again; returns what was done. Raises PersistError and OSError."""
    return [
        Note(
            NOTICE,
            f"{path} had come up read-only on the full state volume and takes writes again.",
            "SPACE_RESERVE",
            {"PERSIST_PATH": path},
        )
        for path in reopen_overlays()
    ]
