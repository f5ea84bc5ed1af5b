# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several claimed disks to one volume: whole, killed after each step on each disk, with a disk that is
gone."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from persist.errors import PersistError
from persist.system import blockdev, superblock
from persist.system.btrfs import SUBVOLUMES
from persist.volume.format import may_format
from persist.volume.format.steps import STEPS
from persist.volume.format.under_lock import format_disks
from persist.volume.ondisk import binding, header, partition_table
from persist.volume.ondisk.partition_table import MIB

from .conftest import Make
from .rig import HEADER, LoopDisk, format_set, tool

BIG = 2560  # MiB; large enough for swap
SMALL = 300
SWAP = str(64 << 20)


def data_node(disk: LoopDisk) -> str:
    """The data partition."""
    return blockdev.partitions(disk.disk)[-1].node


def look(disks: list[LoopDisk], tmp_path: Path) -> dict[str, Any]:
    """What a volume over these disks consists of, as far as it is the same for every such set; the rest is
    checked here."""
    tables = [json.loads(tool("sfdisk", "--json", d.node))["partitiontable"]["partitions"] for d in disks]
    ids = [{p["name"]: p["uuid"].lower() for p in table} for table in tables]
    found = [superblock.read(data_node(d)) for d in disks]
    fsids = {s.fsid for s in found if s is not None}
    assert len(fsids) == 1 and None not in found
    (uuid,) = fsids
    for disk in disks:
        assert disk.read(0, header.MARK_OFFSET) == bytes(header.MARK_OFFSET), "the claim is erased"
        assert binding.read(disk.node) == binding.of_machine(disk.disk, uuid)
    place = tmp_path / "look"
    place.mkdir(exist_ok=True)
    tool(
        "mount",
        "-o",
        ",".join(["subvolid=5", *(f"device={data_node(d)}" for d in disks)]),
        data_node(disks[0]),
        place,
    )
    try:
        record = json.loads((place / "@persist-state/.persist/volume.json").read_text())
        assert record["uuid"] == uuid
        assert sorted(record["members"]) == sorted(i["persist-data"] for i in ids)
        assert sorted(record["swap"]) == sorted(i["persist-swap"] for i in ids if "persist-swap" in i)
        assert {p.name for p in place.iterdir()} == set(SUBVOLUMES)
        profiles = [line.split(":")[0] for line in tool("btrfs", "filesystem", "df", place).splitlines()]
        sizes = {
            int(f[1]): int(f[3])
            for f in (
                line.split() for line in tool("btrfs", "filesystem", "show", "--raw", place).splitlines()
            )
            if "devid" in f
        }
        tool("btrfs", "scrub", "start", "-B", place)
    finally:
        tool("umount", place)
    slack = {
        s.devid: blockdev.by_node(data_node(d)).size - sizes[s.devid]
        for d, s in zip(disks, found, strict=True)
        if s is not None
    }
    return {
        "labels": [
            (p.get("TYPE"), p.get("LABEL"))
            for d in disks
            for p in (blockdev.probe(n.node) for n in blockdev.partitions(d.disk))
        ],
        "parts": [[(p["name"], p["type"], p["start"], p["size"]) for p in table] for table in tables],
        "profiles": profiles,
        "slack": dict(sorted(slack.items())),
        "devids": sorted(slack),
        "count": {s.num_devices for s in found if s is not None},
        "generations": len({s.generation for s in found if s is not None}),
        "profile": record["profile"],
    }


