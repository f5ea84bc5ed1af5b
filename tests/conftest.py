# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every layer has: at the end, the time of each module, so that growth is seen."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

LEAST_SEC = 1.0


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The modules that took longest, setup and teardown with them."""
    seconds: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for one in reports:
            if isinstance(one, pytest.TestReport):
                seconds[one.nodeid.split("::", 1)[0]] += one.duration
    if len(seconds) < 2:
        return
    terminalreporter.section("seconds of each module")
    rows = sorted(seconds.items(), key=lambda row: -row[1])
    for module, took in rows:
        if took >= LEAST_SEC:
            terminalreporter.line(f"{took:8.1f}  {module}")
    rest = [took for _, took in rows if took < LEAST_SEC]
    if rest:
        terminalreporter.line(f"{sum(rest):8.1f}  {len(rest)} modules of less than {LEAST_SEC:g} s each")
