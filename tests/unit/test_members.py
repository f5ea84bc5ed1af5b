# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which members are mounted together: every situation of docs/volume.md, and all small ones by exhaustion."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import pytest

from persist.system import superblock
from persist.system.superblock import Superblock
from persist.volume.members.ancestry import Member
from persist.volume.members.assemble import Assembly, assemble
from persist.volume.members.oddity import CLONED, MISSING, NONE, SPLIT, STALE, UNDECIDED
from persist.volume.members.torn import mend
from persist.volume.ondisk import degraded_mark
from persist.volume.ondisk.degraded_mark import DegradedMark, following

FSID = "11111111-2222-4333-8444-555555555555"


def member(
    devid: int,
    generation: int = 100,
    mark: DegradedMark | None = None,
    *,
    of: int = 2,
    log: int = 0,
    node: str = "",
) -> Member:
    block = Superblock(
        FSID, devid, f"00000000-0000-4000-8000-{devid:012d}", 1 << 30, of, generation, log, "persist-data"
    )
    return Member(node or f"/dev/vd{'rabcdef'[devid]}", block, mark)


def mark(identity: str, *earlier: str) -> DegradedMark:
    return DegradedMark(FSID, len(earlier) + 1, identity * 16, tuple(e * 16 for e in earlier))


def names(members: tuple[Member, ...]) -> str:
    return "".join(m.node[-1] for m in members)


def shown(a: Assembly) -> tuple[str, int, str, str]:
    return names(a.use), a.absent, names(a.stale), names(a.split)


def codes(a: Assembly) -> list[str]:
    return [n.code for n in a.odd]


def test_all_there() -> None:
    a = assemble([member(2), member(1)])
    assert shown(a) == ("ab", 0, "", "") and not a.degraded and not a.heal and not a.odd and a.head is None


def test_single_disk() -> None:
    assert shown(assemble([member(1, of=1)])) == ("a", 0, "", "")


@pytest.mark.parametrize("devid", [1, 2])
def test_one_alone(devid: int) -> None:
    a = assemble([member(devid)])
    assert shown(a)[1:] == (1, "", "") and a.degraded and a.heal and codes(a) == [MISSING]


def test_stale_comes_back() -> None:
    a = assemble([member(1, 100), member(2, 105, mark("a"))])
    assert shown(a) == ("b", 1, "a", "") and codes(a) == [MISSING, STALE] and a.unused == ("/dev/vda",)


def test_stale_comes_back_before_anything_was_committed() -> None:
    # A mark counts even where generations are the same: a NOCOW file may have been written in place.
    assert shown(assemble([member(1, 100), member(2, 100, mark("a"))])) == ("b", 1, "a", "")


def test_stale_alone_is_used() -> None:
    # Nothing on it says that it is stale; the other one will be told from it by the mark that it gets now.
    assert shown(assemble([member(1, 100)])) == ("a", 1, "", "")


def test_each_written_alone() -> None:
    a = assemble([member(1, 100, mark("a")), member(2, 105, mark("b"))])
    assert (
        shown(a) == ("b", 1, "", "a")
        and codes(a) == [MISSING, SPLIT]
        and a.head is not None
        and a.head.id == "b" * 16
    )
    assert shown(assemble([member(1, 106, mark("a")), member(2, 105, mark("b"))])) == ("a", 1, "", "b")


def test_each_written_alone_at_the_same_generation_is_decided_the_same_way_each_time() -> None:
    one, two = member(1, 100, mark("a")), member(2, 100, mark("b"))
    assert shown(assemble([one, two])) == shown(assemble([two, one])) == ("b", 1, "", "a")


def test_ancestors() -> None:
    # Degraded twice: A went on from the mark that both carry.
    both = mark("b", "a")
    assert shown(assemble([member(1, 100, mark("c", "b", "a")), member(2, 100, both)])) == ("a", 1, "b", "")
    assert shown(assemble([member(1, 100, both), member(2, 100, both)])) == ("ab", 0, "", "")


