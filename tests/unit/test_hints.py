# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people are told where there is no volume: each situation with its code, what the words must have, and
what they must not.

The rule: a hint is made from the case at hand. Nobody is told to format beside a device that is merely closed
or damaged, nor to do what cannot help.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from persist import log
from persist.boot.config import Config, load
from persist.boot.facts import Facts
from persist.boot.ini import Problem
from persist.record import replace
from persist.volume.find import search
from persist.volume.find.around import Around
from persist.volume.find.choose import decide
from persist.volume.find.decision import Ambiguous, Candidate, Decision, Known, Missing
from persist.volume.find.missing import explain
from persist.volume.find.unreadable import Unreadable

TOP = Path(__file__).resolve().parents[2]
U1, U2 = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
ROOT = Candidate(
    "/dev/vda1",
    "254:1",
    "254:0",
    "33333333-3333-4333-8333-333333333333",
    "r",
    "root",
    "p0",
    "",
    "",
    "ext4",
    "/dev/vda",
)
OURS = Candidate(
    "/dev/vdb2", "254:18", "254:16", U1, "s1", "persist-data", "p1", "persist-data", "", "btrfs", "/dev/vdb"
)
OTHER = Candidate(
    "/dev/vdc2", "254:34", "254:32", U2, "s2", "persist-data", "p2", "persist-data", "", "btrfs", "/dev/vdc"
)
DISK = Candidate(
    "/dev/vdb", "254:16", "254:16", "", "/dev/vdb", "", fstype="", disk_node="/dev/vdb", usage=""
)
PART = replace(OURS, uuid="", label="", fstype="", usage="", part_label="")
LUKS = replace(DISK, uuid=U2, fstype="crypto_LUKS", usage="crypto")
RAID = replace(DISK, uuid=U2, fstype="linux_raid_member", usage="raid")
LVM = replace(DISK, uuid=U2, fstype="LVM2_member", usage="raid")
MPATH = replace(DISK, uuid=U2, fstype="mpath_member", usage="raid")
SWAP = replace(PART, fstype="swap", usage="other", label="persist-data")
LOST = Unreadable("/dev/vdb2", "/dev/vdb", "254:18", "254:16", U1, True, (1,), True, "p1")
PATHS = {c.node: c.device for c in (ROOT, OURS, OTHER, DISK)}
CLAIM = "'persistctl claim'"


def told(
    *every: Candidate,
    device: str = "auto",
    named: str = "",
    known: str = "",
    wrong: str = "",
    removable: bool = False,
    lost: tuple[Unreadable, ...] = (),
    crypttab: tuple[str, ...] = (),
    held: tuple[str, ...] = (),
) -> Decision:
    """What a machine with these devices is told."""
    config = Config()
    config.device = device.split()
    config.allow_removable = removable
    machine = Known(named, known, wrong=wrong)

    def resolve(path: str) -> str:
        return PATHS.get(path, "") if any(c.node == path for c in every) else ""

    decision = decide(config, machine, [c for c in every if c.usage == "filesystem"], resolve)
    if not isinstance(decision, Missing):
        return decision
    return explain(
        decision, config, machine, Around(every, lost, crypttab, lambda node: node in held), resolve
    )


