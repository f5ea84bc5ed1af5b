# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the stage before PID 1 leaves to persist-volume.service (docs/before-pid1.md has the table). Pure.

The stage mounts a real volume, or memory where it is certain that nothing else can come. It never keeps on
the root, never holds a path, and never waits for what only the real root can open: whatever is mounted at the
volume's place ends the search of the service.
"""

from __future__ import annotations

from collections.abc import Sequence

from persist.boot.config import Config
from persist.boot.load import Loaded
from persist.reason import Reason
from persist.volume import outcome
from persist.volume.find.decision import BTRFS, Found
from persist.volume.outcome import Outcome

_LATER = "persist-volume.service does it."


class Left(Reason):
    """Why something is left to the real root: no reason of a verdict."""


def nothing_to_do(loaded: Loaded, container: str = "") -> str:
    """Why a boot has no work for the stage, '' where it has: persist=off, the master switch, no entries.
    ``container``: what the engine tells PID 1 (systemd's CONTAINER_INTERFACE), '' outside of one."""
    if container:
        return f"this is a container ({container})"
    if loaded.facts.mode == "off":
        return "persist=off is on the kernel command line"
    return loaded.plan.reason


def before_looking(config: Config, *, credentials: Sequence[str]) -> Left | None:
    """Why no disk is looked at yet. ``credentials``: names of those that PID 1 imports later and that say
    something of the volume or of mounts."""
    if config.netdev:
        return Left("netdev", "The state volume comes with the network.", _LATER)
    if credentials:
        shown = ", ".join(credentials)
        return Left("credentials", f"The firmware has the credential {shown}, which PID 1 imports.", _LATER)
    return None


def another_root(next_root: bool) -> Left | None:
    """Why nothing is brought into place for a soft reboot: systemd binds /run into the next root without what
    is mounted below it. ``next_root``: /run/nextroot is one."""
    if not next_root:
        return None
    return Left(
        "next-root",
        "The root in /run/nextroot does not get what is kept of /etc before its service manager starts.",
        "Restart the machine instead of 'systemctl soft-reboot'.",
    )


def not_this_one(found: Found) -> Left | None:
    """Why what was found is not mounted here: systemd-mount(1) checks and mounts all but btrfs."""
    if found.fstype == BTRFS:
        return None
    return Left("native", f"{found.node} is a {found.fstype}, which PID 1 mounts.", _LATER)


def no_memory(
    result: Outcome, policy: str, *, later: Sequence[str], claimed: Sequence[str], removable: bool
) -> Left | None:
    """Why memory does not take the volume's place here; None where it does.

    ``policy``: what Fallback= means on this boot. ``later``: words of Device= that only the running system
    can resolve. ``claimed``: disks that carry a claim and were not formatted. ``removable``: it may be on a
    bus that takes its time (AllowRemovable=yes).
    """
    if result.kind != "none":
        return Left("mounted", "A volume is mounted.", "")
    if result.reason == "native":
        return Left("native", result.message, result.hint)
    if policy != "tmpfs":
        return Left("root", f"There is no state volume yet: {result.message}", _LATER)
    if later:
        return Left("later", f"{', '.join(later)} is not there yet.", _LATER)
    if removable:
        return Left("removable", "It may be on a removable disk, which may take longer to come.", _LATER)
    if claimed:
        return Left("claimed", f"{', '.join(claimed)} carries a claim and is not formatted.", _LATER)
    return None


def may_mount(result: Outcome) -> bool:
    """Whether entries are mounted from what is there."""
    return result.kind in (*outcome.REAL, "tmpfs") and not result.read_only
