# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every layer has: a /run of a test's own; at the end, the time of each module, so that growth is seen;
and with PERSIST_TEST_STRICT=1 no test that is left out."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LEAST_SEC = 1.0
# What the kernel of the machine that tests may lack, and no package brings.
OF_THE_KERNEL = ("no device-mapper in this kernel",)


_CLONE_NEWNS = 0x20000


@pytest.fixture(scope="session")
def own_mounts() -> None:
    """From now on what the tests mount is seen by them and their children alone."""
    if os.geteuid() != 0:
        pytest.skip("mounts need root")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


@pytest.fixture
def own_run(own_mounts: None) -> Iterator[Path]:
    """An empty /run, for this test and its children; returns /run/persist. No udev is known in it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"], check=True)
    try:
        place = Path("/run/persist")
        place.mkdir()
        yield place
    finally:
        subprocess.run(["umount", "--recursive", "/run"], check=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """`make test` sets PERSIST_TEST_STRICT=1: it has installed all that the tests need, so whoever skips
    hides something."""
    report = (yield).get_result()
    if (
        not report.skipped
        or os.environ.get("PERSIST_TEST_STRICT") != "1"
        or not isinstance(report.longrepr, tuple)
    ):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ")
    if reason not in OF_THE_KERNEL:
        report.outcome, report.longrepr = "failed", f"{item.nodeid} was left out: {reason}"


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
