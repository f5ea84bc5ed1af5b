# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tree that a machine seals of itself, and the disks below it: real mounts of loop devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.boot.fstab import Line
from persist.errors import PersistError
from persist.seal.boot import disks, tree
from persist.system import blockdev
from persist.system.mountinfo import mounts

from .namespace import own_machine, sh
from .rig import LoopDisk

# What programs need; parts of the root of the machine that runs the tests, which is none of ours.
_HOST = ("usr", "bin", "sbin", "lib", "lib64")
_MAKE = """
mkdir /srv/m
mkfs.ext4 -q {a}; mkfs.ext4 -q {b}
mount {a} /srv/m; cd /srv/m
mkdir -p etc var boot proc dev sys run tmp {host}
echo image >etc/machine-id; echo hidden >var/hidden
mount {b} var; echo kept >var/kept
mount -t tmpfs none run; echo running >run/id; mount --bind run/id etc/machine-id
mount -t tmpfs none boot
for d in proc dev sys {host}; do [ ! -d /$d ] || mount --rbind /$d $d; done
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[LoopDisk, LoopDisk]]:
    """Two blank disks."""
    one, two = LoopDisk(tmp_path, 64, b"", "a"), LoopDisk(tmp_path, 64, b"", "b")
    try:
        yield one, two
    finally:
        one.unplug()
        two.unplug()


def enter(pair: tuple[LoopDisk, LoopDisk], *more: str) -> None:
    """Make the first disk the root of this process, with the second one at /var."""
    sh(_MAKE.format(a=pair[0].node, b=pair[1].node, host=" ".join(_HOST)) + "\n".join(more))
    os.chroot("/srv/m")
    os.chdir("/")


@own_machine
def test_the_tree(pair: tuple[LoopDisk, LoopDisk]) -> None:
    """A root that is read-only takes writes through the copy alone; /var is put in, and what is bound over
    the machine-id is not."""
    enter(pair, "mount -o remount,ro /srv/m", "mount -o remount,ro var")
    copy = tree.make(writable=True, whole=True)
    top = Path(copy.path)
    assert [m.mount_point for m in copy.inside] == ["/var"]
    assert [e for e in copy.errors if not e.startswith(tuple(f"'/{name}" for name in _HOST))] == []
    assert copy.notes == (
        "'/var' is not empty below what is mounted there: that was not looked at, and stays.",
    )
    assert (top / "etc/machine-id").read_text() == "image\n"
    assert Path("/etc/machine-id").read_text() == "running\n"
    assert sorted(os.listdir(top / "var")) == ["kept", "lost+found"]
    assert os.listdir(top / "boot") == [] and os.listdir(top / "proc") == []
    (top / "etc/machine-id").write_text("")
    (top / "var/kept").unlink()
    for path in ("/etc/new", "/var/new"):
        with pytest.raises(OSError, match="Read-only"):
            Path(path).touch()
    assert not Path("/var/kept").exists()
    found = disks.captured(copy.mounts)
    assert {os.path.basename(name) for name in found} == {os.path.basename(d.node) for d in pair}


@own_machine
def test_a_disk_that_takes_no_writes(pair: tuple[LoopDisk, LoopDisk]) -> None:
    one = pair[0]
    sh(
        f"mkfs.ext4 -q {one.node}; mkdir /srv/m; mount {one.node} /srv/m; cd /srv/m; "
        f"mkdir proc run {' '.join(_HOST)}"
    )
    one.unplug()
    one.plug("--read-only")
    sh(
        f"mount -o ro {one.node} /srv/m; cd /srv/m; mount --rbind /proc proc; mount -t tmpfs none run; "
        f"for d in {' '.join(_HOST)}; do [ ! -d /$d ] || mount --rbind /$d $d; done"
    )
    os.chroot("/srv/m")
    with pytest.raises(PersistError, match="remount,rw"):
        tree.make(writable=True, whole=True)


@own_machine
def test_a_root_in_memory(tmp_path: Path) -> None:
    """It would be "sealed", and the disk untouched."""
    sh("mkdir /srv/m; mount -t tmpfs none /srv/m; cd /srv/m; mkdir proc run; mount --rbind /proc proc")
    os.chroot("/srv/m")
    with pytest.raises(PersistError, match="back after the next start"):
        tree.make(writable=True, whole=True)
    assert [m.mount_point for m in mounts("/run")] == [f"{tree.PLACE}"]


@own_machine
def test_volumes_and_swap(pair: tuple[LoopDisk, LoopDisk]) -> None:
    """A volume on a disk of the image is found; swap space of fstab is made anew, with its names and without
    its content, on a disk and in a file."""
    one, two = pair
    sh(f"mkfs.ext4 -q -L persist-data {one.node}; mkswap -L swap {two.node}; mkdir /srv/m")
    assert disks.volumes_on(disks.whole_disks(one.node)) == [one.node]
    assert disks.volumes_on(disks.whole_disks(two.node)) == []
    before = blockdev.probe(two.node)
    secret = b"a page of memory" * 256
    file = Path("/srv/m/swapfile")
    file.write_bytes(bytes(1 << 20))
    sh(f"chmod 600 {file}; mkswap -L inside {file}")
    for path in (two.node, str(file)):
        with open(path, "r+b") as f:
            f.seek(1 << 19)
            f.write(secret)
    lines = [
        Line("/dev/loop-control", "", "swap", "sw", "/etc/fstab:5"),
        Line(one.node, "", "swap", "sw,_netdev", "/etc/fstab:6"),
        Line(two.node, "", "swap", "sw", "/etc/fstab:1"),
        Line("/swapfile", "", "swap", "sw", "/etc/fstab:2"),
        Line("LABEL=nowhere", "", "swap", "sw", "/etc/fstab:3"),
        Line(one.node, "", "swap", "sw", "/etc/fstab:4"),
    ]
    found, errors = disks.swap_space(lines, "/srv/m")
    assert errors == [] and [(s.node, s.label) for s in found] == [
        (two.node, "swap"),
        (str(file), "inside"),
    ]
    assert disks.swap_space([Line(two.node, "", "swap", "_netdev", "/etc/fstab:1")], "/srv/m") == ([], [])
    for swap in found:
        disks.make_swap(swap)
    after = blockdev.probe(two.node)
    assert (after["UUID"], after["LABEL"], after["TYPE"]) == (before["UUID"], "swap", "swap")
    assert blockdev.probe(str(file))["LABEL"] == "inside"
    assert secret not in file.read_bytes() and secret not in two.file.read_bytes()


@own_machine
def test_swap_space_in_use(pair: tuple[LoopDisk, LoopDisk]) -> None:
    """A machine that asks to be sealed uses its swap space as ever; the boot that wipes it must not."""
    node = pair[0].node
    sh(f"mkswap {node}; swapon {node}; mkdir /srv/m")
    try:
        lines = [Line(node, "", "swap", "sw", "/etc/fstab:1")]
        assert disks.swap_space(lines, "/srv/m", looking=True)[1] == []
        assert disks.swap_space(lines, "/srv/m") == (
            [],
            [f"The swap space {node} is in use: 'swapoff {node}'."],
        )
    finally:
        sh(f"swapoff {node}")


@own_machine
def test_blocks_of_a_btrfs_root(tmp_path: Path) -> None:
    """Small files lie in metadata, of which fstrim(8) leaves out what is set aside for more of it."""
    one = LoopDisk(tmp_path, 1024, b"")
    try:
        sh(f"mkfs.btrfs -q {one.node}; mkdir /srv/m; mount {one.node} /srv/m")
        for number in range(100):
            Path(f"/srv/m/{number}").write_text(f"a secret {number}")
            if number % 20 == 0:
                sh("sync -f /srv/m")
        sh(f"umount /srv/m; mount {one.node} /srv/m; touch /srv/m/new; sync -f /srv/m")
        sh("rm /srv/m/*; sync -f /srv/m")
        assert one.holds("a secret") > 0
        assert disks.trim(mounts("/srv/m"), "/srv") == []
        assert one.holds("a secret") == 0
    finally:
        one.unplug()
