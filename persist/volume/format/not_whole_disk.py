# SPDX-License-Identifier: LGPL-2.1-or-later
"""A partition where a whole disk is asked for: what this machine can do instead. Looks only."""

from __future__ import annotations

import os

from persist.boot.config import Config
from persist.errors import CommandError, Refusal
from persist.system import blockdev
from persist.system.blockdev import Disk
from persist.volume.find import trust
from persist.volume.ondisk import partition_table

CONF = "/usr/lib/persist/persist.conf"


def _spare(disk: Disk, config: Config) -> bool:
    """Whether a whole disk could be claimed instead."""
    return (
        disk.mib >= partition_table.MIN_DISK
        and not disk.read_only
        and not blockdev.partitions(disk)
        and (
            config.allow_removable
            or not trust.why_untrusted(disk.sys_path, blockdev.attribute)
            or trust.names_node(config, os.stat(disk.node).st_rdev)
        )
        and not blockdev.why_in_use(disk)
    )


def _name(part: Disk) -> str:
    """The word for Device= that means this partition on every boot."""
    try:
        found = blockdev.probe(part.node)
    except CommandError:
        found = {}  # it is not ours to read
    if "PART_ENTRY_NAME" in found:
        return f"PARTLABEL={found['PART_ENTRY_NAME']}"
    return f"PARTUUID={found.get('PART_ENTRY_UUID', '…')}"


def refusal(part: Disk, config: Config) -> Refusal:
    """Why a partition is not claimed, with the remedy that this machine has: another disk, the disk that it
    is all of, or a filesystem by hand."""
    whole = blockdev.whole(part)
    used = blockdev.why_in_use(part)
    spare = next((d for d in blockdev.disks() if d != whole and _spare(d, config)), None)
    message = f"{part.node} is a partition, and only whole disks are claimed."
    if used is not None:
        message += f" {used[1]}"
    if spare is not None:
        hint = f"Claim a whole disk, such as {spare.node}."
    elif len(blockdev.partitions(whole)) == 1 and blockdev.why_in_use(whole) is None:
        hint = (
            f"It is the only one on {whole.node}: 'persistctl claim --force {whole.node}' takes the whole "
            "disk; what is on it is lost."
        )
    elif used is not None:
        hint = "Attach another disk, or take a partition that nothing uses."
    else:
        hint = (
            "This machine has no other disk for it: make a filesystem there by hand ('mkfs.ext4 "
            f"{part.node}'; what is on it is lost), "
            f"and name it in {CONF}: Device={_name(part)}."
        )
    return Refusal("partition", message, hint=hint, PERSIST_DEVICE=part.node)