def test_the_other_side_has_an_ancestor_too() -> None:
    # C belongs to what B wrote and not to what A wrote, so nothing of it is on A.
    a = assemble(
        [
            member(1, 200, mark("a"), of=3),
            member(2, 150, mark("c", "b"), of=3),
            member(3, 140, mark("b"), of=3),
        ]
    )
    assert shown(a) == ("a", 2, "", "bc")


def test_marks_that_are_the_same_mean_that_healing_was_not_finished() -> None:
    a = assemble([member(1, mark=mark("a")), member(2, mark=mark("a"))])
    assert not a.degraded and a.heal
    # Cut while the marks were cleared.
    a = assemble([member(1, mark=mark("a").healed()), member(2, mark=mark("a"))])
    assert shown(a) == ("ab", 0, "", "") and a.heal


def test_healed() -> None:
    whole = [member(1, 500, mark("a").healed()), member(2, 500, mark("a").healed())]
    a = assemble(whole)
    assert shown(a) == ("ab", 0, "", "") and not a.heal
    # A member that was written alone, and was in a drawer while the others were healed, must not make them
    # stale.
    assert shown(assemble([*whole, member(2, 300, mark("b"), node="/dev/vdx")])) == ("ab", 0, "", "x")
    assert shown(assemble([*whole, member(2, 300, node="/dev/vdx")])) == ("ab", 0, "x", "")
    later = following(FSID, mark("a").healed(), 500)
    assert later.counter == 1 and later.earlier == ("a" * 16,)


def test_three_disks() -> None:
    assert shown(assemble([member(d, of=3) for d in (1, 2, 3)])) == ("abc", 0, "", "")
    assert shown(assemble([member(1, of=3), member(3, of=3)])) == ("ac", 1, "", "")
    assert shown(
        assemble([member(1, 90, of=3), member(2, 100, mark("a"), of=3), member(3, 100, mark("a"), of=3)])
    ) == ("bc", 1, "a", "")
    assert shown(
        assemble([member(1, 90, of=3), member(2, 95, mark("a"), of=3), member(3, 100, mark("b", "a"), of=3)])
    ) == ("c", 2, "ab", "")
    # The mark was written to one of two when the machine stopped: that one is the newest, the other one is
    # written anew.
    assert shown(assemble([member(2, 100, of=3), member(3, 100, mark("a"), of=3)])) == ("c", 2, "b", "")


def test_pulled_while_running() -> None:
    whole = mark("d")
    assert shown(assemble([member(1, 100, whole), member(2, 101, whole)])) == ("b", 1, "a", "")
    # Among those that carry the newest mark, too.
    assert shown(
        assemble([member(1, 102, mark("a"), of=3), member(2, 101, mark("a"), of=3), member(3, 99, of=3)])
    ) == ("a", 2, "bc", "")


def test_log_root_at_the_same_generation() -> None:
    # The kernel would take the superblock of the lowest devid, and never replay what the other one has.
    assert shown(assemble([member(1), member(2, log=4096)])) == ("b", 1, "a", "")
    assert shown(assemble([member(1, log=4096), member(2)])) == ("ab", 0, "", "")
    assert shown(assemble([member(1, of=3), member(2, of=3, log=4096), member(3, of=3)])) == (
        "b",
        2,
        "ac",
        "",
    )
    assert shown(assemble([member(1, 99, mark("a")), member(2, mark=mark("a"), log=4096)])) == (
        "b",
        1,
        "a",
        "",
    )


def test_target_of_a_replace() -> None:
    target = member(0)
    a = assemble([member(1, mark=mark("a")), target])
    assert shown(a) == ("ar", 1, "", "") and a.heal
    assert shown(assemble([member(1), member(2), target])) == ("abr", 0, "", "")
    assert shown(assemble([member(1), member(2), member(0, 99)])) == ("ab", 0, "r", "")
    assert codes(assemble([target])) == [NONE]


