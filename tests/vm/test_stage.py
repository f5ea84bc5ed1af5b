# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stage before PID 1, by each kind of glue: what test_story.py shows of initramfs-tools, here of dracut,
and of a machine that starts persist-init. tests/nspawn has a word on the command line, and a boot without
the stage."""

from __future__ import annotations

import pytest

from persist.volume.ondisk import header

from . import image, scene
from .checks import clean_shutdown, codes, entries, healthy_boot, records, state
from .conftest import MachineFactory
from .machine import Machine
from .steady import identity, steady

SUITES = ("bookworm", "trixie")


def two_disks(one: Machine) -> None:
    """Two claimed disks that say they are a set of two."""
    head = header.encode(scene.HEADER.decode(), header.Options(members=2))
    for name in ("one", "two"):
        one.add_disk(name, "2G", header=head)


def story(one: Machine) -> None:
    """First, second and third boot: the same in each way to run the stage."""
    two_disks(one)
    one.start()
    found = healthy_boot(one)
    assert found["volume"]["kind"] == "btrfs" and entries(found)["/etc"] == "early"
    assert len(records(one, "FORMAT_DONE")) == 1
    assert "RAID1" in one.succeed("btrfs filesystem df /run/persist/volume")
    ids = identity(one)
    assert len(set(ids)) == 1, ids
    steady_units(one)
    scene.change_as_a_person_would(one)
    one.succeed("hostnamectl set-hostname kept-name")
    one.reboot()
    healthy_boot(one)
    steady(one)
    assert identity(one) == ids
    assert one.succeed("hostname; systemctl is-active hello.service").split() == ["kept-name", "active"]
    clean_shutdown(one)


def steady_units(one: Machine) -> None:
    """PID 1 has mounted none of the entries, and was not reloaded."""
    said = one.succeed("journalctl -b -q -o cat _PID=1")
    assert "Reloading" not in said and "Mounting var.mount" not in said


def degraded(one: Machine) -> None:
    """One of the two is away: waited for, and mounted before PID 1 all the same."""
    two = one.detach_disk("two")
    one.expect("VERDICT_DEGRADED", "MEMBER_MISSING")
    one.start()
    one.wait_for_boot()
    found = state(one)
    assert found["verdict"] == "degraded" and "member-missing" in codes(found)
    assert entries(found)["/etc"] == "early"
    assert one.succeed("hostname").strip() == "kept-name"
    one.crash()
    one.attach_disk(two)


@pytest.mark.parametrize("suite", SUITES)
def test_dracut(suite: str, machine: MachineFactory) -> None:
    found = image.build(
        suite,
        [*scene.packages(), scene.notes_package()],
        customize=scene.SETUP,
        files={**scene.ODD_REGISTRY, **scene.QUICK},
        initrd="dracut",
    )
    one = machine(found)
    story(one)
    if suite == "bookworm":
        degraded(one)  # test_mirror.py has it on both, by the other initrd


def test_init(machine: MachineFactory) -> None:
    """No glue in the initrd: persist-init runs the stage in place."""
    without = (
        "rm /usr/share/initramfs-tools/hooks/persist /usr/share/initramfs-tools/scripts/init-bottom/persist"
    )
    found = image.build(
        "bookworm",
        [*scene.packages(), scene.notes_package()],
        customize=(*scene.SETUP, without),
        files={**scene.ODD_REGISTRY, **scene.QUICK},
    )
    one = machine(found, command_line="init=/usr/lib/persist/persist-init")
    story(one)
