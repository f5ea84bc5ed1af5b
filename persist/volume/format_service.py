# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-format.service: format what carries a claim."""

from __future__ import annotations

import os

from .. import log
from ..boot import facts
from ..boot.config import load
from ..boot.facts import Facts
from ..errors import PersistError
from . import claims, switch
from .claims import format_claimed


def _format_tagged(machine: Facts) -> int:
    """Format what udev tagged, and what it tags meanwhile: a start of a service that runs already is none. Returns how many disks failed."""
    from .search import what_is_known

    failed = 0
    seen: set[str] = set()
    while True:
        disks = claims.tagged()
        if seen >= {d.diskseq for d in disks}:
            return failed
        seen |= {d.diskseq for d in disks}
        failed += format_claimed(disks, load("", []), what_is_known(machine))


def format_main() -> int:
    """Run as persist-format.service: format what carries a claim and may be formatted.

    A refused claim is a warning in the journal and not a failure. Exit status 1 when formatting failed, or something unexpected did.
    """
    try:
        machine = facts.gather("", os.environ)
        if not claims.tagged():
            return 0
        if not machine.enabled:
            log.log(log.NOTICE, "A disk may carry a claim, but persist-setup.target is not enabled: nothing is formatted. "
                    "Run 'systemctl enable persist-setup.target'.", "CLAIM_REFUSED", PERSIST_REASON="not-enabled")
            return 0
        word = switch.volatile_word(machine)
        if word:
            log.log(log.NOTICE, f"A disk may carry a claim, and nothing is formatted: {switch.explain(word)[0]}", "CLAIM_REFUSED", PERSIST_REASON="volatile")
            return 0
        if switch.read_only(machine):
            log.log(log.NOTICE, "A disk may carry a claim, and nothing is formatted: persist=ro is on the kernel command line.", "CLAIM_REFUSED",
                    PERSIST_REASON="read-only")
            return 0
        return 1 if _format_tagged(machine) else 0
    except PersistError as e:
        log.log_error(e)
    except Exception as e:  # noqa: BLE001  # whatever it is, it is said in the journal, and the boot goes on
        log.log(log.ERR, f"Formatting failed: {type(e).__name__}: {e}. Please report this.", "FORMAT_FAILED", PERSIST_REASON="unexpected")
    return 1
