# SPDX-License-Identifier: LGPL-2.1-or-later
"""The order of healing, as data."""

from __future__ import annotations

from persist.record import replace
from persist.system.superblock import Superblock
from persist.volume.heal import look
from persist.volume.heal.plan import Spare, State, next_step
from persist.volume.members import in_kernel
from persist.volume.members.ancestry import Member
from persist.volume.members.in_kernel import LiveDevice
from persist.volume.ondisk.degraded_mark import DegradedMark

FSID = "11111111-2222-4333-8444-555555555555"
RAID1 = (frozenset({"raid1"}), frozenset({"raid1"}))


def device(devid: int, state: in_kernel.State = "ok", size: int = 1000) -> LiveDevice:
    return LiveDevice(
        devid, f"uuid{devid}", f"/dev/vd{devid}" if state != "missing" else "", size, 500, state
    )


WHOLE = State(
    (device(1), device(2)),
    part_ids={1: "p1", 2: "p2"},
    recorded=("p1", "p2"),
    profiles=RAID1,
    wanted=("raid1", "raid1"),
)
DEGRADED = replace(WHOLE, devices=(device(1), device(2, "missing")), part_ids={1: "p1"}, counters=(1,))
STALE = Spare("/dev/vd2", 1000, "p2", devid=2)
FRESH = Spare("/dev/vd3", 2000, "p3")
SMALL = Spare("/dev/vd3", 900, "p3")


def step(state: State) -> tuple[str, int, str] | None:
    found = next_step(state)
    return (found.kind, found.devid, found.node) if found else None


def test_whole() -> None:
    assert step(WHOLE) is None


def test_the_kernel_goes_first() -> None:
    busy = replace(DEGRADED, operation="device replace", spares=(STALE,), suspended=True)
    assert step(busy) == ("wait", 0, "")
    assert step(replace(busy, operation="balance paused")) == ("resume", 0, "")
    assert step(replace(busy, operation="none")) == ("cancel", 0, "")


def test_the_stale_member_takes_its_own_place_before_any_other_disk() -> None:
    assert step(replace(DEGRADED, spares=(FRESH, STALE))) == ("replace", 2, "/dev/vd2")
    assert step(replace(DEGRADED, spares=(FRESH,))) == ("replace", 2, "/dev/vd3")
    assert step(replace(DEGRADED, spares=(FRESH, Spare("/dev/vd4", 1000, "p2", wiped=True)))) == (
        "replace",
        2,
        "/dev/vd4",
    )


def test_a_member_that_is_no_device_of_it_any_more_is_left_alone() -> None:
    assert step(replace(DEGRADED, spares=(replace(STALE, devid=3),))) is None
    assert step(replace(WHOLE, spares=(STALE,))) is None


def test_a_small_disk_is_added_and_then_the_gone_one_dropped() -> None:
    assert step(replace(DEGRADED, spares=(SMALL,))) == ("add", 2, "/dev/vd3")
    added = replace(DEGRADED, devices=(*DEGRADED.devices, device(3)), part_ids={1: "p1", 3: "p3"})
    assert step(replace(added, recorded=("p1", "p3"))) == ("remove", 2, "")
    assert step(added) == ("remove", 2, ""), "a stop before the record was written"


def test_nothing_is_dropped_while_it_is_only_away() -> None:
    assert step(DEGRADED) is None
    assert step(replace(DEGRADED, profiles=(frozenset({"raid1", "single"}), frozenset({"raid1"})))) is None, (
        "and nothing is balanced"
    )


def test_lost_and_behind_are_gone_too() -> None:
    for state in ("lost", "behind"):
        assert step(replace(DEGRADED, devices=(device(1), device(2, state)), spares=(STALE,))) == (
            "replace",
            2,
            "/dev/vd2",
        )


