# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether what an entry is seeded from is this image's, and nothing that a machine has written: then it has been
through all migrations of this image."""

from __future__ import annotations

import os
import stat

from persist.boot.paths import escape, parents
from persist.seed.attempt import Attempt
from persist.seed.copy import Source
from persist.system.safepath import Dir, node_in_root


def _looked_at(fd: int | None) -> os.stat_result | None:
    """What a descriptor is of, which is closed."""
    if fd is None:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _node(top: Dir, path: str) -> os.stat_result | None:
    return _looked_at(top.node(path))


def kept_above(attempt: Attempt) -> bool:
    """Whether an overlay above has kept anything of an entry's path."""
    path = attempt.entry.path
    for up in parents(path):
        with attempt.store.overlays.sub("") as overlays:
            if _node(overlays, f"{escape(up)}/upper/{path[len(up) + 1 :]}") is not None:
                return True
    return False


def of_the_image(source: Source, attempt: Attempt) -> bool:
    """Whether a source is the image's: the file itself, or what the path shows through an overlay that keeps
    nothing of it."""
    entry, there = attempt.entry, os.fstat(source.fd)
    image = [_node(attempt.image, entry.path)]
    if entry.seed_from:
        image.append(_looked_at(node_in_root(attempt.image, entry.seed_from)))
    if any(found is not None and os.path.samestat(found, there) for found in image):
        return True
    shown = _node(attempt.live, entry.path)
    if image[0] is None or shown is None or not os.path.samestat(shown, there):
        return False
    return not entry.below_mount and not kept_above(attempt) and _through_an_overlay(attempt, there)


def _through_an_overlay(attempt: Attempt, there: os.stat_result) -> bool:
    """Whether the path is shown by the overlay of an entry above, and nothing else is mounted between. Of files
    in it the device says nothing."""
    for up in parents(attempt.entry.path):
        if attempt.store.overlays.lstat(escape(up)) is not None:
            top = _node(attempt.live, up)
            return top is not None and (not stat.S_ISDIR(there.st_mode) or top.st_dev == there.st_dev)
    return False
