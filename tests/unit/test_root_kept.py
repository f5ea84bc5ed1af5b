# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a filesystem keeps what is written, by made-up mounts and a made-up /sys; tests/storage has real
ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from persist.errors import CommandError
from persist.system.mountinfo import Mount
from persist.volume import root_kept
from persist.volume.root_kept import Root


class Machine:
    """Mounts, and block devices in a directory that stands for /sys/dev/block."""

    def __init__(self, top: Path) -> None:
        self.top, self.every = top, list[Mount]()
        self.tables: dict[str, str] = {}
        (top / "block").mkdir()
        self.nodes: dict[str, str] = {}
        self.devices = root_kept.Devices(
            str(top / "block"), lambda node: self.nodes.get(node, ""), self._table
        )

    def _table(self, name: str) -> str:
        if name not in self.tables:
            raise CommandError(["dmsetup", "table", name], 127, "", reason="not installed")
        return self.tables[name] + "\n"

    def device(
        self,
        name: str,
        number: str,
        *,
        on: str = "",
        slaves: tuple[str, ...] = (),
        file: str = "",
        table: str = "",
    ) -> Path:
        """A disk, or with ``on`` a partition of one."""
        path = self.top / "devices" / on / name
        path.mkdir(parents=True)
        if on:
            (path / "partition").touch()
        if file:
            (path / "loop").mkdir()
            (path / "loop/backing_file").write_text(file + "\n")
        if name.startswith("dm-"):
            (path / "dm").mkdir()
            (path / "dm/name").write_text(f"{name}-name\n")
            if table:
                self.tables[f"{name}-name"] = table
        for slave in slaves:
            (path / "slaves").mkdir(exist_ok=True)
            (path / "slaves" / slave).symlink_to(self.top / "devices" / slave)
        (self.top / "block" / number).symlink_to(path)
        return path

    def mount(
        self, point: str, fstype: str, device: str = "0:40", options: str = "rw", source: str = "none"
    ) -> Mount:
        made = Mount(len(self.every) + 1, 1, device, "/", point, "rw", fstype, source, options)
        self.every.append(made)
        return made

    def lost(self, at: Mount, *, files: bool = True) -> str:
        return root_kept.lost(at, files=files, every=self.every, devices=self.devices)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("fstype", ["tmpfs", "ramfs", "rootfs"])
def test_memory(machine: Machine, fstype: str) -> None:
    assert machine.lost(machine.mount("/", fstype)) == f"a {fstype}"


@pytest.mark.parametrize("fstype", ["ext4", "nfs4", "9p", "virtiofs", "zfs", "what-nobody-knows"])
def test_what_nothing_is_known_of_is_kept(machine: Machine, fstype: str) -> None:
    assert machine.lost(machine.mount("/", fstype, source="tank/root")) == ""
    assert machine.lost(machine.mount("/", fstype, "8:1", source="/dev/sda1")) == ""


@pytest.mark.parametrize("fstype", ["tmpfs", "ramfs"])
def test_overlay_in_memory(machine: Machine, tmp_path: Path, fstype: str) -> None:
    (tmp_path / "cow/a,b/upper").mkdir(parents=True)
    root = machine.mount(
        "/", "overlay", "0:41", f"rw,lowerdir=/x,upperdir={tmp_path}/cow/a\\,b/upper,workdir=/w"
    )
    assert machine.lost(root) == "", "what holds the upper is not to be seen"
    machine.mount(f"{tmp_path}/cow", fstype)
    root = machine.mount("/", "overlay", "0:41", f"rw,lowerdir=/x,upperdir={tmp_path}/cow/upper,workdir=/w")
    assert machine.lost(root) == "", "a directory of the same name, which is not there"
    (tmp_path / "cow/upper").mkdir()
    assert machine.lost(root) == f"an overlay whose upper layer is a {fstype}"
    machine.mount(f"{tmp_path}/cow/upper", "ext4", "8:1")
    assert machine.lost(root) == "", "the nearest mount holds it"


