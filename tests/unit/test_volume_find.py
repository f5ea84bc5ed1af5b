# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which filesystem is the volume: the decision, without a machine."""

from __future__ import annotations

import pytest

from persist.boot.config import Config
from persist.record import replace
from persist.system.superblock import Superblock
from persist.volume.find.candidates import decode
from persist.volume.find.choose import decide
from persist.volume.find.decision import Ambiguous, Candidate, Decision, Found, Known, Missing, Untrusted
from persist.volume.members.ancestry import Member
from persist.volume.ondisk.degraded_mark import DegradedMark

U1, U2 = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
ONE = Candidate("/dev/vdb2", "254:18", "254:16", U1, "s1", "persist-data", "p1", "persist-data")
TWO = Candidate("/dev/vdc2", "254:34", "254:32", U2, "s2", "persist-data", "p2", "persist-data")
STICK = Candidate("/dev/sdb1", "8:17", "8:16", U2, "s9", "persist-data", "p9", "", "on USB")
PLAIN = Candidate("/dev/vdd", "254:48", "254:48", "33333333-3333-4333-8333-333333333333", "s3", "home")
UNNAMED = "44444444-4444-4444-8444-444444444444"
PATHS = {
    "/dev/vdb": "254:16",
    "/dev/vdb2": "254:18",
    "/dev/disk/by-id/two": "254:32",
    "/dev/sdb": "8:16",
    "/dev/vdd": "254:48",
}


def _member(c: Candidate, generation: int) -> Member | None:
    """As all are written by one kernel."""
    return (
        Member(
            c.node,
            Superblock(c.uuid, 1, c.uuid_sub, 1, 2, generation, 0, c.label),
            DegradedMark(c.uuid, 0, "a" * 16),
        )
        if generation
        else None
    )


def ask(
    *every: Candidate,
    device: str = "auto",
    wanted: str = "",
    known: str = "",
    removable: bool = False,
    bound: tuple[str, ...] = (),
    generations: dict[str, int] | None = None,
) -> Decision:
    config = Config()
    config.device = device.split()
    config.allow_removable = removable
    machine = Known(
        wanted, known, lambda c: c.node in bound, lambda c: _member(c, (generations or {}).get(c.node, 0))
    )
    return decide(config, machine, every, lambda path: PATHS.get(path, ""))


def found(decision: Decision) -> str:
    assert isinstance(decision, Found), decision
    return decision.node


def test_by_label() -> None:
    assert ask(PLAIN, ONE) == Found("/dev/vdb2", U1, ("/dev/vdb2",))


def test_nothing() -> None:
    for every in ((), (PLAIN,)):
        decision = ask(*every)
        assert isinstance(decision, Missing)
        assert decision.code == "missing"


@pytest.mark.parametrize(
    ("device", "node"),
    [
        ("/dev/vdb", "/dev/vdb2"),
        ("/dev/vdb2", "/dev/vdb2"),
        ("/dev/disk/by-id/two", "/dev/vdc2"),
        ("/dev/sdb", "/dev/sdb1"),
        ("/dev/vdd", "/dev/vdd"),
        ("LABEL=home", "/dev/vdd"),
        (f"UUID={U1.upper()}", "/dev/vdb2"),
        ("PARTUUID=P2", "/dev/vdc2"),
        ("/dev/nothing LABEL=nothing PARTUUID=p2 auto", "/dev/vdc2"),
        ("LABEL=home auto", "/dev/vdd"),
        ("PARTLABEL=mine", "/dev/vde1"),
    ],
)
def test_specs_in_order(device: str, node: str) -> None:
    mine = Candidate("/dev/vde1", "254:65", "254:64", UNNAMED, "s4", "", "p4", "mine")
    assert found(ask(ONE, TWO, STICK, PLAIN, mine, device=device)) == node


def test_spec_that_leads_nowhere() -> None:
    for device in ("/dev/nothing", "LABEL=", "LABEL", "FOO=bar", "UUID=x"):
        assert isinstance(ask(ONE, device=device), Missing)


