# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the claim to the volume, on real disks: whole, killed after each step, cut within the table."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from persist.system import blockdev, uuids
from persist.system.btrfs import SUBVOLUMES
from persist.volume.format.steps import STEPS
from persist.volume.ondisk import binding, header, partition_table
from persist.volume.ondisk.header import FormatMark

from .conftest import Make
from .rig import LoopDisk, mounts_of, tool

BIG = 2560  # MiB; large enough for swap
SWAP = str(192 << 20)


def end_state(disk: LoopDisk, tmp_path: Path) -> dict[str, Any]:
    """All that a formatted disk consists of, as far as it is the same for every disk; the rest is checked
    here."""
    assert disk.read(0, header.MARK_OFFSET) == bytes(header.MARK_OFFSET), "the claim is erased"
    bound = binding.read(disk.node)
    assert disk.read(510, 2) == b"\x55\xaa"
    assert mounts_of(disk.node) == []
    table = json.loads(tool("sfdisk", "--json", disk.node))["partitiontable"]
    parts = [(p["name"], p["type"], p["start"], p["size"]) for p in table["partitions"]]
    nodes = [p.node for p in blockdev.partitions(disk.disk)]
    assert len(nodes) == len(parts)
    probed = [blockdev.probe(n) for n in nodes]
    place = tmp_path / "look"
    place.mkdir(exist_ok=True)
    tool("mount", "-o", "subvolid=5", nodes[-1], place)
    try:
        tree = {}
        for directory, names, files in os.walk(place):
            for name in names + files:
                st = os.lstat(f"{directory}/{name}")
                tree[os.path.relpath(f"{directory}/{name}", place)] = (
                    stat.filemode(st.st_mode),
                    st.st_uid,
                    st.st_gid,
                )
        record = json.loads((place / "@persist-state/.persist/volume.json").read_text())
        uuids = {p["name"]: p["uuid"].lower() for p in table["partitions"]}
        assert record["uuid"] == probed[-1]["UUID"]
        assert record["profile"] == "auto"
        assert bound == binding.of_machine(disk.disk, record["uuid"])
        assert record["members"] == [uuids["persist-data"]]
        assert record["swap"] == [i for n, i in uuids.items() if n == "persist-swap"]
        profiles = tool("btrfs", "filesystem", "df", place)
        slack = blockdev.partitions(disk.disk)[-1].size - _size(place)
        assert tool("btrfs", "scrub", "start", "-B", place)
    finally:
        tool("umount", place)
    return {
        "parts": parts,
        "labels": [(p.get("TYPE"), p.get("LABEL")) for p in probed],
        "tree": tree,
        "slack": slack,
        "profiles": [line.split(":")[0] for line in profiles.splitlines()],
    }


def _size(place: Path) -> int:
    for line in tool("btrfs", "filesystem", "show", "--raw", place).splitlines():
        if "devid" in line:
            return int(line.split()[3])
    raise AssertionError("no device")


def test_whole(make_disk: Make, tmp_path: Path) -> None:
    disk = make_disk(BIG)
    done = disk.format(swap=SWAP)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:-2] == list(STEPS)
    end = end_state(disk, tmp_path)
    assert end["parts"] == [
        ("persist-swap", partition_table.SWAP_TYPE, 2048, 192 * 2048),
        ("persist-data", partition_table.DATA_TYPE, 193 * 2048, (BIG - 194) * 2048),
    ]
    assert end["labels"] == [("swap", "persist-swap"), ("btrfs", "persist-data")]
    assert end["profiles"] == ["Data, single", "System, DUP", "Metadata, DUP", "GlobalReserve, single"]
    assert end["slack"] == 64 << 20
    assert set(SUBVOLUMES) <= set(end["tree"])
    private = {p: m[0] for p, m in end["tree"].items() if ".persist" in p and not p.endswith("json")}
    assert set(private.values()) == {"drwx------"}
    assert {os.path.basename(p) for p in private} == {".persist", "overlay", "seed", "tmp", "migrations"}
    again = disk.format(swap=SWAP)
    assert (again.returncode, again.stdout) == (0, "uuid \n"), "without a claim nothing happens"


