# SPDX-License-Identifier: LGPL-2.1-or-later
"""The first 440 bytes of a claimed disk: the magic header with its options, and the mark that we began. Pure.
docs/volume.md has the format.

A GPT leaves these bytes to boot code, so they survive partitioning and can be erased last
(docs/architecture.md, "Power cuts"). The mark makes everything that formatting writes a function of the disk,
so that a half-written partition table can be told from a stranger's: the partition ids are made from the disk
id. Afterwards the binding (binding.py) takes the place of the mark.
"""

from __future__ import annotations

import re

from persist.errors import Refusal
from persist.record import Record
from persist.system import uuids

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Literal

    Layout = Literal["auto", "single", "raid1"]
else:
    Layout = str


LENGTH = 440  # boot code ends here; the PMBR's disk signature and partitions follow
MARK_OFFSET = 256
LAYOUTS: tuple[Layout, ...] = ("auto", "single", "raid1")
MEMBERS_MAX = 64
VERSION = 1  # of the options
_MARK_1 = rb"persist-format-begun 1 ([0-9a-f-]{36}) (\d{1,9})\n?\0*"
_MARK_2 = (
    rb"persist-format-begun 2 ([0-9a-f-]{36}) (\d{1,9}) ([0-9a-f-]{36}) (\d{1,3})/(\d{1,3}) (new|join) "
    rb"(auto|single|raid1)\n\0*"
)
_MARK_ANY = rb"persist-format-begun (\d{1,3}) [ -~]*\n?\0*"
_KEPT = r"[!-~]"  # what text() leaves as it is
_TEXT_MAX = 64


def text(raw: str) -> str:
    """A serial number as it is written in our records: blanks and what is not printable ASCII as %XX, cut to
    64 characters."""
    pieces = [
        c if re.fullmatch(_KEPT, c) else "".join(f"%{b:02X}" for b in c.encode("utf-8", "surrogateescape"))
        for c in raw.strip()
    ]
    return "".join(pieces)[:_TEXT_MAX]


class FormatMark(Record):
    """What was decided when formatting began. ``swap`` is the size of the swap partition in MiB, 0 for none.

    ``volume`` is the UUID that the filesystem has or gets, '' in a mark of version 1, which is of a disk by
    itself. ``index`` of ``count`` is the place in the set of disks; ``join``: it becomes a member of a volume
    that is there already.
    """

    disk_id: str
    swap: int
    volume: str = ""
    index: int = 0
    count: int = 1
    join: bool = False
    layout: Layout = "auto"

    @property
    def swap_id(self) -> str:
        """The id of the swap partition."""
        return uuids.beside(self.disk_id, 1)

    @property
    def data_id(self) -> str:
        """The id of the data partition."""
        return uuids.beside(self.disk_id, 2)

    def encode(self) -> bytes:
        """The bytes at MARK_OFFSET."""
        line = f"persist-format-begun 1 {self.disk_id} {self.swap}\n"
        if self.volume:
            line = (
                f"persist-format-begun 2 {self.disk_id} {self.swap} {self.volume} {self.index}/{self.count} "
                f"{'join' if self.join else 'new'} {self.layout}\n"
            )
        return line.encode("ascii").ljust(LENGTH - MARK_OFFSET, b"\0")


class Options(Record):
    """The second line of a header. ``layout`` '' and ``members`` 0: whoever claimed has no opinion.
    ``serial`` is as text() writes it."""

    layout: Layout | Literal[""] = ""
    members: int = 0
    serial: str = ""
    join: str = ""

    def encode(self) -> str:
        """The line, '' where there is nothing to say."""
        pairs = [
            ("layout", self.layout),
            ("members", str(self.members or "")),
            ("serial", self.serial),
            ("join", self.join),
        ]
        words = [f"{key}={value}" for key, value in pairs if value]
        return " ".join([f"version={VERSION}", *words]) if words else ""


class Claim(Record):
    """A valid header: its magic word, its options, and the mark where formatting has begun."""

    word: str
    mark: FormatMark | None = None
    options: Options = Options()

    @property
    def join(self) -> str:
        """The volume that the disk is to join, '' for one that becomes a volume of its own."""
        return self.options.join or (self.mark.volume if self.mark is not None and self.mark.join else "")


def encode(word: str, options: Options | None = None) -> bytes:
    """The first 440 bytes of a newly claimed disk."""
    line = options.encode() if options is not None else ""
    head = f"{word}\n{line}\n" if line else f"{word}\n"
    data = head.encode("ascii")
    assert len(data) <= MARK_OFFSET, "a word of 64 bytes and all options fit"
    return data.ljust(LENGTH, b"\0")