def made(disks: list[LoopDisk], **more: Any) -> str:
    """Format to the end; the steps that were done."""
    done = format_set(disks, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("uuid")[0]


@pytest.mark.parametrize(
    ("sizes", "head", "data", "metadata"),
    [
        ((BIG, BIG), b"", "RAID1", "RAID1"),
        ((SMALL, 600, 450), b"", "RAID1", "RAID1C3"),
        ((SMALL, 450), b"layout=single", "single", "RAID1"),
        ((SMALL, SMALL), b"layout=raid1 members=2", "RAID1", "RAID1"),
    ],
)
def test_whole(
    make_disk: Make, tmp_path: Path, sizes: tuple[int, ...], head: bytes, data: str, metadata: str
) -> None:
    disks = [make_disk(mib, HEADER + b"\n" + head) for mib in sizes]
    assert made(disks, swap=SWAP if sizes[0] == BIG else "auto").split() == list(STEPS)
    end = look(disks, tmp_path)
    assert end["profiles"] == [
        f"Data, {data}",
        f"System, {metadata}",
        f"Metadata, {metadata}",
        "GlobalReserve, single",
    ]
    assert end["count"] == {len(sizes)} and end["generations"] == 1
    reserve = {
        mib: 64 * MIB if mib >= 1026 else ((mib - 2) * MIB // 16 + MIB - 1) // MIB * MIB for mib in sizes
    }
    assert list(end["slack"].values()) == [reserve[mib] for mib in sizes]
    assert [len(p) for p in end["parts"]] == [2 if mib == BIG else 1 for mib in sizes]
    assert end["profile"] == ("single" if b"single" in head else "raid1" if b"raid1" in head else "auto")
    assert format_set(disks).stdout == "uuid \n", "without claims nothing happens"


def test_swap_is_shared_by_the_disks(make_disk: Make) -> None:
    disk = make_disk(10 * partition_table.memory_mib() + 8192)
    for count in (1, 2, 3, 5):
        wanted = partition_table.swap_size(disk.disk.mib, partition_table.memory_mib() // count, None)
        assert may_format.new_mark(disk.disk, disk.config(), count).swap == wanted


@pytest.fixture(scope="module")
def wanted() -> dict[str, Any]:
    """The end state of two disks that were formatted in one go, filled by the first test that needs it."""
    return {}


def uncut(make_disk: Make, tmp_path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    if not wanted:
        disks = [make_disk(SMALL), make_disk(450)]
        made(disks, swap=SWAP)
        wanted |= look(disks, tmp_path)
        for disk in disks:
            disk.unplug()
    return wanted


KILLS = [*STEPS, *(f"{step}:0" for step in ("mark", "partition", "erase"))]


@pytest.mark.parametrize("kill", KILLS)
def test_killed_after(make_disk: Make, tmp_path: Path, wanted: dict[str, Any], kill: str) -> None:
    disks = [make_disk(SMALL), make_disk(450)]
    killed = format_set(disks, kill, SWAP)
    assert killed.returncode == -9, killed.stderr
    uuids = {m for m in (marked(d) for d in disks) if m}
    assert len(uuids) == (kill != "erase")
    if kill in ("mkfs", "subvolumes", "label"):
        assert uuids == {s.fsid for s in (superblock.read(data_node(d)) for d in disks) if s}, (
            "the mark names the filesystem"
        )
    for disk in disks:
        disk.replug()
    # What was decided when it began is not decided again.
    steps = made(disks, swap="0" if not kill.startswith("mark:") else SWAP).split()
    step = kill.split(":")[0]
    if kill != "erase":
        assert steps == (
            ["erase"] if step in ("label", "erase") else list(STEPS if kill == "mark:0" else STEPS[1:])
        )
    assert look(disks, tmp_path) == uncut(make_disk, tmp_path, wanted)


def marked(disk: LoopDisk) -> str:
    """The volume of the mark on a disk, '' where there is none."""
    claim = may_format.read_claim(disk.disk, [HEADER.decode()])
    return str(claim.mark.volume) if claim and claim.mark else ""


def test_killed_at_any_moment(make_disk: Make, tmp_path: Path, wanted: dict[str, Any]) -> None:
    """With all its children, as systemd kills a unit; several times for each set, then to the end."""
    moment = random.Random(3)
    for _ in range(4):
        disks = [make_disk(SMALL), make_disk(450)]
        for cut in range(4):
            format_set(disks, swap=SWAP, kill_after_seconds=moment.uniform(0.1, 0.5))
            if cut % 2:
                for disk in disks:
                    disk.replug()
        made(disks, swap=SWAP)
        assert look(disks, tmp_path) == uncut(make_disk, tmp_path, wanted)
        for disk in disks:
            disk.unplug()


def test_label_cut_between_two_superblocks(make_disk: Make, tmp_path: Path, wanted: dict[str, Any]) -> None:
    """The label has reached the first disk, and the second has the superblocks of the transaction before: all
    it needs is the label once more."""
    disks = [make_disk(SMALL), make_disk(450)]
    format_set(disks, "subvolumes", SWAP)
    place = tmp_path / "top"
    place.mkdir()
    for disk in disks:
        disk.replug()
    node = data_node(disks[1])
    offsets = [64 << 10, 64 << 20]
    before = [superblock.read_at(node, at, 4096) for at in offsets]
    tool("mount", "-o", f"subvolid=5,device={node}", data_node(disks[0]), place)
    tool("btrfs", "filesystem", "label", place, "persist-data")
    tool("umount", place)
    with open(node, "r+b") as f:
        for at, data in zip(offsets, before, strict=True):
            f.seek(at)
            f.write(data)
    for disk in disks:
        disk.replug()
    assert made(disks, swap=SWAP).split() == ["label", "erase"]
    assert look(disks, tmp_path) == uncut(make_disk, tmp_path, wanted)


@pytest.mark.parametrize("step", ["mark", "mkfs", "subvolumes"])
def test_a_disk_is_gone(make_disk: Make, tmp_path: Path, step: str) -> None:
    """The set is made of what is here, under a new id, so that the other one is a stranger when it comes
    back."""
    disks = [make_disk(SMALL), make_disk(450)]
    format_set(disks, step, SWAP)
    old = marked(disks[0])
    disks[0].unplug()
    disks[1].replug()
    assert made(disks[1:], swap=SWAP).split() == list(STEPS)
    end = look(disks[1:], tmp_path)
    assert end["profiles"][0] == "Data, single" and end["count"] == {1}
    found = superblock.read(data_node(disks[1]))
    assert found is not None and found.fsid != old
    disks[0].plug()
    assert marked(disks[0]) == old


def test_killed_while_a_set_is_made_anew(make_disk: Make, tmp_path: Path) -> None:
    """One of three is gone, and the cut comes between the two marks of the new set."""
    disks = [make_disk(SMALL), make_disk(SMALL), make_disk(450)]
    format_set(disks, "mkfs", SWAP)
    disks[0].unplug()
    rest = disks[1:]
    assert format_set(rest, "mark:0", SWAP).returncode == -9
    assert len({marked(d) for d in rest}) == 2
    made(rest, swap=SWAP)
    end = look(rest, tmp_path)
    assert end["count"] == {2} and end["profiles"][0] == "Data, RAID1"


def test_a_missing_place_is_filled(make_disk: Make, tmp_path: Path, wanted: dict[str, Any]) -> None:
    first, lost, fresh = make_disk(SMALL), make_disk(450), make_disk(450)
    format_set([first, lost], "partition", SWAP)
    lost.unplug()
    made([first, fresh], swap=SWAP)
    assert look([first, fresh], tmp_path) == uncut(make_disk, tmp_path, wanted)


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        ((b"members=3", b""), "needs at least 3 disks, 2 of them are attached"),
        ((b"layout=raid1", b"layout=single"), "disagree: layout="),
        ((b"members=2", b"members=3"), "disagree: members="),
        ((b"serial=NOT-THIS-ONE", b""), "serial number 'NOT-THIS-ONE', this one has '-'"),
        ((b"layout=raid1",), "needs at least 2 disks, 1 of them is attached"),
    ],
)
def test_refused_as_a_set(make_disk: Make, heads: tuple[bytes, ...], said: str) -> None:
    disks = [make_disk(SMALL, HEADER + b"\n" + head) for head in heads]
    before = [d.read(0, MIB) for d in disks]
    done = format_set(disks)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert [d.read(0, MIB) for d in disks] == before


def test_one_of_them_is_not_blank(make_disk: Make) -> None:
    """Nothing is done to any of them where nobody says what becomes of the refused one."""
    disks = [make_disk(SMALL), make_disk(SMALL)]
    disks[1].write(4096, b"x")
    done = format_set(disks)
    assert done.returncode == 1 and "has data at byte 4096" in done.stderr
    assert disks[0].read(0, MIB) == HEADER.ljust(MIB, b"\0")
    assert subprocess.run(["wipefs", "--no-act", disks[0].node], capture_output=True, text=True).stdout == ""


def test_one_disk_by_two_ways(make_disk: Make) -> None:
    """It would be made a mirror of itself."""
    disk = make_disk(300)
    other = tool("losetup", "--partscan", "--find", "--show", disk.file).strip()
    try:
        config = disk.config()
        config.device = [disk.node, other]
        steps: list[str] = []
        for _ in range(2):
            with pytest.raises(PersistError, match="the same disk"):
                format_disks(
                    [blockdev.by_node(disk.node), blockdev.by_node(other)],
                    config,
                    lambda step, nodes, text: steps.append(step),
                )
        assert steps == ["mark", "mark"]
    finally:
        tool("losetup", "--detach", other)
