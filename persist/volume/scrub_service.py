# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-scrub.service: read all of the volume once a month, so that a copy that went bad is found while the other one is still good."""

from __future__ import annotations

import re
import signal
from types import FrameType

from .. import log
from ..boot.paths import VOLUME
from ..errors import PersistError
from ..record import Record
from ..run import run
from . import mountinfo, outcome

_stopped: list[int] = []
_STATUS = re.compile(r"^Status:\s+(\S+)", re.MULTILINE)
_STARTED = re.compile(r"^Scrub (?:started|resumed):\s+(.*)$", re.MULTILINE)
_SUMMARY = re.compile(r"^Error summary:\s+(.*)$", re.MULTILINE)


class Scrubbed(Record):
    """What reading everything came to: '' for no errors, else what btrfs(8) counted; ``beyond_repair`` where a second copy was of no help."""

    errors: str
    beyond_repair: bool


def parse(text: str) -> Scrubbed:
    """The report of ``btrfs scrub start``. Pure. Raises PersistError where there is none in it, or it did not read everything."""
    found, status = _SUMMARY.search(text), _STATUS.search(text)
    if found is None or status is None:
        raise PersistError("btrfs(8) does not say how the scrub ended.", hint="See 'btrfs scrub status'.")
    if status[1] != "finished":
        raise PersistError(f"It was not read to its end ({status[1]}).", hint="See 'journalctl -b -k' for errors of the disks.")
    summary = found[1].strip()
    if summary == "no errors found":
        return Scrubbed("", False)
    uncorrectable = re.search(r"Uncorrectable:\s+(\d+)", text)
    return Scrubbed(summary, bool(uncorrectable and int(uncorrectable[1])))


def last(text: str) -> str:
    """The last scrub by the report of ``btrfs scrub status``, 'never' where none is noted. Pure.

    btrfs(8) finds no errors in a volume that nobody has read, and keeps its notes in /var/lib/btrfs.
    """
    status, started, summary = _STATUS.search(text), _STARTED.search(text), _SUMMARY.search(text)
    if status is None or started is None:
        return "never, as far as /var/lib/btrfs has it noted"
    errors = summary[1].strip() if summary else "nobody says what it found"
    left = re.search(r"^Time left:\s+(\S+)", text, re.MULTILINE)
    if status[1] == "finished":
        return f"finished, {errors}; it was started {started[1].strip()}"
    return f"{status[1]}, {errors} as far as it came; it was started {started[1].strip()}{', ' + left[1] + ' left' if left else ''}"


def scrub(path: str = VOLUME) -> Scrubbed:
    """Read everything, at low priority; may take hours. Raises PersistError."""
    # 3: some errors could not be repaired (btrfs-scrub(8)); the report has them.
    return parse(run("btrfs", "scrub", "start", "-B", "-c", "3", path, ok=(0, 3), timeout=None))


def _cancel(number: int, frame: FrameType | None) -> None:
    _stopped.append(number)
    # The program waits in the kernel, which minds no signal; it ends, with an error, when the scrub is cancelled.
    run("btrfs", "scrub", "cancel", VOLUME, ok=(0, 1, 2))


def scrub_main() -> int:
    """Run as persist-scrub.service. Exit status 1 when it could not be done, or found what cannot be repaired."""
    signal.signal(signal.SIGTERM, _cancel)
    at = mountinfo.at(VOLUME)
    if at is None or at.fstype != "btrfs" or at.read_only:
        return 0
    log.notify_status("Reading all data of the state volume")
    try:
        found = scrub()
    except PersistError as e:
        if _stopped:
            log.log(log.NOTICE, "Reading the state volume was stopped before its end; it begins anew next month, or with 'persistctl volume scrub'.",
                    "FAILED", PERSIST_REASON="scrub-stopped")
            return 0
        log.log(log.ERR, f"The state volume could not be scrubbed: {e.message} {e.hint}".rstrip(), "FAILED", PERSIST_REASON="scrub")
        return 1
    if not found.errors:
        log.log(log.INFO, "All data of the state volume was read and is good.", "SCRUB_DONE")
        return 0
    fate = "Some could not be repaired; the kernel's log names the files." if found.beyond_repair else "All were repaired from a second copy."
    log.log(log.ERR if found.beyond_repair else log.WARNING, f"Errors were found on the state volume ({found.errors}). {fate}", "SCRUB_ERRORS",
            PERSIST_REASON="scrub-errors")
    outcome.note_heal()  # the counters have something to say now
    return 1 if found.beyond_repair else 0
