# SPDX-License-Identifier: LGPL-2.1-or-later
"""A volume that does not mount: shown read-only, as far as the kernel can still read it, so that what is on
it can be saved. Never written to."""

from __future__ import annotations

import os

from persist.boot.paths import RESCUE
from persist.errors import CommandError
from persist.note import NOTICE, Note
from persist.system import btrfs, mountinfo, newmount
from persist.system.run import run
from persist.volume.find.decision import Found
from persist.volume.members.assemble import Assembly
from persist.volume.mount.private import private

# btrfs(5), since 5.11: an older root where the newest is damaged, no log replay, and what has no valid
# checksum is shown too.
OPTIONS = f"ro,{newmount.DATA},rescue=all,subvolid=5"


def try_rescue(found: Found, assembly: Assembly, at: str = RESCUE) -> Note | None:
    """Mount what can be read of a broken volume read-only at /run/persist/private/rescue, all its subvolumes;
    returns why that cannot be, None where it is done.

    Members that must not be mixed in are left out, and one that is missing does not matter. Raises OSError
    where the place cannot be made.
    """
    private()
    os.makedirs(at, 0o700, exist_ok=True)
    if mountinfo.at(at) is not None:
        return None
    node = assembly.nodes[0] if assembly.use else found.node
    try:
        btrfs.forget(*found.forget, *(n for n in found.members if n not in assembly.nodes))
        btrfs.scan(*assembly.nodes)
        run("mount", "-t", "btrfs", "-o", f"degraded,{OPTIONS}", node, at)
    except (CommandError, OSError) as e:
        text = e.message if isinstance(e, CommandError) else f"{e}."
        os.rmdir(at)
        return Note(
            NOTICE,
            f"Failed to mount the state volume on {node} read-only with rescue options: {text}",
            "VOLUME_BROKEN",
            {"PERSIST_DEVICE": node, "PERSIST_UUID": found.uuid, "PERSIST_REASON": "rescue"},
        )
    return None


def put_down(at: str = RESCUE) -> None:
    """Unmount what an earlier run shows read-only: as long as it is mounted, the kernel mounts the volume in
    no other way. Raises CommandError and OSError."""
    if mountinfo.at(at) is not None:
        run("umount", at)
