# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where tests cut the power: named steps of what has to be gone on with after a kill."""

from __future__ import annotations

import os

KILL = "PERSIST_TEST_KILL_AFTER"


def after(step: str) -> None:
    """Note that a step is done. With PERSIST_TEST_KILL_AFTER=<step> in the environment the process ends
    here."""
    if os.environ.get(KILL) == step:
        import signal  # a thousand names, which only a test needs

        os.kill(os.getpid(), signal.SIGKILL)
