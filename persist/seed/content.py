# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bind and symlink entries: their content lies on the volume at its own path."""

from __future__ import annotations

import os
import stat

from persist.errors import PersistError
from persist.note import NOTICE, WARNING
from persist.record import replace
from persist.seed.attempt import Attempt
from persist.seed.copy import Source, copy
from persist.seed.intent import Intent
from persist.seed.live_path import LivePath
from persist.seed.request import apply_owner, owner_of
from persist.seed.source import Sources, of_the_image
from persist.seed.steps import step
from persist.seed.store import only_leads_to, remove_empty
from persist.seed.tree import Summary, manifest
from persist.system.files import kind as kind_of
from persist.system.safepath import Dir, split


class Content(Attempt):
    """Copies what the entry is seeded from, or adopts what is there."""

    def bring(self) -> None:
        source = Sources(self.entry, self.roots, self.live, self.image, self.store.volume, self.note).find()
        try:
            self._bring_from(source)
        finally:
            if source is not None:
                os.close(source.fd)

    def convert(self, done: Intent) -> None:
        """A bind and a link share their place: the path becomes what the entry says, then the marker says it.
        Raises PersistError with the path as it was, or on the way."""
        entry, store = self.entry, self.store
        if done.method not in ("bind", "symlink"):
            super().convert(done)
            return
        live = LivePath(entry.path, self.live, self.roots.links, self.roots.mounts)
        with store.parents(entry.path, []) as parent:
            if parent.lstat(split(entry.path)[-1]) is None:
                raise PersistError(f"'{parent.path(split(entry.path)[-1])}' does not exist, or not yet.")
            home = live.is_home(parent)
        if entry.method == "symlink" and not home:
            live.check(done.type)
            live.put(store, self.progress)
        elif not home:
            live.take_away(done.type)
        store.say_anew(replace(done, method=entry.method))
        self.note(
            NOTICE,
            f"'{entry.path}' was seeded for Method={done.method}, and is what its entry says now: "
            f"Method={entry.method}.",
            "ENTRY_CONVERTED",
        )

    def _bring_from(self, source: Source | None) -> None:
        entry, store = self.entry, self.store
        kind = entry.type or (source.kind if source else "directory")
        as_link = entry.method == "symlink"
        # A program that makes the file writes through the link, and may stop at an empty one (ssh-keygen).
        nothing = as_link and kind == "file" and source is None
        live = LivePath(entry.path, self.live, self.roots.links, self.roots.mounts)
        with store.parents(
            entry.path, [self.live] if entry.below_mount else [self.image, self.live]
        ) as parent:
            step("parents")
            name = split(entry.path)[-1]
            home = live.is_home(parent)
            intent = store.placed()
            if intent is None or parent.lstat(name) is None:
                store.wipe()
                there = parent.lstat(name)
                if there is not None:
                    found = self._adoptable(parent, name, there, source)
                    kind, there = found or kind, there if found else None
                if as_link and not home:
                    live.check(kind)
                elif not home:
                    live.check_mount_point(kind)
                if there is not None:
                    intent = self._adopt(kind)
                elif nothing:
                    intent = self._nothing(kind)
                else:
                    # A directory does not move into the subvolume of another entry, a subvolume does.
                    apart = os.fstat(parent.fd).st_dev != os.fstat(store.work.fd).st_dev
                    intent = self._copy(source, kind, nested=apart or not entry.snapshot)
                    store.place(parent, name)
            # The mount point only now: an empty one made earlier would look like a source to the next
            # attempt.
            if not as_link and not home:
                live.mount_point(intent.type)
            self.result.state = "adopted" if intent.adopted else "seeded" if intent.source else "empty"
            self.result.source, self.result.summary = intent.source, intent.summary
            if as_link and not home:
                live.put(store, self.progress)
            self.commit(intent)

    def _copy(self, source: Source | None, kind: str, *, nested: bool) -> Intent:
        """Make the tree in the work directory, complete and synced."""
        entry, store = self.entry, self.store
        owner, summary = owner_of(entry), Summary()
        if source is None:
            if kind == "directory":
                store.begin(nested=nested)
            else:
                store.work.write("tree", b"", 0o644)
            if entry.method != "symlink" or entry.seed_from:
                self.note(
                    WARNING,
                    f"'{entry.path}' does not exist in the image: an empty {kind} was made on the state "
                    "volume.",
                    "SEED_SOURCE_MISSING",
                )
        else:
            store.one_at_a_time()
            self.progress.status(f"Copying {source.label}")
            begin = (lambda: store.begin(nested=True)) if nested and kind == "directory" else None
            summary, lost = copy(source, store.work, "tree", self.progress, begin)
            for text in lost:
                self.note(WARNING, text, "SEED_DONE")
        apply_owner(owner, store.work, "tree")
        step("copied")
        listing = manifest(store.work.proc("tree"))
        intent = Intent(
            entry.path,
            entry.method,
            kind,
            self.roots.image_version,
            source.label if source else "",
            adopted=False,
            summary=summary,
            listed=True,
            fresh=source is None or of_the_image(source, self),
        )
        store.intend(intent, listing)
        return intent

    def _adoptable(self, parent: Dir, name: str, there: os.stat_result, source: Source | None) -> str:
        """The type of what is at the final place; nothing when it was but empty directories, which are taken
        away.

        Raises PersistError when it must not be used.
        """
        entry, at = self.entry, parent.path(name)
        if stat.S_ISLNK(there.st_mode):
            raise PersistError(
                f"'{at}' on the state volume is a symbolic link, which persist does not follow.",
                hint="Find out where it comes from, and move it away.",
            )
        kind = kind_of(there.st_mode)
        wanted = entry.type or (source.kind if source else kind)
        if kind != wanted:
            raise PersistError(
                f"'{at}' on the state volume is a {kind}, and '{entry.path}' is a {wanted}.",
                hint="Move it away, or correct Type=.",
            )
        kept = self.store.kept_below()
        if (
            kind == "directory"
            and source is not None
            and only_leads_to(parent, name, entry.path, kept)
            and set(os.listdir(source.path())) - set(os.listdir(parent.proc(name)))
        ):
            # Parents made for entries below. Adopting them would hide all of the image's content but the
            # children's.
            if only_leads_to(parent, name, entry.path, []):
                remove_empty(parent, name)
                return ""
            raise PersistError(
                f"'{at}' on the state volume holds only {', '.join(kept[:3])}: it cannot be adopted for "
                f"'{entry.path}', nor merged with it.",
                hint="Use Method=overlay for it, or copy what is missing there by hand.",
            )
        return kind

    def _adopt(self, kind: str) -> Intent:
        self.note(
            NOTICE,
            f"'{self.entry.path}' was already on the state volume and is used as it is.",
            "ENTRY_ADOPTED",
        )
        return self._nothing(kind, adopted=True)

    def _nothing(self, kind: str, *, adopted: bool = False) -> Intent:
        """The marker to be of what was not copied."""
        entry = self.entry
        intent = Intent(
            entry.path,
            entry.method,
            kind,
            self.roots.image_version,
            "",
            adopted=adopted,
            summary=Summary(),
            listed=False,
            fresh=not adopted,
        )
        self.store.intend(intent, b"")
        return intent
