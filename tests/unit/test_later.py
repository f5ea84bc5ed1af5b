# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the stage before PID 1 leaves to the running system: words of Device= that only that can make true."""

from __future__ import annotations

import pytest

from persist.volume.find.around import Around
from persist.volume.find.decision import Candidate
from persist.volume.find.later import comes_later, words

HERE = {
    "/dev/vdb": "254:16",
    "/dev/vdb2": "254:18",
    "/dev/mapper/open": "253:0",
    "/dev/disk/by-id/a": "254:16",
}
VOLUME = Candidate("/dev/vdb2", "254:18", "254:16", "u1", "s1", "persist-data", "p1", "persist-data")
LUKS = Candidate(
    "/dev/vdc1", "254:33", "254:32", "c1", "", "", "p2", "", "", "crypto_LUKS", "/dev/vdc", "crypto"
)
RAID = Candidate(
    "/dev/vdd", "254:48", "254:48", "r1", "", "", "", "", "", "linux_raid_member", "/dev/vdd", "raid"
)


def later(spec: str, around: Around, *, removable: bool = False) -> bool:
    return comes_later(spec, around, allow_removable=removable, resolve=lambda path: HERE.get(path, ""))


@pytest.mark.parametrize(
    ("path", "made_later"),
    [
        *((path, False) for path in HERE),
        ("/dev/vdz", False),
        ("/dev/vdz1", False),
        ("/dev/nvme0n1p2", False),
        ("/dev/mmcblk0", False),
        ("/dev/cciss/c0d0p1", False),
        ("/dev/disk/by-id/b", True),
        ("/dev/disk/by-partlabel/b", True),
        ("/dev/mapper/closed", True),
        ("/dev/vg/lv", True),
        ("/dev/zvol/pool/a", True),
        ("/dev/md0", True),
        ("/dev/md_d0p1", True),
        ("/dev/md/array", True),
        ("/dev/dm-3", True),
        ("/dev/nbd0", True),
        ("/dev/bcache0", True),
        ("/dev/drbd0", True),
        ("/srv/link-to-a-disk", True),
    ],
)
def test_paths(path: str, made_later: bool) -> None:
    """A node of the kernel's own is waited for here, or missed here."""
    assert later(path, Around()) == made_later


@pytest.mark.parametrize("spec", ["UUID=U1", "LABEL=persist-data", "auto"])
@pytest.mark.parametrize("closed", [(), (LUKS,), (RAID,)])
def test_what_is_here_is_not_awaited(spec: str, closed: tuple[Candidate, ...]) -> None:
    assert not later(spec, Around((VOLUME, *closed), (), ("data",)), removable=True)


@pytest.mark.parametrize(
    ("around", "may_come"),
    [
        (Around(), False),
        (Around((VOLUME,)), False),
        (Around((LUKS,)), True),
        (Around((VOLUME, RAID)), True),
        (Around((LUKS,), held=lambda node: node == "/dev/vdc1"), False),  # it is open, and not in it
        (Around((VOLUME,), (), ("data",)), True),  # plain dm-crypt has no signature
    ],
)
def test_what_is_closed_may_have_it(around: Around, may_come: bool) -> None:
    assert later("UUID=other", around) == may_come
    assert later("LABEL=other", around) == may_come
    # A partition table is in the open.
    assert not later("PARTUUID=other", around) and not later("PARTLABEL=other", around)


def test_auto_looks_into_nothing_that_is_opened() -> None:
    assert not later("auto", Around((LUKS,)))
    assert later("auto", Around((LUKS,)), removable=True)


def test_words_keep_their_order() -> None:
    device = ["/dev/vg/b", "auto", "/dev/vdb", "UUID=other", "/dev/vg/a"]
    assert words(device, Around((LUKS,)), resolve=lambda path: HERE.get(path, "")) == [
        "/dev/vg/b",
        "UUID=other",
        "/dev/vg/a",
    ]
