# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks of a machine: files of the host that outlive its boots."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import MachineError

Bus = Literal["virtio", "scsi", "usb"]

# The PCI slots of i440fx: fixed ones for the machine's own devices, the rest for disks.
SLOT_SERIAL, SLOT_RNG, SLOT_USB, SLOT_SCSI, SLOT_ROOT, SLOT_NET = 2, 3, 4, 5, 6, 7
SLOTS_DISKS = range(8, 32)
# What a bus needs beside the machine's own. Only where it is asked for: in software emulation a controller
# costs each boot a second, with the modules that are loaded for it.
CONTROLLERS: dict[Bus, str] = {
    "usb": f"qemu-xhci,id=usb,addr={SLOT_USB:#x}",
    "scsi": f"virtio-scsi-pci,id=scsi,addr={SLOT_SCSI:#x}",
}


@dataclass(frozen=True)
class Disk:
    """A disk image on the host; NAME is its serial number in the guest."""

    name: str
    path: Path
    format: Literal["qcow2", "raw"] = "qcow2"


@dataclass(frozen=True)
class Attachment:
    """A disk as it is plugged in: where, and how."""

    disk: Disk
    bus: Bus
    address: int
    read_only: bool
    serial: str

    @property
    def node(self) -> str:
        """The name of the block node."""
        return f"node-{self.disk.name}"

    @property
    def device(self) -> str:
        """The id of the device."""
        return f"dev-{self.disk.name}"

    def blockdev(self) -> dict[str, Any]:
        """The arguments of blockdev-add."""
        return {
            "driver": self.disk.format,
            "node-name": self.node,
            "read-only": self.read_only,
            "cache": {"direct": False, "no-flush": False},
            "discard": "unmap",
            "file": {"driver": "file", "filename": str(self.disk.path), "read-only": self.read_only},
        }

    def qdev(self) -> dict[str, Any]:
        """The arguments of device_add."""
        common: dict[str, Any] = {"id": self.device, "drive": self.node, "serial": self.serial}
        if self.bus == "virtio":
            return {"driver": "virtio-blk-pci", "bus": "pci.0", "addr": f"{self.address:#x}", **common}
        if self.bus == "scsi":
            return {"driver": "scsi-hd", "bus": "scsi.0", "scsi-id": self.address, **common}
        return {
            "driver": "usb-storage",
            "bus": "usb.0",
            "port": str(self.address),
            "removable": True,
            **common,
        }


def free_address(bus: Bus, attached: list[Attachment]) -> int:
    """The first free place on a bus."""
    places = {"virtio": SLOTS_DISKS, "scsi": range(32), "usb": range(1, 5)}[bus]
    taken = {attachment.address for attachment in attached if attachment.bus == bus}
    for place in places:
        if place not in taken:
            return place
    raise MachineError(f"no place left on the {bus} bus")


def create(path: Path, size: str, backing: Path | None = None) -> None:
    """Create a qcow2 image, or a throw-away overlay over a raw one."""
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=off"]
    if backing is not None:
        argv += ["-F", "raw", "-b", str(backing)]
    subprocess.run([*argv, str(path), *([size] if size else [])], check=True, stdin=subprocess.DEVNULL)


def write_at(disk: Disk, offset: int, data: bytes) -> None:
    """Write bytes into a disk that no machine has open."""
    script = disk.path.with_name(f"{disk.path.name}.bytes")
    script.write_bytes(data)
    try:
        subprocess.run(
            [
                "qemu-io",
                "-f",
                disk.format,
                "-c",
                f"write -q -s {script} {offset} {len(data)}",
                str(disk.path),
            ],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    finally:
        script.unlink()


def read_at(disk: Disk, offset: int, length: int) -> bytes:
    """Read bytes from a disk that no machine has open; OFFSET and LENGTH are multiples of 512."""
    done = subprocess.run(
        [
            "qemu-img",
            "dd",
            "-f",
            disk.format,
            "-O",
            "raw",
            "bs=512",
            f"skip={offset // 512}",
            f"count={(offset + length) // 512}",
            f"if={disk.path}",
            f"of={disk.path}.out",
        ],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    out = Path(f"{disk.path}.out")
    try:
        if done.returncode != 0:
            raise MachineError(f"qemu-img dd: {done.stderr}")
        return out.read_bytes()[:length]
    finally:
        out.unlink(missing_ok=True)