def test_order_when_all_are_there() -> None:
    mixed = (frozenset({"raid1", "single"}), frozenset({"raid1"}))
    state = replace(
        WHOLE, recorded=("p1",), spares=(FRESH,), profiles=mixed, counters=(0, 1), joined=("/dev/vd2",)
    )
    assert step(state) == ("record", 0, "")
    state = replace(state, recorded=("p2", "p1"))
    assert step(state) == ("add", 0, "/dev/vd3")
    state = replace(state, spares=())
    assert step(state) == ("balance", 0, "")
    state = replace(state, profiles=RAID1)
    assert step(state) == ("clear", 0, "")
    state = replace(state, counters=(0, 0))
    assert step(state) == ("finish", 0, "/dev/vd2")
    assert step(replace(state, joined=())) is None


def test_a_volume_that_persist_did_not_make_keeps_its_profiles() -> None:
    assert step(replace(WHOLE, wanted=None, profiles=(frozenset({"raid0"}), frozenset({"raid1"})))) is None


def _in_use(generation: int, mark: DegradedMark | None) -> list[LiveDevice]:
    return [
        replace(device(1), mark=mark, block=Superblock(FSID, 1, "uuid1", 1, 2, generation, 0, "persist-data"))
    ]


def _member(generation: int, mark: DegradedMark | None) -> Member:
    return Member("/dev/vdx", Superblock(FSID, 2, "uuid2", 1, 2, generation, 0, "persist-data"), mark)


def test_who_is_split() -> None:
    first, second = DegradedMark(FSID, 1, "a" * 16), DegradedMark(FSID, 2, "b" * 16, ("a" * 16,))
    other = DegradedMark(FSID, 1, "c" * 16)
    assert not in_kernel.split(_member(9, None), _in_use(9, None)) and not in_kernel.split(
        _member(9, None), _in_use(9, second)
    )
    assert not in_kernel.split(_member(5, first), _in_use(9, second)) and not in_kernel.split(
        _member(5, second), _in_use(9, second)
    )
    assert in_kernel.split(_member(5, None), _in_use(9, None)), "older is not an ancestor"
    assert in_kernel.split(_member(5, other), _in_use(9, second))
    assert in_kernel.split(_member(5, other), _in_use(9, None)), (
        "it was marked where those in use were not there"
    )
    assert in_kernel.split(_member(10, None), _in_use(9, second)), "it has more than those in use"
    assert in_kernel.split(_member(5, first), [replace(device(1), state="lost")]), (
        "nobody is there to compare it with"
    )


def test_a_disk_of_this_machine_is_not_wiped_for_a_strangers_sake() -> None:
    """Whatever the marks of a strange disk say: they are data."""
    devices = [
        *_in_use(9, DegradedMark(FSID, 1, "a" * 16)),
        replace(device(2), uuid="uuid2", state="missing"),
    ]
    old = _member(5, None)
    assert look.stale(devices, [old], lambda m: False) == [old]
    assert look.stale(devices, [old], lambda m: True) == [old]
    assert look.stale(devices, [old], lambda m: m == old) == []
    assert look.stale(devices, [old, Member("/dev/vdy", old.superblock, None)], lambda m: False) == [], (
        "of a disk and its copy neither is"
    )


def test_a_joined_disk_is_bound_though_another_one_is_gone() -> None:
    gone = replace(WHOLE, devices=(device(1), replace(device(2), state="missing")), joined=("/dev/vdb",))
    found = next_step(gone)
    assert found is not None and (found.kind, found.node) == ("finish", "/dev/vdb")


def test_head() -> None:
    one = replace(device(1), mark=DegradedMark(FSID, 1, "a" * 16))
    two = replace(device(2), mark=DegradedMark(FSID, 2, "b" * 16, ("a" * 16,)))
    assert in_kernel.head([device(1)]) is None
    assert in_kernel.head([one, two]) == two.mark == in_kernel.head([two, one])
    assert in_kernel.head([one, replace(two, state="lost")]) == one.mark
