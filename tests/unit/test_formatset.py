# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which claimed disks become one volume, and what waits for more."""

from __future__ import annotations

import pytest

from persist.boot.config import DEFAULT_HEADER, Config
from persist.errors import Refusal
from persist.system import uuids
from persist.system.blockdev import Disk
from persist.volume.format import disk_set, joining
from persist.volume.format.disk_set import Claimed, Picked
from persist.volume.ondisk import partition_table as layout
from persist.volume.ondisk.header import Claim, FormatMark, Layout, Options

X, Y = "00000010-0000-4000-8000-000000000000", "00000020-0000-4000-8000-000000000000"


def disk(name: str) -> Disk:
    return Disk(name, f"/dev/{name}", f"/sys/{name}", "1:1", 1 << 32, False, False)


def fresh(name: str, layout: Layout | str = "", members: int = 0) -> Claimed:
    return disk(name), Claim(DEFAULT_HEADER, None, Options(layout, members))  # type: ignore[arg-type]


def own(name: str) -> str:
    """The disk id of a disk, by its name of one letter."""
    return f"000000{ord(name):02x}-0000-4000-8000-000000000000"


def begun(
    name: str, volume: str, index: int = 0, count: int = 1, layout: Layout = "auto", members: int = 0
) -> Claimed:
    return disk(name), Claim(
        DEFAULT_HEADER, FormatMark(own(name), 64, volume, index, count, False, layout), Options("", members)
    )


def names(picked: Picked) -> list[str]:
    return [p[0].name if p else "-" for p in picked.places]


def others(picked: Picked) -> list[str]:
    return [d.name for d, _ in picked.others]


def marks(claims: list[Claimed]) -> dict[str, FormatMark]:
    return {d.sys_path: c.mark or FormatMark(own(d.name), 64, uuids.new()) for d, c in claims}


def test_fresh_disks_are_one_set() -> None:
    claims = [fresh("a"), fresh("b"), fresh("c")]
    picked = disk_set.pick(claims)
    assert (names(picked), others(picked), picked.missing, picked.layout, picked.volume) == (
        ["a", "b", "c"],
        [],
        0,
        "auto",
        "",
    )
    made = disk_set.places(picked, marks(claims))
    assert len({m.volume for m in made}) == 1
    assert [(m.index, m.count, m.join) for m in made] == [(0, 3, False), (1, 3, False), (2, 3, False)]
    assert [m.disk_id for m in made] == [own(n) for n in "abc"]


@pytest.mark.parametrize(
    ("claims", "chosen", "wanted"),
    [
        ([fresh("a", "raid1"), fresh("b")], "raid1", 2),
        ([fresh("a"), fresh("b", "single")], "single", 0),
        ([fresh("a", "auto"), fresh("b", members=2)], "auto", 2),
        ([fresh("a", members=3), fresh("b", members=3)], "auto", 3),
        ([fresh("a", "raid1")], "raid1", 2),
    ],
)
def test_opinions(claims: list[Claimed], chosen: str, wanted: int) -> None:
    picked = disk_set.pick(claims)
    assert (picked.layout, picked.wanted, picked.missing) == (chosen, wanted, max(0, wanted - len(claims)))


@pytest.mark.parametrize(
    "claims",
    [
        [fresh("a", "raid1"), fresh("b", "single")],
        [fresh("a", "auto"), fresh("b", "raid1")],
        [fresh("a", members=2), fresh("b", members=3)],
    ],
)
def test_disagreement(claims: list[Claimed]) -> None:
    with pytest.raises(Refusal, match="/dev/a, /dev/b disagree") as caught:
        disk_set.pick(claims)
    assert caught.value.code == "members-disagree"


@pytest.mark.parametrize(
    ("claims", "enough"),
    [
        ([fresh("a", members=2)], False),
        ([fresh("a", members=2), fresh("b")], True),
        ([fresh("a", "raid1")], False),
        ([fresh("a")], True),
        ([fresh("a", members=1), fresh("b"), fresh("c")], True),
        ([begun("a", X, 0, 2)], True),
        ([begun("a", X, 0, 2, "raid1")], False),
        ([begun("a", X, 0, 2, members=2)], False),
    ],
)
def test_enough(claims: list[Claimed], enough: bool) -> None:
    picked = disk_set.pick(claims)
    if enough:
        disk_set.check_enough(picked)
    else:
        with pytest.raises(Refusal) as caught:
            disk_set.check_enough(picked)
        assert caught.value.code == "members-missing"


def test_a_set_keeps_its_places() -> None:
    claims = [begun("b", X, 1, 2), begun("a", X, 0, 2), fresh("c")]
    picked = disk_set.pick(claims)
    assert (names(picked), others(picked), picked.missing, picked.volume) == (["a", "b"], ["c"], 0, X)
    assert disk_set.places(picked, marks(claims)) == [claims[1][1].mark, claims[0][1].mark]


