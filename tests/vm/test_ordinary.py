# SPDX-License-Identifier: LGPL-2.1-or-later
"""An ordinary machine with a writable root: enabling changes nothing that anybody could lose."""

from __future__ import annotations

from . import image, scene
from .checks import clean_shutdown, entries, failed_units, healthy_boot, mounted, records, state
from .conftest import MachineFactory
from .machine import Machine

ENABLED = ("mkdir -p /mnt/state && systemctl enable persist-setup.target",)


def test_writable_root(machine: MachineFactory) -> None:
    """No preset, no disk; then both. The boot loader says ro, fstab says rw, and the root counts as writable.
    tests/nspawn has the boots with a preset and no disk, with persist=off and without the volume."""
    one = machine(
        image.build("bookworm", [*scene.packages(), scene.notes_package()], "rw", customize=ENABLED)
    )
    one.start()
    one.wait_for_boot()
    assert failed_units(one) == []
    assert " ro " in one.succeed("cat /proc/cmdline") + " "
    found = state(one)
    assert found["verdict"] == "off"
    assert found["volume"]["kind"] == "none", "no memory in place of a writable root"
    assert one.execute("findmnt /run/persist/volume")[0] != 0
    one.succeed(
        "echo mine >>/var/lib/demo-notes/notes.txt; echo mine >/home/mine; cp /etc/machine-id /var/tmp/id"
    )
    one.succeed("persistctl preset enable whole-system 2>&1")
    # Now a disk, claimed by hand, and nothing of what the root collected may be out of sight.
    one.add_disk("state", "2G")
    one.succeed("persistctl claim /dev/vdb")
    one.wait_until("the claimed disk is formatted", lambda: bool(records(one, "FORMAT_DONE")), 120)
    running_system_is_left_alone(one)
    one.fail("persistctl claim /dev/vda")
    one.fail("persistctl claim --force /dev/vda")
    one.reboot()  # no new initrd: neither a preset nor a volume needs one
    found = healthy_boot(one)
    assert (entries(found)["/etc"], entries(found)["/var"]) == ("early", "mounted")
    assert one.succeed("cat /home/mine") == "mine\n"
    assert "mine" in one.succeed("cat /var/lib/demo-notes/notes.txt")
    one.succeed("cmp /etc/machine-id /var/tmp/id")
    assert one.execute("findmnt /tmp")[0] != 0, "a writable root needs no tmpfs on /tmp"
    one.succeed("echo more >/home/more; mkdir /var/cache/apt/hole && rmdir /var/cache/apt/hole")
    clean_shutdown(one)


def running_system_is_left_alone(one: Machine) -> None:
    """There is a volume now, and units for the entries; a service that pulls in the mounts of /var must not
    get them over open files."""
    one.succeed(
        "systemctl daemon-reload; systemd-run --wait -p PrivateTmp=yes -p StateDirectory=x -p "
        "LogsDirectory=x true"
    )
    one.succeed("systemctl start var.mount persist-volume.service")
    assert mounted(one, "overlay", "btrfs") == []
