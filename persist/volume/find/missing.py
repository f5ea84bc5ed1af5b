# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why there is no volume, and what helps: made from what is on the machine. ``explain`` is pure; ``gather``
looks, only where no volume was found.

No sentence here tells anyone to format a disk beside one that is merely closed or damaged, nor to do what the
next start would refuse.
"""

from __future__ import annotations

from collections.abc import Callable

from persist.boot.config import Config
from persist.boot.ini import words
from persist.record import Record, replace
from persist.system.blockdev import number_of
from persist.volume.find.choose import (
    BTRFS,
    FILESYSTEM,
    NATIVE,
    Candidate,
    Known,
    Missing,
    Resolve,
    listed,
    matches,
)
from persist.volume.find.unreadable import Unreadable
from persist.volume.ondisk.partition_table import DATA_NAME

CRYPTTAB = "/etc/crypttab"
CONF = "/usr/lib/persist/persist.conf"
_ATTACH = "Attach its disk; 'lsblk -f' shows what is here."


class Around(Record):
    """What is on the machine: all block devices, disks of ours that cannot be read, and what crypttab(5)
    opens.

    ``held``: whether anything uses a device (its holders): one that is open, or assembled.
    """

    every: tuple[Candidate, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    crypttab: tuple[str, ...] = ()
    held: Callable[[str], bool] = lambda node: False


class _Why(Record):
    """One thing that was found out. ``closed``: there is something that has to be opened first."""

    message: str
    hint: str
    closed: bool = False


def _crypttab() -> tuple[str, ...]:
    try:
        with open(CRYPTTAB, encoding="utf-8", errors="surrogateescape") as f:
            lines = [words(line) for line in f.read().split("\n")]
    except OSError:
        return ()  # nothing is encrypted here
    return tuple(w[0] for w in lines if w and not w[0].startswith("#"))


def gather(config: Config) -> Around:
    """Look at the machine. Raises CommandError and OSError."""
    from persist.volume.find import candidates, unreadable

    return Around(
        tuple(candidates.everything()), tuple(unreadable.find(config)), _crypttab(), candidates.held
    )


def _claim_helps(config: Config, machine: Known) -> bool:
    """Whether a disk that is claimed now would become the volume."""
    return (
        not machine.named
        and not machine.known
        and bool({"auto", f"LABEL={DATA_NAME}", f"PARTLABEL={DATA_NAME}"} & set(config.device))
    )


def _how_to_open(c: Candidate) -> _Why | None:
    """What is wrong with a device that is not a filesystem but has one in it."""
    if c.fstype in ("crypto_LUKS", "BitLocker"):
        return _Why(
            f"{c.node} is encrypted, and a filesystem in it shows only once it is open",
            "Have it opened by crypttab(5), see 'systemctl status "
            f"systemd-cryptsetup@NAME.service', and name what is opened: Device=/dev/mapper/NAME in {CONF}.",
            True,
        )
    if c.fstype == "linux_raid_member":
        return _Why(
            f"{c.node} is a part of a RAID",
            "See 'cat /proc/mdstat' and 'mdadm --examine --scan'; name the array by "
            f"Device=/dev/disk/by-id/md-uuid-… in {CONF}.",
            True,
        )
    if c.fstype == "LVM2_member":
        return _Why(
            f"{c.node} is a physical volume of LVM",
            f"See 'pvs' and 'lvs -a'; name the logical volume by Device=/dev/VG/LV in {CONF}.",
            True,
        )
    if c.fstype == "mpath_member":
        return _Why(
            f"{c.node} is one path to a multipath device",
            "See 'multipath -ll' and 'systemctl status multipathd.service'; name the device by "
            f"Device=/dev/mapper/NAME in {CONF}.",
            True,
        )
    if c.usage == "raid":
        return _Why(
            f"{c.node} is a part of something larger ({c.fstype})",
            "See 'lsblk -f', and name what it is a part of.",
            True,
        )
    return None


def _no_filesystem(c: Candidate, config: Config, machine: Known, around: Around) -> _Why:
    """What is wrong with a device that has no filesystem, and is to be the volume."""
    closed = _how_to_open(c)
    if closed is not None:
        return closed
    if c.usage == "other":
        return _Why(
            f"{c.node} is {'swap space' if c.fstype == 'swap' else c.fstype}, and not a filesystem",
            f"Name another device, or make a filesystem on it once nothing uses it: 'mkfs.ext4 {c.node}'.",
        )
    inside = [o.node for o in around.every if o.disk_device == c.device and o.device != c.device]
    if inside:
        return _Why(
            f"{c.node} has partitions ({', '.join(inside)}), and none of them is a state volume",
            f"Name the partition by Device= in {CONF}.",
        )
    if c.device != c.disk_device:
        return _Why(f"{c.node} has no filesystem", f"Make one: 'mkfs.ext4 {c.node}'.")
    if machine.named or machine.known:
        lost = (
            " Where a disk is lost whenever the machine is stopped, say Ephemeral=yes."
            if config.format_blank and not machine.named
            else ""
        )
        return _Why(f"{c.node} has no filesystem", f"{_ATTACH}{lost}")
    return _Why(
        f"{c.node} has no filesystem", f"Where it is blank, 'persistctl claim {c.node}' has it formatted."
    )


def _by_path(spec: str, config: Config, machine: Known, around: Around, resolve: Resolve) -> _Why | None:
    """Why a path in Device= leads to no volume; None where there is nothing of this name, and nothing that
    could be it."""
    number = resolve(spec)
    if number:
        found = next((c for c in around.every if c.device == number), None)
        return (
            _no_filesystem(found, config, machine, around)
            if found is not None and found.usage != FILESYSTEM
            else None
        )
    closed = [c for c in around.every if c.usage in ("crypto", "raid") and not around.held(c.node)]
    shown = listed(c.node for c in closed)
    directory, _, name = spec.rpartition("/")
    if name.startswith("dm-name-"):
        directory, name = "/dev/mapper", name[len("dm-name-") :]  # udev's link to the same
    if directory == "/dev/mapper" and name in around.crypttab:
        return _Why(
            f"{spec} is not open; {CRYPTTAB} has it",
            "See \"journalctl -b -u 'systemd-cryptsetup@*'\": what opens it must not need a file that "
            "persist keeps on it.",
            True,
        )
    if directory == "/dev/mapper" and any(c.fstype == "mpath_member" for c in closed):
        return _Why(
            f"{spec} is not there, and {shown} is a path to a multipath device",
            "See 'multipath -ll' and 'systemctl status multipathd.service'.",
            True,
        )
    if directory == "/dev/mapper" and any(c.usage == "crypto" for c in closed):
        return _Why(
            f"{spec} is not open: {shown} is encrypted, and {CRYPTTAB} has no line for it",
            f"Put '{name} {closed[0].node}' into {CRYPTTAB} (better by UUID={closed[0].uuid}), see "
            "crypttab(5).",
            True,
        )
    if spec.startswith("/dev/md") or "/md-" in spec:
        what = f"; {shown} is a part of one" if closed else ""
        return _Why(
            f"{spec} is a RAID that is not assembled{what}",
            "See 'cat /proc/mdstat' and 'mdadm --assemble --scan'.",
            True,
        )
    if directory.startswith("/dev/mapper") or (
        directory.count("/") == 2 and not directory.startswith("/dev/disk")
    ):
        what = f": {shown} is closed" if closed else ""
        return _Why(
            f"{spec} is not there{what}",
            "What makes it has failed, or waits for something: see 'lsblk -f', 'dmsetup ls' and 'lvs -a', "
            "and 'journalctl -b' for the unit that opens it.",
            True,
        )
    return None


def _by_id(spec: str, config: Config, machine: Known, around: Around, resolve: Resolve) -> _Why | None:
    """Why an id or a label in Device= leads to no volume."""
    for c in around.every:
        if c.usage != FILESYSTEM and matches(spec, c, resolve):
            return _no_filesystem(c, config, machine, around)
    return _closed(around)


def _closed(around: Around) -> _Why | None:
    """Whatever is here and has not been opened: what somebody looks for may be in it."""
    closed = [c for c in around.every if c.usage in ("crypto", "raid") and not around.held(c.node)]
    if not closed:
        return None
    how = _how_to_open(closed[0])
    return _Why(
        f"It may be in what is not open yet: {listed(c.node for c in closed)}",
        how.hint if how is not None else "",
        True,
    )


def _looks_like(config: Config, machine: Known, around: Around) -> _Why | None:
    """Something that has the label or the name of a volume, and is none to the word 'auto'."""
    for c in around.every:
        if DATA_NAME not in (c.label, c.part_label) or (c.untrusted and not config.allow_removable):
            continue
        how = f"LABEL={DATA_NAME}" if c.label == DATA_NAME else f"PARTLABEL={DATA_NAME}"
        called = f"has the {'label' if c.label == DATA_NAME else 'partition name'} {DATA_NAME}"
        if c.usage != FILESYSTEM:
            why = _no_filesystem(c, config, machine, around)
            name = (
                ""
                if why.closed
                else f" Then name it: Device={how if c.usage != 'other' else f'PARTUUID={c.part_id}'} in "
                f"{CONF}."
            )
            return replace(why, message=f"{c.node} {called}. {why.message}", hint=f"{why.hint}{name}")
        if c.fstype == BTRFS and c.label == DATA_NAME:
            continue  # that is one, and not the one that is looked for
        if c.fstype not in (BTRFS, *NATIVE):
            return _Why(
                f"{c.node} {called}, and is {c.fstype}, which cannot keep state",
                f"Use btrfs, {', '.join(NATIVE)}.",
            )
        what = "only a btrfs is taken by its label" if c.fstype != BTRFS else "it is taken by its label only"
        return _Why(
            f"{c.node} {called} and is {c.fstype}; {what}", f"To use it, put Device={how} into {CONF}."
        )
    return None


def _one_disk(around: Around) -> bool:
    """Whether the machine has no disk but that of its root, so that there is none to claim."""
    return len({c.disk_device for c in around.every if not c.untrusted}) == 1


def _specs(config: Config, machine: Known, around: Around, resolve: Resolve) -> list[_Why]:
    found = []
    for spec in config.device:
        if spec != "auto":
            by = _by_path if spec.startswith("/") else _by_id
            why = by(spec, config, machine, around, resolve)
            if why is not None:
                found.append(why)
    return sorted(found, key=lambda why: not why.closed)


def _right_form(around: Around) -> str:
    ours = {c.uuid: c.node for c in reversed(around.every) if c.usage == FILESYSTEM and c.label == DATA_NAME}
    return " ".join(f"{node} has persist.volume={uuid}." for uuid, node in ours.items())


def explain(
    missing: Missing, config: Config, machine: Known, around: Around, resolve: Resolve = number_of
) -> Missing:
    """The same, with what the machine shows. Pure."""
    if missing.code == "not-a-uuid":
        return replace(missing, hint=f"{missing.hint} {_right_form(around)}".rstrip())
    if around.unreadable:
        # What is known to be gone comes before what somebody may have meant.
        one = next(
            (u for u in around.unreadable if u.volume in (machine.named.lower(), machine.known.lower())),
            around.unreadable[0],
        )
        return Missing(
            f"{missing.message} {' '.join(u.message for u in around.unreadable)}", one.hint, "unreadable"
        )
    if missing.code != "missing":
        return missing
    found = _specs(config, machine, around, resolve)
    looks = (
        _looks_like(config, machine, around)
        if not machine.named and not machine.known and "auto" in config.device
        else None
    )
    if found and found[0].closed:
        return Missing(f"{missing.message} {found[0].message}.", found[0].hint, "closed")
    if looks is not None:
        return Missing(f"{missing.message} {looks.message}.", looks.hint, "not-a-volume")
    if found:
        return Missing(f"{missing.message} {found[0].message}.", found[0].hint, "not-a-volume")
    closed = _closed(around) if config.allow_removable and "auto" in config.device else None
    if closed is not None:
        return Missing(f"{missing.message} {closed.message}.", closed.hint, "closed")
    if not _claim_helps(config, machine):
        named = (
            f" To use another one, correct persist.volume=. {_right_form(around)}".rstrip()
            if machine.named
            else ""
        )
        return replace(missing, hint=f"{_ATTACH}{named}")
    if _one_disk(around):
        return replace(
            missing,
            hint="Attach its disk. To begin anew, give another disk to persist with 'persistctl claim', or a "
            "partition of this one: make "
            f"a filesystem on it ('mkfs.ext4') and name it by Device=PARTUUID=… in {CONF}.",
        )
    return replace(missing, hint="Attach its disk, or give a blank one to persist with 'persistctl claim'.")
