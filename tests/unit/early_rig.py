# SPDX-License-Identifier: LGPL-2.1-or-later
"""packaging/initramfs-tools/persist-early without a machine: in a mount namespace of its own, with made-up
disks, sysfs and command line.

blkid, udevadm, btrfs and sleep are stubs that note their arguments. mount is one too: a btrfs becomes a bind
of a directory, all else is mounted truly, by klibc's mount where there is one; dd reads and writes files in
the place of disks. The shell is dash, and klibc's where it is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from persist.boot.load import load
from persist.boot.paths import escape
from persist.system.mountinfo import Mount, parse

SCRIPT = Path(__file__).parents[2] / "packaging/initramfs-tools/persist-early"
KLIBC = Path("/usr/lib/klibc/bin")
SHELLS = ["dash", str(KLIBC / "sh")]
PCI = "pci0000:00/0000:00:05.0/virtio2"

needs_root = pytest.mark.skipif(
    os.geteuid() != 0
    or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="mounts need root",
)

# Everything is prepared in $FAKE: volume/, root/, sys/, blkid/, cmdline, table, bin/.
_RUN = r"""
set -eu
cd "$FAKE"
mount -t tmpfs tmpfs /run
mkdir /run/image /run/disk
cp -a volume/. /run/disk
cp -a root/. /run/image
[ ! -e cmdline ] || mount --bind cmdline /proc/cmdline
[ ! -e uptime ] || mount --bind uptime /proc/uptime
mount --rbind sys /sys
# The script's word for the kernel log goes to our standard error.
mkdir dev
mount -t tmpfs tmpfs dev
mknod dev/null c 1 3
mknod dev/zero c 1 5
ln -s /proc/self/fd/2 dev/kmsg
[ ! -e nodes ] || while read -r number name; do mknod "dev/$name" b 7 "$((number + 200))"; done <nodes
mkdir -p dev/disk/by-id
ln -s ../../sdb dev/disk/by-id/stick
mount --rbind dev /dev
status=0
PATH="$FAKE/bin" PERSIST_EARLY_TABLE="$FAKE/table" "$SHELL_UNDER_TEST" "$SCRIPT" /run/image || status=$?
cat /proc/self/mountinfo >mountinfo
[ ! -d /run/persist/early ] || ls -A /run/persist/early >early
[ ! -e /run/persist/initrd-volume ] || cp /run/persist/initrd-volume noted
[ ! -e /run/persist/heal ] || : >heal
[ ! -d /run/persist/volume ] || cp -a /run/persist/volume mounted
exit "$status"
"""

_STUB = """#!/bin/sh
{ printf '%s' "${0##*/}"; for word; do printf '\\t%s' "$word"; done; echo; } >>"$FAKE/calls"
"""

_BLKID = (
    _STUB
    + r"""
case "$3 $5" in
    "-t -o") [ ! -r "$FAKE/blkid/$4" ] || while read -r node; do echo "$node"; done <"$FAKE/blkid/$4" ;;
    "-o -s")
        node=${7#/dev/}
        [ -r "$FAKE/blkid/$node.$6" ] || exit 2
        read -r value <"$FAKE/blkid/$node.$6"
        echo "$value"
        ;;
    *) echo "stub of blkid: what is that: $*" >&2; exit 4 ;;
esac
"""
)

_MOUNT = (
    _STUB
    + r"""
case "$1 $2" in
    "-t btrfs")
        case $(/bin/cat "$FAKE/broken" 2>/dev/null) in
            rw) case $4 in ro,*) ;; *) echo "mount: no" >&2; exit 32 ;; esac ;;
            *) ;;
        esac
        [ ! -e "$FAKE/broken" ] || [ -s "$FAKE/broken" ] || { echo "mount: bad superblock" >&2; exit 32; }
        # What udev shows to the kernel again between forgetting and mounting.
        if [ -e "$FAKE/udev-shows" ]; then
            read -r where <"$FAKE/udev-shows"
            /bin/mkdir -p "$FAKE/sys/$where"
            /bin/rm "$FAKE/udev-shows"
        fi
        /bin/mount --bind /run/disk "$6"
        [ ! -e "$FAKE/protected" ] || exec /bin/mount -o remount,bind,ro "$6"
        case ,$4, in
            *,ro,*) exec /bin/mount -o remount,bind,ro "$6" ;;
        esac
        exit
        ;;
    "-t overlay")
        "$REAL_MOUNT" "$@" || exit
        [ ! -e "$FAKE/full" ] || exec /bin/mount -o remount,ro "$6"
        exit
        ;;
esac
exec "$REAL_MOUNT" "$@"
"""
)

_BTRFS = (
    r"""#!/bin/sh
if [ "$1 $2" = "inspect-internal dump-super" ]; then
    exec /bin/cat "$FAKE/super/${3#/dev/}"
fi
if [ "$1 $2" = "device usage" ]; then
    exec /bin/cat "$FAKE/usage"
fi
"""
    + _STUB.split("\n", 1)[1]
    + r"""
