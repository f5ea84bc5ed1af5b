# SPDX-License-Identifier: LGPL-2.1-or-later
"""The word on the kernel command line, and what the machine knows of its volume."""

from __future__ import annotations

from pathlib import Path

import pytest

from persist.boot.config import Config
from persist.boot.facts import Facts
from persist.volume import mode, outcome
from persist.volume.find import search
from persist.volume.find.decision import Known


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


ID = "11111111-2222-4333-8444-555555555555"


@pytest.mark.parametrize(
    ("device", "told", "kept", "seconds"),
    [
        ("auto", Known(), True, 0),
        ("auto", Known(), False, search.SHORT_WAIT),
        ("auto", Known(named=ID), True, 7),
        ("auto", Known(known=ID), True, 7),
        ("auto", Known(wrong="another"), False, 0),
        ("/dev/vdb", Known(), True, 7),
        ("LABEL=data auto", Known(), True, 7),
        ("", Known(named=ID), False, 0),
    ],
)
def test_how_long_a_volume_is_waited_for(
    own_run: Path, device: str, told: Known, kept: bool, seconds: float
) -> None:
    """As long as the configuration says where somebody said that there is one, and never without a bound."""
    config = Config()
    config.device, config.member_timeout = device.split(), 7
    assert search.patience(config, told, kept=kept) == seconds


def test_a_volume_that_was_made_on_this_boot_is_waited_for(own_run: Path) -> None:
    config = Config()
    config.member_timeout = 7
    assert search.patience(config, Known(), kept=True) == 0
    outcome.note_formatted(ID)
    assert search.patience(config, Known(), kept=True) == 7