# The situation, the code, what must be said, and what must not be.
MISSING = [
    # Nothing is here.
    (dict(every=(ROOT, DISK)), "missing", [CLAIM], ["PARTUUID"]),
    (dict(every=(ROOT,)), "missing", ["another disk", "PARTUUID=", "mkfs"], []),
    (dict(every=(ROOT, DISK), device="LABEL=persist-data"), "missing", [CLAIM], []),
    # A claim would be refused: it is not named, or another one is expected.
    (dict(every=(ROOT,), device="/dev/disk/by-id/x"), "missing", ["Attach its disk", "lsblk"], ["claim"]),
    (dict(every=(ROOT,), device=f"UUID={U2}"), "missing", ["Attach its disk"], ["claim"]),
    (dict(every=(ROOT,), known=U1), "missing", ["Attach its disk"], ["claim"]),
    (dict(every=(ROOT,), named=U1), "missing", ["Attach its disk", "persist.volume="], ["claim"]),
    (dict(every=(ROOT, OTHER), named=U1), "missing", [f"persist.volume={U2}"], ["claim"]),
    # persist.volume= that is no UUID (E2).
    (
        dict(every=(ROOT, OURS), wrong="LABEL=persist-data"),
        "not-a-uuid",
        ["persist.volume=LABEL=persist-data", f"/dev/vdb2 has persist.volume={U1}"],
        ["claim", "Attach"],
    ),
    (dict(every=(ROOT,), wrong="/dev/vdb"), "not-a-uuid", ["persist.volume=UUID"], ["claim", "Attach"]),
    (dict(every=(ROOT, OURS), device=""), "bad-device", ["persistctl verify"], ["claim", "Attach"]),
    # Another volume than the one of this machine.
    (
        dict(every=(ROOT, OTHER), known=U1),
        "other-volume",
        [f"Device=UUID={U2}", "Attach its disk"],
        ["claim"],
    ),
    (
        dict(every=(ROOT, replace(OTHER, untrusted="on USB")), known=U1),
        "other-volume",
        [f"Device=UUID={U2}", "/dev/vdc2"],
        ["claim"],
    ),
    # Things with our label or name (E3).
    (
        dict(every=(ROOT, replace(OURS, fstype="ext4"))),
        "not-a-volume",
        ["/dev/vdb2", "ext4", "Device=LABEL=persist-data"],
        ["claim"],
    ),
    (
        dict(every=(ROOT, replace(OURS, fstype="xfs", label=""))),
        "not-a-volume",
        ["xfs", "Device=PARTLABEL=persist-data"],
        ["claim"],
    ),
    (
        dict(every=(ROOT, replace(OURS, label=""))),
        "not-a-volume",
        ["btrfs", "Device=PARTLABEL=persist-data"],
        ["claim"],
    ),
    (
        dict(every=(ROOT, replace(OURS, fstype="vfat"))),
        "not-a-volume",
        ["vfat, which cannot keep state", "btrfs, ext4"],
        ["claim", "Device="],
    ),
    (dict(every=(ROOT, SWAP)), "not-a-volume", ["swap space", "mkfs"], ["claim", "Device=LABEL"]),
    (
        dict(every=(ROOT, replace(LUKS, label="persist-data"))),
        "not-a-volume",
        ["encrypted", "Device=/dev/mapper/NAME"],
        ["claim", "mkfs"],
    ),
    (
        dict(every=(ROOT, replace(PART, part_label="persist-data"))),
        "not-a-volume",
        ["no filesystem", "mkfs.ext4 /dev/vdb2", "Device=PARTLABEL=persist-data"],
        ["claim"],
    ),
    (dict(every=(ROOT, replace(OURS, fstype="ext4", untrusted="on USB"))), "missing", [], ["/dev/vdb2"]),
    # Device= names what is merely closed (C4).
    (
        dict(every=(ROOT, LUKS), device="/dev/mapper/state", crypttab=("state",)),
        "closed",
        ["/dev/mapper/state is not open", "systemd-cryptsetup@"],
        ["claim", "mkfs"],
    ),
    (
        dict(every=(ROOT, LUKS), device="/dev/disk/by-id/dm-name-state", crypttab=("state",)),
        "closed",
        ["systemd-cryptsetup@"],
        ["claim", "mkfs"],
    ),
    (
        dict(every=(ROOT, LUKS), device="/dev/mapper/state"),
        "closed",
        ["crypttab", "/dev/vdb"],
        ["claim", "mkfs"],
    ),
    (
        dict(every=(ROOT, LUKS), device="/dev/vdb"),
        "closed",
        ["encrypted", "Device=/dev/mapper/NAME"],
        ["claim", "mkfs"],
    ),
    (dict(every=(ROOT, LUKS), device=f"UUID={U2}"), "closed", ["encrypted"], ["claim", "mkfs"]),
    (
        dict(every=(ROOT, LUKS), device=f"UUID={U1}"),
        "closed",
        ["not open yet", "/dev/vdb"],
        ["claim", "mkfs"],
    ),
    (
        dict(every=(ROOT, LUKS), device=f"UUID={U1}", held=("/dev/vdb",)),
        "missing",
        ["Attach its disk"],
        ["claim", "encrypted"],
    ),
    (dict(every=(ROOT, LUKS), removable=True), "closed", ["not open yet"], ["claim", "mkfs"]),
    (dict(every=(ROOT, RAID), device="/dev/md/state"), "closed", ["RAID", "/proc/mdstat"], ["claim", "mkfs"]),
    (dict(every=(ROOT,), device="/dev/md127"), "closed", ["/proc/mdstat"], ["claim", "mkfs"]),
    (
        dict(every=(ROOT,), device="/dev/disk/by-id/md-uuid-1:2"),
        "closed",
        ["/proc/mdstat"],
        ["claim", "mkfs"],
    ),
    (dict(every=(ROOT, RAID), device="/dev/vdb"), "closed", ["part of a RAID"], ["claim", "mkfs"]),
    (dict(every=(ROOT, MPATH), device="/dev/mapper/mpatha"), "closed", ["multipath"], ["claim", "mkfs"]),
    (dict(every=(ROOT, LVM), device="/dev/vg/state"), "closed", ["lvs"], ["claim", "mkfs"]),
    (dict(every=(ROOT, LVM), device="/dev/mapper/vg-state"), "closed", ["lvs"], ["claim", "mkfs"]),
    (dict(every=(ROOT, LVM), device="/dev/vdb auto"), "closed", ["LVM"], ["claim", "mkfs"]),
    (
        dict(every=(ROOT, LUKS), device="/dev/mapper/state auto", crypttab=("state",)),
        "closed",
        ["is not open"],
        ["claim", "mkfs"],
    ),
    # Device= names what is here and has no filesystem.
    (
        dict(every=(ROOT, DISK), device="/dev/vdb"),
        "not-a-volume",
        ["no filesystem", "'persistctl claim /dev/vdb'"],
        [],
    ),
    (
        dict(every=(ROOT, DISK), device="/dev/vdb", known=U2),
        "not-a-volume",
        ["no filesystem", "Attach"],
        ["claim"],
    ),
    (
        dict(every=(ROOT, DISK, replace(OURS, label="x", part_label="")), device="/dev/vdb"),
        "not-a-volume",
        ["has partitions (/dev/vdb2)"],
        ["claim"],
    ),
    (
        dict(every=(ROOT, PART), device="/dev/vdb2"),
        "not-a-volume",
        ["no filesystem", "mkfs.ext4 /dev/vdb2"],
        ["claim"],
    ),
    # A disk of ours that cannot be read (E19).
    (
        dict(every=(ROOT, DISK), lost=(LOST,)),
        "unreadable",
        ["this machine's state volume", U1, "super-recover", "left alone"],
        [CLAIM, "Attach"],
    ),
    (dict(every=(ROOT, DISK), lost=(LOST,), known=U1), "unreadable", ["super-recover"], [CLAIM, "Attach"]),
    (
        dict(every=(ROOT, DISK), lost=(replace(LOST, copies=()),)),
        "unreadable",
        ["backup"],
        [CLAIM, "super-recover", "btrfs-select-super"],
    ),
    (
        dict(every=(ROOT, DISK), lost=(replace(LOST, copies=(), table=False, node="/dev/vdb"),)),
        "unreadable",
        ["partition table"],
        [CLAIM, "super-recover"],
    ),
    (dict(every=(ROOT, OTHER, LUKS), lost=(LOST,), known=U1), "unreadable", ["/dev/vdb2"], [CLAIM]),
]


