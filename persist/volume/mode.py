# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why a boot keeps nothing of what it writes, where ``persist=`` on the kernel command line asks for that."""

from __future__ import annotations

from persist.boot.facts import Facts
from persist.reason import Reason

READ_ONLY = Reason(
    "read-only",
    "persist=ro is on the kernel command line.",
    "Remove it there to write to the state volume again.",
)
_VOLATILE = Reason(
    "volatile",
    "persist=volatile is on the kernel command line.",
    "Remove it there to use the state volume again.",
)


def why(facts: Facts) -> Reason | None:
    """The reason for the verdict; None where nothing of that was asked, and for persist=off, which is a
    condition in the units."""
    if facts.mode == "ro":
        return READ_ONLY
    if facts.mode != "volatile":
        return None
    word = facts.option("persist")
    if word == "volatile":
        return _VOLATILE
    return Reason(
        "volatile",
        f"persist={word} is on the kernel command line, which this version treats as persist=volatile.",
        "The words that it knows are on, off, volatile and ro.",
    )
