# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist=ro: for one boot, the volume read-only below memory. Nothing on it is ever written.

The volume is mounted read-only at /run/persist/private/readonly, and /run/persist/volume is a tmpfs with the
usual store. An overlay entry gets the upper that it has on the volume as one more lower directory (bound to
``.persist/below/NAME``; whiteouts and opaque directories count in a lower too). What bind and symlink entries
have on the volume is shown at its usual place in the tmpfs, by an overlay of its own, so that they work as
ever. An entry that the volume does not know is seeded into the tmpfs.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable

from persist.boot.load import Loaded
from persist.boot.paths import READONLY, VOLUME, overlay_option
from persist.boot.plan import Planned
from persist.boot.units import OVERLAY_OPTIONS
from persist.entries.bind import failure
from persist.errors import PersistError
from persist.seed.copy import Source, copy, copy_attributes
from persist.seed.marker import LIMIT, only_a_link, parse
from persist.seed.tree import Progress
from persist.system import mountinfo, newmount
from persist.system.safepath import Dir, LinkRefused, split


def prepare(
    loaded: Loaded, status: Callable[[str], None], real: str = READONLY, volume: str = VOLUME
) -> list[PersistError]:
    """Make the tmpfs at ``volume`` show what the volume at ``real`` keeps; ``status`` hears how far a long
    copy is. Returns what to log: each entry that fails costs that entry.

    For persist-volume.service with persist=ro, before mount_seeded(); also where nothing is mounted at
    ``real``, because the units of overlay entries count on their directories. May be called again. Raises
    OSError and PersistError where the tmpfs takes nothing.
    """
    at = mountinfo.at(volume)
    if at is None or at.fstype != "tmpfs":
        return [
            PersistError(
                f"No tmpfs is mounted at {volume}, so no entry is shown read-only (persist=ro).",
                message_id="ENTRY_FAILED",
                hint=f"Look at what mounts it: 'findmnt {volume}'.",
            )
        ]
    problems = []
    with Dir.at(volume) as memory, memory.own(".persist") as store:
        kept = Dir.at(real) if os.path.ismount(real) else None
        try:
            for planned in loaded.plan.entries:
                if planned.entry.method in ("overlay", "bind", "symlink"):
                    try:
                        _Entry(planned, kept, memory, store, Progress(status)).prepare()
                    except (PersistError, OSError) as e:
                        problems.append(
                            failure(
                                planned, e, "Failed to show", "read-only from the state volume (persist=ro)"
                            )
                        )
        finally:
            if kept is not None:
                kept.close()
    return problems


