# SPDX-License-Identifier: LGPL-2.1-or-later
"""May claimed disks become the volume? Not beside one that is there, and not in the place of one that is
expected."""

from __future__ import annotations

import os

from persist.boot.config import Config
from persist.boot.paths import VOLUME
from persist.errors import Refusal
from persist.system import btrfs, udevd
from persist.system.blockdev import Disk
from persist.volume.find import remembered, trust, unreadable
from persist.volume.find.choose import decide
from persist.volume.find.decision import BTRFS, Ambiguous, Candidate, Found, Known, Missing
from persist.volume.ondisk.partition_table import DATA_NAME


def machine_of(wanted: Known | str | None) -> Known:
    return wanted if isinstance(wanted, Known) else Known(named=wanted or "")


def candidates_now() -> list[Candidate]:
    """What is on the disks now. Not by pyudev where that can be helped: it takes as long to load as
    formatting a disk."""
    from persist.volume.find import candidates

    return candidates.from_database() if udevd.runs() else candidates.candidates()


def _check_unreadable(own: set[str], config: Config) -> None:
    """Raise Refusal where another disk than those of ``own`` (major:minor) holds a state volume that cannot
    be read."""
    for one in unreadable.find(config):
        if one.disk_device not in own:
            raise Refusal("volume-unreadable", one.message, hint=one.hint)


def _beside(decision: Found | Ambiguous, begun: str, config: Config) -> str:
    """What to do about a claim beside a volume. Joining is for a btrfs, and only where one may."""
    if isinstance(decision, Ambiguous):
        return "To use this disk instead, detach them; else erase its header."
    if decision.fstype != BTRFS or config.join == "no":
        return "To use this disk instead, detach that one; else erase its header."
    force = "--force " if begun else ""  # what was begun is not blank
    return (
        f"Claim it with 'persistctl claim {force}--join' to have it join that one, detach that one, or "
        "erase the header of this disk."
    )


def _replaces(disks: list[Disk], config: Config) -> bool:
    """Whether these disks may take the place of a volume that is gone: it is lost by contract, and they are
    those that Device= names."""
    return (
        config.ephemeral
        and bool(disks)
        and all(trust.names_node(config, os.stat(d.node).st_rdev) for d in disks)
    )


def _check_not_expected(
    disks: list[Disk], machine: Known, here: set[str], missing: bool, config: Config
) -> None:
    """Raise Refusal where the machine knows a volume that is none of ``here``. ``missing``: nothing beside
    the disks is the volume that the kernel command line names. Raises OSError as check_alone()."""
    if machine.wrong:
        raise Refusal(
            "volume-expected",
            f"The kernel command line names a volume, and not by its UUID (persist.volume={machine.wrong}).",
            hint="Write persist.volume=UUID, or take it off the kernel command line to begin anew.",
        )
    if machine.named and missing:
        raise Refusal(
            "volume-expected",
            f"The kernel command line names another volume (persist.volume={machine.named}), which is not "
            "here.",
            hint="Attach it, or take persist.volume= off the kernel command line to begin anew.",
        )
    # Ours from before a cut at the very last step may have been mounted and noted since.
    last = remembered.read()
    if last and last not in here and not _replaces(disks, config):
        lost = (
            " Where its disk is lost whenever the machine is stopped, say Ephemeral=yes in persist.conf."
            if config.format_blank
            else ""
        )
        raise Refusal(
            "volume-expected",
            f"This machine has a state volume (UUID={last}), which is not here.",
            hint=f"Attach it. To begin anew without it, remove {remembered.PATH} and restart the "
            f"machine.{lost}",
        )
    if machine.known and machine.known.lower() not in here | {last}:
        raise Refusal(
            "volume-expected",
            f"This machine was told which state volume it has (UUID={machine.known}), and it is not here.",
            hint="Attach it, or take the credential persist.volume away to begin anew.",
        )


def check_alone(
    disks: list[Disk],
    volume: str,
    config: Config,
    wanted: Known | str | None,
    every: list[Candidate] | None = None,
) -> None:
    """Raise Refusal where disks may not become the volume because there is one, or a certain one is expected.

    ``volume``: the id of the set that was begun on them, '' for none. Raises OSError where the root
    filesystem's note of its volume cannot be read.
    """
    machine = machine_of(wanted)
    every = candidates_now() if every is None else every
    own = {d.device for d in disks}
    here = {c.uuid.lower() for c in every if c.disk_device in own} | {volume}
    # Not by what is known: another filesystem with our label is reason enough to keep off.
    decision = decide(
        config,
        Known(named=machine.named, wrong=machine.wrong),
        [c for c in every if c.disk_device not in own and c.uuid.lower() != volume],
    )
    if isinstance(decision, Found | Ambiguous):
        nodes = decision.node if isinstance(decision, Found) else ", ".join(decision.nodes)
        raise Refusal(
            "volume-exists",
            f"This machine has a state volume already ({nodes}).",
            hint=_beside(decision, volume, config),
        )
    if not any(c.uuid.lower() == volume and c.label == DATA_NAME for c in every):
        _check_unreadable(own, config)
    _check_not_expected(disks, machine, here, isinstance(decision, Missing), config)


def volume(config: Config, wanted: Known | str | None) -> str:
    """The id of this machine's volume: of the one that is mounted, or of the one that would be; '' for
    none."""
    mounted = btrfs.mounted_uuid(VOLUME)
    if mounted:
        return mounted
    decision = decide(config, machine_of(wanted), candidates_now())
    return decision.uuid.lower() if isinstance(decision, Found) and decision.fstype == "btrfs" else ""


def is_there(config: Config, wanted: Known | str | None) -> bool:
    """Whether there is a volume, mounted or not, on whatever filesystem."""

    return bool(btrfs.mounted_uuid(VOLUME)) or isinstance(
        decide(config, machine_of(wanted), candidates_now()), Found
    )
