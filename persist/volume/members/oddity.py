# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is odd about the members of the volume, in words: for the journal and the verdict."""

from __future__ import annotations

from collections.abc import Iterable

from persist.note import WARNING, Note
from persist.record import Record
from persist.volume.members.ancestry import Member, newest_generation

MISSING, STALE, SPLIT, CLONED, NONE = (
    "member-missing",
    "member-stale",
    "member-split",
    "cloned-disk",
    "no-member",
)
UNDECIDED = "member-undecided"
REPLACING = "replace-unfinished"
_MESSAGES = {
    MISSING: "MEMBER_MISSING",
    STALE: "MEMBER_STALE",
    SPLIT: "MEMBER_SPLIT",
    REPLACING: "MEMBER_STALE",
}


class Oddity(Record):
    """Something odd about the members, for the journal and the verdict. ``code`` is stable; ``nodes`` are
    whom it is about."""

    code: str
    message: str
    hint: str
    nodes: tuple[str, ...] = ()

    @property
    def message_id(self) -> str:
        """The name of its MESSAGE_ID in persist.messages."""
        return _MESSAGES.get(self.code, "VOLUME_AMBIGUOUS")

    def note(self, uuid: str) -> Note:
        """The record for the journal; ``uuid`` of the filesystem."""
        fields = {"PERSIST_DEVICE": " ".join(self.nodes), "PERSIST_UUID": uuid, "PERSIST_REASON": self.code}
        return Note(WARNING, f"{self.message} {self.hint}", self.message_id, fields)


def _list(members: Iterable[Member]) -> str:
    return " and ".join(m.node for m in members)


def oddities(absent: int, stale: list[Member], split: list[Member], use: list[Member]) -> list[Oddity]:
    found = []
    shown = _list(use)
    if absent:
        what = "One disk of the state volume is" if absent == 1 else f"{absent} disks of the state volume are"
        found.append(
            Oddity(
                MISSING,
                f"{what} missing or may not be used; it runs on {shown} alone.",
                "Attach the disk again, or claim a blank one for this volume with 'persistctl claim --join'.",
                tuple(m.node for m in use),
            )
        )
    if stale:
        found.append(
            Oddity(
                STALE,
                f"{_list(stale)} did not see what was written last and is left out of the state volume.",
                "It is brought up to date by persist-heal.service.",
                tuple(m.node for m in stale),
            )
        )
    if split:
        found.append(
            Oddity(
                SPLIT,
                f"{_list(split)} may hold what {shown} never had: it was written alone, or is a copy. "
                f"{shown} is used, {_list(split)} is left "
                "as it is.",
                "Save what you need of it ('mount -o ro,degraded' on another machine), then detach it, or "
                "give it back: "
                "'persistctl claim --force --join'.",
                tuple(m.node for m in split),
            )
        )
    return found


def undecided(apart: list[list[Member]]) -> Oddity:
    every = [m for side in apart for m in side]
    shown = " and ".join(f"{_list(side)} (generation {newest_generation(side)})" for side in apart)
    return Oddity(
        UNDECIDED,
        f"{shown} are of one filesystem, and neither is known to be only an older state of the other. "
        "None of them is used.",
        "One is a copy, or was written elsewhere: look at each alone ('mount -o ro,degraded' on another "
        "machine), and detach what this machine is "
        "not to use.",
        tuple(m.node for m in every),
    )


def cloned(copies: list[Member]) -> Oddity:
    return Oddity(
        CLONED,
        f"{_list(copies)} are copies of one device of the state volume. None of them is used.",
        "Detach the copy.",
        tuple(m.node for m in copies),
    )


def none(message: str, nodes: tuple[str, ...]) -> Oddity:
    """No member can be used, whatever the marks say."""
    return Oddity(NONE, message, "See 'journalctl -b -k' for errors of its disks.", nodes)
