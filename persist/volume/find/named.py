# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why what Device= names leads to no volume: it is closed, a part of something larger, or has no filesystem.
Pure.
"""

from __future__ import annotations

from persist.boot.config import Config
from persist.record import Record
from persist.volume.find.around import CRYPTTAB, Around
from persist.volume.find.choose import Resolve, listed, matches
from persist.volume.find.decision import FILESYSTEM, Candidate, Known

CONF = "/usr/lib/persist/persist.conf"
ATTACH = "Attach its disk; 'lsblk -f' shows what is here."


class Why(Record):
    """One thing that was found out. ``closed``: there is something that has to be opened first."""

    message: str
    hint: str
    closed: bool = False


def _how_to_open(c: Candidate) -> Why | None:
    """What is wrong with a device that is not a filesystem but has one in it."""
    if c.fstype in ("crypto_LUKS", "BitLocker"):
        return Why(
            f"{c.node} is encrypted, and a filesystem in it shows only once it is open",
            "Have it opened by crypttab(5), see 'systemctl status "
            f"systemd-cryptsetup@NAME.service', and name what is opened: Device=/dev/mapper/NAME in {CONF}.",
            True,
        )
    if c.fstype == "linux_raid_member":
        return Why(
            f"{c.node} is a part of a RAID",
            "See 'cat /proc/mdstat' and 'mdadm --examine --scan'; name the array by "
            f"Device=/dev/disk/by-id/md-uuid-… in {CONF}.",
            True,
        )
    if c.fstype == "LVM2_member":
        return Why(
            f"{c.node} is a physical volume of LVM",
            f"See 'pvs' and 'lvs -a'; name the logical volume by Device=/dev/VG/LV in {CONF}.",
            True,
        )
    if c.fstype == "mpath_member":
        return Why(
            f"{c.node} is one path to a multipath device",
            "See 'multipath -ll' and 'systemctl status multipathd.service'; name the device by "
            f"Device=/dev/mapper/NAME in {CONF}.",
            True,
        )
    if c.usage == "raid":
        return Why(
            f"{c.node} is a part of something larger ({c.fstype})",
            "See 'lsblk -f', and name what it is a part of.",
            True,
        )
    return None


def no_filesystem(c: Candidate, config: Config, machine: Known, around: Around) -> Why:
    """What is wrong with a device that has no filesystem, and is to be the volume."""
    closed = _how_to_open(c)
    if closed is not None:
        return closed
    if c.usage == "other":
        return Why(
            f"{c.node} is {'swap space' if c.fstype == 'swap' else c.fstype}, and not a filesystem",
            f"Name another device, or make a filesystem on it once nothing uses it: 'mkfs.ext4 {c.node}'.",
        )
    inside = [o.node for o in around.every if o.disk_device == c.device and o.device != c.device]
    if inside:
        return Why(
            f"{c.node} has partitions ({', '.join(inside)}), and none of them is a state volume",
            f"Name the partition by Device= in {CONF}.",
        )
    if c.device != c.disk_device:
        return Why(f"{c.node} has no filesystem", f"Make one: 'mkfs.ext4 {c.node}'.")
    if machine.named or machine.known:
        lost = (
            " Where a disk is lost whenever the machine is stopped, say Ephemeral=yes."
            if config.format_blank and not machine.named
            else ""
        )
        return Why(f"{c.node} has no filesystem", f"{ATTACH}{lost}")
    return Why(
        f"{c.node} has no filesystem", f"Where it is blank, 'persistctl claim {c.node}' has it formatted."
    )


def _by_path(spec: str, config: Config, machine: Known, around: Around, resolve: Resolve) -> Why | None:
    """Why a path in Device= leads to no volume; None where there is nothing of this name, and nothing that
    could be it."""
    number = resolve(spec)
    if number:
        found = next((c for c in around.every if c.device == number), None)
        return (
            no_filesystem(found, config, machine, around)
            if found is not None and found.usage != FILESYSTEM
            else None
        )
    closed = [c for c in around.every if c.usage in ("crypto", "raid") and not around.held(c.node)]
    shown = listed(c.node for c in closed)
    directory, _, name = spec.rpartition("/")
    if name.startswith("dm-name-"):
        directory, name = "/dev/mapper", name[len("dm-name-") :]  # udev's link to the same
    if directory == "/dev/mapper" and name in around.crypttab:
        return Why(
            f"{spec} is not open; {CRYPTTAB} has it",
            "See \"journalctl -b -u 'systemd-cryptsetup@*'\": what opens it must not need a file that "
            "persist keeps on it.",
            True,
        )
    if directory == "/dev/mapper" and any(c.fstype == "mpath_member" for c in closed):
        return Why(
            f"{spec} is not there, and {shown} is a path to a multipath device",
            "See 'multipath -ll' and 'systemctl status multipathd.service'.",
            True,
        )
    if directory == "/dev/mapper" and any(c.usage == "crypto" for c in closed):
        return Why(
            f"{spec} is not open: {shown} is encrypted, and {CRYPTTAB} has no line for it",
            f"Put '{name} {closed[0].node}' into {CRYPTTAB} (better by UUID={closed[0].uuid}), see "
            "crypttab(5).",
            True,
        )
    if spec.startswith("/dev/md") or "/md-" in spec:
        what = f"; {shown} is a part of one" if closed else ""
        return Why(
            f"{spec} is a RAID that is not assembled{what}",
            "See 'cat /proc/mdstat' and 'mdadm --assemble --scan'.",
            True,
        )
    if directory.startswith("/dev/mapper") or (
        directory.count("/") == 2 and not directory.startswith("/dev/disk")
    ):
        what = f": {shown} is closed" if closed else ""
        return Why(
            f"{spec} is not there{what}",
            "What makes it has failed, or waits for something: see 'lsblk -f', 'dmsetup ls' and 'lvs -a', "
            "and 'journalctl -b' for the unit that opens it.",
            True,
        )
    return None


def _by_id(spec: str, config: Config, machine: Known, around: Around, resolve: Resolve) -> Why | None:
    """Why an id or a label in Device= leads to no volume."""
    for c in around.every:
        if c.usage != FILESYSTEM and matches(spec, c, resolve):
            return no_filesystem(c, config, machine, around)
    return not_open(around)


def not_open(around: Around) -> Why | None:
    """Whatever is here and has not been opened: what somebody looks for may be in it."""
    closed = [c for c in around.every if c.usage in ("crypto", "raid") and not around.held(c.node)]
    if not closed:
        return None
    how = _how_to_open(closed[0])
    return Why(
        f"It may be in what is not open yet: {listed(c.node for c in closed)}",
        how.hint if how is not None else "",
        True,
    )


def why_none(config: Config, machine: Known, around: Around, resolve: Resolve) -> list[Why]:
    found = []
    for spec in config.device:
        if spec != "auto":
            by = _by_path if spec.startswith("/") else _by_id
            why = by(spec, config, machine, around, resolve)
            if why is not None:
                found.append(why)
    return sorted(found, key=lambda why: not why.closed)
