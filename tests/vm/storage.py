# SPDX-License-Identifier: LGPL-2.1-or-later
"""The part of a machine that has to do with disks and with snapshots of the running whole."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from . import disks
from .disks import Attachment, Bus, Disk
from .errors import MachineError
from .progress import step
from .qemu import Qemu, Settings

SNAPSHOT_SEC = 120.0


@dataclass(frozen=True)
class Snapshot:
    """What was plugged in when a snapshot was taken, and how QEMU had been started."""

    settings: Settings
    attached: tuple[Attachment, ...]
    boot_id: str | None
    nodes: tuple[str, ...]


class Storage:
    """Disks, hot-plug and snapshots; Machine adds power and commands."""

    def __init__(self, directory: Path, root: Attachment) -> None:
        self._directory = directory
        self._attached: list[Attachment] = [root]
        self._qemu: Qemu | None = None
        self._started_with: Settings | None = None
        self._snapshots: dict[str, Snapshot] = {}
        self._boot_id: str | None = None
        self._watch_emergency = True
        self._vmstate = directory / "vmstate.qcow2"
        disks.create(self._vmstate, "16G")

    @property
    def qemu(self) -> Qemu:
        """The running QEMU; an error when the machine is off."""
        if self._qemu is None:
            raise MachineError("the machine is off")
        return self._qemu

    @property
    def running(self) -> bool:
        """Whether the machine is on."""
        return self._qemu is not None

    def _launch(self, settings: Settings, paused: bool = False) -> Qemu:
        return Qemu(
            settings, self._attached, self._vmstate, self._directory, self._directory / "console.log", paused
        )

    # -- disks

    def create_disk(self, name: str, size: str = "2G", header: bytes = b"") -> Disk:
        """Create a disk that is not plugged in yet; HEADER are its first bytes."""
        disk = Disk(name, self._directory / f"{name}.qcow2")
        if disk.path.exists():
            raise MachineError(f"there is a disk {name} already")
        disks.create(disk.path, size)
        if header:
            disks.write_at(disk, 0, header)
        return disk

    def disk(self, name: str) -> Disk:
        """The disk of this name, which is plugged in."""
        return next(one.disk for one in self._attached if one.disk.name == name)

    def add_disk(
        self,
        name: str,
        size: str = "2G",
        header: bytes = b"",
        *,
        bus: Bus = "virtio",
        read_only: bool = False,
    ) -> Disk:
        """Create a disk and plug it in, now or for the next start."""
        disk = self.create_disk(name, size, header)
        self.attach_disk(disk, bus=bus, read_only=read_only)
        return disk

    def attach_disk(
        self, disk: Disk, *, bus: Bus = "virtio", read_only: bool = False, serial: str | None = None
    ) -> None:
        """Plug a disk in; into the running machine if it runs. Its serial number is its name unless given."""
        if any(attachment.disk.name == disk.name for attachment in self._attached):
            raise MachineError(f"disk {disk.name} is plugged in already")
        address = disks.free_address(bus, self._attached)
        attachment = Attachment(disk, bus, address, read_only, disk.name if serial is None else serial)
        if self._qemu is not None:
            self._qemu.qmp.command("blockdev-add", **attachment.blockdev())
            try:
                self._qemu.qmp.command("device_add", **attachment.qdev())
            except MachineError:
                self._qemu.qmp.command("blockdev-del", node_name=attachment.node)
                raise
        self._attached.append(attachment)

    def detach_disk(self, disk: Disk | str, timeout: float = 30) -> Disk:
        """Pull a disk out, of the running machine if it runs, and return it."""
        name = disk if isinstance(disk, str) else disk.name
        attachment = next((one for one in self._attached[1:] if one.disk.name == name), None)
        if attachment is None:
            raise MachineError(f"disk {name} is not plugged in")
        if self._qemu is not None:
            qmp = self._qemu.qmp
            qmp.command("device_del", id=attachment.device)
            gone = qmp.take_event(
                lambda event: (
                    event["event"] == "DEVICE_DELETED" and event["data"].get("device") == attachment.device
                ),
                timeout,
            )
            if gone is None:
                raise MachineError(f"the guest did not let go of disk {name} in {timeout:g} s")
            qmp.command("blockdev-del", node_name=attachment.node)
        self._attached.remove(attachment)
        return attachment.disk

    def read_disk(self, disk: Disk, offset: int, length: int) -> bytes:
        """Bytes of a disk of a machine that is off, in whole sectors of 512."""
        self._must_be_off(disk)
        return disks.read_at(disk, offset, length)

    def write_disk(self, disk: Disk, offset: int, data: bytes) -> None:
        """Change bytes of a disk of a machine that is off."""
        self._must_be_off(disk)
        disks.write_at(disk, offset, data)

    def _must_be_off(self, disk: Disk) -> None:
        if self._qemu is not None and any(one.disk.name == disk.name for one in self._attached):
            raise MachineError(f"disk {disk.name} is in use by the running machine")

    # -- snapshots

    def snapshot(self, name: str) -> None:
        """Keep the running machine as it is now: memory, devices and what its writable disks hold."""
        assert self._started_with is not None
        nodes = self._writable_nodes()
        with step(f"snapshot {name}"):
            self._job("snapshot-save", name, nodes)
        self._snapshots[name] = Snapshot(self._started_with, tuple(self._attached), self._boot_id, nodes)

    def restore(self, name: str) -> None:
        """Go back to a snapshot, from a running machine or one that is off."""
        kept = self._snapshots.get(name)
        if kept is None:
            raise MachineError(f"there is no snapshot {name}")
        with step(f"restore {name}"):
            # In a new QEMU: within one that runs, software emulation never turns the guest's clock back, and
            # timers and time-outs would find all the time that has passed since the snapshot.
            if self._qemu is not None:
                self._qemu.kill()
                self._qemu = None
            self._attached = list(kept.attached)
            self._started_with = replace(kept.settings)
            self._qemu = self._launch(kept.settings, paused=True)
            self._job("snapshot-load", name, kept.nodes)
            self._qemu.qmp.forget_events()
            self._qemu.mark_boot(self._watch_emergency)
            self._qemu.qmp.command("cont")
            self._boot_id = None if kept.boot_id is None else self._qemu.agent.boot_id(30)
        if self._boot_id != kept.boot_id:  # none: it was kept before the agent ran
            raise MachineError(f"snapshot {name}: the agent does not answer as the one that was kept")

    def disk_of(self, snapshot: str, name: str) -> Disk:
        """The disk of this name, which was plugged in when a snapshot was taken."""
        return next(one.disk for one in self._snapshots[snapshot].attached if one.disk.name == name)

    def _writable_nodes(self) -> tuple[str, ...]:
        return ("vmstate", *(one.node for one in self._attached if not one.read_only))

    def _job(self, command: str, tag: str, nodes: tuple[str, ...]) -> None:
        """Run one of QEMU's snapshot jobs to its end."""
        qmp = self.qemu.qmp
        job = f"job{os.urandom(4).hex()}"
        qmp.command(command, job_id=job, tag=tag, vmstate="vmstate", devices=list(nodes))
        ended = qmp.take_event(
            lambda event: (
                event["event"] == "JOB_STATUS_CHANGE"
                and event["data"]["id"] == job
                and event["data"]["status"] == "concluded"
            ),
            SNAPSHOT_SEC,
        )
        if ended is None:
            raise MachineError(f"{command} {tag} did not end in {SNAPSHOT_SEC:g} s")
        status: dict[str, str] = next(one for one in qmp.command("query-jobs") if one["id"] == job)
        qmp.command("job-dismiss", id=job)
        if "error" in status:
            raise MachineError(f"{command} {tag}: {status['error']}")
