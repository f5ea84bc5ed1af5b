# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line of QEMU for the throw-away machine. Pure: tests/unit/test_image_machine.py has
whole ones."""

from __future__ import annotations

import json

from persist.image.firmware import Firmware
from persist.image.request import Handed
from persist.record import Record

QEMU = "qemu-system-x86_64"
PORT = "org.persist.seal"
MEMORY_MIB = 1024
# Debian 13's kernel dies early on a lesser processor in emulation.
ACCELERATORS = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    "tcg": ("-accel", "tcg,thread=multi", "-cpu", "max"),
}
# Where the guest speaks to us. (Tests have guests of a few bytes, with another device.)
PORT_DEVICE = ("virtserialport,bus=ports.0,name=" + PORT + ",chardev=port",)


class Machine(Record):
    """What one start is made of. ``overlay`` is a qcow2 file; the sockets are open file descriptors."""

    overlay: str
    uuid: str
    handed: Handed
    files: dict[str, str]  # where those of ``handed`` are
    accelerator: str
    cpus: int = 1
    firmware: Firmware | None = None  # None: the BIOS
    variables: str = ""  # of UEFI: this machine's own
    kernel: str = ""
    initrd: str = ""
    append: str = ""
    port_device: tuple[str, ...] = PORT_DEVICE


class Sockets(Record):
    """QEMU's ends, as numbers."""

    port: int
    console: int
    control: int


def escaped(text: str) -> str:
    """A value within an option of QEMU: a comma is written twice."""
    return text.replace(",", ",,")


def command_line(machine: Machine, sockets: Sockets) -> list[str]:
    """QEMU with all its options: no network, nothing of the user's own settings, one disk."""
    blockdev = {
        "driver": "qcow2",
        "node-name": "disk",
        "discard": "unmap",
        "file": {"driver": "file", "filename": machine.overlay, "discard": "unmap"},
    }
    line = [QEMU, "-nodefaults", "-no-user-config", "-nic", "none", "-display", "none", "-vga", "std"]
    line += ["-machine", "q35,usb=off" if machine.firmware else "pc,usb=off"]
    line += ACCELERATORS[machine.accelerator]
    line += ["-m", str(MEMORY_MIB), "-smp", str(machine.cpus), "-uuid", machine.uuid]
    # What restarts has not powered off; the event tells the two apart.
    line += ["-no-reboot"]
    line += _firmware(machine)
    line += ["-blockdev", json.dumps(blockdev)]
    # A host's full disk stops the machine, and we are told: the guest would take it for a broken one.
    line += ["-device", "virtio-blk-pci,drive=disk,bootindex=1,werror=stop,rerror=stop"]
    line += ["-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random"]
    for name in ("port", "console", "control"):
        line += ["-chardev", f"socket,id={name},fd={getattr(sockets, name)}"]
    line += ["-mon", "chardev=control,mode=control", "-serial", "chardev:console"]
    line += ["-device", "virtio-serial-pci,id=ports"]
    for device in machine.port_device:
        line += ["-device", device]
    places = {name: escaped(path) for name, path in machine.files.items()}
    for value in machine.handed.smbios:
        line += ["-smbios", f"type=11,{value.format_map(places)}"]
    for value in machine.handed.fw_cfg:
        line += ["-fw_cfg", value.format_map(places)]
    return line


def _firmware(machine: Machine) -> list[str]:
    """UEFI in flash, and a kernel that is given to the firmware."""
    line = []
    if machine.firmware:
        for unit, path, only in ((0, machine.firmware.code, "on"), (1, machine.variables, "off")):
            drive = f"if=pflash,unit={unit},format=raw,readonly={only},file={escaped(path)}"
            line += ["-drive", drive]
    if machine.kernel:
        line += ["-kernel", machine.kernel]
    if machine.initrd:
        line += ["-initrd", machine.initrd]
    if machine.append:
        line += ["-append", machine.append]
    return line
