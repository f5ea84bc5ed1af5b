# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drivers for disks that the initrd has not brought: by the modprobe(8) of the root, in its own tree.

An initrd may have been built for another machine, or for the root's disk alone, and udev has not looked at
what the root has. Only storage, and only where something is missed: what else a machine has is udev's, a
moment later, and what the administrator has put into /etc/modprobe.d may lie in what is yet to be mounted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from persist.errors import CommandError
from persist.note import INFO, Note, Say
from persist.system.run import run, start

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from threading import Thread

FILESYSTEMS = ("btrfs", "overlay")
Filesystems = Callable[[Say], None]
_ROUNDS = 3  # an adapter, the bus behind it, the disks on that
_MOMENT = 1.0  # seconds for what a new driver finds; a bus is looked through in the background
_BUSES = ("pci", "virtio", "scsi", "usb", "mmc", "xen", "vmbus", "platform", "ccw", "vio")
# By the format of modaliases in the kernel (scripts/mod/file2alias.c).
_STORAGE = "|".join(
    (
        r"pci:.*bc01sc.*",  # mass storage: SCSI, IDE, RAID, SATA, SAS, NVMe
        r"pci:.*bc0Csc04.*",  # Fibre Channel
        r"pci:v00001AF4d0000(1001|1004|1042|1048)sv.*",  # virtio-blk and virtio-scsi of any class
        r"virtio:d0000000[28]v.*",  # the same, as devices of virtio
        r"scsi:t-0x(00|07|0e|14)",  # disks: plain, optical, reduced, zoned; no CD-ROM
        r"pci:.*bc0Csc03.*",  # USB hosts
        r"pci:.*bc08sc05.*",  # SD hosts
        r"acpi:(80860F14|PNP0D40):.*",  # SD and eMMC hosts, as platform devices
        r"usb:.*ic08isc.*",  # mass storage, and UAS
        r"mmc:block",
        r"xen:v(bd|scsi)",
        # Hyper-V: SCSI, IDE, Fibre Channel, and the PCI bus that has NVMe disks behind it.
        r"vmbus:(d96361baa104294db60572e2ffb1dc7f|32264132cb86a2449b5c50d1417354f5"
        r"|4acc9b2f6900f34ab76b6fd0be528cda|1df6c444444400449d52802e27ede19f)",
        r"of:N(virtio_mmio|virtio|sata|ufs|ufshc|mmc|mmcnr|sdhci|nvme)T.*",
        r"acpi:LNRO0005:.*",  # virtio-mmio, as a platform device
        r"platform:virtio-mmio",
        r"ccw:t(1731|1732|3380|3390|9336|9345|6310).*",  # zfcp, DASD
        r"vio:T(vscsi|vfc|nvme|block)S.*",
    )
)


def is_storage(alias: str) -> bool:
    """Whether a modalias is of an adapter for disks, or of a disk. Pure."""
    import re

    return re.fullmatch(_STORAGE, alias) is not None


def _modaliases(sys: str) -> Iterator[str]:
    """Those of all devices that have no driver."""
    from persist.system.blockdev import attribute

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


def filesystems(begin: Callable[..., Callable[[], int]] = start) -> Filesystems:
    """Begin to load what the filesystems of persist need. Returns what waits for it, and says what failed,
    the first time that it is called; a kernel may have them built in."""
    argv = ("modprobe", "-a", "-b", "-q", *FILESYSTEMS)
    wait: list[Callable[[], int]] = []
    why = ""
    try:
        wait.append(begin(*argv))
    except CommandError as e:
        why = e.message

    def end(say: Say) -> None:
        nonlocal why
        if wait and (status := wait.pop()()) not in (0, 1):
            why = f"'{' '.join(argv)}' failed: exit status {status}"
        if why:
            say(Note(INFO, f"Failed to load {' and '.join(FILESYSTEMS)}: {why}", "FAILED"))
        why = ""

    return end


class Drivers:
    """Brings the drivers of disks, once somebody misses one."""

    def __init__(
        self,
        say: Say,
        *,
        sys: str = "/sys",
        load_all: Callable[..., None] = modprobe,
        moment: float = _MOMENT,
    ) -> None:
        from threading import Event

        self.say, self.sys, self.load_all, self.moment = say, sys, load_all, moment
        self.tried: list[str] = []
        self._stopped = Event()
        self._thread: Thread | None = None

    def round(self) -> bool:
        """Load drivers for what has none yet; whether there was anything new. Never raises for a driver:
        whatever is missing is missed by who looks for the disk."""
        new = without_driver(self.sys, self.tried)
        self.tried += new
        try:
            if new:
                self.load_all(*new)
        except CommandError as e:
            self.say(Note(INFO, f"Failed to load the drivers of disks: {e.message}", "FAILED"))
        return bool(new)

    def now(self) -> None:
        """Load all, again while drivers bring devices that have none, three times at most."""
        for _ in range(_ROUNDS):
            if not self.round():
                return
            self._stopped.wait(self.moment)

    def while_waiting(self) -> None:
        """From now on until stop(), beside whoever waits: what is on a slow bus comes when it likes."""
        if self._thread is None:
            from threading import Thread

            self._thread = Thread(target=self._go_on, daemon=True)
            self._thread.start()

    def _go_on(self) -> None:
        while not self._stopped.is_set():
            self.round()
            self._stopped.wait(self.moment)

    def stop(self) -> None:
        """Nobody waits any more. What modprobe(8) is doing is ended."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def finish(self) -> bool:
        """Let what was begun while somebody waited come to its end: some adapters take longer than anybody
        waits. Whether any driver was looked for."""
        if not self.tried:
            return False
        self.stop()
        self._stopped.clear()
        self._thread = None
        self._stopped.wait(self.moment)
        self.now()
        return True
