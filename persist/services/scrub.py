# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-scrub.service: read all of the volume once a month, so that a copy that went bad is found while the
other one is still good."""

from __future__ import annotations

import signal
from types import FrameType

from persist import log
from persist.boot.paths import VOLUME
from persist.errors import PersistError
from persist.system import mountinfo
from persist.system.run import run
from persist.volume import outcome
from persist.volume.heal.scrub import scrub

_stopped: list[int] = []


def _cancel(number: int, frame: FrameType | None) -> None:
    _stopped.append(number)
    # The program waits in the kernel, which minds no signal; it ends, with an error, when the scrub is
    # cancelled.
    run("btrfs", "scrub", "cancel", VOLUME, ok=(0, 1, 2))


def scrub_main() -> int:
    """Run as persist-scrub.service. Exit status 1 when it could not be done, or found what cannot be
    repaired."""
    signal.signal(signal.SIGTERM, _cancel)
    at = mountinfo.at(VOLUME)
    if at is None or at.fstype != "btrfs" or at.read_only:
        return 0
    log.notify_status("Reading all data of the state volume")
    try:
        found = scrub()
    except PersistError as e:
        if _stopped:
            log.log(
                log.NOTICE,
                "Reading the state volume was stopped before its end; it begins anew next month, or with "
                "'persistctl volume scrub'.",
                "FAILED",
                PERSIST_REASON="scrub-stopped",
            )
            return 0
        log.log(
            log.ERR,
            f"Failed to scrub the state volume: {e.message} {e.hint}".rstrip(),
            "FAILED",
            PERSIST_REASON="scrub",
        )
        return 1
    if not found.errors:
        log.log(log.INFO, "All data of the state volume was read, and no errors were found.", "SCRUB_DONE")
        return 0
    fate = (
        "Some could not be repaired; the kernel's log names the files."
        if found.beyond_repair
        else "All were repaired from a second copy."
    )
    log.log(
        log.ERR if found.beyond_repair else log.WARNING,
        f"Errors were found on the state volume ({found.errors}). {fate}",
        "SCRUB_ERRORS",
        PERSIST_REASON="scrub-errors",
    )
    outcome.note_heal()  # the counters have something to say now
    return 1 if found.beyond_repair else 0