def test_a_device_that_was_removed_comes_back() -> None:
    # Its superblock is erased where it was there; else those that are left were marked.
    assert shown(assemble([member(1, 200, mark("a"), of=1), member(2, 100)])) == ("a", 0, "b", "")


def test_cloned_device() -> None:
    a = assemble([member(1, of=1), member(1, of=1, node="/dev/vdx")])
    assert a.use == () and codes(a) == [CLONED] and a.odd[0].nodes == ("/dev/vda", "/dev/vdx") and not a.heal
    assert codes(assemble([member(1), member(2), member(2, node="/dev/vdx")])) == [CLONED]
    # An old image of a member is told from it by its generation.
    both = mark("a")
    assert shown(assemble([member(1, mark=both), member(2, mark=both), member(2, 50, node="/dev/vdx")])) == (
        "ab",
        0,
        "x",
        "",
    )


def test_a_cut_within_the_writing_of_superblocks() -> None:
    # Alone the newest one of three does not mount; with it, those that the last superblock did not reach do.
    w = following(FSID, None, 50, whole=True)
    a = mend(assemble([member(1, 101, w, of=3), member(2, 100, w, of=3), member(3, 100, w, of=3)]))
    assert a is not None and shown(a) == ("abc", 0, "", "")
    a = mend(assemble([member(1, 100, w, of=3), member(2, 100, w, of=3, log=4096), member(3, 98, w, of=3)]))
    assert a is not None and shown(a) == ("ab", 1, "c", "")
    # The third may have got it too, and the first have been away by then.
    assert mend(assemble([member(1, 100, w, of=3), member(2, 101, w, of=3)])) is None
    without = following(FSID, w, 60)
    a = mend(assemble([member(1, 100, without, of=3), member(2, 101, without, of=3)]))
    assert a is not None and shown(a) == ("ab", 1, "", ""), "by its mark the third is away"
    assert mend(assemble([member(1, 100, w), member(2, 98, w)])) is None
    assert mend(assemble([member(1), member(2)])) is None


@pytest.mark.parametrize("before", [None, mark("a")])
def test_a_cut_within_the_writing_of_marks(before: DegradedMark | None) -> None:
    """Three disks, one is away. Only the first of the others got the new mark: alone it does not mount."""
    new = mark("b", *([] if before is None else ["a"]))
    a = mend(assemble([member(1, 100, new, of=3), member(2, 100, before, of=3)]))
    assert a is not None and shown(a) == ("ab", 1, "", "") and a.head == new
    a = mend(
        assemble(
            [
                member(1, 100, new, of=3, log=4096),
                member(2, 100, before, of=3, log=4096),
                member(3, 99, before, of=3),
            ]
        )
    )
    assert a is not None and shown(a) == ("ab", 1, "c", "")
    # Something was written under the new mark, and this one has not seen it.
    for other in (member(2, 99, before, of=3), member(2, 100, before, of=3, log=4096)):
        assert mend(assemble([member(1, 100, new, of=3), other])) is None
    assert mend(assemble([member(1, 100, new, of=3, log=4096), member(2, 100, before, of=3)])) is None
    # One that missed more than this mark.
    assert mend(assemble([member(1, 100, mark("c", "b", "a"), of=3), member(2, 100, before, of=3)])) is None
    assert mend(assemble([member(1, 100, new, of=3), member(2, 100, mark("d"), of=3)])) is None


def test_nothing() -> None:
    a = assemble([])
    assert a.use == () and codes(a) == [NONE] and a.odd[0].message_id == "VOLUME_AMBIGUOUS"