def test_the_path_of_a_disk_is_for_the_volume_on_it() -> None:
    """And not for whatever else it has a partition of."""
    assert isinstance(ask(replace(ONE, label="other", part_label=""), device="/dev/vdb"), Missing)
    both = (replace(ONE, label="other", part_label=""), replace(TWO, disk_device=ONE.disk_device))
    assert found(ask(*both, device="/dev/vdb")) == "/dev/vdc2"


def test_two_volumes() -> None:
    decision = ask(TWO, ONE)
    assert isinstance(decision, Ambiguous)
    assert decision.code == "duplicate-label"
    assert decision.nodes == ("/dev/vdb2", "/dev/vdc2")
    assert "/dev/vdb2" in decision.message and U2 in decision.message


def test_named_on_the_command_line() -> None:
    assert found(ask(ONE, TWO, wanted=U2.upper())) == "/dev/vdc2"
    missing = ask(ONE, wanted=U2)
    assert isinstance(missing, Missing)
    assert U2 in missing.message
    # It chooses, but a bus is only trusted by name of Device=.
    assert isinstance(ask(STICK, wanted=U2), Untrusted)


def test_untrusted() -> None:
    decision = ask(STICK)
    assert isinstance(decision, Untrusted)
    assert decision.nodes == ("/dev/sdb1",)
    assert "on USB" in decision.message and U2 in decision.hint
    assert found(ask(STICK, removable=True)) == "/dev/sdb1"
    assert found(ask(STICK, device="LABEL=persist-data")) == "/dev/sdb1"


def test_a_stick_neither_wins_nor_disturbs() -> None:
    assert found(ask(STICK, ONE)) == "/dev/vdb2"
    assert found(ask(STICK, ONE, removable=True)) == "/dev/vdb2"
    assert found(ask(STICK, ONE, device="LABEL=persist-data")) == "/dev/vdb2"


def test_cloned_disk() -> None:
    copy = replace(TWO, uuid=U1, uuid_sub="s1")
    decision = ask(ONE, copy)
    assert isinstance(decision, Ambiguous)
    assert decision.code == "cloned-disk"
    assert decision.nodes == ("/dev/vdb2", "/dev/vdc2")


def test_copy_on_a_stick_is_forgotten() -> None:
    assert ask(ONE, replace(STICK, uuid=U1, uuid_sub="s1")) == Found(
        "/dev/vdb2", U1, ("/dev/vdb2",), ("/dev/sdb1",)
    )


def test_several_members() -> None:
    assert ask(replace(TWO, uuid=U1), ONE) == Found("/dev/vdb2", U1, ("/dev/vdb2", "/dev/vdc2"))


def test_a_spec_for_one_member_leads_to_all() -> None:
    other = replace(TWO, uuid=U1)
    assert ask(ONE, other, device="/dev/vdb") == Found("/dev/vdb2", U1, ("/dev/vdb2", "/dev/vdc2"))
    # But a member on a stick is no member unless it was named: whoever plugs it in would get all that is
    # written.
    assert ask(ONE, replace(STICK, uuid=U1), device="/dev/vdb") == Found(
        "/dev/vdb2", U1, ("/dev/vdb2",), ("/dev/sdb1",)
    )
    assert ask(ONE, replace(STICK, uuid=U1)) == Found("/dev/vdb2", U1, ("/dev/vdb2",), ("/dev/sdb1",))
    for device in ("/dev/vdb /dev/sdb", "/dev/vdb PARTUUID=P9", "auto /dev/sdb", f"UUID={U1}"):
        assert ask(ONE, replace(STICK, uuid=U1), device=device) == Found(
            "/dev/sdb1", U1, ("/dev/sdb1", "/dev/vdb2")
        ), device


def test_a_replaced_disk_comes_back() -> None:
    """It has the ids of the one that took its place, and stopped at an older generation."""
    other = replace(TWO, uuid=U1)
    old = replace(other, node="/dev/vdd2", device="254:50", disk_device="254:48")
    assert ask(ONE, other, old, generations={"/dev/vdb2": 90, "/dev/vdc2": 90, "/dev/vdd2": 70}) == Found(
        "/dev/vdb2", U1, ("/dev/vdb2", "/dev/vdc2"), ("/dev/vdd2",)
    )
    for odd in (
        {"/dev/vdb2": 90, "/dev/vdc2": 90, "/dev/vdd2": 90},
        {"/dev/vdb2": 90, "/dev/vdc2": 90, "/dev/vdd2": 95},
        {},
    ):
        decision = ask(ONE, other, old, generations=odd)
        assert isinstance(decision, Ambiguous) and decision.code == "cloned-disk"
        assert decision.nodes == ("/dev/vdc2", "/dev/vdd2")


