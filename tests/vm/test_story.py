# SPDX-License-Identifier: LGPL-2.1-or-later
"""The main job, on both releases: a machine with a read-only root remembers."""

from __future__ import annotations

import json

import pytest

from . import scene
from .checks import clean_shutdown, entries, healthy_boot, records, state
from .conftest import MachineFactory
from .machine import Machine

SUITES = ("bookworm", "trixie")
LINES = 12  # of ours in the journal of a steady boot, at most
BOOTS = {"bookworm": 3, "trixie": 2}


def identity(machine: Machine) -> tuple[str, ...]:
    """The machine-id as everybody sees it: the file, PID 1, hostnamed, and the directory of the journal."""
    return (
        machine.succeed("cat /etc/machine-id").strip(),
        machine.succeed("journalctl -b -q -n 1 -o export _PID=1 | sed -n 's/^_MACHINE_ID=//p'").strip(),
        machine.succeed("hostnamectl | sed -n 's/.*Machine ID: //p'").strip(),
        machine.succeed("ls /var/log/journal").strip(),
    )


@pytest.mark.parametrize("release", SUITES)
def test_machine_remembers(release: str, machine: MachineFactory) -> None:
    one = machine(scene.story_image(release), cpus=2)  # so that things do happen at the same time somewhere
    one.add_disk("state", "4G", header=scene.HEADER)
    one.start()
    found = healthy_boot(one)
    assert found["volume"]["kind"] == "btrfs"
    assert set(entries(found).values()) <= {"mounted", "image", "tmpfs", "elsewhere"}
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
    for boot in range(2, BOOTS[release] + 1):
        if boot == 2:
            one.reboot()
        else:
            clean_shutdown(one)
            one.start()
        found = healthy_boot(one)
        assert entries(found)["/etc"] == "early", "from the second boot on the initrd mounts /etc"
        steady(one)
        assert identity(one) == ids
        if boot == 2:
            rows = scene.compare(before, scene.look(one))
            assert all(good for _, _, good in rows), rows
        assert one.succeed("journalctl -b -q -o cat -n 1 _PID=1").strip()
        assert one.succeed("journalctl --list-boots -q --no-pager | wc -l").strip() == str(boot)
    shipped_texts(one, release)
    clean_shutdown(one)


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


def steady(machine: Machine) -> None:
    """Nothing to seed, nothing to format: none of the services that do it has started a process, and there is
    little to say."""
    for unit in (
        "persist-format.service",
        "persist-seed@etc.service",
        "persist-seed@var.service",
        "persist-reload.service",
        "persist-settle.service",
    ):
        assert (
            machine.succeed(f"systemctl show -p ExecMainStartTimestampMonotonic --value {unit}").strip()
            == "0"
        ), unit
    said = our_lines(machine)
    assert len(said) <= LINES, said


def our_lines(machine: Machine) -> list[str]:
    """What this boot's journal has of us at info and above: of our programs, and of PID 1 about our units and
    the mounts of entries."""
    mounts = machine.succeed("cd /run/systemd/generator && grep -l persist-generator *.mount || true").split()
    found = []
    for line in machine.succeed(
        "journalctl -b -q -p info -o json --output-fields=MESSAGE,UNIT,_SYSTEMD_UNIT,SYSLOG_IDENTIFIER"
    ).split("\n"):
        r = json.loads(line) if line else {}
        names = [str(r.get(k, "")) for k in ("UNIT", "_SYSTEMD_UNIT", "SYSLOG_IDENTIFIER")]
        if any(n.startswith("persist") and not n.startswith("persist-test") or n in mounts for n in names):
            found.append(f"{names}: {r['MESSAGE']}")
    return found


def hot_plug(machine: Machine) -> None:
    """A second claimed disk beside a healthy volume is left alone, and that is said."""
    machine.add_disk("second", "1G", header=scene.HEADER)
    machine.wait_until(
        "the claim of the second disk is refused",
        lambda: any(r["PERSIST_REASON"] == "volume-exists" for r in records(machine, "CLAIM_REFUSED")),
    )
    assert machine.succeed("head -c 24 /dev/vdc").encode() == scene.HEADER
    assert state(machine)["verdict"] == "online"
    machine.detach_disk("second")


def shipped_texts(machine: Machine, release: str) -> None:
    """systemd's own judges on what we ship and generate, where there is a systemd to ask; the catalog knows
    our messages."""
    said = machine.run(
        "systemd-analyze verify --man=no /usr/lib/systemd/system/persist-*.service "
        "/usr/lib/systemd/system/persist-*.target "
        "/run/systemd/generator/*.mount 2>&1 | grep -v test-agent",
        120,
    ).text()
    assert "persist" not in said and ".mount" not in said, said
    if release != "bookworm":
        machine.succeed("udevadm verify /usr/lib/udev/rules.d/65-persist.rules")
    assert "State is kept" in machine.succeed("journalctl -b -x -u persist-verify.service --no-pager")
    assert machine.succeed("persistctl verify").strip().endswith(": nothing is wrong.")
    assert machine.succeed("persistctl list --json")