def test_by_exhaustion() -> None:
    """Of three disks in all small states: never two together that differ in mark or generation, none stale
    that is newer, each disk at most once."""
    marks = [None, mark("a"), mark("b", "a"), mark("c")]
    decided = 0
    for states in itertools.product(itertools.product(marks, (7, 8), (0, 4096)), repeat=3):
        disks = [member(d, g, m, of=3, log=log) for d, (m, g, log) in enumerate(states, 1)]
        a = assemble(disks)
        assert shown(assemble(reversed(disks))) == shown(a)
        if not a.use:
            assert codes(a) == [UNDECIDED] and any(m is None for m, _, _ in states)
            continue
        decided += 1
        assert sorted(m.node for m in (*a.use, *a.stale, *a.split)) == sorted(m.node for m in disks)
        assert len({(m.superblock.generation, m.mark) for m in a.use}) == 1
        assert a.absent == 3 - len(a.use) and a.degraded == (len(a.use) < 3)
        first = min(a.use, key=lambda m: m.superblock.devid)
        assert first.superblock.log_root or not any(m.superblock.log_root for m in a.use)
        used = max(m.superblock.generation for m in a.use)
        for m in a.stale:
            assert m.superblock.generation <= used
            assert m.mark is None or (a.head is not None and m.mark.id in (a.head.id, *a.head.earlier))
    assert decided > 3000


def test_a_copy_of_a_single_disk_that_was_mirrored_elsewhere() -> None:
    """B1 of the attack: the disk of this machine counts one device and does not know the other one, which is
    newer and counts both."""
    own = member(1, 100, of=1)
    for stranger in (
        member(2, 500),
        member(2, 500, mark("a")),
        member(2, 100),
        member(2, 500, following(FSID, None, 450, whole=True)),
    ):
        a = assemble([own, stranger])
        assert (
            a.use == ()
            and codes(a) == [UNDECIDED]
            and not a.heal
            and not a.awaited
            and {"/dev/vda", "/dev/vdb"} == set(a.odd[0].nodes)
        )
        assert shown(assemble([own, stranger], lambda m: m.node == "/dev/vda")) == ("a", 0, "", "b"), (
            "this machine's own is used, the other is left alone"
        )
        assert codes(assemble([own, stranger], lambda m: True)) == [UNDECIDED], "both were bound to it"


def test_each_copy_mirrored_with_a_disk_of_its_own() -> None:
    """Copies of one single disk, each with a second one since: the same count, the same devids."""
    here, there = following(FSID, None, 100, whole=True), following(FSID, None, 100, whole=True)
    a = assemble([member(1, 120, here), member(2, 150, there)])
    assert not a.stale and shown(a) == ("b", 1, "", "a")


def test_copies_of_both_members() -> None:
    """A pair of copies was used as a whole elsewhere; one of each pair is attached."""
    first = following(FSID, None, 50, whole=True)
    here, there = following(FSID, first, 100, whole=True), following(FSID, first, 100, whole=True)
    a = assemble([member(1, 120, here), member(2, 121, there)])
    assert not a.stale and len(a.use) == 1 and len(a.split) == 1
    a = assemble([member(1, 120, here), member(2, 120, there)])
    assert len(a.use) == 1 and len(a.split) == 1, "of the same generation, and not the same"
    assert shown(assemble([member(1, 120, here), member(2, 121, there)], lambda m: m.node == "/dev/vda")) == (
        "a",
        1,
        "",
        "b",
    )


def test_older_without_any_mark_proves_nothing() -> None:
    a = assemble([member(1, 100), member(2, 101)])
    assert a.use == () and codes(a) == [UNDECIDED]


def test_written_alone_before_the_mark() -> None:
    """B was pulled, A went on and the power went before it was marked; B was then used alone: A is not an
    ancestor, whatever the generations are."""
    both = following(FSID, None, 50, whole=True)
    alone = following(FSID, both, 60)
    for later in (61, 99, 200):
        a = assemble([member(1, 99, both), member(2, later, alone)])
        assert shown(a) == ("b", 1, "", "a")
    assert shown(assemble([member(1, 60, both), member(2, 200, alone)])) == ("b", 1, "a", ""), (
        "it stopped where the other one was marked"
    )
    assert shown(assemble([member(1, 60, both, log=4096), member(2, 200, alone)])) == ("b", 1, "", "a"), (
        "it has a log that the other one had not"
    )