case "$1 $2" in
    "filesystem resize") [ -e "$FAKE/really-full" ] || /bin/rm -f "$FAKE/full" ;;
    "device scan")
        [ "$3" != --forget ] || [ -e "$FAKE/udev-shows-always" ] || /bin/rm -rf "$FAKE/sys/fs/btrfs"
        ;;
esac
"""
)

_DD = (
    _STUB
    + r"""
case "$1 $2 $3" in
    if=/dev/*"bs=512 skip=96") file=$FAKE/marks/${1#if=/dev/} ;;
    if=/dev/*"bs=8 skip=32") file=$FAKE/bound/${1#if=/dev/} ;;
    of=/dev/*"bs=512 seek=96")
        node=${1#of=/dev/}
        [ ! -e "$FAKE/unwritable/$node" ] || exit 1
        exec /bin/dd "of=$FAKE/marks/$node" "$2" conv=notrunc,sync
        ;;
    *) exec /bin/dd "$@" ;;
esac
[ -e "$file" ] || exit 1
exec /bin/dd "if=$file" "$2"
"""
)


# As btrfs-progs 6.2 has it, less what nobody reads.
_SUPER = """superblock: bytenr=65536, device=/dev/{d.node}
---------------------------------------------------------
csum_type\t\t0 (crc32c)
csum_size\t\t4
csum\t\t\t0xf166e7b2 [match]
bytenr\t\t\t65536
flags\t\t\t0x1
\t\t\t( WRITTEN )
magic\t\t\t_BHRfS_M [match]
fsid\t\t\t{d.uuid}
metadata_uuid\t\t{d.uuid}
label\t\t\tpersist-data
generation\t\t{d.generation}
chunk_root_generation\t6
log_root\t\t{d.log}
log_root_transid (deprecated)\t0
log_root_level\t\t0
num_devices\t\t{d.devices}
cache_generation\t0
dev_item.uuid\t\t{d.sub}
dev_item.fsid\t\t{d.uuid} [match]
dev_item.devid\t\t{d.devid}
dev_item.generation\t0

"""


# Of btrfs device usage, where a member is missing.
USAGE = """/dev/vda2, ID: 1
   Device size:           400.00MiB
   Device slack:              0.00B
   Data,single:            88.00MiB
   Metadata,RAID1:         40.00MiB
   Unallocated:           264.00MiB

missing, ID: 2
   Device size:               0.00B
   Device slack:              0.00B
   Data,{data}:           160.00MiB
   Metadata,RAID1:         40.00MiB
   System,RAID1:            8.00MiB
   Unallocated:           192.00MiB

"""


@dataclass
class Disk:
    """A btrfs member."""

    node: str
    uuid: str = "id-1"
    sub: str = ""
    fstype: str = "btrfs"
    label: str = "persist-data"
    sys: str = PCI
    match: tuple[str, ...] = ()
    removable: dict[str, str] = field(default_factory=dict)
    devid: int = 1
    devices: int = 1
    generation: int = 8
    log: int = 0
    mark: str = ""
    bound: str = ""

    @property
    def superblock(self) -> str:
        """What btrfs inspect-internal dump-super says."""
        return _SUPER.format(d=self)


@dataclass
class Result:
    """What the script did."""

    calls: list[list[str]]
    log: str
    mounts: dict[str, Mount]
    early: set[str]
    noted: list[str]
    heal: bool
    marks: dict[str, str]

    def ran(self, program: str) -> list[list[str]]:
        return [c[1:] for c in self.calls if c[0] == program]

    @property
    def volume(self) -> bool:
        return "/run/persist/volume" in self.mounts

    @property
    def btrfs_mounts(self) -> list[list[str]]:
        """Options, node and place of each mount of the volume that was tried."""
        return [call[3:] for call in self.ran("mount") if call[:2] == ["-t", "btrfs"]]


def quoted(path: str) -> str:
    """A path as value of Path=, taken for nothing but a name."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Initrd:
    """Put a machine together, then run()."""

    def __init__(self, base: Path, shell: str) -> None:
        self.base = base
        self.shell = shell
        for name in (
            "volume/.persist/seed",
            "volume/.persist/overlay",
            "root",
            "sys/class/block",
            "sys/devices",
            "blkid",
            "bin",
            "super",
            "marks",
            "bound",
            "unwritable",
        ):
            (base / name).mkdir(parents=True)
        klibc = KLIBC.is_dir()
        for name in ("mkdir", "readlink", "umount"):
            (base / "bin" / name).symlink_to(KLIBC / name if klibc else shutil.which(name) or name)
        for name in ("chmod", "chown"):
            (base / "bin" / name).symlink_to(shutil.which(name) or name)
        self.real_mount = str(KLIBC / "mount") if klibc else "/bin/mount"
        for name, text in (
            ("blkid", _BLKID),
            ("mount", _MOUNT),
            ("udevadm", _STUB),
            ("sleep", _STUB),
            ("btrfs", _BTRFS),
            ("dd", _DD),
        ):
            (base / "bin" / name).write_text(text)
            (base / "bin" / name).chmod(0o755)
        (base / "usage").write_text(USAGE.format(data="RAID1"))
        self.disks: list[Disk] = []
        self.nodes: list[str] = []
        self.table = "device\tauto\n"

    def disk(self, disk: Disk) -> None:
        """Add a disk with one partition that carries the filesystem."""
        self.disks.append(disk)
        name = disk.node
        partition = name[:2] in ("sd", "vd")
        whole = (
            self.base
            / "sys/devices"
            / disk.sys
            / "block"
            / (name.rstrip("0123456789") if partition else name)
        )
        at = whole / name if partition else whole
        at.mkdir(parents=True)
        if partition:
            (at / "partition").write_text("1\n")
        (whole / "removable").write_text("0\n")
        for where, value in disk.removable.items():
            (self.base / "sys/devices" / where / "removable").write_text(value + "\n")
        (self.base / "sys/class/block" / name).symlink_to(os.path.relpath(at, self.base / "sys/class/block"))
        disk.sub = disk.sub or f"sub-{len(self.disks)}"
        (self.base / f"blkid/{name}.TYPE").write_text(disk.fstype + "\n")
        (self.base / f"super/{name}").write_text(disk.superblock)
        (self.base / f"marks/{name}").write_bytes(disk.mark.encode().ljust(512, b"\0"))
        (self.base / f"bound/{name.rstrip('0123456789') if partition else name}").write_bytes(
            disk.bound.encode().ljust(184, b"\0")
        )
        for spec in (f"LABEL={disk.label}", f"UUID={disk.uuid}", *disk.match):
            with open(self.base / "blkid" / spec, "a", encoding="utf-8") as f:
                f.write(f"/dev/{name}\n")

    def whole(self, name: str) -> None:
        """Show a disk whose partition is there already by its own name, and by that of a link."""
        partition = self.base / "sys/class/block" / f"{name}1"
        (self.base / "sys/class/block" / name).symlink_to(
            os.path.relpath(partition.resolve().parent, partition.parent)
        )
        self.nodes.append(name)

    def cmdline(self, text: str) -> None:
        (self.base / "cmdline").write_text(text + "\n")

    def registry(self, text: str) -> None:
        """Fill the table as the hook does when the initrd is built."""
        root = self.base / "root"
        for directory in ("usr/lib/persist.d", "etc/systemd/system/local-fs.target.wants"):
            (root / directory).mkdir(parents=True, exist_ok=True)
        target = root / "etc/systemd/system/local-fs.target.wants/persist-setup.target"
        if not target.is_symlink():
            target.symlink_to("/usr/lib/systemd/system/persist-setup.target")
        entries = [line.rsplit(maxsplit=1) for line in text.splitlines()]
        (root / "usr/lib/persist.d/a.conf").write_text(
            "".join(f"[Path]\nPath={quoted(path)}\nMethod={method}\nEarly=yes\n" for path, method in entries)
        )
        self.table += load(str(root), {"SYSTEMD_PROC_CMDLINE": ""}).plan.early_table

    def seeded(self, path: str, method: str = "overlay", content: str = "kept") -> None:
        """An entry that an earlier boot has seeded; its directory is in the image too."""
        name = escape(path)
        (self.base / f"root{path}").mkdir(parents=True, exist_ok=True)
        store = (
            self.base / f"volume/.persist/overlay/{name}/upper"
            if method == "overlay"
            else self.base / f"volume{path}"
        )
        store.mkdir(parents=True, exist_ok=True)
        (store / content).touch()
        if method == "overlay":
            (store.parent / "work").mkdir()
        self.marker(path).write_text("{}")

    def marker(self, path: str) -> Path:
        return self.base / f"volume/.persist/seed/{escape(path)}.json"

    def run(self) -> Result:
        (self.base / "table").write_text(self.table)
        if self.disks:
            nodes = [d.node for d in self.disks] + self.nodes
            (self.base / "nodes").write_text("".join(f"{n} {node}\n" for n, node in enumerate(nodes)))
        if not (self.base / "cmdline").exists():
            self.cmdline("root=/dev/vda ro quiet")
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", _RUN],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "FAKE": str(self.base),
                "SCRIPT": str(SCRIPT),
                "SHELL_UNDER_TEST": self.shell,
                "REAL_MOUNT": self.real_mount,
            },
        )
        assert done.returncode == 0, done.stderr
        for line in done.stderr.splitlines():
            assert line.startswith(("<", "mount: ")), f"a complaint of the shell: {line}"
        calls = self.base / "calls"
        early = self.base / "early"
        return Result(
            [c.split("\t") for c in calls.read_text().splitlines()] if calls.exists() else [],
            done.stderr,
            {m.mount_point: m for m in parse((self.base / "mountinfo").read_text())},
            set(early.read_text().splitlines()) if early.exists() else set(),
            (self.base / "noted").read_text().splitlines() if (self.base / "noted").exists() else [],
            (self.base / "heal").exists(),
            {d.node: (self.base / f"marks/{d.node}").read_bytes().rstrip(b"\0").decode() for d in self.disks},
        )