@pytest.mark.parametrize(("case", "code", "must", "must_not"), MISSING)
def test_missing(case: dict[str, object], code: str, must: list[str], must_not: list[str]) -> None:
    every = case.pop("every")
    found = told(*every, **case)  # type: ignore[misc, arg-type]
    case["every"] = every
    assert isinstance(found, Missing), found
    said = f"{found.message} {found.hint}"
    assert found.code == code, said
    assert [word for word in must if word not in said] == [], said
    assert [word for word in must_not if word in found.hint] == [], said
    assert (
        found.hint and found.message.endswith(".") and ".." not in said.replace("…", "") and "  " not in said
    ), said


@pytest.mark.parametrize(
    ("fstype", "tool"),
    [("btrfs", "btrfstune -u"), ("ext4", "tune2fs -U"), ("xfs", "xfs_admin -U"), ("f2fs", "")],
)
def test_copies(fstype: str, tool: str) -> None:
    """The tool is that of the filesystem, and none of the two is called the copy."""
    one = replace(OURS, fstype=fstype)
    two = replace(one, node="/dev/vdd2", device="254:50", disk_device="254:48")
    found = told(one, two, device="LABEL=persist-data")
    assert isinstance(found, Ambiguous) and found.code == "cloned-disk"
    assert (
        tool in found.hint
        and "/dev/" not in found.hint
        and ("give it another id" in found.hint) == bool(tool)
    )


def test_two_volumes_can_be_told_apart() -> None:
    found = told(OURS, OTHER)
    assert isinstance(found, Ambiguous) and found.code == "duplicate-label"
    assert "persist.volume=UUID" in found.hint and "Device=UUID=" in found.hint and "claim" not in found.hint


# What persist.volume= may look like (E2).


