# SPDX-License-Identifier: LGPL-2.1-or-later
"""``persist=`` on the kernel command line. 'off' is a condition in the units; persist-early has the same rule
in shell."""

from __future__ import annotations

from persist.boot.facts import Facts

_NORMAL = ("", "on", "off")
_READ_ONLY = "ro"
# Reason, message and hint of a boot with it.
READ_ONLY = (
    "read-only",
    "persist=ro is on the kernel command line.",
    "Remove it there to write to the state volume again.",
)


def volatile_word(facts: Facts) -> str:
    """The value of ``persist=`` that asks for a boot in memory, '' where none does.

    Whoever writes a word there wants less than usual, so one that this version does not know keeps its hands
    off the disks.
    """
    word = facts.option("persist")
    return "" if word is None or word in _NORMAL or word == _READ_ONLY else word


def read_only(facts: Facts) -> bool:
    """Whether the volume shall lie read-only below memory on this boot (persist=ro)."""
    return facts.option("persist") == _READ_ONLY


def explain(word: str) -> tuple[str, str]:
    """Message and hint for such a word."""
    if word == "volatile":
        return (
            "persist=volatile is on the kernel command line.",
            "Remove it there to use the state volume again.",
        )
    return (
        f"persist={word} is on the kernel command line, which this version treats as persist=volatile.",
        "The words that it knows are on, off, volatile and ro.",
    )
