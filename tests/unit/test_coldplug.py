# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which drivers the stage loads, and when it has loaded enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from persist.early import coldplug
from persist.errors import CommandError
from persist.note import Note
from persist.system.run import start

# From /sys of real machines, and from the kernel's modules.
DISKS = [
    "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",  # AHCI of QEMU
    "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02",  # NVMe of QEMU
    "pci:v00001D0Fd00008061sv00001D0Fsd00008061bc01sc08i02",  # NVMe of EC2
    "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00",  # virtio-blk, transitional
    "pci:v00001AF4d00001042sv00001AF4sd00001042bc01sc80i00",
    "pci:v00001AF4d00001048sv00001AF4sd00001100bcFFscFFi00",  # virtio-scsi without a class
    "pci:v000015ADd000007C0sv000015ADsd000007C0bc01sc07i00",  # pvscsi of VMware
    "pci:v00001077d00002532sv00001077sd0000015Dbc0Csc04i00",  # Fibre Channel
    "virtio:d00000002v00001AF4",
    "virtio:d00000008v00001AF4",
    "scsi:t-0x00",
    "usb:v0951p1666d0110dc00dsc00dp00ic08isc06ip50in00",
    "usb:v174Cp55AAd0100dc00dsc00dp00ic08isc06ip62in00",  # UAS
    "mmc:block",
    "xen:vbd",
    "vmbus:d96361baa104294db60572e2ffb1dc7f",
    "of:NmmcT(null)Cbrcm,bcm2711-emmc2",
    "of:Nvirtio_mmioT(null)Cvirtio,mmio",
    "acpi:LNRO0005:",
    "pci:v00001033d00000194sv00001AF4sd00001100bc0Csc03i30",  # xHCI
    "pci:v00008086d00000F14sv00008086sd00007270bc08sc05i01",  # SDHCI
    "acpi:80860F14:INT33BB:",
    "ccw:t3390m0Cdt3390dm0C",
    "vio:TvscsiSIBM,v-scsi",
]
OTHERS = [
    "",
    "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00",  # a network card
    "pci:v00001AF4d00001041sv00001AF4sd00001041bc02sc00i00",  # virtio-net
    "pci:v00001AF4d00001045sv00001AF4sd00001045bcFFscFFi00",  # virtio-balloon
    "pci:v00001234d00001111sv00001AF4sd00001100bc03sc00i00",  # VGA
    "virtio:d00000001v00001AF4",
    "virtio:d0000001Av00001AF4",  # virtiofs
    "scsi:t-0x05",  # CD-ROM
    "scsi:t-0x0d",
    "usb:v0627p0001d0000dc00dsc00dp00ic03isc01ip02in00",  # a tablet
    "sdio:c07v02D0dA9A6",
    "xen:vif",
    "vmbus:635161f83edfc546913ff2d2f965ed0e",  # netvsc
    "acpi:PNP0303:",
    "of:NserialT(null)Cns16550a",
]


@pytest.mark.parametrize("alias", DISKS)
def test_disks(alias: str) -> None:
    assert coldplug.is_storage(alias)


@pytest.mark.parametrize("alias", OTHERS)
def test_others(alias: str) -> None:
    assert not coldplug.is_storage(alias)


class Machine:
    """A sysfs, and a modprobe: a driver takes the devices with its modalias, and brings others."""

    def __init__(self, top: Path, brings: dict[str, list[str]]) -> None:
        self.sys, self.brings = top / "sys", brings
        self.asked: list[tuple[str, ...]] = []
        self.said: list[Note] = []

    def plug(self, *aliases: str, driver: bool = False) -> None:
        for alias in aliases:
            devices = self.sys / "bus" / alias.partition(":")[0] / "devices"
            devices.mkdir(parents=True, exist_ok=True)
            device = devices / str(len(list(devices.iterdir())))
            device.mkdir()
            (device / "modalias").write_text(f"{alias}\n")
            if driver:
                (device / "driver").symlink_to(self.sys)

    def modprobe(self, *names: str) -> None:
        self.asked.append(names)
        for name in names:
            if name not in self.brings:
                continue  # there is no such driver
            for modalias in self.sys.glob("bus/*/devices/*/modalias"):
                if modalias.read_text().strip() == name:
                    (modalias.parent / "driver").symlink_to(self.sys)
            self.plug(*self.brings[name])

    def drivers(self, moment: float = 0.05) -> coldplug.Drivers:
        return coldplug.Drivers(self.said.append, sys=str(self.sys), load_all=self.modprobe, moment=moment)

    def load(self) -> list[str]:
        drivers = self.drivers()
        drivers.now()
        return drivers.tried


