# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which filesystem is the state volume? ``decide`` is pure; ``candidates`` is the thin edge that asks udev.

Nothing is taken blindly: two filesystems that both could be the volume, or one that is there twice (a cloned disk), are
left alone and said, because the wrong choice forks or overwrites what the machine remembers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..boot.config import Config
from . import blockdev, trust
from .layout import DATA_NAME

Resolve = Callable[[str], str]
UDEV_DATA = "/run/udev/data"


@dataclass(frozen=True)
class Candidate:
    """One btrfs member: its node, device numbers (major:minor) of it and of its disk, ids and labels, and why it is not trusted or ''."""

    node: str
    device: str
    disk_device: str
    uuid: str
    uuid_sub: str
    label: str
    part_id: str = ""
    part_label: str = ""
    untrusted: str = ""


@dataclass(frozen=True)
class Found:
    """The volume: mounted from ``node``; ``members`` are all devices it has, ``forget`` are copies that the kernel must not mix in."""

    node: str
    uuid: str
    members: tuple[str, ...]
    forget: tuple[str, ...] = ()


@dataclass(frozen=True)
class Missing:
    """There is no volume."""

    message: str
    hint: str
    code: str = "missing"


@dataclass(frozen=True)
class Ambiguous:
    """Nothing tells which filesystem is the volume. ``code`` is duplicate-label or cloned-disk."""

    code: str
    nodes: tuple[str, ...]
    message: str
    hint: str


@dataclass(frozen=True)
class Untrusted:
    """There is one, but where it must not be used without being named."""

    nodes: tuple[str, ...]
    message: str
    hint: str
    code: str = "untrusted"


Decision = Found | Missing | Ambiguous | Untrusted


