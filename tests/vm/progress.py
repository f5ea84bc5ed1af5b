# SPDX-License-Identifier: LGPL-2.1-or-later
"""One line on stderr for each long step, with the seconds since the first."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_START = time.monotonic()


def note(text: str) -> None:
    """Print TEXT with the time elapsed since the process took up its work."""
    print(f"[{time.monotonic() - _START:7.1f}s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a step, and say how long it took when it ends well."""
    begin = time.monotonic()
    note(f"{text} ...")
    yield
    note(f"{text}: done in {time.monotonic() - begin:.1f} s")
