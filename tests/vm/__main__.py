# SPDX-License-Identifier: LGPL-2.1-or-later
"""The VM layer, two machines side by side: each of one processor, since in software emulation a second one
costs more than it does.

    python3 -m tests.vm [--jobs N] [-k EXPRESSION] [-m EXPRESSION] [FILE...]

The tests are dealt out in units, each a pytest of its own: those that share a machine are one unit, any other
test is one by itself. Where PERSIST_TEST_BESIDE names a file, all machines but one wait until nobody has it
locked: others have the processors until then (tests/layers.py).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from tests.processes import BESIDE

# Fixtures of a module: a machine that tests go back to by a snapshot.
SHARED = ("pairs", "shared", "first_boot")
# The same for tests of several modules.
SHARED_BY_MODULES = ("booted_once", "booted_without")
# The longest begin, or one worker would be left alone with them at the end: seconds on two idle cores, to be
# kept roughly true.
SECONDS = {
    "mirror: pairs bookworm": 390,
    "powercut: first_boot": 300,
    "booted_once": 200,
    "seal_boot: two_clones[bookworm]": 200,
    "seal_boot: two_clones[trixie]": 190,
    "stage: dracut[bookworm]": 170,
    "mirror: pairs trixie": 170,
    "story: machine_remembers": 170,
    "booted_without": 150,
    "seal_boot: power_cuts": 150,
    "stage: dracut[trixie]": 140,
    "volumes: a_disk_of_the_cloud": 140,
    "ordinary: writable_root": 90,
    "stage: init": 80,
    "mirror: three_disks": 70,
}
USUAL = 50


@dataclass
class Unit:
    """Tests that run one after the other in one process."""

    name: str
    module: str
    tests: list[str] = field(default_factory=list)
    seconds: float = 0.0
    status: int | None = None


_speaking = threading.Lock()


def say(text: str) -> None:
    """A line on standard output, whole, whoever else speaks."""
    with _speaking:
        print(text, flush=True)


class Collector:
    """A plugin that keeps what was collected."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """What is left after -k, -m and the like."""
        self.items = list(session.items)


def unit_of(item: pytest.Item) -> str:
    """The name of the unit that a test belongs to."""
    assert isinstance(item, pytest.Function)
    for name in SHARED_BY_MODULES:
        if name in item.fixturenames:
            return name
    module = item.path.stem.removeprefix("test_")
    shared = [name for name in SHARED if name in item.fixturenames]
    if not shared:
        return f"{module}: {item.name.removeprefix('test_')}"
    # Machines of one fixture differ by the release that the test asks for.
    release = item.callspec.params.get("pair") if hasattr(item, "callspec") else None
    return f"{module}: {shared[0]}" + (f" {release}" if release else "")


def deal(items: Sequence[pytest.Item]) -> list[Unit]:
    """The units, longest first."""
    units: dict[str, Unit] = {}
    for item in items:
        name = unit_of(item)
        module = name if name in SHARED_BY_MODULES else item.path.stem
        units.setdefault(name, Unit(name, module)).tests.append(item.nodeid)
    return sorted(units.values(), key=lambda unit: -SECONDS.get(unit.name, USUAL))


def run(unit: Unit) -> None:
    """Run one unit, and pass on what it says, line by line, under its name."""
    begin = time.monotonic()
    # Should this process be killed, pytest goes with it, and its machines with that.
    argv = [
        "setpriv",
        "--pdeathsig",
        "TERM",
        sys.executable,
        "-m",
        "pytest",
        "-s",
        "-p",
        "no:cacheprovider",
        *unit.tests,
    ]
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            say(f"{unit.name} | {line.rstrip()}")
    unit.seconds = time.monotonic() - begin
    unit.status = process.returncode
    say(f"=== {unit.name}: {'passed' if unit.status == 0 else 'FAILED'} in {unit.seconds:.0f} s")


def work(
    units: deque[Unit],
    beside: str,
    run: Callable[[Unit], None] = run,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """One worker: run units until none is left, from when nobody has the file BESIDE locked, if one is
    named."""
    while beside and units and _locked(beside):
        pause(0.5)
    while units:
        try:
            unit = units.popleft()
        except IndexError:
            return  # another worker was faster
        run(unit)


def _locked(path: str) -> bool:
    """Whether somebody has a file locked."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False  # nor is anybody there
    except BlockingIOError:
        return True
    return False


def report(units: Sequence[Unit], seconds: float) -> int:
    """What each took, then each module; exit status 0 only if all have passed."""
    modules: dict[str, float] = defaultdict(float)
    for unit in units:
        modules[unit.module] += unit.seconds
    say("\n=== seconds of each unit")
    for unit in sorted(units, key=lambda unit: -unit.seconds):
        say(f"{unit.seconds:6.0f}  {unit.name}")
    say("=== seconds of each module (of all workers together)")
    for module, took in sorted(modules.items(), key=lambda row: -row[1]):
        say(f"{took:6.0f}  {module}")
    failed = [unit for unit in units if unit.status != 0]
    for unit in failed:
        say(f"FAILED: {unit.name} (status {unit.status}): {' '.join(unit.tests)}")
    tests = sum(len(unit.tests) for unit in units)
    say(f"{tests} tests in {len(units)} units, {len(failed)} of the units failed, in {seconds:.0f} s")
    return 1 if failed else 0


def main() -> int:
    """Collect, deal, run, report."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.vm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(2, len(os.sched_getaffinity(0))),
        help="machines side by side (default: two, or one on one core)",
    )
    parser.add_argument("-k", default="", help="as pytest's")
    parser.add_argument("-m", default="", help="as pytest's")
    parser.add_argument("files", nargs="*", default=["tests/vm"], metavar="FILE")
    options = parser.parse_args()
    collector = Collector()
    status = pytest.main(
        ["--collect-only", "-qq", "-p", "no:cacheprovider", "-k", options.k, "-m", options.m, *options.files],
        plugins=[collector],
    )
    if status != 0:
        return int(status)
    units = deal(collector.items)
    begin = time.monotonic()
    waiting = deque(units)
    beside = os.environ.get(BESIDE, "")
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            list(pool.map(lambda number: work(waiting, beside if number else ""), range(options.jobs)))
        except BaseException:
            waiting.clear()
            raise
    return report(units, time.monotonic() - begin)


if __name__ == "__main__":
    sys.exit(main())