def _word(data: bytes, words: list[str]) -> str:
    # The longest first, should one accepted word begin like another.
    for word in sorted(words, key=len, reverse=True):
        if data.startswith(word.encode("ascii")):
            return word
    return ""


def _id(raw: bytes) -> str:
    if not uuids.valid(raw.decode("ascii")):
        raise _unknown()
    return raw.decode("ascii")


def _unknown() -> Refusal:
    return Refusal(
        "header-unknown",
        "There is something unknown behind its magic header.",
        hint="Zero the first MiB of the disk, then run 'persistctl claim'.",
    )


def _mark(data: bytes) -> FormatMark | None:
    if not data.strip(b"\0"):
        return None
    old = re.fullmatch(_MARK_1, data)
    if old is not None:
        return FormatMark(_id(old[1]), int(old[2]))
    found = re.fullmatch(_MARK_2, data)
    if found is not None:
        mark = FormatMark(
            _id(found[1]),
            int(found[2]),
            _id(found[3]),
            int(found[4]),
            int(found[5]),
            found[6] == b"join",
            next(name for name in LAYOUTS if name == found[7].decode("ascii")),
        )
        if mark.index >= mark.count:
            raise _unknown()
        return mark
    other = re.fullmatch(_MARK_ANY, data)
    if other is not None and int(other[1]) > 2:
        raise Refusal(
            "header-version",
            f"Another version of persist began to format it (mark version {int(other[1])}).",
            hint="Boot that version to finish it, or zero the first and the last MiB of the disk and claim "
            "it again.",
        )
    raise _unknown()


def _bad(what: str) -> Refusal:
    return Refusal(
        "header-options",
        f"Its header has {what}.",
        hint="Install a newer version of persist, or claim the disk again with 'persistctl claim'. "
        "persist(7) has the options.",
    )


def _pair(word: str, found: dict[str, str]) -> None:
    key, equals, value = word.partition("=")
    if not equals or not value:
        raise _bad(f"'{word[:60]}', which is not key=value")
    if key in found:
        raise _bad(f"'{key}=' twice")
    found[key] = value


def _options(line: str) -> Options:
    """The options of a header's second line. Raises Refusal."""
    found: dict[str, str] = {}
    for word in line.split(" "):
        if word:
            _pair(word, found)
    version = found.pop("version", str(VERSION))
    if version != str(VERSION):
        raise Refusal(
            "header-version",
            f"Its header is of version '{version[:20]}', which this version of persist does not know.",
            hint="Install a newer version of persist, or claim the disk again with 'persistctl claim'.",
        )
    layout = found.pop("layout", "")
    if layout and layout not in LAYOUTS:
        raise _bad(f"'layout={layout[:60]}'; known are {', '.join(LAYOUTS)}")
    members = found.pop("members", "0")
    if (
        not re.fullmatch(r"[0-9]{1,3}", members)
        or int(members) > MEMBERS_MAX
        or ("members=" in line and members.strip("0") == "")
    ):
        raise _bad(f"'members={members[:60]}', which is not a number from 1 to {MEMBERS_MAX}")
    serial = found.pop("serial", "")
    if len(serial) > _TEXT_MAX:
        raise _bad(f"a serial= of more than {_TEXT_MAX} characters")
    join = found.pop("join", "").lower()
    if join and not uuids.valid(join):
        raise _bad(f"'join={join[:60]}', which is not the UUID of a volume")
    if found:
        raise _bad(f"the option '{next(iter(found))[:60]}=', which this version does not know")
    return Options(next((name for name in LAYOUTS if name == layout), ""), int(members), serial, join)


def parse(data: bytes, words: list[str]) -> Claim | None:
    """The claim in the first bytes of a disk (at least 440), or None when there is none.

    ``words`` are the accepted magic headers (MagicHeader=). Raises Refusal for a version or an option that is
    not known, and for anything else behind the word: whatever cannot be understood is not formatted.
    """
    data = data[:LENGTH]
    word = _word(data, words)
    if not word:
        return None
    rest = data[len(word) : MARK_OFFSET]
    if rest[:1] not in (b"\n", b"\0"):
        raise Refusal(
            "header-unknown",
            f"Its header begins with '{word}' and goes on.",
            hint="The header is that word, then a newline and at most one line of options, then zeros.",
        )
    line, newline, more = rest[1:].rstrip(b"\0").partition(b"\n")
    if more or (rest[:1] == b"\0" and (line or newline)):
        raise _bad("more than one line of options")
    if not re.fullmatch(rb"[ -~]*", line):
        raise _bad(f"options that are not plain text: '{line[:60].decode('ascii', 'backslashreplace')}'")
    return Claim(word, _mark(data[MARK_OFFSET:]), _options(line.decode("ascii")))
