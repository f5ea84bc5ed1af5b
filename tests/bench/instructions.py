# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steady boot of boot.py beside the same peer, by the instructions that the guest executes.

    python3 -m tests.bench.instructions [--times 3] [--suite bookworm]

QEMU lets the guest's clock go by its instructions (-icount), four nanoseconds each, on one processor. While
the guest is idle its clock goes on with the machine's; the guest counts that time itself, and it is taken
off. So it matters little what else the machine does, and two runs differ by a hundredth. What it leaves out
is what anybody waits for: the disk, udev, a service that another one comes after; and what a second processor
does beside the first. boot.py has these.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path

from tests.vm import image, scene
from tests.vm.disks import Disk
from tests.vm.machine import Machine

from . import boot

# Of both images: when multi-user.target is reached, the seconds since the start and those of idleness.
_MARK = {
    "/usr/lib/systemd/system/bench-mark.service": """[Unit]
Description=How long the processor was at work until now
DefaultDependencies=no
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/cp /proc/uptime /run/bench-mark
""",
    "/usr/lib/systemd/system/multi-user.target.d/bench-mark.conf": "[Unit]\nWants=bench-mark.service\n",
}
_SHOW = "systemctl show -p UserspaceTimestampMonotonic --value; cat /run/bench-mark"
_PER_SECOND = 0.25  # thousand millions of instructions


def images(suite: str) -> dict[str, image.Image]:
    """Ours, and the peer."""
    debs = [*scene.packages(), scene.notes_package()]
    ours = {**scene.ODD_REGISTRY, **scene.QUICK, **_MARK}
    return {
        "ours": image.build(suite, debs, customize=scene.SETUP, files=ours),
        "by hand": boot.peer(suite, _MARK),
    }


def count(of: image.Image, name: str, state: Path) -> tuple[float, float]:
    """Thousand millions of instructions of one boot, from a copy of a disk: until multi-user.target, and
    those of userspace."""
    with Machine(of, name, accelerator="icount") as machine:
        copy = machine.add_disk("state", "4G")
        shutil.copyfile(state, copy.path)
        machine.start(timeout=1800)
        machine.wait_for_boot(1800)
        start, words = machine.succeed(_SHOW).split("\n", 1)
        up, idle = map(float, words.split())
        machine.forget()
        machine.crash()
        machine.forget()
    busy = up - idle
    return busy * _PER_SECOND, (busy - int(start) / 1e6) * _PER_SECOND


def main() -> int:
    """Print both, and the ratios of the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--suite", default="bookworm")
    args = parser.parse_args()
    every = images(args.suite)
    found: dict[str, list[tuple[float, float]]] = {who: [] for who in every}
    with Machine(every["ours"], "bench-state", cpus=2) as one:
        state: Disk = one.add_disk("state", "4G", header=scene.HEADER)
        boot.boots(one)
        boot.boots(one)
        for _ in range(args.times):
            for who, of in every.items():
                found[who].append(count(of, f"bench-{who.replace(' ', '-')}", state.path))
        one.forget()
    for who, each in found.items():
        print(f"{who}: " + " ".join(f"{total:.2f}/{user:.2f}" for total, user in each) + " G (all/userspace)")
    for part, name in enumerate(("kernel to multi-user", "userspace")):
        ours, theirs = (statistics.median(t[part] for t in found[who]) for who in ("ours", "by hand"))
        print(f"{name:22} {ours / theirs:.3f} of the instructions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
