# SPDX-License-Identifier: LGPL-2.1-or-later
"""Seed one entry: the one-time copy into the volume when an entry is first met.

Content that is at its final place is never overwritten and never merged with anything, marker or not: it is
adopted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from persist.boot.paths import escape, parents
from persist.errors import PersistError
from persist.log import NOTICE, WARNING, notify_status
from persist.seed import machine_id
from persist.seed.copy import Source, copy, copy_attributes
from persist.seed.live_path import LivePath
from persist.seed.request import Note, Result, Roots, SeedRequest, apply_owner, image_version, owner_of
from persist.seed.source import Sources
from persist.seed.store import Intent, Store, explain, only_leads_to, remove_empty, step
from persist.seed.tree import Summary, manifest
from persist.system.safepath import Dir, split

__all__ = ["SeedRequest", "Note", "Result", "Roots", "image_version", "seed"]


def seed(entry: SeedRequest, roots: Roots, say: Callable[[str], None] = notify_status) -> Result:
    """Bring one entry onto the volume, once. Killed at any instant, the next call completes what was begun.

    Raises PersistError; then there is no marker, and nothing that was on the volume before has changed.
    """
    try:
        with (
            Store(roots.volume, entry.path) as store,
            Dir.at(roots.root) as live,
            Dir.at(roots.image) as image,
        ):
            return _Seeding(entry, roots, store, live, image, say).run()
    except PersistError as e:
        error = e
    except Exception as e:  # noqa: BLE001  # whatever it is, it costs this entry, and the next boot tries again
        error = explain(e, f"Seeding '{entry.path}' failed")
    if error.message_id == "FAILED":
        error.message_id = "SEED_FAILED"
    error.fields = {
        "PERSIST_PATH": entry.path,
        "PERSIST_METHOD": entry.method,
        "PERSIST_SOURCE": entry.source,
    } | error.fields
    raise error


class _Seeding:
    """One attempt at one entry, all directories open."""

    def __init__(
        self,
        entry: SeedRequest,
        roots: Roots,
        store: Store,
        live: Dir,
        image: Dir,
        say: Callable[[str], None],
    ) -> None:
        self.entry, self.roots, self.store, self.live, self.image, self.say = (
            entry,
            roots,
            store,
            live,
            image,
            say,
        )
        self.result = Result("seeded")

    def note(self, priority: int, message_id: str, text: str) -> None:
        """Add something to be logged."""
        self.result.notes.append(Note(priority, message_id, text))

    def run(self) -> Result:
        """Do what is left to do."""
        done = self.store.marker()
        if done is not None:
            if done.method != self.entry.method:
                self.note(
                    WARNING,
                    "ENTRY_ADOPTED",
                    f"'{self.entry.path}' was seeded for Method={done.method}, and is "
                    f"Method={self.entry.method} now. Nothing was converted.",
                )
            self.store.tidy()
            self.result.state, self.result.source, self.result.summary = "present", done.source, done.summary
            return self.result
        try:
            if self.entry.method == "overlay":
                self._overlay()
            else:
                self._tree()
        except Exception as e:
            # The space may be what was missing, and a tree that is not placed is of no use. What was placed
            # stays.
            try:
                if self.store.placed() is None:
                    self.store.tidy()
                    # btrfs gives the space back only then, and others want it
                    self.store.tmp.sync_filesystem()
            except OSError as left:
                e.add_note(f"What was copied so far could not be removed: {left}")
            raise
        return self.result

    # -- bind and symlink

    def _tree(self) -> None:
        source = Sources(self.entry, self.roots, self.live, self.image, self.store.volume, self.note).find()
        try:
            self._tree_from(source)
        finally:
            if source is not None:
                os.close(source.fd)

    def _tree_from(self, source: Source | None) -> None:
        entry, store = self.entry, self.store
        kind = entry.type or (source.kind if source else "directory")
        as_link = entry.method == "symlink"
        live = LivePath(entry.path, self.live, self.roots.links, self.roots.mounts)
        with store.parents(
            entry.path, [self.live] if entry.below_mount else [self.image, self.live]
        ) as parent:
            step("parents")
            name = split(entry.path)[-1]
            intent = store.placed()
            if intent is None or parent.lstat(name) is None:
                store.wipe()
                there = parent.lstat(name)
                if there is not None:
                    found = self._adoptable(parent, name, there, source)
                    kind, there = found or kind, there if found else None
                if as_link:
                    live.check(kind)
                else:
                    live.check_mount_point(kind)
                intent = self._adopt(kind) if there is not None else self._copy(source, kind)
                if there is None:
                    store.place(parent, name)
            # The mount point only now: an empty one made earlier would look like a source to the next
            # attempt.
            if not as_link:
                live.mount_point(intent.type)
            self.result.state = "adopted" if intent.adopted else "seeded" if intent.source else "empty"
            self.result.source, self.result.summary = intent.source, intent.summary
            if as_link:
                live.put(store)
            elif entry.path == "/etc":
                with parent.sub(name) as etc:
                    self._machine_id(etc)
            store.commit(intent)

    def _copy(self, source: Source | None, kind: str) -> Intent:
        """Make the tree in the work directory, complete and synced."""
        entry, store = self.entry, self.store
        owner, summary = owner_of(entry), Summary()
        if source is None:
            if kind == "directory":
                os.mkdir("tree", 0o755, dir_fd=store.work.fd)
                os.chmod(store.work.proc("tree"), 0o755)
            else:
                store.work.write("tree", b"", 0o644)
            if entry.method != "symlink" or entry.seed_from:
                self.note(
                    WARNING,
                    "SEED_SOURCE_MISSING",
                    f"'{entry.path}' does not exist in the image: an empty {kind} was made on the state "
                    "volume.",
                )
        else:
            store.one_at_a_time()
            self.say(f"Copying {source.label}")
            summary, lost = copy(source, store.work, "tree", self.say)
            for text in lost:
                self.note(WARNING, "SEED_DONE", text)
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
                hint="Look at where it comes from, and move it away.",
            )
        mode = there.st_mode
        kind = "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "device or pipe"
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
                f"'{at}' on the state volume is there only for {', '.join(kept[:3])}; it cannot be adopted "
                "for "
                f"'{entry.path}', and is not merged with it.",
                hint="Use Method=overlay for it, or copy what is missing there by hand.",
            )
        return kind

    def _adopt(self, kind: str) -> Intent:
        entry = self.entry
        self.note(
            NOTICE, "ENTRY_ADOPTED", f"'{entry.path}' was already on the state volume and is used as it is."
        )
        intent = Intent(
            entry.path,
            entry.method,
            kind,
            self.roots.image_version,
            "",
            adopted=True,
            summary=Summary(),
            listed=False,
        )
        self.store.intend(intent, b"")
        return intent

    # -- overlay

    def _overlay(self) -> None:
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
                    "ENTRY_ADOPTED",
                    f"The changes of '{entry.path}' were already on the state volume and are used as they "
                    "are.",
                )
                self._complete()
                store.work.remove("tree")
            store.intend(intent, b"")
            if not adopted:
                store.place(store.overlays, store.name)
        self.result.state, self.result.source = ("adopted" if intent.adopted else "seeded"), ""
        if entry.path == "/etc":
            with store.overlays.sub(store.name + "/upper") as upper:
                self._machine_id(upper)
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
                        "SEED_DONE",
                        f"The volume cannot keep {', '.join(lost)} of '{self.entry.path}'.",
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
                WARNING, "SEED_SOURCE_MISSING", f"'{path}' does not exist: an empty directory is made there."
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
                "SEED_SOURCE_MISSING",
                f"'{path}' does not exist in the image: an empty directory is made there.",
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
                    "SEED_DONE",
                    f"What was changed below '{path}' as a part of '{up}' is hidden from now on; it stays in "
                    f".persist/overlay/{escape(up)}/upper/{relative} on the state volume.",
                )

    def _machine_id(self, etc: Dir) -> None:
        priority, text = machine_id.keep(etc, self.store.work, self.roots.root)
        self.note(priority, "MACHINE_ID_KEPT", text)
        step("machine-id")
        took = machine_id.take_bind_away(self.roots.root)
        if took is not None:
            self.note(took[0], "MACHINE_ID_KEPT", took[1])
        step("unbound")
