# SPDX-License-Identifier: LGPL-2.1-or-later
"""One attempt at seeding one entry, of whichever method."""

from __future__ import annotations

from persist.note import WARNING, Note
from persist.seed.intent import Intent
from persist.seed.request import Result, Roots, SeedRequest, fields
from persist.seed.store import Store
from persist.seed.tree import Progress
from persist.system.safepath import Dir


class Attempt:
    """One attempt at one entry, all directories open."""

    def __init__(
        self,
        entry: SeedRequest,
        roots: Roots,
        store: Store,
        live: Dir,
        image: Dir,
        progress: Progress,
    ) -> None:
        self.entry, self.roots, self.store, self.live, self.image, self.progress = (
            entry,
            roots,
            store,
            live,
            image,
            progress,
        )
        self.result = Result("seeded")

    def note(self, priority: int, message: str, message_id: str) -> None:
        """Add something to be logged."""
        self.result.notes.append(Note(priority, message, message_id, fields(self.entry)))

    def commit(self, intent: Intent) -> None:
        """Write the marker; before it, what data of this image have been through."""
        if intent.fresh and intent.image_version == self.roots.image_version:
            self.roots.stamp(self.entry.path)
        self.store.commit(intent)

    def run(self) -> Result:
        """Do what is left to do."""
        done = self.store.marker()
        if done is not None:
            if done.method != self.entry.method:
                self.convert(done)
            self.store.tidy()
            self.result.state, self.result.source, self.result.summary = "present", done.source, done.summary
            return self.result
        try:
            self.bring()
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

    def convert(self, done: Intent) -> None:
        """Have the entry in the form that it says now, which is not the one that it was seeded for; or say
        why not."""
        self.note(
            WARNING,
            f"'{self.entry.path}' was seeded for Method={done.method}, and its entry now says "
            f"Method={self.entry.method}. Its content was not converted.",
            "ENTRY_AS_SEEDED",
        )

    def bring(self) -> None:
        """Bring the entry onto the volume, and what it needs on the live system; note in ``result`` what was
        done."""
        raise NotImplementedError
