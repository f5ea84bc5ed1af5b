# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots of a virtual machine that remembers, beside the same image with the same overlays from a
hand-written script in the initrd; as ratios of medians.

    python3 -m tests.bench.boot [--times 5] [--suite bookworm]

The two boot in turns, from copies of one disk, with the preset whole-system. A first boot with a blank
claimed disk is compared to a steady one and the bare script of claim.py. In software emulation a boot takes
half a minute: nothing else may run. The exit status says whether the bars hold.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.vm import image, scene
from tests.vm.disks import Disk
from tests.vm.machine import Machine

BARS = {"kernel to multi-user": 1.05, "userspace": 1.00, "first boot": 1.25}
INITRD_KIB = 100
# klibc's mount, as whoever writes such a script has it.
_BY_HAND = """#!/bin/sh
case "$1" in prereqs) exit 0 ;; esac
modprobe -a btrfs overlay
mkdir -p /run/by-hand
mount -t btrfs -o subvol=@persist-state,noatime /dev/vdb2 /run/by-hand
store=/run/by-hand/.persist/overlay
for name in etc var; do
    upper=upperdir=$store/$name/upper,workdir=$store/$name/work
    mount -t overlay -o "lowerdir=$rootmnt/$name,$upper" overlay "$rootmnt/$name"
done
mount -o bind /run/by-hand/home "$rootmnt/home"
mount -t tmpfs -o mode=1777 tmpfs "$rootmnt/tmp"
"""
_HOOK = """#!/bin/sh
case "$1" in prereqs) exit 0 ;; esac
. /usr/share/initramfs-tools/hook-functions
manual_add_modules btrfs overlay
"""
_HOOKS = "/usr/share/initramfs-tools"
_NOT_OURS = (
    "systemctl enable demo-notes.service",  # the same services in both
    f"rm {_HOOKS}/hooks/persist {_HOOKS}/scripts/init-bottom/persist",
    f"chmod 755 {_HOOKS}/hooks/by-hand {_HOOKS}/scripts/init-bottom/by-hand",
)
_BARE = """set -e
t=$(cut -d' ' -f1 /proc/uptime)
{ printf 'label: gpt\\nsize=384MiB, type=swap\\ntype=linux\\n' | sfdisk -q /dev/vdc
mkswap -q /dev/vdc1
mkfs.btrfs -q --nodiscard /dev/vdc2; } >/dev/null
echo "$t $(cut -d' ' -f1 /proc/uptime)"
"""
_SHOW = (
    "systemctl show -p UserspaceTimestampMonotonic --value; "
    "systemctl show -p ActiveEnterTimestampMonotonic --value multi-user.target"
)


def times(machine: Machine) -> tuple[float, float]:
    """Seconds from the kernel's start, and from PID 1's, to multi-user.target."""
    machine.wait_for_boot()
    begin, end = (int(n) / 1e6 for n in machine.succeed(_SHOW).split())
    return end, end - begin


def peer(suite: str, more: Mapping[str, str] | None = None) -> image.Image:
    """The same image, with persist installed and not enabled; ``more`` files."""
    scripts = {f"{_HOOKS}/scripts/init-bottom/by-hand": _BY_HAND, f"{_HOOKS}/hooks/by-hand": _HOOK}
    return image.build(
        suite,
        [*scene.packages(), scene.notes_package()],
        customize=_NOT_OURS,
        files={**scripts, **(more or {})},
    )


def boots(machine: Machine) -> tuple[float, float]:
    """One boot and a clean power-off."""
    machine.start()
    found = times(machine)
    machine.shutdown()
    return found


def first_boots(suite: str, count: int) -> tuple[list[float], list[float]]:
    """Seconds of first boots with a blank claimed disk, and of the bare script in the same guests."""
    first, bare = [], []
    for _ in range(count):
        with Machine(scene.story_image(suite), "bench-first", cpus=2) as machine:
            machine.add_disk("state", "4G", header=scene.HEADER)
            machine.start()
            first.append(times(machine)[0])
            machine.add_disk("bare", "4G")
            begin, end = map(float, machine.succeed(_BARE).split())
            bare.append(end - begin)
            machine.forget()
            machine.crash()
            machine.forget()
    return first, bare


def main() -> int:
    """Print the ratios; 1 where one of them misses its bar."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--suite", default="bookworm")
    args = parser.parse_args()
    ours, theirs = scene.story_image(args.suite), peer(args.suite)
    plain = image.build(args.suite, customize=("true",))
    grown = (ours.initrd.stat().st_size - plain.initrd.stat().st_size) >> 10
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "by hand": []}
    with Machine(ours, "bench-ours", cpus=2) as one, Machine(theirs, "bench-by-hand", cpus=2) as other:
        state = one.add_disk("state", "4G", header=scene.HEADER)
        boots(one)
        copy = Disk("state", Path(state.path).with_name("copy.qcow2"))
        shutil.copyfile(state.path, copy.path)
        other.attach_disk(copy)
        for _ in range(args.times):
            found["ours"].append(boots(one))
            found["by hand"].append(boots(other))
        one.forget()
        other.forget()
    for who, each in found.items():
        print(f"{who}: " + " ".join(f"{total:.1f}/{user:.1f}" for total, user in each) + " s (all/userspace)")
    first, bare = first_boots(args.suite, max(args.times // 2, 1))
    middle = {
        who: tuple(statistics.median(t[part] for t in each) for part in (0, 1)) for who, each in found.items()
    }
    ratios = {
        "kernel to multi-user": middle["ours"][0] / middle["by hand"][0],
        "userspace": middle["ours"][1] / middle["by hand"][1],
        "first boot": statistics.median(first) / (middle["ours"][0] + statistics.median(bare)),
    }
    print(
        "first boots: " + " ".join(f"{t:.1f}" for t in first), "bare: " + " ".join(f"{t:.1f}" for t in bare)
    )
    for name, ratio in ratios.items():
        print(f"{name:22} {ratio:.3f} (bar {BARS[name]:.2f})")
    print(f"{'initrd':22} {grown:+} KiB (bar {INITRD_KIB})")
    return int(grown > INITRD_KIB or any(ratios[name] > bar for name, bar in BARS.items()))


if __name__ == "__main__":
    sys.exit(main())