@pytest.mark.parametrize(
    ("cmdline", "named", "wrong"),
    [
        (f"persist.volume={U1}", U1, ""),
        (f"persist.volume=UUID={U1}", U1, ""),
        (f"persist.volume=uuid={U1}", U1, ""),
        (f"persist.volume=UUID={'AB' * 4}-{U1[9:]}", f"{'ab' * 4}-{U1[9:]}", ""),
        (f'persist.volume="UUID={U1}"', U1, ""),
        (f'"persist.volume=UUID={U1}"', U1, ""),
        (f"persist.volume='{U1}'", U1, ""),
        (f'persist.volume=UUID="{U1}"', U1, ""),
        ("persist.volume=", "", ""),
        ("quiet", "", ""),
        ("persist.volume=LABEL=persist-data", "", "LABEL=persist-data"),
        ("persist.volume=/dev/vdb", "", "/dev/vdb"),
        ("persist.volume=UUID=", "", "UUID="),
        (f"persist.volume=PARTUUID={U1}", "", f"PARTUUID={U1}"),
        ("persist.volume=1234-ABCD", "", "1234-ABCD"),
        (f"persist.volume={U1}x", "", f"{U1}x"),
    ],
)
def test_named_on_the_command_line(cmdline: str, named: str, wrong: str, tmp_path: Path) -> None:
    machine = Facts()
    machine.cmdline = cmdline
    found = search.what_is_known(machine, log.say, root=str(tmp_path), credentials=str(tmp_path))
    assert (found.named, found.wrong) == (named, wrong)
    config = Config()
    config.device = ["/dev/vdb"]
    # What cannot come is not waited for.
    assert (search.patience(config, found, kept=False) == 0) == bool(wrong)


@pytest.mark.parametrize(
    ("value", "device", "problem"),
    [
        ("auto", ["auto"], ""),
        ("", ["auto"], ""),
        (f"UUID={U1}", [f"UUID={U1}"], ""),
        (f'UUID="{U1}"', [f"UUID={U1}"], ""),
        ("/dev/vdb LABEL=x auto", 3, ""),
        ("PARTUUID=1234abcd-01", ["PARTUUID=1234abcd-01"], ""),
        ("UUID=x", [], "'UUID=x' is not the UUID"),
        ("vdb", [], "'vdb' is not auto"),
        ("LABEL=", [], "names nothing"),
        ("uuid=x auto", ["auto"], "'uuid=x' is not auto"),
        ("FOO=bar /dev/vdb", ["/dev/vdb"], "FOO=bar"),
        ("UUID=1234-ABCD", [], "not the UUID"),
    ],
)
def test_a_name_that_leads_nowhere(value: str, device: list[str] | int, problem: str, tmp_path: Path) -> None:
    """It would be waited for at each boot. A name that is wrong is not 'auto': another disk must not be taken
    for it."""
    conf = tmp_path / "usr/lib/persist/persist.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(f"[Volume]\nDevice={value}\n")
    problems: list[Problem] = []
    config = load(str(tmp_path), problems)
    assert (len(config.device) if isinstance(device, int) else config.device) == device
    assert [problem in str(p) for p in problems] == ([True] if problem else [])
    assert (search.patience(config, Known(), kept=False) == 0) == (not config.device)


def test_what_cannot_come_is_not_looked_for_twice() -> None:
    """The search ends with one look, and nothing waits."""
    looks: list[int] = []

    def look() -> list[Candidate]:
        looks.append(1)
        return [OURS]

    machine = Known(wrong="LABEL=persist-data")
    patience = search.patience(Config(), machine, kept=False)
    decision, assembly = search.search(Config(), machine, patience, log.say, log.notify_status, look)
    assert isinstance(decision, Missing) and decision.code == "not-a-uuid" and assembly is None
    assert looks == [1] and f"persist.volume={U1}" in decision.hint


# Whatever the modules that look for disks can say is in a table of this file, or belongs to a disk that was
# looked at alone.

ALONE = {
    "not-a-disk",
    "partition",
    "too-small",
    "read-only",
    "wrong-serial",
    "not-named",
    "untrusted",
    "unreadable",
    "not-blank",
    "partitions",
    "signature",
    "foreign-table",
    "table-damaged",
    "twice",
    "no-serial",
    "header-unknown",
    "header-version",
    "header-options",
    "members-disagree",
    "members-missing",
    "join-missing",
    "join-other",
    "swap-too-large",
    "too-many",
}


def test_no_code_is_left_out() -> None:
    said: set[str] = set()
    rooms = ("system", "volume/ondisk", "volume/find", "volume/format")
    for path in (path for room in rooms for path in (TOP / "persist" / room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                at = {"Refusal": 0, "Missing": 2}.get(node.func.id, len(node.args))
                code = node.args[at] if at < len(node.args) else None
                if isinstance(code, ast.Constant):
                    said.add(str(code.value))
    here = {str(row[1]) for row in MISSING} | {"volume-exists", "volume-unreadable", "volume-expected"}
    assert said <= here | ALONE, said - here - ALONE
    assert said >= ALONE
