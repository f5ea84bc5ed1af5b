# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which volume, and in which state: two of one label, a copy, a full one, one that must not be written, one that is no btrfs, one that is away."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from . import image, scene
from .checks import clean_shutdown, codes, entries, failed_units, healthy_boot, records, state
from .conftest import MachineFactory
from .disks import Disk
from .machine import Machine
from .test_mirror import VOLUME, node, wait_for_verdict

DMI = ("-uuid", "4b1d7a52-9f5e-4c55-8d3a-5d9a3c1e7f00")
BINDING = 256


def volatile(machine: Machine, code: str) -> None:
    """A boot without its volume: it ends, writes go to memory, and it says why."""
    machine.wait_for_boot()
    found = state(machine)
    assert (found["verdict"], found["volume"]["kind"]) == ("volatile", "tmpfs"), json.dumps(found, indent=2)
    assert code in codes(found), found["reasons"]
    assert failed_units(machine) == []
    machine.succeed("touch /etc/x /var/x /home/x")


def test_which_volume(machine: MachineFactory) -> None:
    """Of two filesystems with our label the machine's own one wins by what formatting bound to it; with nothing known none is taken; a copy stops both."""
    one = machine(scene.story_image("bookworm"), extra=DMI)
    own = one.add_disk("own", "2G", header=scene.HEADER)
    one.start()
    found = healthy_boot(one)
    uuid = found["volume"]["uuid"]
    disk = node(one, "own")
    assert one.succeed(f"dd if={disk} bs=1 skip={BINDING} count=184 status=none | tr -d '\\0'").strip() == f"persist-bound 1 {uuid} dmi={DMI[1]} serial=own"
    one.succeed("echo mine >/home/mine")
    stranger = one.add_disk("stranger", "1G")
    other = node(one, "stranger")
    one.succeed(f"echo 'label: gpt\nname=persist-data' | sfdisk -q {other}; udevadm settle; mkfs.btrfs -q -L persist-data {other}1; "
                f"mount --mkdir {other}1 /run/o; btrfs subvolume create /run/o/@persist-state; umount /run/o; udevadm settle")
    clean_shutdown(one)
    one.start()
    found = healthy_boot(one)
    assert found["volume"]["uuid"] == uuid and entries(found)["/etc"] == "early"
    assert one.succeed("cat /home/mine") == "mine\n"
    clean_shutdown(one)
    # Nothing tells any more which one it is.
    kept = one.read_disk(own, 0, 512)
    one.write_disk(own, 0, kept[:BINDING] + bytes(440 - BINDING) + kept[440:])
    one.start()
    volatile(one, "duplicate-label")
    assert records(one, "VOLUME_AMBIGUOUS")
    one.shutdown()
    one.write_disk(own, 0, kept)
    one.detach_disk(stranger)
    copy = replace(own, name="copy", path=own.path.with_name("copy.qcow2"))
    shutil.copyfile(own.path, copy.path)
    one.attach_disk(copy)
    one.start()
    volatile(one, "cloned-disk")
    one.crash()


# Data until there is no room, then what has none and lies in metadata, until after a commit not even a directory can be made.
FILL = """
import contextlib, errno, os, subprocess
os.makedirs("/home/full/small")
with open("/home/full/data", "wb") as f, contextlib.suppress(OSError):
    while True:
        f.write(os.urandom(1 << 20)); f.flush(); os.fsync(f.fileno())
def full():
    try:
        os.mkdir("/run/persist/volume/.persist/tmp/probe")
    except OSError as e:
        return e.errno == errno.ENOSPC
    os.rmdir("/run/persist/volume/.persist/tmp/probe")
    return False
while not full():
    for make in (lambda name: os.symlink("x" * 3000, name), os.mkdir):
        with contextlib.suppress(OSError):
            while True:
                make("/home/full/small/" + os.urandom(8).hex())
    subprocess.run(["btrfs", "filesystem", "sync", "/run/persist/volume"])
"""


