# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an image has in the directory of an entry and what does nothing below nosuid and nodev, which entries
have where they do not say otherwise."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from persist.boot.ini import WARNING, Problem
from persist.boot.load import Loaded
from persist.boot.plan import Planned
from persist.foresee.image import Image

MOST = 100_000  # names that are looked at for one entry: somebody waits at a terminal
_SUID, _DEV = "suid", "dev"
_WHAT = {
    _SUID: (
        "program with a set-user-ID or set-group-ID bit or with capabilities",
        "programs with set-user-ID or set-group-ID bits or with capabilities",
    ),
    _DEV: ("device node", "device nodes"),
}


def _capable(path: str) -> bool:
    try:
        os.getxattr(path, "security.capability", follow_symlinks=False)
    except OSError:
        return False  # none, or a filesystem without
    return True


def _needs(path: str, st: os.stat_result) -> str:
    """The flag that a file needs to be what it is, '' for most."""
    mode = st.st_mode
    if stat.S_ISREG(mode):
        execute = mode & 0o111
        return (
            _SUID
            if execute
            and (mode & stat.S_ISUID or (mode & stat.S_ISGID and mode & stat.S_IXGRP) or _capable(path))
            else ""
        )
    # 0:0 is a whiteout of an overlay that lies there, and no device.
    return _DEV if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and st.st_rdev) else ""


def _walk(top: str, leave: set[str], most: int) -> Iterator[tuple[str, os.stat_result]]:
    """The first names of a tree on one filesystem, in their order; not what is below paths of ``leave``, nor
    where nobody may look."""
    first = os.lstat(top)
    todo = [(top, first)]
    left = most
    while todo:
        path, st = todo.pop()
        if st.st_dev != first.st_dev:
            continue
        yield path, st
        if not stat.S_ISDIR(st.st_mode):
            continue
        found = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if not left:
                        break
                    left -= 1
                    if entry.path not in leave:
                        found.append((entry.path, entry.stat(follow_symlinks=False)))
        except OSError:
            continue
        todo += sorted(found, key=lambda pair: os.fsencode(pair[0]), reverse=True)


def _chosen(planned: Planned) -> set[str]:
    return {
        word
        for key, value, _ in planned.entry.settings
        if key == "Options"
        for word in value.replace(",", " ").split(" ")
    }


def without_effect(loaded: Loaded, image: Image, most: int = MOST) -> Iterator[Problem]:
    """Programs and device nodes of the image that an entry's mount makes nothing of. One where nosuid or
    nodev was asked for is meant so. Looks at so many names of each entry at ``most``."""
    others = {image.top + path for path in (*[p.path for p in loaded.plan.entries], *loaded.plan.fstab)}
    for planned in loaded.plan.entries:
        entry, top = planned.entry, image.top + planned.path
        flags = entry.options.split(",")
        wanted = {flag for flag in _WHAT if f"no{flag}" in flags} - {
            word.removeprefix("no") for word in _chosen(planned)
        }
        if (
            entry.method not in ("overlay", "bind")
            or not wanted
            or image.kind(planned.path) not in ("directory", "file")
        ):
            continue
        found: dict[str, list[str]] = {}
        for path, st in _walk(top, others, most):
            need = _needs(path, st)
            if need in wanted:
                found.setdefault(need, []).append(path[len(image.top) :])
        for flag, paths in sorted(found.items()):
            count, first = len(paths), paths[0]
            says = (
                f"1 {_WHAT[flag][0]} below {entry.path} ({first}), which is"
                if count == 1
                else f"{count} {_WHAT[flag][1]} below {entry.path} (the first is {first}), which are"
            )
            yield Problem(
                WARNING,
                entry.where("Options"),
                f"The image has {says} without effect there, because the entry is mounted no{flag}. "
                f"Add Options={flag} to it if {'it is' if count == 1 else 'they are'} needed, "
                f"Options=no{flag} if not.",
                entry.path,
            )
