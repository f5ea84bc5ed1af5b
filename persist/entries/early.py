# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the initrd mounted on the paths of entries. It knows no options of theirs: they come with
persist-volume.service."""

from __future__ import annotations

import os

from persist.boot.load import Loaded
from persist.boot.paths import STORE, VOLUME
from persist.entries.bind import failure
from persist.errors import PersistError
from persist.system import mountinfo, newmount
from persist.system.mountinfo import Mount
from persist.system.safepath import Dir


def set_options(loaded: Loaded) -> list[PersistError]:
    """Give the mounts of early entries the options of their entries. The result is what to log. Raises
    OSError where /proc is not mounted.

    Where something else lies on the path it is left alone, which the verdict says.
    """
    early = [p for p in loaded.plan.entries if p.mounted_early]
    if not early:
        return []
    at = {m.mount_point: m for m in mountinfo.mounts()}
    problems = []
    for planned in early:
        mount = at.get(planned.path)
        if mount is None or not _ours(mount, at.get(VOLUME)):
            continue
        try:
            with Dir.at("/") as live:
                top = live.node(planned.path)
            if top is not None:
                try:
                    newmount.change(top, planned.entry.options)
                finally:
                    os.close(top)
        except (PersistError, OSError) as e:
            problems.append(failure(planned, e, "Failed to remount", f"with {planned.entry.options}"))
    return problems


def _ours(mount: Mount, volume: Mount | None) -> bool:
    if mount.fstype == "overlay":
        return mount.upper.startswith(f"{STORE}/")
    return volume is not None and mount.device == volume.device