class _Entry:
    """One entry between the volume (``kept``, None where it is not here) and its stand-in."""

    def __init__(
        self,
        planned: Planned,
        kept: Dir | None,
        memory: Dir,
        store: Dir,
        progress: Progress,
    ) -> None:
        self.planned, self.kept, self.memory, self.store, self.progress = (
            planned,
            kept,
            memory,
            store,
            progress,
        )

    def prepare(self) -> None:
        """Do what is left to do."""
        marker = self._marker()
        if self.planned.entry.method == "overlay":
            self._overlay(marker)
        elif marker is not None and not self._done():
            self._tree(marker)
            self._mark(marker)

    def _marker(self) -> bytes | None:
        """The text of the entry's marker on the volume, None where it has none."""
        if self.kept is None:
            return None
        try:
            with self.kept.inner(".persist/seed") as seeds:
                return seeds.read(self.planned.name + ".json", LIMIT)
        except FileNotFoundError:
            return None

    def _done(self) -> bool:
        with self.store.own("seed") as seeds:
            return seeds.lstat(self.planned.name + ".json") is not None

    def _mark(self, marker: bytes) -> None:
        with self.store.own("seed") as seeds:
            seeds.write(self.planned.name + ".json", marker)

    # -- overlay

    def _overlay(self, marker: bytes | None) -> None:
        name = self.planned.name
        with self.store.own("below") as below:
            if below.lstat(name) is not None:
                return
            try:
                if marker is not None and self.kept is not None:
                    with self.kept.inner(f".persist/overlay/{name}/upper") as upper:
                        if not self._done():
                            self._upper(upper)
                            self._mark(marker)
                        with below.own(name) as place:
                            # The directory itself: a name would be looked up once more, by the kernel.
                            newmount.attach(upper.fd, place.fd, read_only=True)
            finally:
                # An overlay that has lost what lies below it is better than a /var that takes no writes.
                if below.lstat(name) is None:
                    os.mkdir(name, 0o755, dir_fd=below.fd)

    def _upper(self, kept: Dir) -> None:
        """An upper in memory that looks from outside like the one on the volume."""
        with self.store.own("overlay") as overlays, overlays.own(self.planned.name) as mine:
            upper, work = self._layers(mine)
            with upper, work:
                self._like(kept.fd, upper)

    def _like(self, fd: int, to: Dir) -> None:
        copy_attributes(Source(fd, "directory", self.planned.path), to)

    @staticmethod
    def _layers(mine: Dir) -> tuple[Dir, Dir]:
        """Fresh directories for the upper and the work of an overlay; what a killed run left is not looked
        at."""
        for part in ("upper", "work"):
            mine.remove(part)
        return mine.own("upper"), mine.own("work")

    # -- bind and symlink

    def _tree(self, marker: bytes) -> None:
        assert self.kept is not None
        path = self.planned.path
        source = self.kept.node(path)
        if source is None and self._only_a_link(marker):
            self._parent().close()
            return
        if source is None:
            raise PersistError(f"{self.kept.path(path[1:])} does not exist any more.")
        try:
            mode = os.fstat(source).st_mode
            if stat.S_ISDIR(mode):
                self._directory(source)
            elif stat.S_ISREG(mode):
                with self._parent() as parent:
                    copy(Source(source, "file", path), parent, split(path)[-1], self.progress)
            else:
                raise LinkRefused(
                    f"{self.kept.path(path[1:])} is neither a directory nor a regular file.",
                    hint="Look at where it comes from.",
                )
        finally:
            os.close(source)

    @staticmethod
    def _only_a_link(marker: bytes) -> bool:
        with contextlib.suppress(ValueError):  # stores.note() says what is wrong with it
            return only_a_link(parse(marker))
        return False

    def _directory(self, source: int) -> None:
        """An overlay of the volume's directory, at its place in memory."""
        name, path = self.planned.name, self.planned.path
        assert self.kept is not None
        if os.path.ismount(self.memory.path(path[1:])):
            return
        with self.store.own("ro") as top, top.own(name) as mine:
            upper, work = self._layers(mine)
            with upper, work:
                self._like(source, upper)
                # Upper and work are in memory and ours. What is on the volume is given by its descriptor: a
                # name there is looked up by nobody.
                options = (
                    f"lowerdir=/proc/self/fd/{source},upperdir={overlay_option(upper.name)},workdir={overlay_option(work.name)},"
                    f"{OVERLAY_OPTIONS}"
                )
                self._on_place(lambda target: newmount.overlay(target, options))

    def _on_place(self, mount: Callable[[int], None]) -> None:
        name = split(self.planned.path)[-1]
        with self._parent() as parent:
            if parent.lstat(name) is None:
                os.mkdir(name, 0o755, dir_fd=parent.fd)
            with parent.sub(name) as target:
                mount(target.fd)

    def _parent(self) -> Dir:
        """The directory in memory that holds the path, made where missing; each takes after the one on the
        volume."""
        return self.memory.descend(split(self.planned.path)[:-1], self._make)

    def _make(self, here: Dir, path: str) -> None:
        name = os.path.basename(path)
        os.mkdir(name, 0o755, dir_fd=here.fd)
        if self.kept is None:
            return
        # Root's, 0755 for one that the volume does not know.
        with contextlib.suppress(FileNotFoundError), self.kept.sub(path) as there, here.sub(name) as made:
            self._like(there.fd, made)
