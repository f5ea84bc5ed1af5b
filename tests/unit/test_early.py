# SPDX-License-Identifier: LGPL-2.1-or-later
"""packaging/initramfs-tools/persist-early without a machine: in a mount namespace of its own, with made-up disks, sysfs and command line.

blkid, udevadm, btrfs and sleep are stubs that note their arguments. mount is one too: a btrfs becomes a bind of a directory, all else is
mounted truly, by klibc's mount where there is one. The shell is dash, and klibc's where it is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from persist.boot.load import load
from persist.boot.paths import escape, overlay_option
from persist.volume.mountinfo import Mount, parse

SCRIPT = Path(__file__).parents[2] / "packaging/initramfs-tools/persist-early"
KLIBC = Path("/usr/lib/klibc/bin")
SHELLS = ["dash", str(KLIBC / "sh")]
PCI = "pci0000:00/0000:00:05.0/virtio2"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0, reason="mounts need root"),
]

# Everything is prepared in $FAKE: volume/, root/, sys/, blkid/, cmdline, table, bin/.
_RUN = r"""
set -eu
cd "$FAKE"
mount -t tmpfs tmpfs /run
mkdir /run/image /run/disk
cp -a volume/. /run/disk
cp -a root/. /run/image
[ ! -e cmdline ] || mount --bind cmdline /proc/cmdline
mount --rbind sys /sys
# The script's word for the kernel log goes to our standard error.
mkdir dev
mount -t tmpfs tmpfs dev
mknod dev/null c 1 3
ln -s /proc/self/fd/2 dev/kmsg
[ ! -e nodes ] || while read -r number name; do mknod "dev/$name" b 7 "$((number + 200))"; done <nodes
mkdir -p dev/disk/by-id
ln -s ../../sdb dev/disk/by-id/stick
mount --rbind dev /dev
status=0
PATH="$FAKE/bin" PERSIST_EARLY_TABLE="$FAKE/table" "$SHELL_UNDER_TEST" "$SCRIPT" /run/image || status=$?
cat /proc/self/mountinfo >mountinfo
[ ! -d /run/persist/early ] || ls -A /run/persist/early >early
exit "$status"
"""

_STUB = """#!/bin/sh
{ printf '%s' "${0##*/}"; for word; do printf '\\t%s' "$word"; done; echo; } >>"$FAKE/calls"
"""

_BLKID = _STUB + r"""
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