@pytest.mark.parametrize(
    ("first", "copy", "other", "left_out"),
    [
        (8, 8, 8, ""),
        (8, 7, 8, "/dev/vdd2"),
        (7, 8, 8, "/dev/vdc2"),
        (7, 7, 8, ""),
        (8, 9, 8, ""),
        (8, 7, None, ""),
        (8, 8, None, ""),
    ],
)
def test_which_of_two_copies_is_known_by_the_other_member_alone(
    first: int, copy: int, other: int | None, left_out: str
) -> None:
    """One that has stopped beside another that has gone on was replaced; without a third nobody knows."""
    one = replace(TWO, uuid=U1)
    two = replace(one, node="/dev/vdd2", device="254:50", disk_device="254:48")
    generations = {"/dev/vdc2": first, "/dev/vdd2": copy, "/dev/vdb2": other or 0}
    decision = ask(one, two, *([ONE] if other else []), generations=generations)
    if left_out:
        assert isinstance(decision, Found) and decision.forget == (left_out,)
        assert set(decision.members) == {"/dev/vdb2", "/dev/vdc2", "/dev/vdd2"} - {left_out}
    else:
        assert isinstance(decision, Ambiguous) and decision.code == "cloned-disk"


def test_the_volume_that_the_machine_had() -> None:
    assert found(ask(ONE, TWO, known=U2)) == "/dev/vdc2"
    other = ask(ONE, known=U2)
    assert isinstance(other, Missing) and other.code == "other-volume"
    assert "/dev/vdb2" in other.message and U2 in other.message and U1 in other.hint
    # Whoever names an id wants that one.
    assert found(ask(ONE, known=U2, device=f"UUID={U1}")) == "/dev/vdb2"
    assert found(ask(ONE, known=U2, wanted=U1)) == "/dev/vdb2"
    assert isinstance(ask(ONE, known=U2, device="/dev/vdb"), Missing)
    assert isinstance(ask(STICK, known=U2), Untrusted)


def test_bound_to_this_machine() -> None:
    assert found(ask(ONE, TWO, bound=("/dev/vdc2",))) == "/dev/vdc2"
    both = ask(ONE, TWO, bound=("/dev/vdb2", "/dev/vdc2"))
    assert isinstance(both, Ambiguous) and both.code == "duplicate-label"
    assert found(ask(ONE, TWO, bound=("/dev/vdc2",), known=U1)) == "/dev/vdb2"
    # One alone is taken wherever it was made: a disk may move to another machine.
    assert found(ask(ONE)) == "/dev/vdb2"


def test_another_filesystem() -> None:
    ext = replace(TWO, fstype="ext4", uuid_sub="/dev/vdc2", label="data")
    assert ask(ext, device="PARTUUID=p2") == Found("/dev/vdc2", U2, ("/dev/vdc2",), (), "ext4")
    assert ask(ext, ONE, device="LABEL=data auto") == Found(
        "/dev/vdc2", U2, ("/dev/vdc2",), (), "ext4", (("/dev/vdb2", U1),)
    )
    assert isinstance(ask(replace(ext, label="persist-data")), Missing), "by itself only a btrfs is ours"
    assert isinstance(
        ask(ext, replace(ext, node="/dev/vdd2", uuid_sub="/dev/vdd2"), device="LABEL=data"), Ambiguous
    )


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("persist-data", "persist-data"),
        (r"a\x20b\x2fc", "a b/c"),
        (r"\xc3\xbc", "ü"),
        (r"\x2", r"\x2"),
        ("", ""),
    ],
)
def test_decode(text: str, plain: str) -> None:
    assert decode(text) == plain
