# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why there is no volume, and what helps: made from what is on the machine (around.py). Pure.

No sentence here tells anyone to format a disk beside one that is merely closed or damaged, nor to do what the
next start would refuse.
"""

from __future__ import annotations

from persist.boot.config import Config
from persist.record import replace
from persist.system.blockdev import number_of
from persist.volume.find.around import Around
from persist.volume.find.choose import Resolve
from persist.volume.find.decision import BTRFS, FILESYSTEM, NATIVE, Known, Missing
from persist.volume.find.named import ATTACH, CONF, Why, no_filesystem, not_open, why_none
from persist.volume.ondisk.partition_table import DATA_NAME


def _claim_helps(config: Config, machine: Known) -> bool:
    """Whether a disk that is claimed now would become the volume."""
    return (
        not machine.named
        and not machine.known
        and bool({"auto", f"LABEL={DATA_NAME}", f"PARTLABEL={DATA_NAME}"} & set(config.device))
    )


def _looks_like(config: Config, machine: Known, around: Around) -> Why | None:
    """Something that has the label or the name of a volume, and is none to the word 'auto'."""
    for c in around.every:
        if DATA_NAME not in (c.label, c.part_label) or (c.untrusted and not config.allow_removable):
            continue
        how = f"LABEL={DATA_NAME}" if c.label == DATA_NAME else f"PARTLABEL={DATA_NAME}"
        called = f"has the {'label' if c.label == DATA_NAME else 'partition name'} {DATA_NAME}"
        if c.usage != FILESYSTEM:
            why = no_filesystem(c, config, machine, around)
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
            return Why(
                f"{c.node} {called}, and is {c.fstype}, which cannot keep state",
                f"Use btrfs, {', '.join(NATIVE)}.",
            )
        what = "only a btrfs is taken by its label" if c.fstype != BTRFS else "it is taken by its label only"
        return Why(
            f"{c.node} {called} and is {c.fstype}; {what}", f"To use it, put Device={how} into {CONF}."
        )
    return None


def _one_disk(around: Around) -> bool:
    """Whether the machine has no disk but that of its root, so that there is none to claim."""
    return len({c.disk_device for c in around.every if not c.untrusted}) == 1


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
    found = why_none(config, machine, around, resolve)
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
    closed = not_open(around) if config.allow_removable and "auto" in config.device else None
    if closed is not None:
        return Missing(f"{missing.message} {closed.message}.", closed.hint, "closed")
    if not _claim_helps(config, machine):
        named = (
            f" To use another one, correct persist.volume=. {_right_form(around)}".rstrip()
            if machine.named
            else ""
        )
        return replace(missing, hint=f"{ATTACH}{named}")
    if _one_disk(around):
        return replace(
            missing,
            hint="Attach its disk. To begin anew, give another disk to persist with 'persistctl claim', or a "
            "partition of this one: make "
            f"a filesystem on it ('mkfs.ext4') and name it by Device=PARTUUID=… in {CONF}.",
        )
    return replace(missing, hint="Attach its disk, or give a blank one to persist with 'persistctl claim'.")
