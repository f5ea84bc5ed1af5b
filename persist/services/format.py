# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-format.service: format what carries a claim."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from persist import log
from persist.boot import facts
from persist.boot.config import Config, load
from persist.boot.facts import Facts
from persist.errors import PersistError
from persist.system import udevd
from persist.system.blockdev import Disk
from persist.volume import mode
from persist.volume.format import asking
from persist.volume.format.claims import format_claimed

Disks = TypeVar("Disks")


def _take_word() -> None:
    """What udev tells from now on has persist-format.path start us again. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(asking.WORD)


def work(
    take: Callable[[], None],
    look: Callable[[], tuple[Disks, set[tuple[str, bytes]]]],
    do: Callable[[Disks], int],
    settle: Callable[[], object],
) -> int:
    """Format what udev tagged, and what it tags meanwhile: a start of a service that runs already is none.
    Pure: what it looks at and does is handed in. Returns how many disks failed. Passes on what these raise.

    ``take`` takes the word of udev away, before each look. ``look`` returns what is tagged, and what of that
    asks to be formatted: nothing more is done where all of that was seen before. ``settle`` waits until udev
    has told of what was done.
    """
    failed = 0
    seen: set[tuple[str, bytes]] | None = None
    while True:
        take()
        disks, found = look()
        if seen is not None and seen >= found:
            return failed
        seen = (seen or set()) | found
        more = do(disks)
        failed += more
        if more:
            # What we wrote to a disk that failed is an event, too, and must not start us again and again: its
            # word is taken away with the next look.
            settle()


def _format_tagged(machine: Facts) -> int:
    """As work(), on this machine."""
    from persist.volume.find.search import what_is_known

    def look() -> tuple[tuple[list[Disk], Config], set[tuple[str, bytes]]]:
        config, disks = load("", []), asking.tagged()
        return (disks, config), asking.heads(disks, config.magic_headers)

    def do(found: tuple[list[Disk], Config]) -> int:
        disks, config = found
        return format_claimed(disks, config, what_is_known(machine, log.say), log.say, log.notify_status)

    return work(_take_word, look, do, udevd.settle)


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