def test_a_cut_between_two_marks() -> None:
    """Nothing was written under the new one: both are what they were."""
    both = following(FSID, None, 50, whole=True)
    for new in (following(FSID, both, 60, whole=True), following(FSID, both, 60)):
        a = assemble([member(1, 60, new), member(2, 60, both)])
        assert shown(a) == ("ab", 0, "", "") and a.head == new
        assert shown(assemble([member(1, 61, new), member(2, 60, both)])) == ("a", 1, "b", "")
        # The one without it went on alone.
        other = following(FSID, both, 60)
        assert shown(assemble([member(1, 60, new), member(2, 70, other)])) == ("b", 1, "a", "")
        third = following(FSID, new, 60, whole=True)
        assert shown(assemble([member(1, 60, third), member(2, 60, both)])) == ("ab", 0, "", ""), "twice"


def test_a_restored_backup_of_a_member() -> None:
    """Its mark is not among those that are remembered: nothing says what became of it since."""
    old = following(FSID, None, 50, whole=True)
    now: DegradedMark | None = old
    for generation in range(60, 100, 10):
        now = following(FSID, now, generation, whole=True)
    restored = following(FSID, old, 55, whole=True)
    assert shown(assemble([member(1, 57, restored), member(2, 100, now)])) == ("b", 1, "", "a")


def test_a_device_that_holds_nothing() -> None:
    """The power went while it was added: its superblock counts it, and no chunk lies on it."""
    empty = Member(
        "/dev/vdb", Superblock(FSID, 2, "two", 1 << 30, 2, 101, 0, "persist-data", empty=True), None
    )
    assert shown(assemble([member(1, 100, of=1), empty])) == ("a", 0, "b", "")
    assert shown(assemble([member(1, 101), empty])) == ("ab", 0, "", "")


def test_a_mark_that_cannot_be_understood_is_not_none() -> None:
    """None would be an ancestor of every mark."""
    sector = WHOLE.replace(b" 1 aaaa", b" 08 aaaa").ljust(512, b"\0")
    unknown = degraded_mark.of(sector, FSID)
    assert (
        degraded_mark.parse(sector) is None
        and unknown is not None
        and degraded_mark.of(sector, FSID.replace("1", "3")) is None
    )
    a = assemble([member(1, 100, unknown), member(2, 200, mark("a"))])
    assert a.use == () and codes(a) == [UNDECIDED]
    assert shown(assemble([member(1, 100, unknown), member(2, 100, unknown)])) == ("ab", 0, "", "")
    assert shown(assemble([member(1, 100, unknown)])) == ("a", 1, "", "")
    assert following(FSID, unknown, 100).earlier == ()


def test_whole_boots_do_not_push_out_what_a_disk_in_a_drawer_needs() -> None:
    both = following(FSID, None, 50, whole=True)
    away = member(2, 60, both, node="/dev/vdx")
    now = following(FSID, both, 60)
    for generation in range(70, 2000, 10):
        now = following(FSID, now, generation, whole=True)
    assert len(now.earlier) < 6 and degraded_mark.parse(now.encode()) == now
    assert shown(assemble([member(1, 2000, now), member(2, 2000, now), away])) == ("ab", 0, "x", "")


def test_counters_have_an_end() -> None:
    m = DegradedMark(FSID, degraded_mark.COUNTER_MAX, "a" * 16, ("b" * 16,))
    after = following(FSID, degraded_mark.parse(m.encode()), 100)
    assert (
        after.counter == degraded_mark.COUNTER_MAX
        and degraded_mark.parse(after.encode()) == after
        and after.earlier == ("a" * 16, "b" * 16)
    )


