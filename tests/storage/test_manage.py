# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl volume on real disks."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from persist.cli import show
from persist.cli.main import main
from persist.errors import PersistError, Refusal
from persist.note import Note
from persist.system import btrfs
from persist.system.files import held
from persist.volume import outcome
from persist.volume.format import format_lock
from persist.volume.heal import by_hand, recorded
from persist.volume.members import in_kernel
from persist.volume.ondisk import store

from .conftest import Make
from .rig import LoopDisk, serial_number, tool
from .volumes import Volume

MIB = 320


def quiet(note: Note) -> None:
    """Nobody listens."""


def add(v: Volume, disk: LoopDisk) -> None:
    """Add a disk as the command does."""
    v.disks.append(disk)
    by_hand.add(disk.node, quiet, config=v.config)


def test_from_one_disk_to_three_and_back(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b"")])
    v.up()
    v.write("text", "kept")
    add(v, make_disk(MIB, b""))
    assert (
        v.profiles() == {"data raid1", "metadata raid1", "system raid1"}
        and len(store.read_record(v.at)["members"]) == 2
    )
    assert outcome.take_heal(), "the verdict is made anew by persist-heal.service"
    add(v, make_disk(MIB, b""))
    assert v.profiles() == {"data raid1", "metadata raid1c3", "system raid1c3"}
    done = by_hand.remove(v.disks[1].node, quiet)
    assert "no longer a member" in done["message"]
    assert (
        v.profiles() == {"data raid1", "metadata raid1", "system raid1"}
        and len(store.read_record(v.at)["members"]) == 2
    )
    by_hand.remove(v.data(v.disks[0]), quiet)
    assert (
        v.profiles() == {"data single", "metadata dup", "system dup"}
        and len(store.read_record(v.at)["members"]) == 1
    )
    assert v.read("text") == "kept" and [m.state for m in in_kernel.members(v.at)] == ["ok"]
    with pytest.raises(Refusal, match="only disk"):
        by_hand.remove(v.disks[2].node, quiet)
    v.down()
    v.up(v.disks[2])
    assert v.read("text") == "kept"


def test_add_and_the_formatter_take_turns(place: Path, make_disk: Make) -> None:
    """udev starts it for the very disk that is being prepared here."""
    v = Volume(place, [make_disk(MIB, b"")])
    v.up()
    free: list[bool] = []

    def looking(note: Note) -> None:
        if "partition table" in note.message:
            with held(format_lock.LOCK, wait=False) as ours:
                free.append(ours)

    disk = make_disk(MIB, b"")
    v.disks.append(disk)
    by_hand.add(disk.node, looking, config=v.config)
    assert free == [False] and len(store.read_record(v.at)["members"]) == 2
    with held(format_lock.LOCK, wait=False) as ours:
        assert ours
    assert outcome.take_heal()


def test_add_refuses_a_disk_that_is_not_blank(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b"")])
    v.up()
    other = make_disk(MIB, b"")
    other.write(4096, b"somebody's")
    with pytest.raises(Refusal) as caught:
        add(v, other)
    assert (
        caught.value.code == "not-blank"
        and other.read(4096, 10) == b"somebody's"
        and len(in_kernel.members(v.at)) == 1
    )