_MOUNT = _STUB + r"""
case "$1 $2" in
    "-t btrfs")
        [ ! -e "$FAKE/broken" ] || { echo "mount: bad superblock" >&2; exit 32; }
        /bin/mount --bind /run/disk "$6"
        [ ! -e "$FAKE/protected" ] || exec /bin/mount -o remount,bind,ro "$6"
        exit
        ;;
esac
exec "$REAL_MOUNT" "$@"
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


@dataclass
class Result:
    """What the script did."""

    calls: list[list[str]]
    log: str
    mounts: dict[str, Mount]
    early: set[str]

    def ran(self, program: str) -> list[list[str]]:
        return [c[1:] for c in self.calls if c[0] == program]

    @property
    def volume(self) -> bool:
        return "/run/persist/volume" in self.mounts


class Initrd:
    """Put a machine together, then run()."""

    def __init__(self, base: Path, shell: str) -> None:
        self.base = base
        self.shell = shell
        for name in ("volume/.persist/seed", "volume/.persist/overlay", "root", "sys/class/block", "sys/devices", "blkid", "bin"):
            (base / name).mkdir(parents=True)
        klibc = KLIBC.is_dir()
        for name in ("mkdir", "readlink", "umount"):
            (base / "bin" / name).symlink_to(KLIBC / name if klibc else shutil.which(name) or name)
        self.real_mount = str(KLIBC / "mount") if klibc else "/bin/mount"
        for name, text in (("blkid", _BLKID), ("mount", _MOUNT), ("udevadm", _STUB), ("sleep", _STUB), ("btrfs", _STUB)):
            (base / "bin" / name).write_text(text)
            (base / "bin" / name).chmod(0o755)
        self.disks: list[Disk] = []
        self.nodes: list[str] = []
        self.table = "device\tauto\n"

    def disk(self, disk: Disk) -> None:
        """Add a disk with one partition that carries the filesystem."""
        self.disks.append(disk)
        name = disk.node
        partition = name[:2] in ("sd", "vd")
        whole = self.base / "sys/devices" / disk.sys / "block" / (name.rstrip("0123456789") if partition else name)
        at = whole / name if partition else whole
        at.mkdir(parents=True)
        if partition:
            (at / "partition").write_text("1\n")
        (whole / "removable").write_text("0\n")
        for where, value in disk.removable.items():
            (self.base / "sys/devices" / where / "removable").write_text(value + "\n")
        (self.base / "sys/class/block" / name).symlink_to(os.path.relpath(at, self.base / "sys/class/block"))
        for key, value in (("TYPE", disk.fstype), ("UUID", disk.uuid), ("UUID_SUB", disk.sub or f"sub-{len(self.disks)}")):
            (self.base / f"blkid/{name}.{key}").write_text(value + "\n")
        for spec in (f"LABEL={disk.label}", f"UUID={disk.uuid}", *disk.match):
            with open(self.base / "blkid" / spec, "a", encoding="utf-8") as f:
                f.write(f"/dev/{name}\n")

    def whole(self, name: str) -> None:
        """Show a disk whose partition is there already by its own name, and by that of a link."""
        partition = self.base / "sys/class/block" / f"{name}1"
        (self.base / "sys/class/block" / name).symlink_to(os.path.relpath(partition.resolve().parent, partition.parent))
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
        entries = [line.split() for line in text.splitlines()]
        (root / "usr/lib/persist.d/a.conf").write_text("".join(f"[Path]\nPath={path}\nMethod={method}\nEarly=yes\n" for path, method in entries))
        self.table += load(str(root), {"SYSTEMD_PROC_CMDLINE": ""}).plan.early_table

    def seeded(self, path: str, method: str = "overlay", content: str = "kept") -> None:
        """An entry that an earlier boot has seeded; its directory is in the image too."""
        name = escape(path)
        (self.base / f"root{path}").mkdir(parents=True, exist_ok=True)
        store = self.base / f"volume/.persist/overlay/{name}/upper" if method == "overlay" else self.base / f"volume{path}"
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
            ["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", _RUN], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=60, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "FAKE": str(self.base), "SCRIPT": str(SCRIPT), "SHELL_UNDER_TEST": self.shell,
                 "REAL_MOUNT": self.real_mount})
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
        )


@pytest.fixture(params=SHELLS, ids=["dash", "klibc"])
def initrd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Initrd]:
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip("not installed")
    yield Initrd(tmp_path, shell)


@pytest.fixture
def ready(initrd: Initrd) -> Initrd:
    """A machine at its second boot: one trusted disk, /etc seeded."""
    initrd.disk(Disk("vdb2"))
    initrd.seeded("/etc")
    initrd.registry("/etc overlay")
    return initrd


# ------------------------------------------------------------------------------------------------------------- all is well


def test_second_boot(ready: Initrd) -> None:
    found = ready.run()
    assert found.volume and found.early == {"etc"}
    at = found.mounts["/run/image/etc"]
    assert at.fstype == "overlay"
    options = at.super_options.split(",")
    assert "upperdir=/run/persist/volume/.persist/overlay/etc/upper" in options and "lowerdir=/run/image/etc" in options
    assert ["-t", "btrfs", "-o", "noatime,subvol=@persist-state", "/dev/vdb2", "/run/persist/volume"] in found.ran("mount")
    assert found.ran("mount")[-1][3].endswith(",index=off,metacopy=off,redirect_dir=nofollow,xino=off")
    assert not found.ran("udevadm") and not found.ran("sleep"), "nothing is waited for"
    assert "<6>persist-early: state volume mounted from /dev/vdb2\n<6>persist-early: /etc mounted\n" in found.log


def test_nested_and_binds(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2"))
    for path, method in (("/etc", "overlay"), ("/etc/app", "bind"), ("/srv", "overlay")):
        initrd.seeded(path, method)
    initrd.registry("/etc overlay\n/etc/app bind\n/srv overlay")
    found = initrd.run()
    assert found.early == {"etc", "etc-app", "srv"}
    assert found.mounts["/run/image/etc/app"].parent_id == found.mounts["/run/image/etc"].mount_id
    assert found.mounts["/run/image/etc/app"].root.endswith("/etc/app")


@pytest.mark.parametrize("path", ["/srv/my-data", "/srv/a:b", "/srv/a\\tb\\c", "/srv/a\\x2db", "/srv/a'b#", "/srv/*", "/srv/100%s", "/srv/\u00fcn\u00ef"])
@pytest.mark.parametrize("method", ["overlay", "bind"])
def test_names(initrd: Initrd, path: str, method: str) -> None:
    initrd.disk(Disk("vdb2"))
    initrd.seeded(path, method)
    initrd.registry(f"{path} {method}")
    found = initrd.run()
    assert found.early == {escape(path)}
    at = found.mounts["/run/image" + path]
    if method == "overlay":
        assert at.fstype == "overlay" and f"/{overlay_option(escape(path))}/upper," in at.super_options
    else:
        assert at.root.endswith(path)
    assert f"<6>persist-early: {path} mounted\n" in found.log, "what echo would obey is only said"


# ------------------------------------------------------------------------------------------------------ the command line


@pytest.mark.parametrize("word", ["off", "volatile", "ro", "OFF", "of", "no", "x y", "*"])
def test_switched_off(ready: Initrd, word: str) -> None:
    ready.cmdline(f"quiet persist={word}")
    found = ready.run()
    assert found.calls == [] and not found.volume and found.early == set()


@pytest.mark.parametrize("cmdline", ["persist=off persist=on", "persist=on", "persist=", "xpersist=off", "persist", "persist=off persist",
                                     "persist.overlay=off", "* persist ?", "", "persist.volume=id-1"])
def test_not_switched_off(ready: Initrd, cmdline: str) -> None:
    ready.cmdline(cmdline)
    assert ready.run().early == {"etc"}


def test_volume_of_the_command_line(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2", "id-1"))
    initrd.disk(Disk("vdc2", "id-2", sys="pci0/virtio3"))
    initrd.seeded("/etc")
    initrd.registry("/etc overlay")
    initrd.cmdline("persist.volume=id-1 persist.volume=id-2")
    found = initrd.run()
    assert found.early == {"etc"} and found.ran("mount")[0][4] == "/dev/vdc2"


def test_volume_of_the_command_line_in_capitals(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2", "0a1b2c3d-4e5f"))
    initrd.disk(Disk("vdc2", "9-0", sys="pci0/virtio3"))
    initrd.seeded("/etc")
    initrd.registry("/etc overlay")
    initrd.cmdline("persist.volume=0A1B2C3D-4E5F")
    found = initrd.run()
    assert found.early == {"etc"} and found.ran("mount")[0][4] == "/dev/vdb2"


def test_waits_for_the_volume_of_the_command_line(ready: Initrd) -> None:
    ready.cmdline("persist.volume=another")
    found = ready.run()
    assert not found.volume and len(found.ran("sleep")) == 30, "a bound, also there"


# ------------------------------------------------------------------------------------------------------ finding the volume


def test_nothing_to_do_without_entries(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2"))
    assert initrd.run().calls == []


def test_no_volume(initrd: Initrd) -> None:
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert found.ran("udevadm") == [["settle", "--timeout=10"]] and not found.ran("sleep") and not found.volume


def test_not_a_btrfs(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2", fstype="ext4"))
    initrd.registry("/etc overlay")
    assert not initrd.run().volume


def test_two_volumes(ready: Initrd) -> None:
    ready.disk(Disk("vdc2", "id-2", sys="pci0/virtio3"))
    found = ready.run()
    assert not found.volume and not found.ran("mount") and "more than one filesystem could be the state volume: /dev/vdb2 /dev/vdc2" in found.log


def test_cloned_disk(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2", sub="same"))
    initrd.disk(Disk("vdc2", sub="same", sys="pci0/virtio3"))
    initrd.registry("/etc overlay")
    assert not initrd.run().ran("mount")


def test_two_members(ready: Initrd) -> None:
    ready.disk(Disk("vdc2", sys="pci0/virtio3"))
    found = ready.run()
    assert found.ran("btrfs") == [["device", "scan", "/dev/vdb2", "/dev/vdc2"]] and found.early == {"etc"}


UNTRUSTED = {
    "usb": Disk("sdb1", sys="pci0/usb3/3-1/host4/target4:0:0/4:0:0:0"),
    "firewire": Disk("sdb1", sys="pci0/fw1/fw1.0/host4"),
    "iscsi": Disk("sdb1", sys="platform/host5/session1/target5:0:0"),
    "fibre-channel": Disk("sdb1", sys="pci0/host5/rport-5:0-1/target5:0:0"),
    "removable": Disk("sdb1", sys="pci0/ata1", removable={"pci0/ata1/block/sdb": "1"}),
    "thunderbolt": Disk("sdb1", sys="pci0/0000:05:00.0/ata1", removable={"pci0/0000:05:00.0": "removable"}),
    "loop": Disk("loop7", sys="virtual"),
    "dm": Disk("dm-3", sys="virtual"),
    "nbd": Disk("nbd0", sys="virtual"),
    "unknown": Disk("vdx9", sys="elsewhere"),
}


@pytest.mark.parametrize("case", UNTRUSTED)
def test_untrusted(initrd: Initrd, case: str) -> None:
    initrd.disk(UNTRUSTED[case])
    if case == "unknown":
        (initrd.base / "sys/class/block/vdx9").unlink()
    initrd.seeded("/etc")
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert not found.volume and "its bus is not trusted" in found.log


@pytest.mark.parametrize("allowed", ["removable\n", "device\tUUID=id-1\n", "device\t/dev/sdb1\n", "device\tPARTLABEL=mine\n"])
def test_untrusted_but_named(initrd: Initrd, allowed: str) -> None:
    initrd.disk(Disk("sdb1", sys=UNTRUSTED["usb"].sys, match=("PARTLABEL=mine",)))
    initrd.seeded("/etc")
    initrd.table = allowed if allowed != "removable\n" else "device\tauto\nremovable\n"
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert found.early == {"etc"} and "not trusted" not in found.log


def test_stick_beside_the_volume(ready: Initrd) -> None:
    """Another volume on a stick changes nothing; a copy of ours does, for the kernel might take that one."""
    ready.disk(Disk("sdb1", "id-2", sys=UNTRUSTED["usb"].sys))
    assert ready.run().early == {"etc"}


def test_copy_on_a_stick(ready: Initrd) -> None:
    ready.disk(Disk("sdb1", sub="sub-1", sys=UNTRUSTED["usb"].sys))
    found = ready.run()
    assert not found.ran("mount") and "has a copy on a bus that is not trusted" in found.log


def test_first_device_decides(ready: Initrd) -> None:
    ready.disk(Disk("vdc2", "id-2", label="other", sys="pci0/virtio3"))
    ready.table = "device\tUUID=id-9\ndevice\tUUID=id-2\ndevice\t/dev/vdb2\n" + ready.table
    found = ready.run()
    assert found.ran("mount")[0][4] == "/dev/vdc2"


@pytest.mark.parametrize("spec", ["/dev/sdb", "/dev/disk/by-id/stick", "UUID=0A-B", "PARTUUID=C-D"])
def test_named_as_in_the_configuration(initrd: Initrd, spec: str) -> None:
    """As persist/volume/find.py has it: a whole disk stands for the volume on it, ids are not case-sensitive."""
    initrd.disk(Disk("sdc1", "id-3", label="other", sys=UNTRUSTED["usb"].sys + "1"))
    initrd.disk(Disk("sdb1", "0a-b", sys=UNTRUSTED["usb"].sys, match=("PARTUUID=c-d",)))
    initrd.disk(Disk("vdc2", "id-2", sys="pci0/virtio3"))
    initrd.whole("sdb")
    initrd.seeded("/etc")
    initrd.table = f"device\t{spec}\n"
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert found.early == {"etc"} and found.ran("mount")[0][4] == "/dev/sdb1"


def test_another_partition_of_a_named_disk(initrd: Initrd) -> None:
    initrd.disk(Disk("sdb1", label="other", sys=UNTRUSTED["usb"].sys))
    initrd.whole("sdb")
    initrd.seeded("/etc")
    initrd.table = "device\t/dev/sdb\n"
    initrd.registry("/etc overlay")
    assert not initrd.run().ran("mount")


def test_name_that_device_mapper_gave(initrd: Initrd) -> None:
    """/dev/mapper/vdb2 is not vdb2."""
    initrd.disk(Disk("vdb2", label="other"))
    (initrd.base / "blkid/LABEL=persist-data").write_text("/dev/mapper/vdb2\n")
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert not found.ran("mount") and "/dev/mapper/vdb2 has the label persist-data, but its bus is not trusted" in found.log


def test_write_protection(ready: Initrd) -> None:
    (ready.base / "protected").touch()
    found = ready.run()
    assert len(found.ran("mount")) == 1 and not found.volume and found.early == set()
    assert "<3>persist-early: /dev/vdb2 can only be mounted read-only" in found.log and "state volume mounted" not in found.log


def test_volume_does_not_mount(ready: Initrd) -> None:
    (ready.base / "broken").touch()
    found = ready.run()
    assert not found.volume and found.early == set() and "<3>persist-early: /dev/vdb2 does not mount" in found.log


# ----------------------------------------------------------------------------------------------- entries that come late


def test_no_marker(ready: Initrd) -> None:
    ready.marker("/etc").unlink()
    found = ready.run()
    assert found.volume and found.early == set() and "/run/image/etc" not in found.mounts


def test_not_in_the_image(ready: Initrd) -> None:
    ready.seeded("/srv/x")
    (ready.base / "root/srv/x").rmdir()
    ready.table += "overlay\tsrv-x\t/srv/x\t/srv/x\tsrv-x\n"
    found = ready.run()
    assert found.early == {"etc"} and "/srv/x is not in the image" in found.log


@pytest.mark.parametrize("link", [".persist", ".persist/seed", ".persist/overlay", ".persist/overlay/etc",
                                  ".persist/overlay/etc/upper", ".persist/overlay/etc/work"])
def test_links_on_the_volume_are_not_followed(ready: Initrd, link: str) -> None:
    at = ready.base / "volume" / link
    at.rename(ready.base / "moved")
    shutil.copytree(ready.base / "moved", ready.base / "volume/elsewhere")
    at.symlink_to("/run/disk/elsewhere")
    found = ready.run()
    assert found.volume and found.early == set() and "/run/image/etc" not in found.mounts


def test_bind_through_a_link(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2"))
    initrd.seeded("/srv/a", "bind")
    initrd.registry("/srv/a bind")
    shutil.rmtree(initrd.base / "volume/srv")
    (initrd.base / "volume/srv").symlink_to("/etc")
    found = initrd.run()
    assert found.early == set() and "/srv/a is not a directory on the volume" in found.log


def test_nothing_is_mounted_below_what_comes_late(initrd: Initrd) -> None:
    """PID 1 would mount the parent over it."""
    initrd.disk(Disk("vdb2"))
    for path in ("/etc", "/etc/app", "/etc/app/x", "/etc2"):
        initrd.seeded(path)
    initrd.registry("/etc overlay\n/etc/app overlay\n/etc/app/x overlay\n/etc2 overlay")
    initrd.marker("/etc").unlink()
    assert initrd.run().early == {"etc2"}


def test_entry_does_not_mount(ready: Initrd) -> None:
    ready.table = ready.table.replace("/etc\tetc\n", "/none\tetc\n")
    found = ready.run()
    assert found.early == set() and "<3>persist-early: /etc does not mount" in found.log
