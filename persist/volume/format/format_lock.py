# SPDX-License-Identifier: LGPL-2.1-or-later
"""One at a time: persist-format.service, and persistctl where it claims disks or prepares them by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from persist.boot import paths
from persist.errors import PersistError
from persist.system.files import held

LOCK = paths.FORMAT_LOCK


def alone() -> AbstractContextManager[bool]:
    """Hold the lock; waits for whoever has it. Raises OSError."""
    return held(LOCK)


@contextmanager
def by_hand(patience: float) -> Iterator[None]:
    """Hold the lock for somebody who waits for the result. Raises PersistError where it is not free within
    ``patience`` seconds, and OSError."""
    until = time.monotonic() + patience
    while True:
        with held(LOCK, wait=False) as ours:
            if ours:
                yield
                return
        if time.monotonic() >= until:
            raise PersistError(
                "persist-format.service is formatting disks.",
                hint="Try again when it is done; 'systemctl status persist-format.service' tells how far "
                "it is.",
            )
        time.sleep(0.1)
