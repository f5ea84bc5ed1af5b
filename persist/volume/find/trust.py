# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which disks may be formatted or mounted without being named: the same rule for claiming and for finding.

Whoever can plug in a stick, or write into a disk that this machine only carries for a guest, must not become
our memory. So a disk on USB, a removable one, a virtual one (dm, md, nbd, rbd, drbd, loop, zram) and one on a
network is used only where ``Device=`` names it or ``AllowRemovable=yes`` says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from persist.boot.config import Config

_NAMES = (
    ("dm-", "a device-mapper device"),
    ("md", "a software RAID"),
    ("nbd", "a network block device"),
    ("rbd", "a network block device"),
    ("drbd", "a network block device"),
    ("loop", "a loop device"),
    ("zram", "a disk in memory"),
    ("ram", "a disk in memory"),
    ("sr", "an optical drive"),
    ("fd", "a floppy drive"),
)
_BUSES = (
    (r"/usb\d", "on USB"),
    (r"/fw\d", "on FireWire"),
    (r"/session\d", "on a network (iSCSI)"),
    (r"/rport-", "on a network (Fibre Channel)"),
    (r"/nvme-fabrics/", "on a network (NVMe over fabrics)"),
)
_NVME_HEAD = r"/virtual/nvme-subsystem/[^/]+/"

Attribute = Callable[[str, str], str]


def _name(name: str) -> str:
    for prefix, what in _NAMES:
        # md0 and md_d0 and md127p1, but not a disk driver that only begins alike.
        # The prefix by itself first: to compile a pattern takes longer than all the rest, and PID 1 waits.
        if name.startswith(prefix) and re.fullmatch(re.escape(prefix) + r"[_d]*\d.*", name):
            return what
    return ""


def _nvme(head: str, attribute: Attribute, listdir: Callable[[str], list[str]]) -> str:
    """A multipath NVMe namespace hangs below /virtual; what counts is how its controllers are attached."""
    subsystem = re.search(_NVME_HEAD, head)
    assert subsystem is not None
    base = head[: subsystem.end()].rstrip("/")
    controllers = [n for n in listdir(base) if re.fullmatch(r"nvme\d+", n)]
    if controllers and all(attribute(f"{base}/{n}", "transport") == "pcie" for n in controllers):
        return ""
    return "on a network (NVMe over fabrics)"


def why_untrusted(
    sys_path: str, attribute: Attribute, listdir: Callable[[str], list[str]] = os.listdir
) -> str:
    """Why a whole disk is not used unless it is named ('it is ...'), or ''. ``sys_path`` is its directory in
    sysfs, links resolved."""
    what = _name(os.path.basename(sys_path))
    if what:
        return what
    for bus, what in _BUSES:
        if re.search(bus, sys_path):
            return what
    if re.search(_NVME_HEAD, sys_path + "/"):
        return _nvme(sys_path, attribute, listdir)
    if "/devices/virtual/" in sys_path:
        return "a virtual device"
    if attribute(sys_path, "removable") == "1":
        return "removable"
    # The ports above it: 'removable' there is a plug that anyone can reach, Thunderbolt's for one.
    above = os.path.dirname(sys_path)
    while len(above) > len("/sys/devices"):
        if attribute(above, "removable") == "removable":
            return "behind a removable port"
        above = os.path.dirname(above)
    return ""


def names_node(config: Config, *numbers: int) -> bool:
    """Whether a path in Device= leads to one of these device numbers (st_rdev)."""
    for spec in config.device:
        if spec.startswith("/"):
            try:
                if os.stat(spec).st_rdev in numbers:
                    return True
            except OSError:
                continue  # that one is not here now
    return False
