# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-early-members decides as persist/volume/members/assemble.py and find/choose.py do: the same made-up
members to both, with each shell."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from persist.boot.config import Config
from persist.system.superblock import Superblock
from persist.volume.find.choose import decide
from persist.volume.find.decision import Ambiguous, Candidate, Found, Known
from persist.volume.members.ancestry import Member
from persist.volume.members.assemble import Assembly, assemble
from persist.volume.ondisk.degraded_mark import UNKNOWN, DegradedMark, effective

from .early_rig import SCRIPT

FSID = "d4a78f8d-0060-41ae-b69d-b3998ea7fb19"
IDS = [
    f"{n:016x}"
    for n in (
        0x1FFFFFFFE,
        0xA0000000FFFFFFFF,
        0xFFFFFFFFFFFFFFFE,
        0xFFFFFFFFFFFFFFFF,
        0x80000000FFFFFFFF,
        0xFFFFFFFF,
    )
]

_HEAD = r"""
set -f
newline='
'
say() { :; }
once() { :; }
. "$1"
one_case() {
    members=$1 copies='' problem=''
    assemble
    use_nodes=
    for member in $use; do fields "$member"; use_nodes="$use_nodes $node"; done
    printf '%s/%s/%s/%s/%s/' "${problem:+problem}" "$use_nodes" "$stale" "$split" "$copies"
    printf '%s/%s/%s/%s\n' "$absent" "$head" "$heal" "$awaited"
}
"""


def record(m: Member) -> str:
    """As fields() of the script wants it."""
    s = m.superblock
    marks = ",".join((m.mark.id, *m.mark.earlier)) if m.mark else ""
    counter = m.mark.counter if m.mark else ""
    fields = s.fsid, s.device_uuid, s.devid, s.generation, s.log_root, s.num_devices, counter, marks, m.node
    return "|".join(str(field) for field in fields)