def test_full_volume(machine: MachineFactory) -> None:
    """A volume filled to the last byte still boots with all entries writable, by its reserve, and says so; with room again the reserve is back."""
    one = machine(scene.story_image("bookworm"))
    one.add_disk("state", "500M", header=scene.HEADER)
    one.start()
    healthy_boot(one)
    size = one.succeed(f"btrfs filesystem show --raw {VOLUME} | awk '$1 == \"devid\" {{print $4}}'")
    one.write_file("/run/fill.py", FILL.encode())
    one.succeed("python3 /run/fill.py", 600)
    one.fail("mkdir /home/more")
    one.crash()
    one.start()
    one.wait_for_boot()
    found = state(one)
    assert found["verdict"] == "degraded", json.dumps(found, indent=2)
    assert "reserve-used" in codes(found), found["reasons"]
    for path in ("/etc", "/var", "/home"):
        assert entries(found)[path] in ("early", "mounted")
        one.succeed(f"echo x >{path}/written && sync")
    one.succeed("rm -rf /home/full; sync", 300)
    one.succeed("systemctl start persist-health.service", 120)
    wait_for_verdict(one, "online", 60)
    assert one.succeed(f"btrfs filesystem show --raw {VOLUME} | awk '$1 == \"devid\" {{print $4}}'") == size, "the reserve is back"
    one.crash()


def test_words_for_one_boot(machine: MachineFactory) -> None:
    """persist=ro shows the volume below memory and writes nothing to it."""
    one = machine(scene.story_image("bookworm"))
    disk = one.add_disk("state", "2G", header=scene.HEADER)
    one.start()
    healthy_boot(one)
    identity = one.succeed("cat /etc/machine-id")
    one.succeed("echo kept >/home/kept; echo kept >>/var/lib/demo-notes/notes.txt; rm /etc/issue.net; mkdir /home/new")
    clean_shutdown(one)
    before = disk_bytes(disk)
    one.start("persist=ro")
    one.wait_for_boot()
    found = state(one)
    assert found["verdict"] == "volatile" and "read-only" in codes(found), json.dumps(found, indent=2)
    assert failed_units(one) == []
    assert one.succeed("cat /home/kept; cat /etc/machine-id") == f"kept\n{identity}"
    assert "kept" in one.succeed("cat /var/lib/demo-notes/notes.txt")
    assert one.execute("ls /etc/issue.net")[0] != 0, "what was removed stays removed"
    for path in ("/home/kept", "/etc/hostname", "/var/lib/demo-notes/notes.txt", "/home/new/file", "/var/lib/new"):
        one.succeed(f"echo changed >{path}")
    one.shutdown()
    assert disk_bytes(disk) == before, "not a byte of the volume was written"


def disk_bytes(disk: Disk) -> str:
    """A checksum of all that is on a disk of a machine that is off."""
    done = subprocess.run(["sh", "-c", 'qemu-img convert -O raw "$1" "$1.raw" && sha256sum <"$1.raw"; rm -f "$1.raw"', "sh", str(disk.path)],
                          check=True, capture_output=True, text=True)
    return done.stdout


EPHEMERAL = {"/usr/lib/persist/persist.conf.d/50-ephemeral.conf": "[Volume]\nDevice=LABEL=ephemeral0 auto\nOptions=noatime\n"}


def test_a_disk_of_the_cloud(machine: MachineFactory, tmp_path: Path) -> None:
    """A named filesystem that is no btrfs, on a writable root: waited for, checked, mounted by PID 1 and grown into its device; away, nothing is forked."""
    one = machine(image.build("bookworm", [*scene.packages(), scene.notes_package()], "rw", files={**EPHEMERAL, **scene.QUICK},
                              customize=("mkdir -p /mnt/state && systemctl enable persist-setup.target demo-notes.service",)))
    raw = tmp_path / "ephemeral.raw"
    with raw.open("wb") as f:
        f.truncate(1 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-L", "ephemeral0", str(raw), "400M"], check=True)
    one.attach_disk(Disk("ephemeral", raw, "raw"))
    for starts in (1, 2):
        one.start()
        found = healthy_boot(one)
        assert found["volume"]["kind"] == "native" and entries(found) == {"/var/lib/demo-notes": "mounted"}
        assert one.succeed("cat /var/lib/demo-notes/starts").split() == ["started"] * starts
        assert int(one.succeed(f"stat -f -c %b {VOLUME}")) * 4096 > 800 << 20, "grown into its device"
        assert "ext4" in one.succeed(f"findmnt -no FSTYPE,OPTIONS {VOLUME}")
        assert one.succeed("systemctl list-units --all --plain --no-legend 'systemd-fsck@*'").strip()
        one.shutdown()
    one.detach_disk("ephemeral")
    one.start()
    one.wait_for_boot()
    found = state(one)
    assert found["verdict"] == "volatile" and "known-volume-missing" in codes(found), found["reasons"]
    assert entries(found) == {"/var/lib/demo-notes": "stale"}
    assert "Read-only file system" in one.fail("touch /var/lib/demo-notes/fork")
    one.shutdown()
