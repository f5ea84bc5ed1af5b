# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drivers for disks that the initrd has not brought: by the modprobe(8) of the root, in its own tree.

An initrd may have been built for another machine, or for the root's disk alone, and udev has not looked at
what the root has. Only storage: what else a machine has is udev's, a moment later.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial

from persist.errors import CommandError
from persist.note import DEBUG, Note, Say
from persist.system import uevents
from persist.system.blockdev import attribute
from persist.system.run import run

FILESYSTEMS = ("btrfs", "overlay")
MODULES = "/proc/modules"
_ROUNDS = 3  # an adapter, the bus behind it, the disks on that
_MOMENT = 1.0  # seconds for what a new driver finds; a bus is looked through in the background
_BUSES = ("pci", "virtio", "scsi", "usb", "mmc", "xen", "vmbus", "platform")
# By the format of modaliases in the kernel (scripts/mod/file2alias.c).
_STORAGE = re.compile(
    "|".join(
        (
            r"pci:.*bc01sc.*",  # mass storage: SCSI, IDE, RAID, SATA, SAS, NVMe
            r"pci:.*bc0Csc04.*",  # Fibre Channel
            r"pci:v00001AF4d0000(1001|1004|1042|1048)sv.*",  # virtio-blk and virtio-scsi of any class
            r"virtio:d0000000[28]v.*",  # the same, as devices of virtio
            r"scsi:t-0x(00|07|0e|14)",  # disks: plain, optical, reduced, zoned; no CD-ROM
            r"usb:.*ic08isc.*",  # mass storage, and UAS
            r"mmc:block",
            r"xen:v(bd|scsi)",
            # Hyper-V: SCSI, IDE, Fibre Channel, and the PCI bus that has NVMe disks behind it.
            r"vmbus:(d96361baa104294db60572e2ffb1dc7f|32264132cb86a2449b5c50d1417354f5"
            r"|4acc9b2f6900f34ab76b6fd0be528cda|1df6c444444400449d52802e27ede19f)",
            r"of:N(virtio_mmio|virtio|sata|ufs|ufshc|mmc|mmcnr|sdhci|nvme)T.*",
            r"acpi:LNRO0005:.*",  # virtio-mmio, as a platform device
            r"platform:virtio-mmio",
        )
    )
)


def is_storage(alias: str) -> bool:
    """Whether a modalias is of an adapter for disks, or of a disk. Pure."""
    return _STORAGE.fullmatch(alias) is not None


def _modaliases(sys: str) -> Iterator[str]:
    """Those of all devices that have no driver."""
    for bus in _BUSES:
        with suppress(OSError):  # the machine has no such bus
            for device in os.listdir(f"{sys}/bus/{bus}/devices"):
                path = f"{sys}/bus/{bus}/devices/{device}"
                if not os.path.exists(f"{path}/driver"):
                    yield attribute(path, "modalias")


def without_driver(sys: str, tried: Iterable[str] = ()) -> list[str]:
    """The modaliases of storage devices that no driver has, but for those that were tried."""
    return sorted({alias for alias in _modaliases(sys) if is_storage(alias)}.difference(tried))


def modprobe(*names: str) -> None:
    """Load modules by name or alias; what is built in, unknown or on the blacklist is no error. Raises
    CommandError."""
    run("modprobe", "-a", "-b", "-q", *names, ok=(0, 1))


def _loaded(path: str) -> list[str]:
    """What is loaded: the names in /proc/modules."""
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return sorted(line.partition(" ")[0] for line in f)
    except OSError:
        return []  # a kernel without modules


def _any(sys: str, tried: Iterable[str]) -> bool | None:
    return bool(without_driver(sys, tried)) or None


def load(
    say: Say,
    *,
    sys: str = "/sys",
    modules: str = MODULES,
    load_all: Callable[..., None] = modprobe,
    moment: float = _MOMENT,
) -> list[str]:
    """Load what the filesystems of persist need, and the drivers of all storage, and return the modaliases
    that were tried.

    Again while drivers bring devices that have none, three times at most. Never raises for a driver: whatever
    is missing is missed by who looks for the disk.
    """
    tried: list[str] = []
    try:
        load_all(*FILESYSTEMS)
        for _ in range(_ROUNDS):
            new = without_driver(sys, tried)
            if not new:
                break
            tried += new
            before = _loaded(modules)
            load_all(*new)
            if _loaded(modules) != before:
                uevents.wait_for(partial(_any, sys, tuple(tried)), moment)
    except CommandError as e:
        say(Note(DEBUG, f"Failed to load the drivers of disks: {e.message}", "FAILED"))
    return tried
