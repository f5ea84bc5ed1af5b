# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-format.service: format what carries a claim."""

from __future__ import annotations

import os
from contextlib import suppress

from persist import log
from persist.boot import facts
from persist.boot.config import Config, load
from persist.boot.facts import Facts
from persist.errors import PersistError
from persist.system import blockdev, superblock
from persist.system.blockdev import Disk
from persist.system.run import run
from persist.volume import mode
from persist.volume.format import asking
from persist.volume.format.claims import format_claimed
from persist.volume.ondisk import header


def _take_word() -> None:
    """What udev tells from now on has persist-format.path start us again. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(asking.WORD)


def _asking(disks: list[Disk], config: Config) -> set[tuple[str, bytes]]:
    """The disks that carry a claim, each with it, less the mark of a formatter: one that is claimed with
    other options is another."""
    found = set()
    for disk in disks:
        head = b""
        with suppress(OSError):  # format_claimed() says it
            head = superblock.read_at(disk.node, 0, header.MARK_OFFSET)
        if any(head.startswith(word.encode("ascii")) for word in config.magic_headers):
            found.add((disk.diskseq, head))
    return found


def _format_tagged(machine: Facts) -> int:
    """Format what udev tagged, and what it tags meanwhile: a start of a service that runs already is none.
    Returns how many disks failed."""
    from persist.volume.find.search import what_is_known

    failed = 0
    seen: set[tuple[str, bytes]] | None = None
    while True:
        _take_word()
        config, disks = load("", []), asking.tagged()
        found = _asking(disks, config)
        if seen is not None and seen >= found:
            return failed
        seen = (seen or set()) | found
        more = format_claimed(disks, config, what_is_known(machine, log.say), log.say, log.notify_status)
        failed += more
        if more and blockdev.udev_runs():
            # What we wrote to a disk that failed is an event, too, and must not start us again and again: its
            # word is taken away with the next look.
            run("udevadm", "settle", "--timeout=30", ok=(0, 1))


def format_main() -> int:
    """Run as persist-format.service: format what carries a claim and may be formatted.

    A refused claim is a warning in the journal and not a failure. Exit status 1 when formatting failed, or
    something unexpected did.
    """
    try:
        _take_word()
        machine = facts.gather("", os.environ)
        if not asking.tagged():
            return 0
        if not machine.enabled:
            log.log(
                log.NOTICE,
                "A disk may carry a claim, but persist-setup.target is not enabled: nothing is formatted. "
                "Run 'systemctl enable persist-setup.target'.",
                "CLAIM_REFUSED",
                PERSIST_REASON="not-enabled",
            )
            return 0
        why = mode.why(machine)
        if why is not None:
            log.log(
                log.NOTICE,
                f"A disk may carry a claim, and nothing is formatted: {why.message}",
                "CLAIM_REFUSED",
                PERSIST_REASON=why.code,
            )
            return 0
        return 1 if _format_tagged(machine) else 0
    except PersistError as e:
        log.log_error(e)
    except Exception as e:  # noqa: BLE001  # whatever it is, it is said in the journal, and the boot goes on
        log.log(
            log.ERR,
            f"Formatting failed: {type(e).__name__}: {e}. Please report this.",
            "FORMAT_FAILED",
            PERSIST_REASON="unexpected",
        )
    return 1