def by_shell(shell: str, cases: Iterable[list[Member]]) -> list[list[str]]:
    """What the script decides: problem, used, stale and split nodes, copies, how many are absent, the head,
    whether there is something to heal, how many are worth waiting for."""
    script = _HEAD + "".join(f"one_case ' {' '.join(record(m) for m in case)}'\n" for case in cases)
    done = subprocess.run(
        [shell, "-s", str(SCRIPT.parent / "persist-early-members")],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [
        [" ".join(sorted(field.split())) for field in line.split("/")] for line in done.stdout.splitlines()
    ]


def by_python(assembly: Assembly) -> list[str]:
    """The same of an Assembly."""
    head = assembly.head
    if not assembly.use:
        return ["problem"]
    return [
        "",
        " ".join(sorted(assembly.nodes)),
        " ".join(sorted(m.node for m in assembly.stale)),
        " ".join(sorted(m.node for m in assembly.split)),
        "",
        str(assembly.absent),
        ",".join((head.id, *head.earlier)) if head else "",
        "yes" if assembly.heal else "",
        str(assembly.awaited),
    ]


def member(
    node: str,
    devid: int,
    generation: int = 8,
    devices: int = 2,
    log: int = 0,
    mark: DegradedMark | None = None,
    sub: str = "",
) -> Member:
    """A member; its device number is its devid unless told."""
    return Member(
        node,
        Superblock(FSID, devid, sub or f"sub-{devid}", 1 << 30, devices, generation, log, "persist-data"),
        mark,
    )


def history(chance: random.Random) -> list[DegradedMark | None]:
    """Marks as mounts without a member leave them: each either goes on from an earlier one or was made by a
    side that knows none of them."""
    marks: list[DegradedMark] = []
    for name in chance.sample(IDS, chance.randint(0, 4)):
        before = chance.choice([None, *marks])
        marks.append(
            DegradedMark(
                FSID,
                before.counter + 1 if before else chance.randint(0, 2),
                name,
                (before.id, *before.earlier) if before else (),
            )
        )
    return [None, *marks]


def random_case(chance: random.Random) -> list[Member]:
    marks = history(chance)
    number = chance.randint(1, 4)
    target = chance.random() < 0.2
    found = []
    for devid in chance.sample(range(1, 5), number):
        log = chance.choice([0, 0, 4096])
        found.append(
            member(
                f"vd{'abcdef'[devid]}2",
                devid,
                chance.choice([7, 8, 8, 8, 2**33]),
                chance.randint(number, number + 1),
                log,
                chance.choice(marks),
            )
        )
    if target:
        found.append(
            member("vdz2", 0, chance.choice([7, 8]), number, chance.choice([0, 4096]), chance.choice(marks))
        )
    chance.shuffle(found)
    return found


def even(case: list[Member]) -> list[Member]:
    """The same with one count of devices for each generation, as a filesystem has it."""
    counts = {m.superblock.generation: m.superblock.num_devices for m in case}
    return [
        member(
            m.node,
            m.superblock.devid,
            m.superblock.generation,
            counts[m.superblock.generation],
            m.superblock.log_root,
            m.mark,
        )
        for m in case
    ]


def plain(assembly: Assembly) -> bool:
    """Whether the shell decides it; the rest it leaves to the service (docs/volume.md, "Members at a
    boot")."""
    head, used = assembly.head, max((m.superblock.generation for m in assembly.use), default=0)
    return (
        bool(assembly.use)
        and not assembly.split
        and all(
            head is not None
            and m.superblock.num_devices > 1
            and (m.superblock.generation < used or (m.mark is not None and m.mark.id == head.id))
            for m in assembly.stale
        )
    )


def rises(mark: DegradedMark | None) -> bool:
    """Whether a stretch began beyond the next one: the shell does not look, and calls stale what is split. It
    is left out all the same."""
    return (
        mark is not None
        and mark.id != UNKNOWN
        and len(effective(mark, int(mark.id[8:], 16), 4096)) <= len(mark.earlier)
    )


def test_decides_as_the_service_does(any_shell: str) -> None:
    """Or leaves it to the service: it never mounts what that would not."""
    chance = random.Random(3)
    cases = [even(random_case(chance)) for _ in range(1500)]
    kinds, left = set(), 0
    for case, shown in zip(cases, by_shell(any_shell, cases), strict=True):
        assembly = assemble(case)
        if rises(assembly.head):
            assert shown[0] or shown[1] == " ".join(sorted(assembly.nodes)), [record(m) for m in case]
            continue
        expected = by_python(assembly) if plain(assembly) else ["problem"]
        assert shown[: len(expected)] == expected, [record(m) for m in case]
        left += not plain(assembly)
        kinds.add((bool(shown[0]), bool(shown[2]), bool(shown[3]), shown[5] != "0", bool(shown[6])))
    assert len(kinds) >= 8 and 100 < left < 1000, "the cases are all alike"


A, B = DegradedMark(FSID, 1, "a" * 16), DegradedMark(FSID, 1, "b" * 16)
A2 = DegradedMark(FSID, 2, "c" * 16, (A.id,))


@pytest.mark.parametrize(
    "name, case, used, stale, split, absent",
    [
        ("whole", [member("a", 1), member("b", 2)], "a b", "", "", "0"),
        ("A alone", [member("a", 1)], "a", "", "", "1"),
        ("B was away", [member("a", 1, 9, mark=A), member("b", 2)], "a", "b", "", "1"),
        (
            "twice alone, then the other",
            [member("a", 1, 12, mark=A2), member("b", 2, 9, mark=A)],
            "a",
            "b",
            "",
            "1",
        ),
        ("marked and both here", [member("a", 1, mark=A), member("b", 2, mark=A)], "a b", "", "", "0"),
        ("pulled while running", [member("a", 1, 9, mark=A), member("b", 2, 12, mark=A)], "b", "a", "", "1"),
        (
            "the lowest has no log",
            [member("a", 1, mark=A), member("b", 2, log=4096, mark=A)],
            "b",
            "a",
            "",
            "1",
        ),
        ("the lowest has the log", [member("a", 1, log=4096), member("b", 2)], "a b", "", "", "0"),
        ("a replace goes on", [member("a", 1, mark=A), member("t", 0)], "a t", "", "", "1"),
        (
            "an earlier life's mark on the target",
            [member("a", 1, mark=A), member("b", 2, mark=A), member("t", 0, mark=B)],
            "a b t",
            "",
            "",
            "0",
        ),
        ("a target that was away", [member("a", 1, 9, mark=A), member("t", 0, 8, mark=A)], "a", "t", "", "1"),
    ],
)
def test_cases(
    any_shell: str, name: str, case: list[Member], used: str, stale: str, split: str, absent: str
) -> None:
    (shown,) = by_shell(any_shell, [case])
    assert shown[:6] == ["", used, stale, split, "", absent], name
    assert shown == by_python(assemble(case)), name


@pytest.mark.parametrize(
    "name, case",
    [
        ("the newer superblock has no mark", [member("a", 1, 9, mark=A), member("b", 2, 99)]),
        ("each alone", [member("a", 1, 9, mark=A), member("b", 2, 12, mark=B)]),
        (
            "a copy of a single disk that was mirrored elsewhere",
            [member("a", 1, 9, devices=1), member("b", 2, 12)],
        ),
        (
            "the same, and mounted without the copy",
            [member("a", 1, 9, devices=1), member("b", 2, 12, mark=A)],
        ),
        ("the same, of one generation", [member("a", 1, devices=1), member("b", 2)]),
        ("older without a mark", [member("a", 1, 9), member("b", 2, 12)]),
        ("as new as what succeeds it", [member("a", 1, 9), member("b", 2, 9, mark=A)]),
    ],
)
def test_what_nothing_proves_is_left_to_the_service(any_shell: str, name: str, case: list[Member]) -> None:
    assert by_shell(any_shell, [case])[0][0] == "problem", name


@pytest.mark.parametrize("case", [[], [member("t", 0)], [member("a", 1, 8), member("t", 0, 12)][1:]])
def test_nobody_is_left(any_shell: str, case: list[Member]) -> None:
    assert by_shell(any_shell, [case])[0][:2] == ["problem", ""]


@pytest.mark.parametrize(
    "generations, left_out",
    [
        ((8, 8, 8), None),
        ((8, 7, 8), "copy"),
        ((7, 8, 8), "first"),
        ((7, 7, 8), None),
        ((8, 9, 8), None),
        ((8, 7, None), None),
        ((8, 8, None), None),
    ],
)
def test_copies(any_shell: str, generations: tuple[int, int, int | None], left_out: str | None) -> None:
    """A device that is there twice, beside another member or not: only a disk that was replaced while it was
    away can be told from the other."""
    first, copy, other = generations
    case = [
        member("first", 1, first, mark=A),
        member("copy", 1, copy, mark=A),
        *([member("other", 2, other, mark=A)] if other else []),
    ]
    shown = by_shell(any_shell, [case])[0]
    assert (shown[0], shown[4]) == ("" if left_out else "problem", left_out or "")
    known = {m.node: m for m in case}
    every = [
        Candidate(m.node, str(n), "0:0", FSID, m.superblock.device_uuid, "persist-data")
        for n, m in enumerate(case)
    ]
    decision = decide(Config(), Known(member=lambda c: known[c.node]), every)
    assert isinstance(decision, Found if left_out else Ambiguous)
    if isinstance(decision, Found):
        assert decision.forget == (left_out,) and set(shown[1].split()) == set(decision.members)


def test_marks_are_read_and_written_as_the_service_does(any_shell: str, tmp_path: Path) -> None:
    """A mark of the shell for one of the service, and the other way round, at the end of a sector that is
    full too."""
    from persist.volume.ondisk import degraded_mark

    for count, generation, log in (
        (0, 8, 0),
        (1, 2**32 + 7, 4096),
        (24, 8, 30408704),
        (25, 8, 14 << 12),
        (26, 8, 15 << 12),
        (40, 8, 0),
    ):
        node = tmp_path / f"member{count}"
        node.write_bytes(bytes(60000))
        before = DegradedMark(FSID, 7, IDS[1], tuple(f"{n:016x}" for n in range(count)))
        degraded_mark.write([str(node)], before)
        script = (
            _HEAD
            + f"""
read_mark '{node}' {FSID} || exit 3
head=$marks head_counter=$counter volume_id={FSID} use=' {FSID}|s|1|{generation}|{log}|2|||{node}'
write_marks
"""
        )
        subprocess.run(
            [any_shell, "-s", str(SCRIPT.parent / "persist-early-members")],
            input=script,
            text=True,
            check=True,
            timeout=60,
        )
        after = degraded_mark.read(str(node), FSID)
        assert after is not None and after.counter == 8 and after.id not in (before.id, *before.earlier)
        assert after.id[6:] == degraded_mark.make_id(generation, log, whole=False)[
            6:
        ] and degraded_mark.begins_at(after.id, generation, log)
        # What the service would have written behind that id.
        kept = degraded_mark.parse(before.encode())
        assert kept is not None
        expected = DegradedMark(FSID, 8, after.id, (kept.id, *kept.earlier)).encode()
        assert node.read_bytes()[degraded_mark.OFFSET :] == expected + bytes(
            60000 - degraded_mark.OFFSET - degraded_mark.LENGTH
        )


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"persist-degraded 1 %s 1 aaaaaaaaaaaaaaaa" % FSID.encode(),
        b"persist-degraded 2 %s 1 aaaaaaaaaaaaaaaa\n" % FSID.encode(),
        b"persist-degraded 1 %s 1 aaaaaaaaaaaaaaa\n" % FSID.encode(),
        b"persist-degraded 1 %s 1 aaaaaaaaaaaaaaaa,\n" % FSID.encode(),
        b"persist-degraded 1 %s x aaaaaaaaaaaaaaaa\n" % FSID.encode(),
        b"persist-degraded 1 %s 1234567890 aaaaaaaaaaaaaaaa\n" % FSID.encode(),
        b"persist-degraded 1 %s 1  aaaaaaaaaaaaaaaa\n" % FSID.encode(),
        b"persist-degraded 1 %s 1 AAAAAAAAAAAAAAAA\n" % FSID.encode(),
        b"persist-degraded 1 %s 1 aaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbb\n" % FSID.encode(),
        b"persist-degraded 1 %s 1 aaaaaaaaaaaaaaaa\nmore" % FSID.encode(),
        b"persist-degraded 1 00000000-0000-0000-0000-000000000000 1 aaaaaaaaaaaaaaaa\n",
        b"* ? /\n",
        b"\xff\xfe" * 256,
        b"a" * 512,
    ],
)
def test_marks_that_do_not_count(any_shell: str, text: bytes, tmp_path: Path) -> None:
    from persist.volume.ondisk import degraded_mark

    node = tmp_path / "member"
    node.write_bytes(bytes(degraded_mark.OFFSET) + text.ljust(degraded_mark.LENGTH, b"\0") + bytes(4096))
    found = degraded_mark.read(str(node), FSID)
    assert found is None or found.id == degraded_mark.UNKNOWN
    script = (
        _HEAD
        + f"once() {{ echo said; }}\nread_mark '{node}' {FSID} || exit 3\nprintf '%s|%s\\n' \"$counter\" "
        '"$marks"\n'
    )
    done = subprocess.run(
        [any_shell, "-s", str(SCRIPT.parent / "persist-early-members")],
        input=script,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == ("said\n" if text else "") + "|\n"
    assert not done.stderr
