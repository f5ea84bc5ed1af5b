# SPDX-License-Identifier: LGPL-2.1-or-later
"""The main job: a machine with a read-only root remembers. Debian 13 here, Debian 12 with two disks in
test_mirror.py; test_stage.py has other ways to start it, and tests/nspawn more of what a system keeps."""

from __future__ import annotations

from . import scene
from .checks import clean_shutdown, entries, healthy_boot, records, state
from .conftest import MachineFactory
from .machine import Machine
from .steady import identity, steady

# All security modules that Debian 13 has; the other machines do without some.
DEBIANS = "lsm=lockdown,capability,landlock,yama,apparmor,tomoyo,bpf,ipe,ima,evm"


def test_machine_remembers(machine: MachineFactory) -> None:
    # Two processors, so that things do happen at the same time somewhere.
    one = machine(scene.story_image("trixie"), cpus=2, command_line=DEBIANS)
    one.add_disk("state", "4G", header=scene.HEADER)
    one.start()
    found = healthy_boot(one)
    assert found["volume"]["kind"] == "btrfs"
    assert set(entries(found).values()) <= {"early", "mounted", "image", "tmpfs", "elsewhere"}
    assert entries(found)["/etc"] == "early", "the first boot is like all others"
    assert len(records(one, "CLAIM_FOUND")) == 1
    assert len(records(one, "FORMAT_DONE")) == 1
    assert {r["PERSIST_PATH"] for r in records(one, "SEED_DONE")} >= {
        "/etc",
        "/var",
        "/home",
        "/var/lib/demo-notes",
    }
    volume_layout(one)
    ids = identity(one)
    assert len(set(ids)) == 1, ids
    assert "ro," in one.succeed("findmnt -no OPTIONS /"), "the root must stay read-only"
    assert one.succeed("cat /run/persist/private/lower/etc/ssh/sshd_config")
    scene.change_as_a_person_would(one)
    before = scene.look(one)
    hot_plug(one)
    one.reboot()
    found = healthy_boot(one)
    assert entries(found)["/etc"] == "early"
    steady(one)
    assert identity(one) == ids
    rows = scene.compare(before, scene.look(one))
    assert all(good for _, _, good in rows), rows
    assert one.succeed("journalctl -b -q -o cat -n 1 _PID=1").strip()
    assert one.succeed("journalctl --list-boots -q --no-pager | wc -l").strip() == "2"
    one.soft_reboot()
    healthy_boot(one)
    assert "active" in one.succeed("systemctl is-active hello.service")
    steady(one, counted=False)
    assert identity(one) == ids
    assert all(good for _, _, good in scene.compare(before, scene.look(one)))
    clean_shutdown(one)


def test_first_boot(after_first_boot: Machine) -> None:
    """What the first boot of Debian 12 leaves on the disk."""
    volume_layout(after_first_boot)


def volume_layout(machine: Machine) -> None:
    """The disk as issue and design want it, the claim gone, nothing of ours on the state volume but what
    belongs there."""
    disk = [
        line.strip()
        for line in machine.succeed("lsblk -rno NAME,FSTYPE,LABEL,PARTLABEL /dev/vdb").splitlines()
    ]
    assert disk == ["vdb", "vdb1 swap persist-swap persist-swap", "vdb2 btrfs persist-data persist-data"], (
        disk
    )
    assert machine.succeed("head -c 256 /dev/vdb | tr -d '\\0' | wc -c").strip() == "0"
    assert "/dev/vdb1" in machine.succeed("cat /proc/swaps")
    usage = machine.succeed("btrfs filesystem df /run/persist/volume")
    assert "Data, single" in usage and "Metadata, DUP" in usage
    assert machine.succeed(
        "btrfs subvolume list /run/persist/volume | sed 's/.* path //' | sort"
    ).split() == ["@persist-data", "@persist-state", "@persist-state-snapshots"]
    assert machine.succeed("findmnt -no SOURCE /mnt/state").strip() == "/dev/vdb2[/@persist-state]"
    assert machine.succeed("stat -c %a /run/persist/volume/.persist").strip() == "700"
    assert machine.succeed("stat -c %a /var/lib/demo-notes").strip() == "750", "Mode= of the five-line file"


def hot_plug(machine: Machine) -> None:
    """A second claimed disk beside a healthy volume is left alone, and that is said."""
    machine.expect("volume-exists")
    machine.add_disk("second", "1G", header=scene.HEADER)
    machine.wait_until(
        "the claim of the second disk is refused",
        lambda: any(r["PERSIST_REASON"] == "volume-exists" for r in records(machine, "CLAIM_REFUSED")),
    )
    assert machine.succeed("head -c 24 /dev/vdc").encode() == scene.HEADER
    assert state(machine)["verdict"] == "online"
    machine.detach_disk("second")
