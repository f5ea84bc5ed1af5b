# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps of seeding at which tests cut the power."""

from __future__ import annotations

import os
import signal

# The steps after which PERSIST_TEST_KILL_AFTER=<step> kills the process, for tests that cut the power.
STEPS = (
    "store",
    "work",
    "parents",
    "copied",
    "synced",
    "intent",
    "placed",
    "link-aside-copied",
    "link-aside",
    "linked",
    "manifest",
    "marker",
    "done",
)


def step(name: str) -> None:
    """Note that a step is done. With PERSIST_TEST_KILL_AFTER=<name> in the environment the process ends
    here."""
    assert name in STEPS, name
    if os.environ.get("PERSIST_TEST_KILL_AFTER") == name:
        os.kill(os.getpid(), signal.SIGKILL)
