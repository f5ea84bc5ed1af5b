# SPDX-License-Identifier: LGPL-2.1-or-later
"""The word on the kernel command line."""

from __future__ import annotations

import pytest

from persist.boot.facts import Facts
from persist.volume import mode


@pytest.mark.parametrize(
    ("cmdline", "asked"),
    [
        ("", "on"),
        ("quiet ro", "on"),
        ("persist", "on"),
        ("persist=", "on"),
        ("persist=on", "on"),
        ("persist=off", "off"),
        ("persist=volatile", "volatile"),
        ("persist=ro", "ro"),
        ("persist=Off", "volatile"),
        ("persist=off persist=ro", "ro"),
        ("persist=ro persist=on", "on"),
        ("persist=on persist=of", "volatile"),
        ("persist.volume=x", "on"),
        ("xpersist=ro", "on"),
    ],
)
def test_mode(cmdline: str, asked: str) -> None:
    facts = Facts()
    facts.cmdline = cmdline
    assert facts.mode == asked
    why = mode.why(facts)
    assert (why.code if why is not None else "") == {"ro": "read-only", "volatile": "volatile"}.get(asked, "")


def test_the_word_is_said() -> None:
    facts = Facts()
    for word in ("volatile", "RO", "of"):
        facts.cmdline = f"persist={word}"
        why = mode.why(facts)
        assert why is not None and why.message.startswith(f"persist={word} is on the kernel command line")
        assert ("treats as persist=volatile" in why.message) == (word != "volatile") and why.hint
