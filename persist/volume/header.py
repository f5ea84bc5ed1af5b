# SPDX-License-Identifier: LGPL-2.1-or-later
"""The first 440 bytes of a claimed disk: the magic header that asks us to format it, and the mark that we began. Pure.

A GPT leaves these bytes to boot code, so they survive partitioning and can be erased last (docs/architecture.md, "Power cuts").

    0      the magic word, then zeros or a newline and zeros
    256    the mark, written by us once the disk was found to be blank: ``persist-format-begun 1 <GPT disk id> <MiB of swap>``

The mark makes everything that formatting writes a function of the disk, so that a half-written partition table can be told
from a stranger's: the partition ids are made from the disk id.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from ..errors import Refusal

LENGTH = 440  # boot code ends here; the PMBR's disk signature and partitions follow
MARK_OFFSET = 256
_MARK = re.compile(rb"persist-format-begun (\d{1,3}) ([0-9a-f-]{36}) (\d{1,9})\n?\0*")
MARK_VERSION = 1


@dataclass(frozen=True)
class Mark:
    """What was decided when formatting began. ``swap`` is the size of the swap partition in MiB, 0 for none."""

    disk_id: uuid.UUID
    swap: int

    def part_id(self, name: str) -> uuid.UUID:
        """The id of a partition or filesystem of this disk."""
        return uuid.uuid5(self.disk_id, name)

    def encode(self) -> bytes:
        """The bytes at MARK_OFFSET."""
        text = f"persist-format-begun {MARK_VERSION} {self.disk_id} {self.swap}\n".encode("ascii")
        return text.ljust(LENGTH - MARK_OFFSET, b"\0")


@dataclass(frozen=True)
class Claim:
    """A valid header: its magic word, and the mark where formatting has begun."""

    word: str
    mark: Mark | None = None


def encode(word: str) -> bytes:
    """The first 440 bytes of a newly claimed disk."""
    return (word.encode("ascii") + b"\n").ljust(LENGTH, b"\0")


def _word(data: bytes, words: list[str]) -> str:
    # The longest first, should one accepted word begin like another.
    for word in sorted(words, key=len, reverse=True):
        if data.startswith(word.encode("ascii")):
            return word
    return ""


def _mark(data: bytes) -> Mark | None:
    if not data.strip(b"\0"):
        return None
    found = _MARK.fullmatch(data)
    if found is None:
        raise Refusal("header-unknown", "There is something unknown behind its magic header.",
                      hint="Zero the first MiB of the disk, then run 'persistctl claim'.")
    if int(found[1]) != MARK_VERSION:
        raise Refusal("header-version", f"Another version of persist began to format it (mark version {int(found[1])}).",
                      hint="Boot that version to finish it, or zero the first and the last MiB of the disk and claim it again.")
    return Mark(uuid.UUID(found[2].decode("ascii")), int(found[3]))


def parse(data: bytes, words: list[str]) -> Claim | None:
    """The claim in the first bytes of a disk (at least 440), or None when there is none.

    ``words`` are the accepted magic headers (MagicHeader=). Raises Refusal for a header with options, which this version does not know, and
    for anything else behind the word: whatever cannot be understood is not formatted.
    """
    data = data[:LENGTH]
    word = _word(data, words)
    if not word:
        return None
    rest = data[len(word) : MARK_OFFSET]
    if rest[:1] not in (b"\n", b"\0"):
        raise Refusal("header-unknown", f"Its header begins with '{word}' and goes on.",
                      hint="The header is that word alone, then a newline or zeros.")
    line = rest[1:].strip(b"\0")
    if line:
        shown = line.split(b"\n")[0][:60].decode("ascii", "backslashreplace")
        raise Refusal("header-options", f"Its header has a second line with options that this version does not know: '{shown}'.",
                      hint="Install a newer version of persist, or claim the disk again with 'persistctl claim'.")
    return Claim(word, _mark(data[MARK_OFFSET:]))
