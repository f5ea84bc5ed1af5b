# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the boot before a soft reboot has left mounted, and where it keeps what is written.

PID 1 leaves /etc mounted (systemd-soft-reboot.service(8)), and unmounts the volume that its overlay has its
upper on. Where another volume comes up after that, or memory again, such an overlay goes on writing to what
nobody can reach any more, and its options in mountinfo are the same: they name paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from persist.boot import paths
from persist.boot.load import Loaded
from persist.boot.plan import Planned
from persist.entries import stores
from persist.errors import CommandError, PersistError
from persist.note import NOTICE, WARNING, Note, Say
from persist.system import mountinfo, newmount
from persist.system.files import write_atomically
from persist.system.run import run
from persist.system.safepath import Dir

LEFT_BY_PID1 = "/etc"


def flags() -> dict[str, str]:
    """The flags of the boot before: the name of each entry with device and inode of what it was mounted from.
    To be asked before stores.clear(). Raises OSError."""
    try:
        names = os.listdir(paths.STORES)
    except FileNotFoundError:
        return {}
    return {name: stores.flag(name) for name in names}


def _now(planned: Planned, volume: Dir) -> str:
    """What the flag of an entry would say now, '' where there is no place for it."""
    try:
        return stores.look(volume, planned.path, planned.name, "overlay")
    except (PersistError, OSError):
        return ""  # whoever brings the entry into place looks again, and says it


def _is_ours(planned: Planned, mounted: mountinfo.Mount, flag: str) -> bool:
    if mounted.fstype == "overlay":
        return mounted.upper == f"{paths.STORE}/overlay/{planned.name}/upper"
    found = os.stat(planned.path)
    return f"{found.st_dev}:{found.st_ino}" == flag


def unmount(loaded: Loaded, before: Mapping[str, str], say: Say) -> None:
    """Unmount what PID 1 should have, children first: it looks at mounts that it did not make itself up to a
    second later (five times a second at most, systemd 252 and 257), and unmounts none that it has not seen.
    ``before``: flags(). What is in use stays, as at PID 1's own umount. Raises OSError."""
    at = {m.mount_point: m for m in mountinfo.mounts()} if before else {}
    for planned in reversed(loaded.plan.entries):
        mounted, flag = at.get(planned.path), before.get(planned.name, "")
        if mounted is None or not flag or planned.path == LEFT_BY_PID1:
            continue
        if not _is_ours(planned, mounted, flag):
            continue
        try:
            run("umount", planned.path)
        except CommandError as e:
            say(
                Note(WARNING, f"'{planned.path}' stays mounted: {e}", "EARLY", {"PERSIST_PATH": planned.path})
            )


def elsewhere(loaded: Loaded, before: Mapping[str, str]) -> list[Planned]:
    """The entries, children first, whose overlay has its upper elsewhere than on what is the volume now.
    ``before``: flags(); one without a flag is left alone. Raises OSError."""
    if not before:
        return []
    at = {m.mount_point: m for m in mountinfo.mounts()}
    found = []
    with Dir.at(paths.VOLUME) as volume:
        for planned in reversed(loaded.plan.entries):
            mounted = at.get(planned.path)
            upper = f"{paths.STORE}/overlay/{planned.name}/upper"
            if mounted is None or mounted.upper != upper or planned.name not in before:
                continue
            if _now(planned, volume) != before[planned.name]:
                found.append(planned)
    return found


def take_away(loaded: Loaded, before: Mapping[str, str], say: Say) -> bool:
    """Unmount the overlays that are elsewhere(); whether there was one. Raises OSError."""
    found = elsewhere(loaded, before)
    for planned in found:
        newmount.take_away(planned.path)
        text = f"'{planned.path}' showed the state of the boot before, which is not on this volume."
        say(Note(NOTICE, text, "EARLY", {"PERSIST_PATH": planned.path}))
    return bool(found)


def leave(found: Iterable[Planned], before: Mapping[str, str], say: Say) -> None:
    """Say of overlays that are elsewhere() that they are: PID 1 has read them, and is not to find another
    machine-id. Their flags keep what they were mounted from, by which the verdict sees it. Raises OSError."""
    for planned in found:
        write_atomically(f"{paths.STORES}/{planned.name}", before[planned.name] + "\n")
        text = (
            f"'{planned.path}' shows the state of the boot before, which is not on this volume: what is "
            "written to it is lost. Restart the machine."
        )
        say(Note(WARNING, text, "EARLY", {"PERSIST_PATH": planned.path}))