def test_smallest(make_disk: Make, tmp_path: Path) -> None:
    disk = make_disk(256)
    done = disk.format()
    assert done.returncode == 0, done.stderr
    assert end_state(disk, tmp_path)["labels"] == [("btrfs", "persist-data")]


@pytest.fixture(scope="module")
def wanted() -> dict[str, Any]:
    """The end state of a disk that was formatted in one go, filled by the first test that needs it."""
    return {}


def uncut(make_disk: Make, tmp_path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    if not wanted:
        other = make_disk(BIG)
        assert other.format(swap=SWAP).returncode == 0
        wanted |= end_state(other, tmp_path)
        other.unplug()
    return wanted


@pytest.mark.parametrize("replug", [True, False], ids=["restarted", "same boot"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_after(
    make_disk: Make, tmp_path: Path, wanted: dict[str, Any], step: str, replug: bool
) -> None:
    disk = make_disk(BIG)
    killed = disk.format(kill_after=step, swap=SWAP)
    assert killed.returncode == -9, killed.stderr
    assert (disk.read(0, 24) == header.encode("persist-please-format-me")[:24]) == (step != "erase")
    if replug:
        disk.replug()
    # What was decided when it began is not decided again.
    done = disk.format(swap="0")
    assert done.returncode == 0, done.stderr
    if step != "erase":
        steps = done.stdout.split()[:-2]
        assert steps == (["erase"] if step == "label" else list(STEPS[1:]))
    assert end_state(disk, tmp_path) == uncut(make_disk, tmp_path, wanted)


@pytest.mark.parametrize("first", ["swap", "filesystem"])
def test_cut_between_swap_and_filesystem(
    make_disk: Make, tmp_path: Path, wanted: dict[str, Any], first: str
) -> None:
    """They are made at the same time: either may be there without the other."""
    disk = make_disk(BIG)
    assert disk.format(kill_after="partition", swap=SWAP).returncode == -9
    swap, data = (p.node for p in blockdev.partitions(disk.disk))
    if first == "swap":
        tool("mkswap", "--label", "persist-swap", swap)
    else:
        tool("mkfs.btrfs", "--quiet", "--label", "persist-unfinished", data)
    disk.replug()
    assert disk.format(swap=SWAP).returncode == 0
    assert end_state(disk, tmp_path) == uncut(make_disk, tmp_path, wanted)


@pytest.mark.parametrize(
    "steps", [("mkfs", "partition", "mark", "subvolumes"), ("subvolumes", "subvolumes", "partition", "label")]
)
def test_killed_again_and_again(
    make_disk: Make, tmp_path: Path, wanted: dict[str, Any], steps: tuple[str, ...]
) -> None:
    disk = make_disk(BIG)
    for step in steps:
        disk.format(kill_after=step, swap=SWAP)
    assert disk.format(swap=SWAP).returncode == 0
    assert end_state(disk, tmp_path) == uncut(make_disk, tmp_path, wanted)


def test_killed_at_any_moment(make_disk: Make, tmp_path: Path, wanted: dict[str, Any]) -> None:
    """With all its children, as systemd kills a unit; four times at growing moments for each disk, then to
    the end."""
    for run in range(6):
        disk = make_disk(BIG)
        for cut in range(4):
            disk.format(swap=SWAP, kill_after_seconds=0.1 + (run + 6 * cut) * 0.012)
            if cut % 2:
                disk.replug()
        done = disk.format(swap=SWAP)
        assert done.returncode == 0, done.stderr
        assert end_state(disk, tmp_path) == uncut(make_disk, tmp_path, wanted)
        disk.unplug()


def test_large_sectors(make_disk: Make, tmp_path: Path) -> None:
    disk = make_disk(300)
    for step in ("mark", "partition", "label", ""):
        disk.replug("--sector-size", "4096")
        assert disk.format(kill_after=step).returncode == (-9 if step else 0)
    assert end_state(disk, tmp_path)["labels"] == [("btrfs", "persist-data")]


@pytest.mark.parametrize("step", ["", "mkfs", "label"])
def test_mark_of_version_1(make_disk: Make, tmp_path: Path, wanted: dict[str, Any], step: str) -> None:
    """Begun by a version that knew one disk only, and no id of the volume: finished as that would have
    done."""
    disk = make_disk(BIG)
    disk.write(header.MARK_OFFSET, FormatMark(uuids.new(), 192).encode())
    if step:
        assert disk.format(kill_after=step, swap="0").returncode == -9
        disk.replug()
    done = disk.format(swap="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:-2] == (["erase"] if step == "label" else list(STEPS[1:]))
    assert end_state(disk, tmp_path) == uncut(make_disk, tmp_path, wanted)


def _zero_primary(disk: LoopDisk) -> None:
    disk.write(512, bytes(512))


def _zero_backup(disk: LoopDisk) -> None:
    disk.write((BIG << 20) - 33 * 512, bytes(33 * 512))


def _only_pmbr(disk: LoopDisk) -> None:
    disk.write(512, bytes(33 * 512))
    _zero_backup(disk)


def _only_backup(disk: LoopDisk) -> None:
    disk.write(440, bytes(34 * 512 - 440))


def _only_backup_header(disk: LoopDisk) -> None:
    _only_backup(disk)
    disk.write((BIG << 20) - 33 * 512, bytes(32 * 512))


def _only_entries(disk: LoopDisk) -> None:
    disk.write(440, bytes(1024 - 440))
    disk.write((BIG << 20) - 512, bytes(512))


def _no_pmbr(disk: LoopDisk) -> None:
    disk.write(440, bytes(72))


@pytest.mark.parametrize(
    "tear",
    [_zero_primary, _zero_backup, _only_pmbr, _only_backup, _only_backup_header, _only_entries, _no_pmbr],
)
def test_cut_within_the_table(make_disk: Make, tmp_path: Path, wanted: dict[str, Any], tear: Any) -> None:
    """sfdisk's writes reach the medium in any order; each half of a table is known by the mark."""
    disk = make_disk(BIG)
    disk.format(kill_after="partition", swap=SWAP)
    tear(disk)
    disk.replug()
    done = disk.format(swap=SWAP)
    assert done.returncode == 0, done.stderr
    assert end_state(disk, tmp_path) == uncut(make_disk, tmp_path, wanted)


def test_mounted_before_the_claim_was_erased(make_disk: Make, tmp_path: Path) -> None:
    """A cut before the last step: the initrd finds the volume by its label and mounts it, then the formatter
    comes."""
    disk = make_disk(300)
    disk.format(kill_after="label")
    disk.replug()
    place = tmp_path / "volume"
    place.mkdir()
    tool("mount", "-o", "subvol=@persist-state", f"{disk.node}p1", place)
    done = disk.format()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "erase"
    (place / "file").write_text("still writable")
    tool("umount", place)
    assert disk.read(0, header.MARK_OFFSET) == bytes(header.MARK_OFFSET)


def test_filesystem_cut_in_the_middle(make_disk: Make, tmp_path: Path, wanted: dict[str, Any]) -> None:
    disk = make_disk(BIG)
    disk.format(kill_after="mkfs", swap=SWAP)
    at = (1 + 192 + 1) << 20
    disk.write(at + (64 << 10), b"\xff" * 4096)
    disk.replug()
    assert disk.format(swap=SWAP).returncode == 0
    assert end_state(disk, tmp_path) == uncut(make_disk, tmp_path, wanted)


def test_lock_is_held_and_respected(make_disk: Make) -> None:
    disk = make_disk(300)
    with open(disk.node, "rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with open(disk.node, "rb") as g, pytest.raises(Exception, match="is locked by another program"):
            blockdev.lock(g.fileno(), disk.node, timeout=0.3)
    assert disk.format().returncode == 0
