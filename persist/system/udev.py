# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one place that talks to udev (pyudev)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pyudev

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import TypeVar

    Found = TypeVar("Found")


class BlockDevice:
    """One block device as udev's database knows it; a snapshot, not a live view."""

    def __init__(self, device: pyudev.Device) -> None:
        self.node: str = device.device_node or ""
        self.sys_path: str = device.sys_path
        self.name: str = device.sys_name
        self.is_partition: bool = device.device_type == "partition"
        self.properties: dict[str, str] = dict(device.properties)
        self.tags: frozenset[str] = frozenset(device.tags)
        parent = device.find_parent("block") if self.is_partition else None
        self.disk_node: str = (parent.device_node or "") if parent is not None else self.node
        self.disk_sys_path: str = parent.sys_path if parent is not None else self.sys_path

    def get(self, key: str) -> str:
        """A udev property such as ``ID_FS_LABEL``, or an empty string."""
        return self.properties.get(key, "")


def block_devices() -> Iterator[BlockDevice]:
    """All block devices that udev has finished with."""
    for device in pyudev.Context().list_devices(subsystem="block"):
        if device.is_initialized and device.device_node:
            yield BlockDevice(device)


def wait_for(look: Callable[[], Found | None], timeout: float) -> Found | None:
    """Call ``look`` now and after each event of a block device until it finds something or ``timeout``
    seconds are over."""
    deadline = time.monotonic() + timeout
    monitor = pyudev.Monitor.from_netlink(pyudev.Context())
    monitor.filter_by(subsystem="block")
    monitor.start()
    while True:
        found = look()
        if found is not None:
            return found
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        monitor.poll(timeout=left)
