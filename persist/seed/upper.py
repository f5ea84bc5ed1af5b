# SPDX-License-Identifier: LGPL-2.1-or-later
"""Overlay entries: their changes lie on the volume in an upper. Nothing is copied but what an overlay above
has kept of the path (from_above.py)."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack

from persist.errors import PersistError
from persist.note import NOTICE, WARNING
from persist.seed import from_above
from persist.seed.attempt import Attempt
from persist.seed.copy import Source, copy_attributes
from persist.seed.intent import Intent
from persist.seed.live_path import LivePath
from persist.seed.request import apply_owner, owner_of
from persist.seed.source import kept_above
from persist.seed.steps import step
from persist.seed.tree import Summary, as_in
from persist.system.safepath import Dir


class Upper(Attempt):
    """Makes an upper, or adopts the one that is there."""

    def bring(self) -> None:
        entry, store = self.entry, self.store
        above = from_above.find(store.volume, entry.overlay_above, entry.path)
        try:
            self._lower(taken=above is not None)
            live = LivePath(entry.path, self.live, self.roots.links, self.roots.mounts)
            live.check_mount_point("directory")
            intent = store.placed()
            if intent is None or store.overlays.lstat(store.name) is None:
                if above is None and store.overlays.lstat(store.name) is None:
                    self._hides_nothing()
                intent = self._make(above)
        finally:
            if above is not None:
                above.layer.close()
        # Only now: made in the overlay above, it would be opaque there, and as good as the machine's own.
        live.mount_point("directory")
        self.result.state = "adopted" if intent.adopted else "seeded"
        self.result.source, self.result.summary = intent.source, intent.summary
        self.commit(intent)

    def _make(self, above: from_above.Kept | None) -> Intent:
        """Bring an upper to its place, or complete what is there."""
        entry, store = self.entry, self.store
        store.wipe()
        adopted = store.overlays.lstat(store.name) is not None
        if adopted:
            above = None
        summary = Summary()
        if not entry.snapshot and not adopted:
            store.begin(nested=True)
            os.chmod(store.work.proc("tree"), 0o700)
        with store.work.own("tree") as tree:
            if above is None:
                self._upper(tree)
            else:
                summary = self._take_along(above, tree)
            apply_owner(owner_of(entry), tree, "upper")
            tree.own("work").close()
        step("copied")
        intent = Intent(
            entry.path,
            entry.method,
            "directory",
            self.roots.image_version,
            above.label if above is not None else "",
            adopted=adopted,
            summary=summary,
            listed=False,
        )
        if adopted:
            self.note(
                NOTICE,
                f"The changes of '{entry.path}' were already on the state volume and are used as they are.",
                "ENTRY_ADOPTED",
            )
            self._complete()
            store.work.remove("tree")
        intent.fresh = not adopted and above is None and not kept_above(self)
        store.intend(intent, b"")
        if not adopted:
            store.place(store.overlays, store.name)
        return intent

    def _hides_nothing(self) -> None:
        """Raise PersistError where a bind above shows something else than the image, on which an overlay
        begins."""
        path, store = self.entry.path, self.store
        with ExitStack() as stack, Dir.at(self.roots.lower) as lower:
            found = []
            for top in (store.volume, self.live, lower):
                try:
                    fd = top.node(path)
                except PersistError:
                    return  # a link on the way, through which nothing of ours is shown
                if fd is None:
                    return
                stack.callback(os.close, fd)
                found.append(fd)
            kept, shown, image = found
            if not os.path.samestat(os.fstat(kept), os.fstat(shown)):
                return
            if as_in(f"/proc/self/fd/{kept}/.", f"/proc/self/fd/{image}/."):
                return
        raise PersistError(
            f"'{path}' is kept by an entry above it, and is not as in the image any more: an overlay would "
            "hide that.",
            hint=f"Take its entry out ({self.entry.source}), for it is kept already. To begin on the image, "
            f"move '{store.volume.path(path[1:])}' away.",
        )

    def _take_along(self, above: from_above.Kept, tree: Dir) -> Summary:
        """The upper, with what the overlay above has kept of the path; there it stays."""
        self.store.one_at_a_time()
        self.progress.status(f"Copying {above.label}")
        with Dir.at(self.roots.lower) as lower:
            fd = lower.node(self.entry.path)
        try:
            image = None if fd is None else os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY)
        finally:
            if fd is not None:
                os.close(fd)
        try:
            summary, lost = from_above.take_along(above, image, tree, self.progress)
        finally:
            if image is not None:
                os.close(image)
        for text in lost:
            self.note(WARNING, text, "SEED_DONE")
        return summary

    def _upper(self, tree: Dir) -> None:
        """An empty upper that looks like its lower directory from outside."""
        with tree.own("upper") as upper:
            os.fchmod(upper.fd, 0o755)
            fd = (self.live if self.entry.below_mount else self.image).node(self.entry.path)
            if fd is not None:
                try:
                    lost = copy_attributes(Source(fd, "directory", self.entry.path), upper)
                finally:
                    os.close(fd)
                if lost:
                    self.note(
                        WARNING,
                        f"The state volume does not support {', '.join(lost)} of '{self.entry.path}'.",
                        "SEED_DONE",
                    )

    def _complete(self) -> None:
        """Add what an adopted overlay lacks; links in it are refused."""
        with self.store.overlays.sub(self.store.name) as there, self.store.work.sub("tree") as tree:
            for part in ("upper", "work"):
                if there.lstat(part) is None:
                    os.rename(part, part, src_dir_fd=tree.fd, dst_dir_fd=there.fd)
                there.sub(part).close()
            there.sync()

    def _lower(self, *, taken: bool) -> None:
        """The directory that the overlay hides must exist: the image's, and below another mount what the path
        itself shows, as in the mount's unit. ``taken``: what the path has is taken along."""
        path, below_mount = self.entry.path, self.entry.below_mount
        with Dir.at(self.roots.root if below_mount else self.roots.lower) as lower:
            fd = lower.node(path)
        if fd is not None:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
            os.close(fd)
            if not is_directory:
                where = "" if below_mount else " in the image"
                raise PersistError(
                    f"'{path}' is not a directory{where}, and overlays are made of directories.",
                    hint="Use Method=bind.",
                )
        elif below_mount:
            self.note(
                WARNING, f"'{path}' does not exist: an empty directory is made there.", "SEED_SOURCE_MISSING"
            )
        else:
            live = self.live.node(path)
            if live is not None:
                seen = Source(live, "directory", path)
                filled = not taken and stat.S_ISDIR(os.fstat(live).st_mode) and not seen.empty()
                os.close(live)
                if filled:
                    raise PersistError(
                        f"'{path}' is not in the image but has content, which an overlay would hide.",
                        hint="Use Method=bind, which takes it over.",
                    )
            self.note(
                WARNING,
                f"'{path}' does not exist in the image: an empty directory is made there.",
                "SEED_SOURCE_MISSING",
            )
            there = LivePath(path, self.image, self.roots.links, self.roots.mounts, ", or use Method=bind")
            there.mount_point("directory")
