# SPDX-License-Identifier: LGPL-2.1-or-later
"""What persist writes on disks it can read again, at each end of what a field may hold: a record that its
writer spoils costs the disk."""

from __future__ import annotations

import itertools

import pytest

from persist.boot.config import Config
from persist.errors import Refusal
from persist.volume.format.write_claim import write_claims
from persist.volume.ondisk import binding, degraded_mark, header
from persist.volume.ondisk.binding import Binding
from persist.volume.ondisk.degraded_mark import DegradedMark

VOLUME = "11111111-2222-4333-8444-555555555555"
DISK = "99999999-8888-4777-8666-555555555555"
WORD = "x" * (64 - len("-please-format-me")) + "-please-format-me"
LAST = header.MEMBERS_MAX
SERIALS = [
    "",
    " ",
    "S3",
    "a b",
    "%",
    "=",
    "\u00e9" * 40,
    "\udcff" * 30,
    "x" * 64,
    "x" * 65,
    "\n",
    "\0",
    "serial=x dmi=y",
]


@pytest.mark.parametrize("serial", SERIALS)
def test_binding(serial: str) -> None:
    for dmi in (binding.NONE, DISK):
        written = Binding(VOLUME, dmi, header.text(serial) or binding.NONE)
        raw = bytes(header.MARK_OFFSET) + binding.encode(written)
        assert len(raw) == header.LENGTH and binding.parse(raw) == written


@pytest.mark.parametrize(
    ("swap", "place"), itertools.product([0, 1, 999_999_999], [(0, 1), (0, LAST), (LAST - 1, LAST)])
)
def test_format_mark(swap: int, place: tuple[int, int]) -> None:
    for join, layout in itertools.product([False, True], header.LAYOUTS):
        mark = header.FormatMark(DISK, swap, VOLUME, *place, join, layout)
        found = header.parse(header.encode(WORD)[: header.MARK_OFFSET] + mark.encode(), [WORD])
        assert found is not None and found.mark == mark


@pytest.mark.parametrize("serial", SERIALS)
def test_claim_options(serial: str) -> None:
    for layout, members, join in itertools.product(
        ["", *header.LAYOUTS], [0, 1, header.MEMBERS_MAX], ["", VOLUME]
    ):
        options = header.Options(layout, members, header.text(serial), join)  # type: ignore[arg-type]
        found = header.parse(header.encode(WORD, options), [WORD])
        assert found is not None and found.options == options and found.word == WORD


def test_no_header_says_more_disks_than_its_reader_takes() -> None:
    with pytest.raises(Refusal, match="at most 64 disks, 65 were named"):
        write_claims([f"/dev/none{n}" for n in range(header.MEMBERS_MAX + 1)], Config())


@pytest.mark.parametrize("counter", [0, 1, 9, 10, 99_999_999, 999_999_999])
def test_degraded_mark_goes_on_for_ever(counter: int) -> None:
    """However often a member was away, the next mark can be read, and counts no less than the one before."""
    mark = DegradedMark(VOLUME, counter, "a" * 16, tuple(f"{n:016x}" for n in range(40)))
    for generation in (1, (1 << 32) - 1, 1 << 40):
        for _ in range(3):
            read = degraded_mark.of(mark.encode(), VOLUME)
            assert read is not None and (read.id, read.counter) == (mark.id, mark.counter)
            mark = degraded_mark.following(VOLUME, read, generation, 0, whole=False)
            assert mark.counter >= counter
