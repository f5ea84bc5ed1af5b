# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes that are full, damaged, or two where one is wanted: the machine boots, says what is wrong, and
loses nothing."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.storage.rig import HEADER, tool
from tests.vm.checks import (
    codes,
    entries,
    failed_units,
    healthy_boot,
    only_said,
    records,
    state,
    volatile_notices,
)

from .conftest import Boot
from .disk import Disk
from .registry import ENABLED, NOTES, PRESET
from .test_kept import off

# A loop device is used where it is named.
BY_LABEL = {"/usr/lib/persist/persist.conf.d/50-volume.conf": "[Volume]\nDevice=LABEL=persist-data\n"}
FILES = {**ENABLED, **PRESET, **NOTES, **BY_LABEL}
VOLUME = "/run/persist/volume"

# Data until there is no room, then what has none and lies in metadata, until after a commit not even a
# directory can be made.
FILL = """
import contextlib, errno, os, subprocess
os.makedirs("/home/full/small")
with open("/home/full/data", "wb") as f, contextlib.suppress(OSError):
    while True:
        f.write(os.urandom(1 << 20)); f.flush(); os.fsync(f.fileno())
def full():
    # Also after one more commit, and through the overlay: what a commit frees can be used only after it.
    for place in ("/run/persist/volume/.persist/tmp/probe", "/home/probe") * 2:
        try:
            os.mkdir(place)
        except OSError as e:
            if e.errno != errno.ENOSPC:
                raise
        else:
            os.rmdir(place)
            return False
        subprocess.run(["btrfs", "filesystem", "sync", "/run/persist/volume"])
    return True
while not full():
    for make in (lambda name: os.symlink("x" * 3000, name), os.mkdir):
        with contextlib.suppress(OSError):
            while True:
                make("/home/full/small/" + os.urandom(8).hex())
    subprocess.run(["btrfs", "filesystem", "sync", "/run/persist/volume"])
"""

SIZE = f"btrfs filesystem show --raw {VOLUME} | awk '$1 == \"devid\" {{print $4}}'"


# systemd has no say in it.
@pytest.mark.parametrize("tree", ["bookworm"], indirect=True)
def test_full_volume(disk: Disk, container: Boot) -> None:
    """A volume filled to the last byte still boots with all entries writable, by its reserve, and says so;
    with room again the reserve is back."""
    disk.write(0, HEADER)
    disk.format()
    one = container(files=FILES, read_only=True)
    one.start(devices=disk.nodes())
    assert healthy_boot(one)["volume"]["device"] == f"{disk.node}p1"  # too small for swap space
    size = one.succeed(SIZE)
    one.write_file("/run/fill.py", FILL.encode())
    one.succeed("python3 /run/fill.py", 600)
    one.fail("mkdir /home/more")
    only_said(one)
    one.crash()
    one.start(devices=disk.nodes())
    one.wait_for_boot()
    found = state(one)
    assert found["verdict"] == "degraded", json.dumps(found, indent=2)
    assert "reserve-used" in codes(found), found["reasons"]
    for path in ("/etc", "/var", "/home"):
        assert entries(found)[path] in ("early", "mounted")
        one.succeed(f"mkdir {path}/made && sync")
    assert one.succeed(SIZE) != size
    one.succeed("rm -rf /home/full; sync", 300)
    one.succeed("systemctl start persist-heal.service", 120)
    one.wait_until("the verdict is online", lambda: state(one)["verdict"] == "online")
    assert one.succeed(SIZE) == size, "the reserve is back"
    only_said(one, "VERDICT_DEGRADED", "reserve-used", "space-low", "SPACE_RESERVE")
    off(one)


def test_filesystem_does_not_mount(disk: Disk, container: Boot) -> None:
    """A volume with a broken tree is left as it is, and the boot goes on in memory; mended, it is back with
    all that it kept."""
    disk.make_volume(str(uuid.uuid4()))
    one = container(files=FILES, read_only=True)
    one.start(devices=disk.nodes())
    healthy_boot(one)
    one.succeed("echo kept >/home/kept && sync")
    off(one)
    disk.replug()
    block = tool("btrfs", "inspect-internal", "dump-super", disk.node).split()
    at = int(block[block.index("chunk_root") + 1])
    # The chunk tree lies in a system chunk that maps one to one near the start; DUP has two copies.
    copies = [at + (n << 23) for n in (0, 1)]
    kept = [disk.read(copy, 16384) for copy in copies]
    assert kept[0] == kept[1], "the second copy of the chunk root is not where it was expected"
    for copy in copies:
        disk.write(copy, bytes(16384))
    disk.unplug()
    before = disk.digest()
    one.start(devices=disk.nodes())
    one.wait_for_boot()
    found = state(one)
    assert (found["verdict"], found["volume"]["kind"]) == ("volatile", "tmpfs")
    assert records(one, "VOLUME_BROKEN")
    volatile_notices(one)
    only_said(one, "VOLUME_BROKEN", "VERDICT_VOLATILE", "FALLBACK")
    off(one)
    disk.unplug()
    assert disk.digest() == before, "a volume that does not mount is left untouched"
    disk.plug()
    for copy in copies:
        disk.write(copy, kept[0])
    one.start(devices=disk.nodes())
    healthy_boot(one)
    assert one.succeed("cat /home/kept") == "kept\n"
    off(one)


def test_two_of_one_label(disk: Disk, second: Disk, container: Boot) -> None:
    """Nothing tells which one is this machine's: none is taken, and none is touched."""
    disks = (disk, second)
    for one_of_them in disks:
        one_of_them.make_volume(str(uuid.uuid4()))
        one_of_them.unplug()
    before = [one_of_them.digest() for one_of_them in disks]
    one = container(files=FILES, read_only=True)
    one.start(devices=sorted({*disk.nodes(), *second.nodes()}))
    one.wait_for_boot()
    found = state(one)
    assert (found["verdict"], found["volume"]["kind"]) == ("volatile", "tmpfs"), json.dumps(found, indent=2)
    assert "duplicate-label" in codes(found), found["reasons"]
    assert failed_units(one) == []
    said = records(one, "VOLUME_AMBIGUOUS")
    assert {n for r in said for n in r["PERSIST_DEVICE"].split()} == {disk.node, second.node}, said
    volatile_notices(one)
    only_said(one, "VOLUME_AMBIGUOUS", "FALLBACK", "VERDICT_VOLATILE", "duplicate-label")
    off(one)
    for one_of_them in disks:
        one_of_them.unplug()
    assert [one_of_them.digest() for one_of_them in disks] == before
