# SPDX-License-Identifier: LGPL-2.1-or-later
"""A boot that seals, from power-on to power-off, beside an ordinary boot to multi-user.target and power-off
of the same disk; as a ratio of medians.

    python3 -m tests.bench.seal_boot [--times 3] [--suite bookworm]

The two go in turns. The disk has been booted once; each boot that seals is of a copy of it. The exit status
says whether the bar holds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time

from tests.vm import image, scene
from tests.vm.machine import Machine

BAR = 0.7
UUID = "4b1d7a52-9f5e-4c55-8d3a-5d9a3c1e7f20"


def ordinary(one: Machine) -> float:
    """Seconds of a boot, and of the orderly power-off after it."""
    begin = time.monotonic()
    one.start()
    one.wait_for_boot()
    one.shutdown()
    return time.monotonic() - begin


def seals(one: Machine, number: int) -> float:
    """Seconds of a boot that seals. Raises MachineError where it does not end, AssertionError where the
    machine is not sealed."""
    begin = time.monotonic()
    one.start(wait=False, credentials={"persist.seal": f"{UUID}:bench-{number}"})
    one.wait_for_poweroff()
    took = time.monotonic() - begin
    assert "This machine is sealed." in one.console_text()
    return took


def main() -> int:
    """Print the ratio; 1 where it misses the bar."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--suite", default="bookworm")
    args = parser.parse_args()
    found = image.build(args.suite, scene.packages(), "rw")
    usual: list[float] = []
    sealing: list[float] = []
    uuid = ("-uuid", UUID)
    with Machine(found, "bench-usual", extra=uuid) as one, Machine(found, "bench-seals", extra=uuid) as other:
        ordinary(one)
        for number in range(args.times):
            shutil.copyfile(one.disk("root").path, other.disk("root").path)
            sealing.append(seals(other, number))
            usual.append(ordinary(one))
    for who, each in (("seals", sealing), ("ordinary", usual)):
        print(f"{who}: " + " ".join(f"{took:.1f}" for took in each) + " s from power-on to power-off")
    ratio = statistics.median(sealing) / statistics.median(usual)
    print(f"{'boot that seals':22} {ratio:.3f} (bar {BAR:.2f})")
    return int(ratio > BAR)


if __name__ == "__main__":
    sys.exit(main())
