# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done after /etc came late: which target is started again (a rescue boot must stay one)."""

from __future__ import annotations

from pathlib import Path

import pytest

from persist.boot.facts import Facts
from persist.services.reload import target


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        ("quiet ro", "default.target"),
        ("single", ""),
        ("rescue", ""),
        ("1", ""),
        ("emergency", ""),
        ("quiet -b", ""),
        ("systemd.unit=rescue.target", "rescue.target"),
        ("systemd.unit=my.target", "my.target"),
        ("singles=1", "default.target"),
    ],
)
def test_target(cmdline: str, expected: str) -> None:
    facts = Facts()
    facts.cmdline = cmdline
    assert target(facts) == expected


def test_before_the_flush() -> None:
    """A flush takes all journals that are in /run; one that came before journald was restarted would be in
    the directory of the other id."""
    unit = (Path(__file__).resolve().parents[2] / "units/persist-reload.service").read_text()
    before = [
        word
        for line in unit.splitlines()
        if line.startswith("Before=")
        for word in line.removeprefix("Before=").split()
    ]
    after = [
        word
        for line in unit.splitlines()
        if line.startswith("After=")
        for word in line.removeprefix("After=").split()
    ]
    assert "systemd-journal-flush.service" in before and "etc.mount" in after