def test_mark_round_trip() -> None:
    first = following(FSID.upper(), None, 7)
    second = following(FSID, first, 8)
    assert (
        first.counter == 1 and second.counter == 2 and second.earlier == (first.id,) and second.id != first.id
    )
    for m in (first, second):
        data = m.encode()
        assert len(data) == degraded_mark.LENGTH and degraded_mark.parse(data) == m
    assert second.encode().startswith(f"persist-degraded 1 {FSID} 2 {second.id},{first.id}\n\0".encode())


def test_mark_forgets_the_oldest() -> None:
    m = None
    for generation in range(60):
        m = following(FSID, m, generation)
    assert m is not None
    data = m.encode()
    found = degraded_mark.parse(data)
    assert len(data) == 512 and data.count(b"\n") == 1 and found is not None and found.counter == 60
    assert len(found.earlier) > 20 and found.earlier == m.earlier[: len(found.earlier)]


def test_a_bound_disk_out_of_a_drawer_is_not_used_once_its_id_was_forgotten() -> None:
    """B is bound to this machine, A joined by hand and was then used alone for a month."""
    both = following(FSID, None, 50, whole=True)
    now: DegradedMark | None = both
    for generation in range(60, 360, 10):
        now = degraded_mark.parse(following(FSID, now, generation).encode())
        a = assemble([member(1, generation + 5, now), member(2, 60, both)], lambda m: m.node == "/dev/vdb")
        assert names(a.use) == "a" and a.absent == 1 and names((*a.stale, *a.split)) == "b"


def test_a_bound_disk_is_not_used_instead_of_one_whose_mark_was_written_over_its_own() -> None:
    both = following(FSID, None, 50, whole=True)
    a = assemble(
        [member(1, 99, both), member(2, 200, following(FSID, both, 60))], lambda m: m.node == "/dev/vda"
    )
    assert shown(a) == ("b", 1, "", "a")


@pytest.mark.parametrize("log", [0, 4096])
@pytest.mark.parametrize("commits", [0, 1, 2])
@pytest.mark.parametrize("whole", [True, False])
def test_a_commit_between_the_marks_of_a_mounted_volume(commits: int, log: int, whole: bool) -> None:
    """The power went when the new mark was on A alone, and the kernel had written all of them meanwhile:
    nobody went apart."""
    before = following(FSID, None, 50, whole=True)
    new = following(FSID, before, 100, whole=whole, mounted=True)
    now = 100 + commits
    a = assemble([member(1, now, new, log=log), member(2, now, before, log=log)])
    assert names(a.use) in ("a", "ab") and names((*a.use, *a.stale)) == "ab" and not a.split
    three = assemble(
        [
            member(1, now, new, of=3, log=log),
            member(2, now, before, of=3, log=log),
            member(3, now, before, of=3, log=log),
        ]
    )
    a = three if not three.absent else mend(three) or three
    assert shown(a) == ("abc", 0, "", "")


WHOLE = b"persist-degraded 1 " + FSID.encode() + b" 1 " + b"a" * 16 + b"\n"


NO_MARKS = (
    b"",
    bytes(512),
    WHOLE.replace(b"ed 1", b"ed 2"),
    WHOLE.replace(b"aa\n", b"a\n"),
    WHOLE.replace(b" 1 aa", b" 01 aa"),
    WHOLE.replace(b" 1 aa", b" 1000000000 aa"),
    WHOLE + b"more",
    WHOLE[:-1],
    WHOLE.replace(b"\n", b",\n"),
    WHOLE.replace(b" 1 aa", b" x aa"),
    WHOLE.replace(b" 1 aa", b" 1  aa"),
    WHOLE.replace(b"a" * 16, b"A" * 16),
    WHOLE.replace(b"\n", b" " + b"b" * 16 + b"\n"),
    b"\n",
    b"* ? /\n",
    b"\xff\xfe" * 256,
    b"a" * 512,
)


