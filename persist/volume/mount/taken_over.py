# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was mounted at the volume's place before: by the initrd, or by an earlier run of
persist-volume.service."""

from __future__ import annotations

import os

from persist.boot import paths
from persist.boot.config import Config
from persist.boot.facts import Facts
from persist.boot.paths import EARLY, READONLY, VOLUME
from persist.note import NOTICE, WARNING, Note, Say
from persist.system import btrfs, mountinfo
from persist.system.mountinfo import Mount
from persist.volume import mode, outcome
from persist.volume.find.candidates import from_database
from persist.volume.find.choose import decide
from persist.volume.find.decision import Found, Known
from persist.volume.members import in_kernel
from persist.volume.mount import lookup
from persist.volume.outcome import Outcome

# Reasons that this run finds out by itself, or that are of the past: a run that failed may have done so for
# once.
_LOOKED_AT_AGAIN = ("failed", "volume-read-only", "subvolume-read-only", "quota", "immutable", "unwritable")


def describe(result: Outcome, at: Mount) -> None:
    """Take down what is mounted at the volume's place. Raises OSError where /proc is not mounted."""
    if at.root.endswith(paths.ROOT_STORE):
        result.kind = "root"
    else:
        result.kind = "tmpfs" if at.fstype == "tmpfs" else "btrfs" if at.fstype == "btrfs" else "native"
    result.read_only = at.read_only
    below = mountinfo.at(READONLY) if result.kind == "tmpfs" else None
    result.read_only_below = below is not None
    shown, where = (at, VOLUME) if below is None else (below, READONLY)
    if result.kind in outcome.REAL or below is not None:
        result.device, result.uuid = shown.source, btrfs.mounted_uuid(where)
        result.degraded = "degraded" in shown.super_options.split(",")


def early_entries() -> bool:
    """Whether the initrd has mounted an entry."""
    try:
        return bool(os.listdir(EARLY))
    except FileNotFoundError:
        return False


def _second_opinion(
    config: Config, machine: Facts, told: Known, result: Outcome, say: Say
) -> tuple[str, str]:
    """Why what the initrd mounted would not be chosen now, and what to do about it; '' and '' where it would,
    or nobody knows.

    The table in the initrd is as old as the initrd, and sees only the disks that were there first.
    """
    update = "Run 'update-initramfs -u' and restart the machine."
    if machine.mode in ("ro", "volatile"):
        return (
            f"The initrd mounted the state volume on {result.device} although "
            f"persist={machine.option('persist')} is on the kernel command line.",
            update,
        )
    every = from_database()
    if result.uuid not in {c.uuid.lower() for c in every}:
        return "", ""  # udev has not come to it yet
    decision = decide(config, told, every)
    if isinstance(decision, Found):
        lookup.say_others(decision, result, say)
    shown = f"The initrd mounted {result.device} (UUID={result.uuid}) as the state volume"
    if not isinstance(decision, Found):
        return f"{shown}, which would not be chosen now: {decision.message}", f"{decision.hint} {update}"
    if decision.uuid.lower() != result.uuid:
        return f"{shown}, but by persist.conf it is {decision.node} (UUID={decision.uuid}).", update
    return "", ""


def _begin(result: Outcome, say: Say) -> None:
    try:
        in_kernel.begin(VOLUME)  # the initrd writes a mark only where a member is missing
    except OSError as e:
        message = f"Failed to mark the members of the state volume on {result.device} for this boot: {e}"
        say(
            Note(
                NOTICE,
                message,
                "FAILED",
                {"PERSIST_DEVICE": result.device, "PERSIST_UUID": result.uuid},
            )
        )


def keep(config: Config, machine: Facts, told: Known, result: Outcome, at: Mount, say: Say) -> None:
    """Take over what is mounted, and say where the initrd chose what we would not. Raises OSError."""
    describe(result, at)
    before = outcome.read()
    result.from_initrd = (
        before.from_initrd if before is not None else result.kind == "btrfs" or result.read_only_below
    )
    if before is not None:
        if before.kind == result.kind:
            # What stands in for it is not what was looked at.
            if before.reason not in _LOOKED_AT_AGAIN or result.kind not in outcome.REAL:
                result.because(before.reason, before.message, before.hint)
            result.expected, result.rescue, result.others = before.expected, before.rescue, before.others
            # Only btrfs says its id through a mount.
            result.uuid = result.uuid or before.uuid
    elif result.read_only_below:
        result.because_of(mode.READ_ONLY)
    elif result.kind == "btrfs":
        if not result.read_only and not result.degraded:
            _begin(result, say)
        message, hint = _second_opinion(config, machine, told, result, say)
        if message:
            result.because("initrd-disagrees", message, hint)
            fields = {
                "PERSIST_DEVICE": result.device,
                "PERSIST_UUID": result.uuid,
                "PERSIST_REASON": "initrd-disagrees",
            }
            say(Note(WARNING, f"{message} {hint}", "FAILED", fields))
