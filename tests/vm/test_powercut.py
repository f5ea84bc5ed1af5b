# SPDX-License-Identifier: LGPL-2.1-or-later
"""Power cuts, at moments spread over what is done to the disks: whatever the moment, what was begun is
completed, and nothing is lost.

The cuts go in pairs: the second one comes when what the first one left is being completed. What was wrong
after the first is found wrong after the second, for nothing but the same steps mends it.

PERSIST_TEST_CUTS says how many cuts each test makes. ``make test`` makes a few; 'make test-powercut' makes 50
of each.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence

import pytest

from . import scene
from .checks import entries, healthy_boot, records
from .disks import Disk
from .machine import Machine
from .test_mirror import VOLUME, mirrored, node

CUTS = int(os.environ.get("PERSIST_TEST_CUTS") or "0")
STAGE_CUTS = CUTS or 8
BOOT_CUTS = CUTS or 2
PLUG_CUTS = CUTS or 8
COMPLETE = {"/etc", "/home", "/var", "/var/lib/demo-notes", *scene.ODD}
SEED = 20261124  # the same moments in each run, as far as a virtual machine has such a thing


def pairs(cuts: int) -> list[tuple[int, int]]:
    """All numbers below CUTS, an early one with a late one: after a late cut little is left to be cut."""
    first, second = range(0, cuts, 2), range(1, cuts, 2)
    return list(zip(first, reversed(second), strict=False)) + [(first[-1], 0)] * (cuts % 2)


def no_claims(machine: Machine) -> bool:
    """Whether both disks have lost their claims, which goes last."""
    return all(
        machine.succeed(f"head -c 24 {node(machine, name)} | tr -d '\\0' | wc -c").strip() == "0"
        for name in ("one", "two")
    )


@pytest.fixture(scope="module")
def first_boot() -> Iterator[tuple[Machine, float, float]]:
    """A machine with two claimed disks, kept as it was when the stage before PID 1 had found them, and how
    many seconds the rest of the stage took, and then the rest of persist-setup.target."""
    with Machine(scene.story_image("bookworm"), "powercut") as machine:
        machine.add_disk("one", "2G", header=scene.HEADER)
        machine.add_disk("two", "2G", header=scene.HEADER)
        machine.start(wait=False)
        machine.wait_for_console("carry claims and are formatted now")
        machine.snapshot("found", look=False)
        begin = time.monotonic()
        machine.wait_for_console("'/var' is ready for changes")
        staged = time.monotonic()
        machine.wait_for_agent()
        machine.wait_for_unit("persist-setup.target", 300)
        yield machine, staged - begin, time.monotonic() - staged


@pytest.mark.parametrize("cuts", pairs(STAGE_CUTS + BOOT_CUTS))
def test_cut_in_the_first_boot(first_boot: tuple[Machine, float, float], cuts: Sequence[int]) -> None:
    """Cut at a moment in the stage before PID 1, or between that and the end of persist-setup.target; again
    in the boot after it; then boot."""
    machine, stage, rest = first_boot

    def seconds(cut: int) -> float:
        chance = random.Random(SEED + cut).random()
        if cut < STAGE_CUTS:
            return stage * (cut + chance) / STAGE_CUTS
        return stage + rest * (cut - STAGE_CUTS + chance) / BOOT_CUTS

    machine.restore("found")
    machine.kill_after(1000 * seconds(cuts[0]))
    machine.start(wait=False)
    machine.wait_for_console("persist-early: ")
    machine.kill_after(1000 * seconds(cuts[1]))
    machine.start()
    found = healthy_boot(machine)
    states = entries(found)
    assert {path for path, what in states.items() if what in ("mounted", "early")} == COMPLETE
    assert machine.succeed("cat /var/lib/demo-notes/notes.txt") == "shipped with the package\n"
    assert no_claims(machine)
    mirrored(machine)
    # A cut right after the marker leaves an empty work directory; a tree in one would be a copy that nobody
    # finishes.
    assert machine.succeed(f"find {VOLUME}/.persist/tmp -mindepth 2") == ""
    ids = {machine.succeed("cat /etc/machine-id").strip(), *machine.succeed("ls /var/log/journal").split()}
    machine.crash()
    assert len(ids) <= 1 + len(cuts), "at most the journals of the boots that were cut"


def plug(machine: Machine, disks: list[Disk]) -> None:
    """Go back to the machine without disks, and plug these in."""
    machine.restore("ready")
    for disk in disks:
        machine.attach_disk(disk)


def done(machine: Machine) -> float:
    """Wait until the formatter has said that the volume is there, and return how many seconds that took."""
    begin = time.monotonic()
    members = "lsblk -rno FSTYPE,LABEL | grep -c 'btrfs persist-data' || true"
    machine.wait_until(
        "both disks are one volume",
        lambda: machine.succeed(members).strip() == "2" and no_claims(machine),
        120,
    )
    return time.monotonic() - begin


def whole(machine: Machine) -> None:
    """The end state: one filesystem of two devices under its label, mirrored, with all that a volume has; the
    swap spaces beside it."""
    machine.succeed("systemctl reset-failed persist-format.service; udevadm settle")
    machine.succeed(f"mount -o noatime,subvol=@persist-state {node(machine, 'one')}2 /run/look --mkdir")
    try:
        usage = machine.succeed("btrfs filesystem df /run/look")
        assert "Data, RAID1:" in usage and "Metadata, RAID1:" in usage, usage
        assert "no errors found" in machine.succeed("btrfs scrub start -B /run/look")
        assert machine.succeed("ls -A /run/look/.persist").split() == [
            "migrations",
            "overlay",
            "seed",
            "tmp",
            "volume.json",
        ]
        assert machine.succeed("btrfs subvolume list /run/look | sed 's/.* path //' | sort").split() == [
            "@persist-data",
            "@persist-state",
            "@persist-state-snapshots",
        ]
    finally:
        machine.succeed("umount /run/look")
    assert machine.succeed("lsblk -rno FSTYPE,LABEL | grep -c 'swap persist-swap'").strip() == "2"


@pytest.fixture(scope="module")
def uncut_seconds(booted_without: Machine) -> float:
    """How long it takes when nobody cuts the power."""
    disks = [
        booted_without.create_disk(name, "2200M", scene.HEADER + b"\nmembers=2\n") for name in ("one", "two")
    ]
    plug(booted_without, disks)
    seconds = done(booted_without)
    whole(booted_without)
    assert len(records(booted_without, "FORMAT_DONE")) >= 1
    booted_without.crash()
    for disk in disks:
        disk.path.unlink()
    return seconds


@pytest.mark.parametrize("cuts", pairs(PLUG_CUTS))
def test_cut_while_formatting(booted_without: Machine, uncut_seconds: float, cuts: Sequence[int]) -> None:
    """Two claims are plugged in and the power is cut at some moment; plugged in again, and cut again, they
    end as one volume."""
    machine = booted_without
    disks = [machine.create_disk(name, "2200M", scene.HEADER + b"\nmembers=2\n") for name in ("one", "two")]
    try:
        for cut in cuts:
            plug(machine, disks)
            machine.kill_after(1000 * uncut_seconds * (cut + random.Random(SEED - cut).random()) / PLUG_CUTS)
        plug(machine, disks)
        done(machine)
        whole(machine)
        machine.crash()
    finally:
        if machine.running:
            machine.crash()
        for disk in disks:
            disk.path.unlink()