@pytest.mark.parametrize("data", NO_MARKS, ids=range(len(NO_MARKS)))
def test_no_mark(data: bytes, tmp_path: Path) -> None:
    """On a disk, what was one of this volume is not none: none makes a member every other's ancestor."""
    assert degraded_mark.parse(data) is None
    node = tmp_path / "member"
    node.write_bytes(bytes(degraded_mark.OFFSET) + data.ljust(degraded_mark.LENGTH, b"\0") + bytes(4096))
    found = degraded_mark.read(str(node), FSID)
    assert (found.id if found is not None else "") == (
        degraded_mark.UNKNOWN if data.startswith(b"persist-degraded ") else ""
    )


def test_the_mark_of_another_filesystem(tmp_path: Path) -> None:
    node = tmp_path / "member"
    node.write_bytes(bytes(degraded_mark.OFFSET) + WHOLE.ljust(degraded_mark.LENGTH, b"\0"))
    assert degraded_mark.read(str(node), FSID) == degraded_mark.parse(WHOLE)
    assert degraded_mark.read(str(node), FSID.replace("1", "2")) is None


def _block(**changes: bytes) -> bytes:
    data = bytearray(4096)
    data[0x20:0x30] = data[0x11B:0x12B] = bytes(range(16))
    struct.pack_into("<Q", data, 0x30, 65536)
    data[0x40:0x48] = b"_BHRfS_M"
    struct.pack_into("<QQQQ", data, 0x48, 42, 1, 2, 3)
    struct.pack_into("<Q", data, 0x88, 5)
    struct.pack_into("<QQ", data, 0xC9, 6, 7 << 20)
    data[0x10B:0x11B] = bytes(range(16, 32))
    data[0x12B:0x137] = b"persist-data"
    for at, value in changes.items():
        data[int(at[1:], 16) : int(at[1:], 16) + len(value)] = value
    struct.pack_into("<I", data, 0, superblock.crc32c(bytes(data[0x20:])))
    return bytes(data)


def test_superblock() -> None:
    assert superblock.crc32c(b"123456789") == 0xE3069283
    found = superblock.parse(_block())
    assert found is not None
    assert found == Superblock(
        "00010203-0405-0607-0809-0a0b0c0d0e0f",
        6,
        "10111213-1415-1617-1819-1a1b1c1d1e1f",
        7 << 20,
        5,
        42,
        3,
        "persist-data",
        True,
        1,
    )


def with_root(m: Member, root: int) -> Member:
    b = m.superblock
    return Member(
        m.node,
        Superblock(
            b.fsid,
            b.devid,
            b.device_uuid,
            b.device_bytes,
            b.num_devices,
            b.generation,
            b.log_root,
            b.label,
            b.empty,
            root,
        ),
        m.mark,
    )


@pytest.mark.parametrize("log", [0, 7])
def test_one_with_a_mark_and_one_without_are_not_the_same_however_alike_their_superblocks_are(
    log: int,
) -> None:
    """A was used without B, and B mounted alone by hand: with the same operations their superblocks are alike
    to the last tree, and not what was written."""
    marked = with_root(member(1, 105, following(FSID, None, 50, 0, whole=True), log=log), 9)
    assert shown(assemble([marked, with_root(member(2, 105, log=log), 9)])) == ("a", 1, "", "b")


def test_damaged_superblock() -> None:
    data = _block()
    assert superblock.parse(data[:4000]) is None
    assert superblock.parse(bytes(4096)) is None
    # One bit of the generation.
    assert superblock.parse(data[:0x48] + bytes([data[0x48] ^ 1]) + data[0x49:]) is None
    assert superblock.parse(_block(x30=struct.pack("<Q", 64 << 20))) is None  # a copy of the mirror at 64 MiB
    assert superblock.parse(_block(x11b=b"another one here")) is None


def test_metadata_uuid() -> None:
    changed = {"xbc": struct.pack("<Q", 1 << 10), "x11b": bytes(range(32, 48))}
    found = superblock.parse(_block(**changed, x23b=bytes(range(32, 48))))
    assert found is not None and found.fsid == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert superblock.parse(_block(**changed)) is None
