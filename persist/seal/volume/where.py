# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state volume that is to be sealed: found as any boot finds it, refused where it is not whole or not the
only one, and mounted where nobody else sees it. PID 1 mounts nothing of it: no entry, no swap space."""

from __future__ import annotations

import os
from collections.abc import Iterable

from persist.boot import config
from persist.boot.config import Config
from persist.boot.facts import Facts
from persist.boot.paths import SEALING, VOLUME
from persist.errors import CommandError, PersistError
from persist.note import DEBUG, Note, Say
from persist.record import Record
from persist.system import blockdev, btrfs, mountinfo, newmount
from persist.system.mountinfo import Mount
from persist.system.run import run
from persist.volume.find import search
from persist.volume.find.decision import BTRFS, NATIVE, Found
from persist.volume.members.assemble import Assembly
from persist.volume.mount import btrfs_mount, native, strange, writable
from persist.volume.ondisk import store

PLACE = SEALING + "/volume"
TOP = SEALING + "/volume-top"
_FSCK = "/usr/lib/systemd/systemd-fsck"
_WHOLE = "A volume is sealed when it is whole and alone: see 'persistctl status'."


class Volume(Record):
    """The volume, mounted at ``path``; ``top`` is the top of its btrfs, with the snapshots, '' for another
    filesystem. ``nodes`` are the devices that it is on, ``public`` is its name on the machine."""

    path: str
    top: str
    uuid: str
    nodes: tuple[str, ...]
    public: str


def refusal(found: Found, assembly: Assembly | None) -> PersistError | None:
    """Why a volume that was found is not sealed, None where it is: what is not attached would keep what is
    wiped here. Pure."""
    if found.others:
        nodes = " and ".join(node for node, _ in found.others)
        return PersistError(
            f"{nodes} could be a state volume, too, beside the one on {found.node}: a clone could not tell "
            "them apart.",
            hint=f"Detach the disk of {nodes}, or give that filesystem another label.",
        )
    if found.forget:
        nodes = " and ".join(found.forget)
        return PersistError(
            f"{nodes} is of the state volume on {found.node} and is not used: nothing on it would be wiped.",
            hint=f"Detach its disk. {_WHOLE}",
        )
    if assembly is None:
        return None
    if assembly.odd:
        return PersistError(assembly.odd[0].message, hint=_WHOLE)
    if assembly.degraded or assembly.heal or not assembly.use:
        return PersistError(
            f"The state volume on {found.node} is not whole, or was not healed to the end.", hint=_WHOLE
        )
    return None


def _found(conf: Config, machine: Facts, say: Say) -> tuple[Found, Assembly | None]:
    """Find it, on whatever disk. Raises PersistError, OSError."""
    if machine.mode in ("ro", "volatile"):
        raise PersistError(
            f"persist={machine.mode} is on the kernel command line, so the state volume takes no writes."
        )
    if conf.netdev:
        raise PersistError("The state volume comes with the network, which a boot that seals has not.")
    told = search.what_is_known(machine, say)
    wait = search.patience(conf, told, kept=True)
    decision, assembly = search.search(conf, told, wait, say, lambda text, seconds: None)
    if not isinstance(decision, Found):
        raise PersistError(f"The state volume cannot be sealed. {decision.message}", hint=decision.hint)
    wrong = refusal(decision, assembly)
    if wrong is not None:
        raise wrong
    return decision, assembly


def _is_there(found: Found) -> bool:
    """Whether it is mounted where a boot has it: a running machine's, or for an /etc that is on it."""
    at = mountinfo.at(VOLUME)
    if at is None:
        return False
    if found.fstype == BTRFS:
        return btrfs.mounted_uuid(VOLUME) == found.uuid.lower()
    return at.device == blockdev.number_of(found.node)


