# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which disks ask to be formatted, and those of them that are refused: said, and remembered for this boot."""

from __future__ import annotations

import os
from contextlib import suppress

from persist.boot import paths
from persist.errors import Refusal
from persist.note import DEBUG, WARNING, Note, Say, of
from persist.system import blockdev, superblock, udevd
from persist.system.blockdev import Disk
from persist.volume.format import may_format, refusals
from persist.volume.format.disk_set import Claimed
from persist.volume.ondisk import header

WORD = paths.FORMAT
TAGS = "/run/udev/tags/persist-claim"  # named in persist-format.service too
# What a disk or a header that comes later may change: said again each time, and not remembered.
_PASSING = ("members-missing", "members-disagree", "join-missing", "volume-unreadable")


def tagged() -> list[Disk]:
    """The disks that udev tagged in this boot; where no udev runs all of them, but for paths to a multipath
    device. Only a pre-filter: a tag outlives its header."""
    every = blockdev.disks()
    if not udevd.runs():
        from persist.volume.find import probing

        return probing.without_paths(every)
    try:
        tagged = os.listdir(TAGS)
    except FileNotFoundError:
        tagged = []
    return [d for d in every if f"b{d.device}" in tagged]


def heads(disks: list[Disk], words: list[str]) -> set[tuple[str, bytes]]:
    """The disks that carry a claim, each with it, less the mark of a formatter: one that is claimed with
    other options is another."""
    found = set()
    for disk in disks:
        head = b""
        with suppress(OSError):  # format_claimed() says it
            head = superblock.read_at(disk.node, 0, header.MARK_OFFSET)
        if any(head.startswith(word.encode("ascii")) for word in words):
            found.add((disk.diskseq, head))
    return found


def refuse(disk: Disk, refusal: Refusal, say: Say) -> None:
    """Say that a claimed disk is left alone, and note it unless that may change. Raises OSError."""
    refusal.fields.setdefault("PERSIST_DEVICE", disk.node)
    refusal.message = f"{disk.node} asks to be formatted and is left alone: {refusal.message}"
    say(of(refusal, WARNING))
    if refusal.code not in _PASSING:
        refusals.remember(disk, refusal)


def refuse_all(disks: list[Disk], refusal: Refusal, say: Say) -> None:
    """One record for each of them."""
    for disk in disks:
        refuse(disk, refusals.another(refusal), say)


def claimed(every: list[Disk], words: list[str], say: Say) -> list[Claimed]:
    """The disks that carry a claim and were not refused before: those that were begun first, then by serial
    number and place.

    Headers that cannot be understood, or are for another disk, are refused here, and said. Raises OSError
    where a note cannot be written.
    """
    found = []
    for disk in every:
        try:
            if refusals.known(disk):
                continue
            claim = may_format.read_claim(disk, words)
            if claim is not None:
                may_format.check_serial(disk, claim)
        except Refusal as e:
            refuse(disk, e, say)
            continue
        except OSError as e:
            # No medium, or a disk that does not answer: the kernel's own messages say more.
            text = f"Failed to read {disk.node}: {e.strerror}."
            say(Note(DEBUG, text, "FAILED", {"PERSIST_DEVICE": disk.node}))
            continue
        if claim is not None:
            found.append((disk, claim))
    return sorted(found, key=lambda pair: (pair[1].mark is None, pair[0].serial, pair[0].sys_path))
