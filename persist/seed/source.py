# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an entry is seeded from, and whether that is this image's and nothing that a machine has written: then
it has been through all migrations of this image."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from persist.boot import paths
from persist.boot.paths import escape, parents
from persist.errors import PersistError
from persist.note import WARNING
from persist.seed.attempt import Attempt
from persist.seed.copy import Source
from persist.seed.request import Roots, SeedRequest, given_source
from persist.system.safepath import Dir, node_in_root


class Sources:
    """Where content of one entry may be: the live system, the image, SeedFrom=, and what boots without a
    volume kept. ``note`` as in attempt.py."""

    def __init__(
        self,
        entry: SeedRequest,
        roots: Roots,
        live: Dir,
        image: Dir,
        volume: Dir,
        note: Callable[[int, str, str], None],
    ) -> None:
        self.entry, self.roots, self.live, self.image, self.volume, self.note = (
            entry,
            roots,
            live,
            image,
            volume,
            note,
        )

    def find(self) -> Source | None:
        """What the path shows now, else SeedFrom=, else the image; an empty one gives way to SeedFrom=."""
        entry = self.entry
        link = entry.method == "symlink"
        live = self._usable(self.live.node(entry.path), entry.path, link_is_none=link)
        if link and live is None:
            live = self._root_store()
        if live is not None and (not entry.seed_from or not live.empty()):
            return live
        if entry.seed_from:
            given = self._usable(
                given_source(entry, self.live, self.roots.root), f"{entry.seed_from} (SeedFrom=)"
            )
            if given is not None:
                if live is not None:
                    os.close(live.fd)
                return given
            self.note(WARNING, f"SeedFrom={entry.seed_from} does not exist.", "SEED_SOURCE_MISSING")
        if live is not None:
            return live
        if link:
            return self._usable(self.live.node(entry.path + ".persist-orig"), entry.path + ".persist-orig")
        if entry.below_mount:
            return None  # the image has at most something there that the mount hides
        return self._usable(self.image.node(entry.path), f"{entry.path} of the image")

    def _root_store(self) -> Source | None:
        """What boots without a volume kept on the root filesystem: the path was, or is, our link to it."""
        try:
            # Not Dir.sub(): links of the root filesystem count here as they did when the store was mounted.
            kept = Dir.at(self.roots.image + paths.ROOT_STORE)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with kept:
            if os.path.samestat(os.fstat(kept.fd), os.fstat(self.volume.fd)):
                return None
            return self._usable(kept.node(self.entry.path), paths.ROOT_STORE + self.entry.path)

    def _usable(self, fd: int | None, label: str, *, link_is_none: bool = False) -> Source | None:
        """A source from a descriptor. Raises PersistError for what cannot be kept, or is not of the entry's
        type."""
        if fd is None:
            return None
        mode = os.fstat(fd).st_mode
        if stat.S_ISLNK(mode) and link_is_none:
            os.close(fd)
            return None
        kind = "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else ""
        if kind and kind == (self.entry.type or kind):
            return Source(fd, kind, label)
        os.close(fd)
        if stat.S_ISLNK(mode):
            raise PersistError(f"'{label}' is a symbolic link.", hint="Register the path that it leads to.")
        if not kind:
            raise PersistError(
                f"'{label}' is neither a directory nor a regular file.",
                hint="Register the directory that it is in.",
            )
        raise PersistError(
            f"'{label}' is a {kind}, and the entry says Type={self.entry.type}.",
            hint=f"Correct Type= in {self.entry.source}.",
        )


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
    """Whether the path is shown by the overlay of an entry above, and nothing else is mounted between. Of
    files in it the device says nothing."""
    for up in parents(attempt.entry.path):
        if attempt.store.overlays.lstat(escape(up)) is not None:
            top = _node(attempt.live, up)
            return top is not None and (not stat.S_ISDIR(there.st_mode) or top.st_dev == there.st_dev)
    return False
