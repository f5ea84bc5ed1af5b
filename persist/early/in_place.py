# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries brought into place before PID 1: overlays are seeded, where that copies nothing, and what is
seeded is mounted. What PID 1 reads is seeded by copy too; other copies are left to the real root, which
shows how far they are."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from persist.boot import paths
from persist.boot.load import Loaded
from persist.boot.plan import Planned
from persist.boot.units import TMPFS_OPTIONS
from persist.entries import stores
from persist.entries.bind import Places, failure, place, target
from persist.errors import PersistError
from persist.note import DEBUG, WARNING, Say, Status, of
from persist.system import newmount
from persist.system.run import run
from persist.system.safepath import Dir


class InPlace:
    """One pass over the entries of a plan. ``say`` and ``status`` as ever; ``root_writable``: PID 1 is going
    to find a root that takes writes, or to make it one. ``failed``: paths that failed in an earlier pass, and
    why: they are not tried again.
    ``later``: paths of entries that are converted in the real root."""

    def __init__(
        self,
        loaded: Loaded,
        say: Say,
        status: Status,
        *,
        root_writable: bool,
        failed: Mapping[str, str] | None = None,
        later: Collection[str] = (),
    ) -> None:
        self.loaded, self.say, self.status, self.root_writable = loaded, say, status, root_writable
        self.places = Places(loaded, early=True)
        self.left: list[str] = []
        self.later = later
        self.why = dict(failed or {})  # of those that failed

    def bring(self, only: Collection[str] | None = None) -> list[str]:
        """Bring entries into place, parents first (those at the paths of ``only``). Returns the paths of
        those that are not, and are left to the real root. An entry that fails costs that entry and those
        below it; it is said. Raises OSError where /proc is not mounted."""
        not_there: set[str] = set()
        for planned in self.loaded.plan.entries:
            if only is not None and planned.path not in only:
                continue
            there = planned.parent not in not_there and self._try(planned)
            if not there:
                not_there.add(planned.path)
                self.left.append(planned.path)
        return self.left

    def _try(self, planned: Planned) -> bool:
        if planned.path in self.why:
            return False
        try:
            return self._bring(planned)
        except (PersistError, OSError) as e:
            error = failure(planned, e)
            # Its units try again in the real root, and say it there. What PID 1 reads is not tried again.
            self.say(of(error, WARNING if planned.before_pid1 else DEBUG))
            self.why[planned.path] = error.message
            return False

    def _bring(self, planned: Planned) -> bool:
        """Whether an entry is in place now. Raises PersistError and OSError."""
        path, method = planned.path, planned.entry.method
        if method == "tmpfs":
            return self._memory(planned)
        if method == "image":
            return self._hole(planned)
        if path in self.later or self.places.waits(path) or self.places.later(path):
            return False
        if not stores.flag(planned.name) and not self._seed(planned):
            return False
        if method == "symlink":
            return True  # the link is the image's
        if path in self.places.at:
            return place(planned, self.places)
        with self._kept_in_sight(path):
            return place(planned, self.places)

    @contextmanager
    def _kept_in_sight(self, path: str) -> Iterator[None]:
        """What the initrd has mounted below a path (x-initrd.mount in fstab) is mounted there again, over
        what comes on the path. Raises PersistError and OSError."""
        below = sorted(p for p in self.places.at if p.startswith(path + "/"))
        kept: list[tuple[str, int]] = []
        try:
            with Dir.at("/") as live:
                for child in below:
                    if not any(child.startswith(f"{upper}/") for upper, _ in kept):
                        source = live.node(child)
                        if source is not None:
                            kept.append((child, source))
            yield
            self.places.look()
            if kept and path in self.places.at:
                with Dir.at("/") as live:
                    for child, source in kept:
                        self._attach(live, child, source)
        finally:
            for _, source in kept:
                os.close(source)

    def _attach(self, live: Dir, child: str, source: int) -> None:
        there = live.node(child)
        if there is None:
            raise PersistError(f"{child} is mounted below it, and does not exist there any more.")
        try:
            newmount.attach(source, there, recursive=True)
        finally:
            os.close(there)

    def _seed(self, planned: Planned) -> bool:
        """Whether an entry is seeded now; one that copies is not, unless PID 1 reads it. Raises PersistError
        and OSError."""
        if not planned.before_pid1 and self._copies(planned):
            return False
        if planned.entry.required != "no" and not self.places.persistent:
            return False
        self._seed_now(planned)
        with Dir.at(paths.VOLUME) as volume:
            stores.note(volume, planned.path, planned.name, planned.entry.method)
        return True

    def _copies(self, planned: Planned) -> bool:
        """Raises PersistError and OSError."""
        from persist.entries.seeding import copies, request  # not in a steady boot

        with Dir.at(paths.VOLUME) as volume:
            if stores.seeded(volume, planned.name):
                return False
        return copies(request(planned, self.loaded.plan), paths.VOLUME)

    def _seed_now(self, planned: Planned) -> None:
        """Raises PersistError and OSError."""
        from persist.entries.seeding import request, told  # not in a steady boot
        from persist.migrate import seeded
        from persist.seed.request import Roots, image_version
        from persist.seed.seed import seed
        from persist.seed.tree import Progress

        version = image_version("/")
        roots = Roots(
            image_version=version,
            mounts=(self.loaded.config.mount,),
            stamp=lambda path: seeded.stamp(self.loaded.plan, planned.name, version),
        )
        wanted = request(planned, self.loaded.plan)
        for note in told(wanted, seed(wanted, roots, Progress(lambda text: self.status(text, 60)))):
            self.say(note)

    def _hole(self, planned: Planned) -> bool:
        """A path below an entry that shows the image, as its unit does it. Raises PersistError and
        OSError."""
        path = planned.path
        if path in self.places.at:
            return True
        if self.places.waits(path) or self.places.later(path):
            return False
        image = paths.IMAGE + path
        if not os.path.exists(image) or not os.path.lexists(path):
            return True  # there is no hole to make
        with Dir.at(paths.IMAGE) as top:
            source = top.node(path)
        if source is None:
            return False
        try:
            fd = target(planned, "directory" if os.path.isdir(image) else "file")
            try:
                newmount.attach(source, fd)
            finally:
                os.close(fd)
        finally:
            os.close(source)
        self.places.look()
        return True

    def _memory(self, planned: Planned) -> bool:
        """A path that is to take writes, on a root that never does. PID 1 has the same for all others."""
        path = planned.path
        if path in self.places.at or self.root_writable or self.places.waits(path):
            return True
        if os.path.islink(path) or not os.path.isdir(path):
            return True  # its unit says so
        run("mount", "-t", "tmpfs", "-o", TMPFS_OPTIONS, "tmpfs", path)
        self.places.look()
        return True