def _mount(found: Found, assembly: Assembly | None, conf: Config, say: Say, *, looking: bool) -> None:
    """Mount it at PLACE, or show there what is mounted. Raises PersistError, OSError."""
    os.makedirs(PLACE, 0o700, exist_ok=True)
    if _is_there(found):
        newmount.bind(VOLUME, PLACE, options=newmount.DATA)
    elif looking:
        raise PersistError(
            f"The state volume on {found.node} is not mounted, and cannot be looked at.",
            hint="See 'persistctl status'.",
        )
    elif assembly is not None:
        btrfs_mount.mount_assembly(found, assembly, say, at=PLACE)
    elif found.fstype in NATIVE:
        # Not as native.py has it, by PID 1: this mount is this process's own.
        _check(found)
        options = native.options(conf, found.fstype)
        run("mount", "-t", found.fstype, "-o", options, found.node, PLACE, timeout=None)
    else:
        raise PersistError(f"The state volume on {found.node} is {found.fstype}, which cannot keep state.")


def _check(found: Found) -> None:
    """Have it checked as each boot does that mounts it: by what systemd-fsck@.service runs, which knows
    fsck.mode= and what there is no fsck for. Damage that is left may hide what is to be wiped. Raises
    PersistError."""
    try:
        run(_FSCK, found.node, timeout=None)
    except CommandError as e:
        raise PersistError(
            f"The state volume on {found.node} is damaged, and not all of it could be repaired: {e.message}",
            hint=f"'fsck {found.node}' asks what to do about it.",
        ) from e


def _top(found: Found, nodes: Iterable[str]) -> str:
    """Mount the top of a btrfs. Raises CommandError, OSError."""
    if found.fstype != BTRFS:
        return ""
    os.makedirs(TOP, 0o700, exist_ok=True)
    node = next(iter(nodes))
    run("mount", "-t", "btrfs", "-o", f"{newmount.DATA},noatime,subvolid=5", node, TOP)
    return TOP


def _trim(found: Found, *, fresh: bool) -> list[str]:
    """Give back the blocks of what was wiped; why they stay. fstrim(8) leaves out what a btrfs has set aside
    for its next metadata, and old metadata with it (tried): when it was just mounted, before anything is
    written, that is nothing; where it was in use, as for an /etc that is kept, its metadata is moved."""
    try:
        if not fresh and found.fstype == BTRFS:
            btrfs.move_metadata(PLACE, btrfs.MOVE_SEC)
        run("fstrim", PLACE, timeout=None)
    except CommandError as e:
        why = f"{e.argv[0]}: " + (e.stderr.strip().rpartition(": ")[2] or e.message)
        return [f"What was wiped can be read from the free blocks of the state volume: {why}."]
    return []


def mount(machine: Facts, notes: list[str], *, looking: bool, trim: bool) -> tuple[Volume, list[str]]:
    """Find and mount the volume, in mounts of this process's own; ``looking``: nothing of it is to be
    changed; ``trim``: it was wiped, and its free blocks are given back. Returns why that is not so. Raises
    PersistError where it is not to be sealed, OSError; nothing on it was changed then."""

    def say(note: Note) -> None:
        if note.priority < DEBUG:
            notes.append(note.message)

    conf = config.load("", [])
    found, assembly = _found(conf, machine, say)
    fresh = not _is_there(found)
    _mount(found, assembly, conf, say, looking=looking)
    stay = _trim(found, fresh=fresh) if trim else []
    strange.check(PLACE, found.node, found.uuid, say)
    at = mountinfo.at(PLACE)
    assert at is not None
    wrong = _obstacle(at, looking=looking)
    if wrong is not None:
        raise PersistError(wrong.message, hint=wrong.hint)
    nodes = found.members if assembly is None else assembly.nodes
    return Volume(PLACE, _top(found, nodes), found.uuid.lower(), tuple(nodes), conf.mount), stay


def _obstacle(at: Mount, *, looking: bool) -> writable.Obstacle | None:
    if looking:
        return writable.read_only(at)
    store.make(at.mount_point)  # an empty one has none yet
    return writable.obstacle(at.mount_point)
