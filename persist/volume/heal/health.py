# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is the mounted volume well? Looks only and starts no process: the verdict asks at each boot."""

from __future__ import annotations

import os

from persist.boot import paths
from persist.boot.paths import VOLUME
from persist.errors import PersistError
from persist.reason import Reason
from persist.system import blockdev, btrfs
from persist.volume.find import candidates
from persist.volume.members import ancestry, assemble, in_kernel
from persist.volume.members.in_kernel import LiveDevice
from persist.volume.ondisk import store
from persist.volume.space import reserve

HEAL_FAILED = paths.HEAL_FAILED
_LOW_SHARE, _LOW_BYTES, _LOW_LEAST = (
    20,
    1 << 30,
    16 << 20,
)  # low: less than a twentieth, and less than 1 GiB; or less than 16 MiB
_CHUNK = 32 << 20  # as much in one piece is needed on a device for another chunk of metadata
_COPIES = {"single": 1, "dup": 1, "raid1": 2, "raid1c3": 3, "raid1c4": 4}
_JOIN = "give a blank one to this volume with 'persistctl claim --join DEVICE'"


def _split(node: str) -> Reason:
    return Reason(
        "member-split",
        f"{node} was written without the other disks of the state volume, and is not used.",
        "Save what you need of it, then give it back with 'persistctl claim --force --join', or detach it.",
    )


def _is_split(m: LiveDevice, devices: list[LiveDevice]) -> bool:
    """Whether a device that udev has told the kernel about after the mount may hold what those in use never
    had."""
    return m.block is not None and in_kernel.split(ancestry.Member(m.node, m.block, m.mark), devices)


def _gone(m: LiveDevice, noted: dict[int, str]) -> str:
    """A member that is not there, by what was noted of it when it was: somebody has to find it among
    others."""
    serial = noted.get(m.devid, "")
    return f" (serial number {serial})" if serial else ""


def _members(devices: list[LiveDevice], busy: str, noted: dict[int, str]) -> list[Reason]:
    found = []
    shown = " and ".join(m.node for m in devices if m.ok and m.devid)
    for m in devices:
        if m.state == "missing" and m.devid:
            found.append(
                Reason(
                    "member-missing",
                    f"Disk {m.devid}{_gone(m, noted)} of the state volume is missing; it runs on {shown} "
                    "alone.",
                    f"Attach it again, or {_JOIN}.",
                )
            )
        elif m.state == "lost":
            found.append(
                Reason(
                    "member-lost",
                    f"{m.node}{_gone(m, noted)} of the state volume went away while it was in use; it runs "
                    f"on {shown} alone.",
                    f"Attach it again, or {_JOIN}.",
                )
            )
        elif m.state == "behind" and _is_split(m, devices):
            found.append(_split(m.node))
        elif m.state == "behind":
            found.append(
                Reason(
                    "member-stale",
                    f"{m.node} of the state volume was away while the others were written.",
                    "It is brought up to date by persist-heal.service; see 'journalctl -u "
                    "persist-heal.service'.",
                )
            )
    unfinished = any(m.ok and m.mark is not None and m.mark.counter for m in devices)
    if not found and unfinished:
        what = busy if busy != "none" else "not finished"
        found.append(
            Reason(
                "healing",
                f"The state volume is being healed ({what}).",
                "No action is needed. See 'systemctl status persist-heal.service'.",
            )
        )
    elif found and busy != "none":
        found.append(
            Reason(
                "healing",
                f"The state volume is being healed ({busy}).",
                "See 'systemctl status persist-heal.service'.",
            )
        )
    return found


def _outsiders(uuid: str, devices: list[LiveDevice]) -> list[Reason]:
    """Members of this filesystem that are attached and left out."""
    known = {blockdev.number_of(m.node) for m in devices if m.node}
    found = []
    every = [c.node for c in candidates.from_database() if c.uuid.lower() == uuid and c.device not in known]
    for m in assemble.read(every, uuid):
        if in_kernel.split(m, devices):
            found.append(_split(m.node))
        else:
            found.append(
                Reason(
                    "member-stale",
                    f"{m.node} was away while the rest of the state volume was written, and is left out.",
                    "It is brought up to date by persist-heal.service where a disk is missing; else detach "
                    "it, or claim it anew.",
                )
            )
    return found


