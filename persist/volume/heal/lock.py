# SPDX-License-Identifier: LGPL-2.1-or-later
"""One at a time: persist-heal.service, and persistctl, which does the same steps by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from persist.boot import paths
from persist.system.files import held
from persist.volume import outcome

LOCK = paths.HEAL_LOCK


def heal_lock(*, wait: bool = True) -> AbstractContextManager[bool]:
    """Hold the lock; waits for whoever has it, or yields False without ``wait``. Raises OSError."""
    return held(LOCK, wait=wait)


@contextmanager
def by_hand() -> Iterator[None]:
    """Hold the lock for a change that somebody asked for, and leave word when it is free again: the verdict
    is to be made anew, and what happened to the volume meanwhile to be looked at. Raises OSError."""
    try:
        with heal_lock():
            yield
    finally:
        outcome.note_heal()