def test_a_missing_place_is_filled_by_a_fresh_claim() -> None:
    claims = [begun("b", X, 1, 2, "single"), fresh("c", "raid1"), fresh("d")]
    picked = disk_set.pick(claims)
    assert (names(picked), others(picked), picked.missing) == (["d", "b"], ["c"], 0)
    first, second = disk_set.places(picked, marks(claims))
    assert (first.volume, first.index, first.count, first.layout) == (X, 0, 2, "single")
    assert second == claims[0][1].mark


def test_a_disk_that_is_gone_is_waited_for_and_done_without_under_a_new_id() -> None:
    claims = [begun("b", X, 1, 2)]
    picked = disk_set.pick(claims)
    assert (names(picked), picked.missing) == (["-", "b"], 1)
    (mark,) = disk_set.places(picked, marks(claims))
    assert claims[0][1].mark is not None
    assert mark.volume not in (X, "")
    assert (mark.index, mark.count, mark.disk_id, mark.swap) == (0, 1, claims[0][1].mark.disk_id, 64)


def test_cut_while_a_set_is_made_anew() -> None:
    """Some have the mark of the new set, some that of the old one: in either order all are taken."""
    for claims in ([begun("a", Y, 0, 2), begun("b", X, 2, 3)], [begun("b", X, 2, 3), begun("a", Y, 0, 2)]):
        picked = disk_set.pick([*claims, fresh("c")])
        assert {"a", "b"} <= set(names(picked))
        made = disk_set.places(picked, marks([*claims, fresh("c")]))
        assert len({m.volume for m in made}) == 1


def test_a_volume_that_is_there_comes_first_and_loses_nothing_but_its_claims() -> None:
    claims = [begun("a", X, 0, 2), begun("b", Y, 1, 2), fresh("c")]
    picked = disk_set.pick(claims, lambda c: c[1].mark is not None and c[1].mark.volume == Y)
    assert picked.complete
    assert (names(picked), others(picked), picked.missing, picked.volume) == (["-", "b"], ["a", "c"], 0, Y)
    disk_set.check_enough(picked)


def test_a_disk_of_a_volume_that_is_there_fills_no_place() -> None:
    both = lambda c: c[1].mark is not None  # noqa: E731
    picked = disk_set.pick([begun("a", X, 0, 2), begun("b", Y, 1, 2)], both)
    assert (names(picked), others(picked)) == (["a", "-"], ["b"])


def test_the_same_place_twice() -> None:
    picked = disk_set.pick([begun("a", X, 0, 1), begun("b", X, 0, 1)])
    assert (names(picked), others(picked)) == (["a"], ["b"])


def test_a_mark_of_version_1_is_of_a_disk_by_itself() -> None:
    claims = [begun("a", ""), begun("b", ""), fresh("c")]
    picked = disk_set.pick(claims)
    assert (names(picked), others(picked), picked.missing, picked.volume) == (["a"], ["b", "c"], 0, "")
    assert disk_set.places(picked, marks(claims)) == [claims[0][1].mark]


@pytest.mark.parametrize(
    ("chosen", "members", "data", "metadata"),
    [
        ("auto", 1, "single", "dup"),
        ("auto", 2, "raid1", "raid1"),
        ("auto", 3, "raid1", "raid1c3"),
        ("raid1", 2, "raid1", "raid1"),
        ("raid1", 5, "raid1", "raid1c3"),
        ("single", 1, "single", "dup"),
        ("single", 2, "single", "raid1"),
        ("single", 4, "single", "raid1"),
    ],
)
def test_profiles(chosen: Layout, members: int, data: str, metadata: str) -> None:
    assert layout.profiles(chosen, members) == (data, metadata)


@pytest.mark.parametrize(
    ("join", "volume", "policy", "code"),
    [
        (str(X), str(X), "by-id", ""),
        (str(X), str(X), "auto", ""),
        ("", str(X), "auto", ""),
        (str(Y), str(X), "by-id", "join-other"),
        (str(Y), str(X), "auto", "join-other"),
        (str(X), "", "by-id", "join-missing"),
        ("", str(X), "by-id", "volume-exists"),
        (str(X), str(X), "no", "volume-exists"),
    ],
)
def test_who_may_join(join: str, volume: str, policy: str, code: str) -> None:
    config = Config()
    config.join = policy
    claim = Claim(DEFAULT_HEADER, None, Options(join=join))
    if not code:
        joining.check_join(claim, volume, config)
        return
    with pytest.raises(Refusal) as caught:
        joining.check_join(claim, volume, config)
    assert caught.value.code == code
