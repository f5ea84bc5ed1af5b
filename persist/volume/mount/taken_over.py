# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was mounted at the volume's place before: by a stage before PID 1 that did not end, or by an earlier
run of persist-volume.service."""

from __future__ import annotations

from persist.boot import paths
from persist.boot.paths import READONLY, VOLUME
from persist.note import NOTICE, Note, Say
from persist.reason import Reason
from persist.system import btrfs, mountinfo
from persist.system.mountinfo import Mount
from persist.volume import mode, outcome
from persist.volume.members import in_kernel
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


def in_use(volume: Mount) -> bool:
    """Whether something of the volume is mounted on the path of an entry. Raises OSError where /proc is not
    mounted."""
    return any(
        m.upper.startswith(f"{paths.STORE}/")
        or (m.device, m.root) == (volume.device, volume.root.rstrip("/") + m.mount_point)
        for m in mountinfo.mounts()
    )


def _begin(result: Outcome, say: Say) -> None:
    try:
        in_kernel.begin(VOLUME)
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


def keep(result: Outcome, at: Mount, say: Say, asked: Reason | None = None) -> None:
    """Take over what is mounted. ``asked``: why the command line wants memory in the volume's place. Raises
    OSError."""
    describe(result, at)
    before = outcome.read()
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
    elif result.kind == "tmpfs" and asked is not None:
        result.because_of(asked)
    elif result.kind == "btrfs" and not result.read_only and not result.degraded:
        _begin(result, say)