NVME, VIRTIO, SCSI, DISK = DISKS[1], DISKS[4], "virtio:d00000008v00001AF4", "scsi:t-0x00"


def test_all_that_is_without_a_driver_at_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {NVME: [], DISK: []})
    machine.plug(NVME, DISK, DISK, *OTHERS[1:4])
    machine.plug(VIRTIO, driver=True)
    assert machine.load() == [NVME, DISK]
    assert machine.asked == [(NVME, DISK)]
    assert machine.said == []


def test_a_bus_behind_an_adapter(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {VIRTIO: [SCSI], SCSI: [DISK], DISK: [NVME], NVME: []})
    machine.plug(VIRTIO)
    assert machine.load() == [VIRTIO, SCSI, DISK]
    assert machine.asked == [(VIRTIO,), (SCSI,), (DISK,)], "three times are enough"


def test_a_machine_that_has_its_drivers_loses_no_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {})
    machine.plug(*DISKS, driver=True)
    assert machine.load() == []
    assert machine.asked == []


def test_a_driver_that_is_missing_is_tried_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {})
    machine.plug(NVME)
    assert machine.load() == [NVME]
    assert machine.asked == [(NVME,)] and machine.said == []


def test_what_comes_while_somebody_waits(tmp_path: Path) -> None:
    """A stick behind a host that has just got its driver."""
    machine = Machine(tmp_path, {NVME: []})
    drivers = machine.drivers()
    drivers.while_waiting()
    drivers.while_waiting()
    machine.plug(NVME)
    deadline = time.monotonic() + 60
    while not machine.asked and time.monotonic() < deadline:
        time.sleep(0.01)
    drivers.stop()
    assert machine.asked == [(NVME,)]
    machine.plug(VIRTIO)
    time.sleep(0.2)
    assert machine.asked == [(NVME,)], "nobody waits any more"


def test_what_was_begun_comes_to_its_end(tmp_path: Path) -> None:
    """An adapter whose driver takes longer than anybody waits, and the disks behind it."""
    machine = Machine(tmp_path, {VIRTIO: [SCSI], SCSI: [DISK], DISK: []})
    machine.plug(VIRTIO)
    drivers = machine.drivers()
    assert not drivers.finish(), "nobody has waited"
    drivers.while_waiting()
    while not machine.asked:
        time.sleep(0.01)
    assert drivers.finish()
    assert [name for names in machine.asked for name in names] == [VIRTIO, SCSI, DISK]


def test_no_modprobe_no_sysfs(tmp_path: Path) -> None:
    def missing(*names: str) -> None:
        raise CommandError(["modprobe"], 127, "", reason="not installed")

    def no_modprobe(*argv: str) -> Callable[[], int]:
        raise CommandError([*argv], 127, "", reason="not installed")

    said: list[Note] = []
    coldplug.filesystems(begin=no_modprobe)(said.append)
    coldplug.Drivers(said.append, sys=str(tmp_path / "no"), load_all=missing).now()
    assert len(said) == 1 and "not installed" in said[0].message


@pytest.mark.parametrize("status", [0, 1, 2, -9])
def test_the_filesystems_of_persist(status: int) -> None:
    """Loaded while we go on, waited for once. Built in, or on the blacklist, is no error."""
    done: list[object] = []
    said: list[Note] = []

    def begin(*argv: str) -> Callable[[], int]:
        def wait() -> int:
            done.append("waited")
            return status

        done.append(argv)
        return wait

    end = coldplug.filesystems(begin)
    assert done == [("modprobe", "-a", "-b", "-q", "btrfs", "overlay")]
    end(said.append)
    end(said.append)
    assert done[1:] == ["waited"]
    bad = status not in (0, 1)
    assert [note.message for note in said] == bad * [
        f"Failed to load btrfs and overlay: 'modprobe -a -b -q btrfs overlay' failed: exit status {status}"
    ]


def test_a_program_that_is_started_and_waited_for() -> None:
    assert start("false")() == 1
    assert start("sh", "-c", "echo said; kill -9 $$")() == -9
    with pytest.raises(CommandError, match="'no-such-program x' failed: not installed"):
        start("no-such-program", "x")