def decode(text: str) -> str:
    r"""Undo udev's encoding of labels (``\x20``), that of ID_FS_LABEL_ENC and ID_PART_ENTRY_NAME."""
    raw = re.sub(rb"\\x([0-9a-fA-F]{2})", lambda m: bytes([int(m[1], 16)]), text.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")


def number_of(path: str) -> str:
    """The device number behind a path as major:minor, '' where there is none."""
    try:
        number = os.stat(path).st_rdev
    except OSError:
        return ""  # a spec for a disk that is not here
    return f"{os.major(number)}:{os.minor(number)}" if number else ""


def _matches(spec: str, c: Candidate, resolve: Resolve) -> bool:
    if spec == "auto":
        return c.label == DATA_NAME
    if spec.startswith("/"):
        number = resolve(spec)
        # The path of a whole disk stands for the volume on it.
        return bool(number) and (number == c.device or (number == c.disk_device and c.label == DATA_NAME))
    key, _, value = spec.partition("=")
    known = {"LABEL": c.label, "UUID": c.uuid.lower(), "PARTLABEL": c.part_label, "PARTUUID": c.part_id.lower()}
    return bool(value) and known.get(key) == (value.lower() if key in ("UUID", "PARTUUID") else value)


def _list(nodes: Iterable[str]) -> str:
    return " and ".join(nodes)


def decide(config: Config, wanted: str | None, every: Iterable[Candidate], resolve: Resolve = number_of) -> Decision:
    """Choose among all btrfs members of the machine. ``wanted`` is persist.volume= (a filesystem UUID) or None.

    The specs of Device= count in their order, the first that leads to anything decides. A spec that names something lifts the rule of
    trusted buses, 'auto' does not; where both kinds match, the trusted ones win over a copy on a stick.
    """
    pool = sorted((c for c in every if not wanted or c.uuid.lower() == wanted.lower()), key=lambda c: c.node)
    left_alone: list[Candidate] = []
    for spec in config.device:
        matching = [c for c in pool if _matches(spec, c, resolve)]
        trusted = [c for c in matching if not c.untrusted]
        usable = trusted or (matching if spec != "auto" or config.allow_removable else [])
        left_alone += [c for c in matching if c not in usable and c not in left_alone]
        if usable:
            return _choose(usable, pool, wanted)
    if left_alone:
        nodes = tuple(c.node for c in left_alone)
        return Untrusted(nodes, f"{_list(nodes)} could be the state volume, but its disk is {left_alone[0].untrusted}, which is not trusted unasked.",
                         f"Name it in /usr/lib/persist/persist.conf: Device=UUID={left_alone[0].uuid}")
    what = f"with the id {wanted} (persist.volume=)" if wanted else f"({' '.join(config.device)})"
    return Missing(f"No state volume {what} was found." if wanted or config.device != ["auto"] else "No state volume was found.",
                   "Attach its disk, or give a blank one to persist with 'persistctl claim'.")


def _choose(usable: list[Candidate], pool: list[Candidate], wanted: str | None) -> Decision:
    ids = sorted({c.uuid for c in usable})
    nodes = tuple(c.node for c in usable)
    if len(ids) > 1:
        shown = _list(f"{c.node} (UUID={c.uuid})" for c in usable)
        return Ambiguous("duplicate-label", nodes, f"More than one filesystem could be the state volume: {shown}. None of them is used.",
                         "Choose one: persist.volume=UUID on the kernel command line, or Device=UUID=… in /usr/lib/persist/persist.conf; or detach the others.")
    if len({c.uuid_sub for c in usable}) != len(usable):
        return Ambiguous("cloned-disk", nodes, f"{_list(nodes)} are copies of one filesystem (UUID={ids[0]}). None of them is used.",
                         f"Detach the copy. To keep it as a volume of its own, give it another id: 'btrfstune -u {nodes[-1]}'.")
    subs = {c.uuid_sub for c in usable}
    forget = tuple(c.node for c in pool if c.uuid == ids[0] and c not in usable and c.uuid_sub in subs)
    return Found(nodes[0], ids[0], nodes, forget)


def candidates() -> list[Candidate]:
    """All btrfs members of this machine, from udev's database, or by probing where no udev runs. Raises CommandError and OSError."""
    return _from_udev() if blockdev.udev_runs() else _by_probing()


def _from_udev() -> list[Candidate]:
    from ..udev import block_devices

    found = []
    for d in block_devices():
        if d.get("ID_FS_TYPE") == "btrfs":
            found.append(Candidate(
                d.node, number_of(d.node), number_of(d.disk_node), d.get("ID_FS_UUID"), d.get("ID_FS_UUID_SUB"), decode(d.get("ID_FS_LABEL_ENC")),
                d.get("ID_PART_ENTRY_UUID"), decode(d.get("ID_PART_ENTRY_NAME")), trust.why_untrusted(d.disk_sys_path, blockdev.attribute)))
    return found


def _by_probing() -> list[Candidate]:
    found = []
    for disk in blockdev.disks():
        for device in [disk, *blockdev.partitions(disk)]:
            p = blockdev.probe(device.node)
            if p.get("TYPE") == "btrfs":
                found.append(Candidate(
                    device.node, device.device, disk.device, p.get("UUID", ""), p.get("UUID_SUB", ""), p.get("LABEL", ""),
                    p.get("PART_ENTRY_UUID", ""), decode(p.get("PART_ENTRY_NAME", "")), trust.why_untrusted(disk.sys_path, blockdev.attribute)))
    return found


def from_database() -> list[Candidate]:
    """As candidates(), from udev's database without its library, which takes longer to load than a steady boot has for all of this.

    Incomplete while udev is busy, and empty where there is no udev: good for a second opinion and not for finding. Raises OSError.
    """
    found = []
    for disk in blockdev.disks():
        for device in [disk, *blockdev.partitions(disk)]:
            try:
                with open(f"{UDEV_DATA}/b{device.device}", encoding="utf-8", errors="surrogateescape") as f:
                    p = dict(line[2:].rstrip("\n").split("=", 1) for line in f if line.startswith("E:") and "=" in line)
            except FileNotFoundError:
                continue  # udev has not come to it yet
            if p.get("ID_FS_TYPE") == "btrfs":
                found.append(Candidate(
                    device.node, device.device, disk.device, p.get("ID_FS_UUID", ""), p.get("ID_FS_UUID_SUB", ""), decode(p.get("ID_FS_LABEL_ENC", "")),
                    p.get("ID_PART_ENTRY_UUID", ""), decode(p.get("ID_PART_ENTRY_NAME", "")), trust.why_untrusted(disk.sys_path, blockdev.attribute)))
    return found


def find(config: Config, wanted: str | None) -> Decision:
    """The volume as things are now; does not wait. Raises CommandError and OSError."""
    return decide(config, wanted, candidates())
