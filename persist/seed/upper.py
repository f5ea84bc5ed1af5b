# SPDX-License-Identifier: LGPL-2.1-or-later
"""Overlay entries: nothing is copied, their changes lie on the volume in an upper."""

from __future__ import annotations

import os
import stat

from persist.boot.paths import escape, parents
from persist.errors import PersistError
from persist.note import NOTICE, WARNING
from persist.seed.attempt import Attempt
from persist.seed.copy import Source, copy_attributes
from persist.seed.intent import Intent
from persist.seed.live_path import LivePath
from persist.seed.request import apply_owner, owner_of
from persist.seed.steps import step
from persist.seed.tree import Summary
from persist.system.safepath import Dir


class Upper(Attempt):
    """Makes an empty upper, or adopts the one that is there."""

    def bring(self) -> None:
        entry, store = self.entry, self.store
        self._lower()
        intent = store.placed()
        if intent is None or store.overlays.lstat(store.name) is None:
            store.wipe()
            adopted = store.overlays.lstat(store.name) is not None
            with store.work.own("tree") as tree:
                self._upper(tree)
            intent = Intent(
                entry.path,
                entry.method,
                "directory",
                self.roots.image_version,
                "",
                adopted=adopted,
                summary=Summary(),
                listed=False,
            )
            if adopted:
                self.note(
                    NOTICE,
                    f"The changes of '{entry.path}' were already on the state volume and are used as they "
                    "are.",
                    "ENTRY_ADOPTED",
                )
                self._complete()
                store.work.remove("tree")
            store.intend(intent, b"")
            if not adopted:
                store.place(store.overlays, store.name)
        self.result.state, self.result.source = ("adopted" if intent.adopted else "seeded"), ""
        store.commit(intent)

    def _upper(self, tree: Dir) -> None:
        """An empty upper that looks like its lower directory from outside, and the work directory overlayfs
        needs."""
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
        apply_owner(owner_of(self.entry), tree, "upper")
        tree.own("work").close()
        step("copied")

    def _complete(self) -> None:
        """Add what an adopted overlay lacks; links in it are refused."""
        with self.store.overlays.sub(self.store.name) as there, self.store.work.sub("tree") as tree:
            for part in ("upper", "work"):
                if there.lstat(part) is None:
                    os.rename(part, part, src_dir_fd=tree.fd, dst_dir_fd=there.fd)
                there.sub(part).close()
            there.sync()

    def _lower(self) -> None:
        """Both ends of the overlay must exist: the directory that it hides as its lower, and something to
        mount on.

        The lower is the image's directory, and below another mount what the path itself shows, as in the
        mount's unit.
        """
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
                filled = stat.S_ISDIR(os.fstat(live).st_mode) and not seen.empty()
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
        LivePath(path, self.live, self.roots.links, self.roots.mounts).mount_point("directory")
        for up in parents(path):
            relative = path[len(up) + 1 :]
            with self.store.overlays.sub("") as overlays:
                fd = overlays.node(f"{escape(up)}/upper/{relative}")
            if fd is not None:
                os.close(fd)
                self.note(
                    WARNING,
                    f"Changes made below '{path}' as a part of '{up}' are hidden from now on; they stay in "
                    f".persist/overlay/{escape(up)}/upper/{relative} on the state volume.",
                    "SEED_DONE",
                )
