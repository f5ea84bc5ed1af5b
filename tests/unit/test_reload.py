# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which target is started again after /etc came late: a rescue boot must stay one."""

from __future__ import annotations

import pytest

from persist.boot.facts import Facts
from persist.state.reload_service import target


@pytest.mark.parametrize(("cmdline", "expected"), [
    ("quiet ro", "default.target"),
    ("single", ""), ("rescue", ""), ("1", ""), ("emergency", ""), ("quiet -b", ""),
    ("systemd.unit=rescue.target", "rescue.target"),
    ("systemd.unit=my.target", "my.target"),
    ("singles=1", "default.target"),
])
def test_target(cmdline: str, expected: str) -> None:
    facts = Facts()
    facts.cmdline = cmdline
    assert target(facts) == expected
