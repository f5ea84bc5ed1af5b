# SPDX-License-Identifier: LGPL-2.1-or-later
"""Claimed disks that are to become members of the volume that is there: prepared here, made members by
heal/healer.py, which erases the claim last."""

from __future__ import annotations

from persist.boot.config import Config
from persist.errors import PersistError, Refusal
from persist.note import DEBUG, Note, Say
from persist.record import Record, replace
from persist.system import blockdev, superblock
from persist.system.blockdev import Disk
from persist.volume.format import may_format
from persist.volume.format.locked_disk import LockedDisk
from persist.volume.format.steps import Formatting, OnStep, require_tools
from persist.volume.format.under_lock import locked, trigger
from persist.volume.ondisk import partition_table
from persist.volume.ondisk.header import Claim, FormatMark


class Joiner(Record):
    """A disk that is ready to join: its data partition and its mark. ``member``: that partition is a member
    of the volume already, or was."""

    disk: Disk
    node: str
    mark: FormatMark
    member: bool = False


def check_join(claim: Claim, volume: str, config: Config) -> None:
    """Raise Refusal unless a disk with this claim may join the volume of this machine ('' for none). Pure."""
    if config.join == "no":
        raise Refusal(
            "volume-exists",
            "No disk may join a volume on this machine (Join=no).",
            hint="Set Join=by-id in persist.conf, or erase its header.",
        )
    if not volume:
        raise Refusal(
            "join-missing",
            f"It is to join the state volume {claim.join}, which is not here.",
            hint="Attach that volume, or claim the disk again without --join to make a new one.",
        )
    if claim.join and claim.join != volume:
        raise Refusal(
            "join-other",
            f"It is to join the state volume {claim.join}, this machine's is {volume}.",
            hint="Claim it again with 'persistctl claim --force --join', or attach it to the machine of that "
            "volume.",
        )
    if not claim.join and config.join != "auto":
        raise Refusal(
            "volume-exists",
            f"This machine has a state volume already (UUID={volume}).",
            hint="Claim it with 'persistctl claim --join' to have it join that one, detach that one, or "
            "erase the header of this disk.",
        )


def prepare(disk: Disk, volume: str, config: Config, on_step: OnStep) -> bool:
    """Mark, partition and mkswap on a claimed disk for this volume, as far as it is left to do. False where
    the claim is gone.

    Raises Refusal (nothing was changed), PersistError and OSError.
    """
    require_tools()
    with locked([disk]) as locks:
        claim = may_format.read_claim(disk, config.magic_headers)
        if claim is None:
            return False
        check_join(claim, volume, config)
        progress, mark = may_format.check(disk, claim, config)
        if progress in ("ready", "joined"):
            return True
        if progress == "complete":
            raise Refusal(
                "volume-exists",
                "It is a state volume of its own already.",
                hint="Erase it with 'persistctl claim --force --join'.",
            )
        mark = replace(mark, volume=volume, index=0, count=1, join=True, layout="auto")
        Formatting(
            [LockedDisk(disk, locks[disk.sys_path], claim.mark, mark, progress, claim.word)], on_step
        ).join()
    trigger([disk])
    return True


def _joiner(disk: Disk, volume: str, config: Config) -> Joiner | None:
    claim = may_format.read_claim(disk, config.magic_headers)
    if claim is None or claim.mark is None or not claim.mark.join or claim.mark.volume != volume:
        return None
    check_join(claim, volume, config)
    progress, mark = may_format.check(disk, claim, config)
    if progress not in ("ready", "joined"):
        return None
    start = partition_table.parts(mark, disk.mib)[-1].start * 2048
    for part in blockdev.partitions(disk):
        if blockdev.attribute(part.sys_path, "start") == str(start):
            found = superblock.read(part.node)
            return Joiner(
                disk, part.node, mark, progress == "joined" or (found is not None and found.fsid == volume)
            )
    return None


def joiners(volume: str, config: Config, say: Say) -> list[Joiner]:
    """The disks that are ready to join this volume, in a stable order: their claim, mark and table are whole
    and say so, and they are trusted.

    One that cannot be read, or is not as it should be, is left out; persist-format.service has said why.
    """
    found = []
    for disk in blockdev.disks():
        try:
            joiner = _joiner(disk, volume.lower(), config)
        except (PersistError, OSError) as e:
            say(Note(DEBUG, f"{disk.node} does not join: {e}", "FAILED", {"PERSIST_DEVICE": disk.node}))
            continue
        if joiner is not None:
            found.append(joiner)
    return sorted(found, key=lambda j: (j.disk.serial, j.disk.sys_path))


def finish(joiner: Joiner, config: Config) -> None:
    """Erase the claim of a disk that has become a member, and bind it to this machine. Nothing where the
    claim is gone already.

    Raises Refusal (the header cannot be understood), PersistError (locked, or another disk) and OSError.
    """
    with locked([joiner.disk]) as locks:
        claim = may_format.read_claim(joiner.disk, config.magic_headers)
        if claim is None:
            return
        if claim.mark != joiner.mark:
            raise PersistError(
                f"{joiner.disk.node} has another claim now.",
                hint="It was exchanged or claimed again.",
                PERSIST_DEVICE=joiner.disk.node,
            )
        member = LockedDisk(
            joiner.disk, locks[joiner.disk.sys_path], claim.mark, joiner.mark, "joined", claim.word
        )
        member.erase(joiner.mark.volume)
    trigger([joiner.disk])
