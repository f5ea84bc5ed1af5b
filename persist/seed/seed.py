# SPDX-License-Identifier: LGPL-2.1-or-later
"""Seed one entry: the one-time copy into the volume when an entry is first met.

Content that is at its final place is never overwritten and never merged with anything, marker or not: it is
adopted.
"""

from __future__ import annotations

from persist.errors import PersistError
from persist.seed.content import Content
from persist.seed.request import Result, Roots, SeedRequest, fields
from persist.seed.store import Store, explain
from persist.seed.tree import Progress
from persist.seed.upper import Upper
from persist.system.safepath import Dir


def seed(entry: SeedRequest, roots: Roots, progress: Progress) -> Result:
    """Bring one entry onto the volume, once. Killed at any instant, the next call completes what was begun.
    ``progress`` hears how far a long copy is.

    Raises PersistError; then there is no marker, and nothing that was on the volume before has changed.
    """
    try:
        with (
            Store(roots.volume, entry.path) as store,
            Dir.at(roots.root) as live,
            Dir.at(roots.image) as image,
        ):
            method = Upper if entry.method == "overlay" else Content
            return method(entry, roots, store, live, image, progress).run()
    except PersistError as e:
        error = e
    except Exception as e:  # noqa: BLE001  # whatever it is, it costs this entry, and the next boot tries again
        error = explain(e, f"Failed to seed '{entry.path}'")
    if error.message_id == "FAILED":
        error.message_id = "SEED_FAILED"
    error.fields = fields(entry) | error.fields
    raise error