def test_other_overlays(machine: Machine) -> None:
    assert machine.lost(machine.mount("/", "overlay", "0:41", "ro,lowerdir=/x:/y")) == ""
    assert "tmpfs" in machine.lost(
        machine.mount(
            "/", "overlay", "0:41", "rw,lowerdir=/x,upperdir=/run/systemd/overlay-sysroot/upper,workdir=/w"
        )
    )
    assert "never syncs" in machine.lost(
        machine.mount("/", "overlay", "0:41", "rw,lowerdir=/x,upperdir=/usr,workdir=/w,volatile")
    )
    # In a container, the path is one of the host.
    assert (
        machine.lost(machine.mount("/", "overlay", "0:41", "rw,lowerdir=/x,upperdir=/usr,workdir=/w")) == ""
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("zram0", "on zram0, which is memory"),
        ("ram3", "on ram3, which is memory"),
        ("sda", ""),
        ("pmem0", ""),
        ("nbd0", ""),
    ],
)
def test_devices(machine: Machine, name: str, why: str) -> None:
    machine.device(name, "250:0")
    machine.device(f"{name}p1", "250:1", on=name)
    assert (
        machine.lost(machine.mount("/", "ext4", "250:0"))
        == machine.lost(machine.mount("/", "ext4", "250:1"))
        == why
    )


def test_filesystem_with_a_number_of_its_own(machine: Machine) -> None:
    """btrfs: the device that mountinfo names is looked at."""
    assert machine.lost(machine.mount("/", "btrfs", "0:30", source="/dev/null")) == ""
    machine.device("zram0", "250:0")
    machine.nodes["/dev/zram0"] = "250:0"
    assert (
        machine.lost(machine.mount("/", "btrfs", "0:30", source="/dev/zram0")) == "on zram0, which is memory"
    )


def test_loop_devices(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/image").touch()
    machine.mount(f"{tmp_path}/run", "tmpfs")
    machine.device("loop0", "7:0", file=f"{tmp_path}/run/image")
    machine.device("loop1", "7:1", file="/gone (deleted)")
    root = machine.mount("/", "ext4", "7:0")
    assert (
        machine.lost(root) == "on loop0, whose file is on a tmpfs" and machine.lost(root, files=False) == ""
    )
    assert machine.lost(machine.mount("/", "ext4", "7:1")) == ""


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("0 4096 snapshot 8:0 8:1 N 8", "on dm-0, a snapshot that is not persistent"),
        ("0 4096 snapshot 8:0 8:1 P 8", ""),
        ("0 4096 snapshot 8:0 8:1 PO 8", ""),
        ("0 4096 snapshot 8:0 250:0 P 8", "on dm-0, a snapshot into what is on zram0, which is memory"),
        ("0 4096 snapshot 250:0 8:1 P 8", ""),
        ("0 4096 linear 8:0 0", ""),
        ("", ""),
    ],
)
def test_device_mapper(machine: Machine, table: str, why: str) -> None:
    machine.device("sda", "8:0")
    machine.device("sdb", "8:1")
    machine.device("zram0", "250:0")
    machine.device("dm-0", "254:0", slaves=("sda", "sdb"), table=table)
    machine.device("dm-1", "254:1", slaves=("dm-0",), table="0 4096 linear 254:0 0")
    assert machine.lost(machine.mount("/", "ext4", "254:0")) == why
    assert machine.lost(machine.mount("/", "xfs", "254:1")) == (f"on dm-1, which is {why}" if why else "")


def test_mirror(machine: Machine) -> None:
    """md keeps what one of its disks keeps."""
    machine.device("sda", "8:0")
    machine.device("zram0", "250:0")
    machine.device("zram1", "250:1")
    machine.device("md0", "9:0", slaves=("sda", "zram0"))
    machine.device("md1", "9:1", slaves=("zram0", "zram1"))
    assert machine.lost(machine.mount("/", "ext4", "9:0")) == ""
    assert "zram0" in machine.lost(machine.mount("/", "ext4", "9:1"))


def test_a_ring_has_an_end(machine: Machine) -> None:
    machine.device("dm-0", "254:0", slaves=("dm-1",))
    machine.device("dm-1", "254:1", slaves=("dm-0",))
    assert machine.lost(machine.mount("/", "ext4", "254:0")) == ""


@pytest.mark.parametrize(
    ("root", "kept"),
    [
        (Root("", False, ""), True),
        (Root("", True, ""), False),
        (Root("", False, "a tmpfs"), False),
        (Root("", True, "a tmpfs"), False),
    ],
)
def test_kept(root: Root, kept: bool) -> None:
    assert root.kept == kept
