# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine that runs, as each service sees it, and what was said before there was a journal."""

from __future__ import annotations

import os

from persist import log
from persist.boot import paths
from persist.boot.load import Loaded, load
from persist.volume import outcome


def running() -> Loaded:
    """Its configuration, what is known of it (``facts.mode`` is what this boot was asked for), and the plan.
    What is wrong with them is for the verdict to say."""
    return load("", os.environ)


def root_kept() -> bool:
    """Whether what is written to the root filesystem is there at the next boot, as persist-volume.service
    or the stage before PID 1 has found."""
    found = outcome.read()
    return found is not None and found.root_kept


def say_early() -> None:
    """Give the journal what the stage before PID 1 had to say, once; for the first service of ours that
    runs."""
    if os.path.lexists(paths.SAID):
        from persist.early import said

        try:
            for note in said.taken(paths.SAID):
                log.say(note)
        except OSError as e:
            log.log(log.WARNING, f"Failed to read {paths.SAID}: {e}", "FAILED", PERSIST_PATH=paths.SAID)