def test_missing_one_is_given_up(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.pull(v.disks[1])
    v.up()
    v.write("text", "kept")
    with pytest.raises(Refusal, match="missing"):
        by_hand.remove(v.disks[0].node, quiet)
    done = by_hand.remove("missing", quiet)
    assert "no longer a member" in done["message"] and v.profiles() == {
        "data single",
        "metadata dup",
        "system dup",
    }
    v.down()
    v.back(v.disks[1])
    assembly = v.up()
    assert (
        not assembly.degraded
        and [m.node for m in assembly.stale] == [v.data(v.disks[1])]
        and v.read("text") == "kept"
    )


def test_no_room(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")], "single")
    v.up()
    Path(f"{v.at}/big").write_bytes(os.urandom(300 << 20))
    os.sync()
    with pytest.raises(Refusal, match="no room"):
        by_hand.remove(v.disks[0].node, quiet)


def test_which(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    with pytest.raises(Refusal, match="No disk of the state volume is missing"):
        by_hand.remove("missing", quiet)
    with pytest.raises(Refusal, match="not a disk of the state volume"):
        by_hand.remove(make_disk(64, b"").node, quiet)
    with pytest.raises(PersistError, match="no state volume"):
        by_hand.describe(str(place))


def test_show_scrub_and_grow(place: Path, make_disk: Make, capsys: pytest.CaptureFixture[str]) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    found = by_hand.describe()
    assert [m["state"] for m in found["members"]] == ["ok", "ok"] and found["profiles"] == {
        "data": ["raid1"],
        "metadata": ["raid1"],
    }
    assert (
        found["operation"] == "none"
        and found["reasons"] == []
        and found["layout"] == "auto"
        and found["scrub"]
    )
    assert main(["volume", "show"]) == 0
    text = capsys.readouterr().out
    assert (
        v.data(v.disks[1]) in text
        and "raid1" in text
        and "ALLOCATED" in text
        and "as df shows them" in text
        and "\\n" not in text
    )
    assert found["used"] == (os.statvfs(v.at).f_blocks - os.statvfs(v.at).f_bfree) * os.statvfs(v.at).f_frsize
    assert all(m["allocated"] >= found["used"] for m in found["members"])
    assert main(["volume", "show", "--full"]) == 0 and "GENERATION" in capsys.readouterr().out
    assert main(["volume", "show", "--json"]) == 0 and json.loads(capsys.readouterr().out)["uuid"] == v.uuid
    assert by_hand.scrub_status()["message"].startswith("never"), (
        "btrfs(8) itself finds no errors in what nobody has read"
    )
    assert by_hand.scrub(quiet)["message"] == "All data was read, and no errors were found."
    assert "finished" in by_hand.scrub_status()["message"]
    assert "used to the end" in by_hand.grow()["message"]


def test_show_names_the_disk_that_is_gone(
    place: Path, make_disk: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the serial number that was noted when it was there; and the exit status is that of 'persistctl
    status'."""
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    with serial_number(v.disks[0], "S3R1AL-0"), serial_number(v.disks[1], "S3R1AL-1"):
        recorded.note_serials(v.at)
    assert store.serials(store.read_record(v.at)) == {1: "S3R1AL-0", 2: "S3R1AL-1"}
    v.down()
    v.pull(v.disks[1])
    v.up()
    with serial_number(v.disks[0], "S3R1AL-0"):
        recorded.note_serials(v.at)
        found = by_hand.describe()
        assert main(["volume", "show"]) == 1
    assert [(m["devid"], m["state"], m["serial"], m["errors"]) for m in found["members"]] == [
        (1, "ok", "S3R1AL-0", {}),
        (2, "missing", "S3R1AL-1", None),
    ]
    assert "S3R1AL-1" in found["reasons"][0]["message"]
    text = capsys.readouterr().out
    assert "\\n" not in text and max(map(len, text.split("\n\n")[1].splitlines())) <= 80
    for reason in found["reasons"]:
        assert f"* {reason['message']}\n  {reason['hint']}\n" in text


@contextmanager
def not_told(uuid: str, *names: str) -> Iterator[None]:
    """An older kernel, which has none of these attributes of a mounted filesystem."""
    at, without = Path(btrfs.SYSFS) / uuid, Path("/run/without")
    for name in names:
        (without / name).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(without / name, stat.S_IFCHR, 0)  # overlayfs has no such name then
    tool("mount", "-t", "overlay", "-o", f"lowerdir={without}:{at}", "overlay", at)
    try:
        yield
    finally:
        tool("umount", at)


def test_what_is_not_known_is_no_number(
    place: Path, make_disk: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel that does not tell its error counters has not counted none; nor are there no profiles."""
    v = Volume(place, [make_disk(MIB, b"")])
    v.up()
    with not_told(v.uuid, "exclusive_operation", "allocation", "devinfo/1/error_stats"):
        found = by_hand.describe()
        assert found["members"][0]["errors"] is None and found["operation"] == ""
        assert main(["volume", "show"]) == 0
    text = capsys.readouterr().out
    assert (
        "Data: not known; metadata: not known" in text and "Kernel: not known" in text and "none" not in text
    )


def test_grow_prints_a_line_for_each_disk(
    place: Path, make_disk: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    for disk in v.disks:
        os.truncate(disk.file, (MIB + 100) << 20)
        tool("losetup", "--set-capacity", disk.node)
    assert main(["volume", "grow"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [v.data(d) for d in v.disks]
    show.print_lines("/dev/a: 1\n/dev/b\x1b: 2")
    assert capsys.readouterr().out == "/dev/a: 1\n/dev/b\\x1b: 2\n"
