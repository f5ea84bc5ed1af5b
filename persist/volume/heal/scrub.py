# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read all of the volume, and what btrfs(8) says of that."""

from __future__ import annotations

import re

from persist.boot.paths import VOLUME
from persist.errors import PersistError
from persist.record import Record
from persist.system.run import run

_STATUS = re.compile(r"^Status:\s+(\S+)", re.MULTILINE)
_STARTED = re.compile(r"^Scrub (?:started|resumed):\s+(.*)$", re.MULTILINE)
_SUMMARY = re.compile(r"^Error summary:\s+(.*)$", re.MULTILINE)


class Scrubbed(Record):
    """What reading everything came to: '' for no errors, else what btrfs(8) counted; ``beyond_repair`` where
    a second copy was of no help."""

    errors: str
    beyond_repair: bool


def parse(text: str) -> Scrubbed:
    """The report of ``btrfs scrub start``. Pure. Raises PersistError where there is none in it, or it did not
    read everything."""
    found, status = _SUMMARY.search(text), _STATUS.search(text)
    if found is None or status is None:
        raise PersistError("btrfs(8) did not report how the scrub ended.", hint="See 'btrfs scrub status'.")
    if status[1] != "finished":
        raise PersistError(
            f"The scrub did not finish ({status[1]}).",
            hint="See 'journalctl -b -k' for errors of the disks.",
        )
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
    errors = summary[1].strip() if summary else "result not known"
    left = re.search(r"^Time left:\s+(\S+)", text, re.MULTILINE)
    if status[1] == "finished":
        return f"finished, {errors}; it was started {started[1].strip()}"
    return (
        f"{status[1]}, {errors} so far; it was started "
        f"{started[1].strip()}{', ' + left[1] + ' left' if left else ''}"
    )


def scrub(path: str = VOLUME) -> Scrubbed:
    """Read everything, at low priority; may take hours. Raises PersistError."""
    # 3: some errors could not be repaired (btrfs-scrub(8)); the report has them.
    return parse(run("btrfs", "scrub", "start", "-B", "-c", "3", path, ok=(0, 3), timeout=None))
