# SPDX-License-Identifier: LGPL-2.1-or-later
"""The disk of a container that takes itself for a machine: a loop device of this machine, since there is
no udev."""

from __future__ import annotations

import glob

from tests.storage.rig import LoopDisk, attached, tool

# Where this is, btrfs is in the kernel, and nothing has to be loaded.
CONTROL = "/dev/btrfs-control"
_MAKE = """
mkfs.btrfs -q -L persist-data -U "$2" "$1"
mount "$1" /mnt
btrfs subvolume create /mnt/@persist-state
umount /mnt
"""


class Disk(LoopDisk):
    """A LoopDisk that may be detached by others: a machine that powers off detaches all that it sees."""

    def unplug(self) -> None:
        """Detach the loop device, unless it belongs to somebody else by now."""
        if self.node not in attached(self.file):
            self.node = ""
        super().unplug()

    def nodes(self) -> list[str]:
        """What a container has to see of it, for its next start."""
        self.replug()
        return [self.node, *sorted(glob.glob(f"{self.node}p*")), CONTROL]

    def make_volume(self, uuid: str) -> None:
        """Make the whole disk a state volume, as somebody may do it by hand."""
        tool("unshare", "--mount", "sh", "-ec", _MAKE, "sh", self.node, uuid)