def _failed() -> list[Reason]:
    try:
        with open(HEAL_FAILED, encoding="utf-8") as f:
            return [
                Reason(
                    "heal-failed",
                    f.readline().strip(),
                    "See 'journalctl -u persist-heal.service -k'; 'systemctl start persist-heal.service' "
                    "tries again.",
                )
            ]
    except FileNotFoundError:
        return []


def errors(uuid: str, devid: int) -> dict[str, int] | None:
    """The kernel's error counters of a device, those that are not zero; None where it does not tell them
    (before Linux 5.14, or not read yet)."""
    counters = [
        line.partition(" ") for line in btrfs.attribute(uuid, f"devinfo/{devid}/error_stats").split("\n")
    ]
    numbers = {name: int(value) for name, _, value in counters if value.isascii() and value.isdigit()}
    return {name: n for name, n in numbers.items() if n} if numbers else None


def _errors(uuid: str, devices: list[LiveDevice], path: str) -> list[Reason]:
    found = []
    for m in devices:
        counted = errors(uuid, m.devid) if m.ok else {}
        if counted:
            shown = ", ".join(f"{name} {n}" for name, n in counted.items())
            found.append(
                Reason(
                    "device-errors",
                    f"{m.node} of the state volume has errors: {shown}.",
                    "Read everything with 'persistctl volume scrub'. Replace the disk where they grow; if "
                    "they were temporary, "
                    f"'btrfs device stats --reset {path}'.",
                )
            )
    return found


def _number(uuid: str, name: str) -> int:
    text = btrfs.attribute(uuid, f"allocation/{name}")
    return int(text) if text.isascii() and text.isdigit() else 0


def low(free: int, total: int) -> bool:
    """Whether so few bytes are free that somebody should know. Pure."""
    return free < max(_LOW_LEAST, min(total // _LOW_SHARE, _LOW_BYTES))


def metadata_low(uuid: str, devices: list[LiveDevice]) -> bool:
    """Whether metadata has neither room nor a place for another chunk: the volume can be full of it with much
    space free."""
    total, used, reserved = (
        _number(uuid, n) for n in ("metadata/total_bytes", "metadata/bytes_used", "global_rsv_size")
    )
    if not total or total - used - reserved >= max(total // _LOW_SHARE, _CHUNK // 8):
        return False
    copies = max((_COPIES.get(p, 1) for p in btrfs.names(uuid, "allocation/metadata")), default=1)
    return sum(m.size - m.used >= _CHUNK for m in devices if m.ok and m.devid) < copies


def _space(uuid: str, devices: list[LiveDevice], path: str) -> list[Reason]:
    found = []
    hint = (
        "Remove what is not needed, or give it another disk with 'persistctl claim --join DEVICE'. "
        "'persistctl volume show' has the numbers."
    )
    space = os.statvfs(path)
    free = space.f_bavail * space.f_frsize
    if low(free, space.f_blocks * space.f_frsize):
        found.append(
            Reason("space-low", f"The state volume is nearly full: {free >> 20} MiB are left.", hint)
        )
    if metadata_low(uuid, devices):
        found.append(
            Reason(
                "metadata-low",
                "The state volume is nearly full: there is hardly any room for metadata.",
                hint,
            )
        )
    used = reserve.in_use(path)
    if used:
        found.append(
            Reason(
                "reserve-used", f"The state volume was full and uses {used >> 20} MiB of its reserve.", hint
            )
        )
    return found


def examine(uuid: str, path: str = VOLUME) -> list[Reason]:
    """What is not well with the volume that is mounted at a path, with a remedy for each. Some milliseconds;
    no process, no write but a commit where members differ."""
    try:
        devices = in_kernel.members(path)
        found = _members(
            devices,
            btrfs.attribute(uuid, "exclusive_operation") or "none",
            store.serials(store.read_record(path)),
        )
        return (
            found
            + _outsiders(uuid, devices)
            + _failed()
            + _errors(uuid, devices, path)
            + _space(uuid, devices, path)
        )
    except (PersistError, OSError) as e:
        return [
            Reason(
                "health-unknown",
                f"Failed to check the state volume: {e}",
                "See 'journalctl -b -k'.",
            )
        ]
