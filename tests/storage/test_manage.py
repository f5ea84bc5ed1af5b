# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl volume on real disks."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from persist.cli import volume as verb
from persist.errors import PersistError, Refusal
from persist.note import Note
from persist.system import blockdev, btrfs
from persist.system.lock import held
from persist.volume import outcome
from persist.volume.format import format_lock, joining
from persist.volume.heal import by_hand, health, lock, recorded
from persist.volume.members import in_kernel
from persist.volume.ondisk import store
from persist.volume.space import reserve

from .conftest import Make
from .rig import LoopDisk
from .volumes import Volume, unmounted

MIB = 320


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a volume is mounted; not any more when the test ends. /run is left alone."""
    monkeypatch.setattr(lock, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(outcome, "HEAL", str(tmp_path / "heal"))
    with unmounted(str(tmp_path / "volume")):
        yield tmp_path


def quiet(note: Note) -> None:
    """Nobody listens."""


def add(v: Volume, disk: LoopDisk) -> None:
    """Add a disk as the command does."""
    v.disks.append(disk)
    by_hand.add(disk.node, quiet, path=v.at, config=v.config)


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
    done = by_hand.remove(v.disks[1].node, quiet, path=v.at)
    assert "no longer a member" in done["message"]
    assert (
        v.profiles() == {"data raid1", "metadata raid1", "system raid1"}
        and len(store.read_record(v.at)["members"]) == 2
    )
    by_hand.remove(v.data(v.disks[0]), quiet, path=v.at)
    assert (
        v.profiles() == {"data single", "metadata dup", "system dup"}
        and len(store.read_record(v.at)["members"]) == 1
    )
    assert v.read("text") == "kept" and [m.state for m in in_kernel.members(v.at)] == ["ok"]
    with pytest.raises(Refusal, match="only disk"):
        by_hand.remove(v.disks[2].node, quiet, path=v.at)
    v.down()
    v.up(v.disks[2])
    assert v.read("text") == "kept"


def test_add_and_the_formatter_take_turns(
    place: Path, make_disk: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """udev starts it for the very disk that is being prepared here."""
    v = Volume(place, [make_disk(MIB, b"")])
    v.up()
    free: list[bool] = []
    prepare = joining.prepare

    def looking(*arguments: Any) -> bool:
        with held(format_lock.LOCK, wait=False) as ours:
            free.append(ours)
        return prepare(*arguments)

    monkeypatch.setattr(joining, "prepare", looking)
    add(v, make_disk(MIB, b""))
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
        by_hand.remove(v.disks[0].node, quiet, path=v.at)
    done = by_hand.remove("missing", quiet, path=v.at)
    assert "given up" in done["message"] and v.profiles() == {"data single", "metadata dup", "system dup"}
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
        by_hand.remove(v.disks[0].node, quiet, path=v.at)


def test_which(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    with pytest.raises(Refusal, match="No disk of the state volume is missing"):
        by_hand.remove("missing", quiet, path=v.at)
    with pytest.raises(Refusal, match="not a disk of the state volume"):
        by_hand.remove(make_disk(64, b"").node, quiet, path=v.at)
    with pytest.raises(PersistError, match="no state volume"):
        by_hand.describe(str(place))


def test_show_scrub_and_grow(
    place: Path, make_disk: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    found = by_hand.describe(v.at)
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
    monkeypatch.setattr(by_hand, "describe", lambda: found)
    parser = argparse.ArgumentParser()
    verb.add(parser.add_subparsers())
    arguments = parser.parse_args(["volume", "show"])
    assert arguments.run(arguments) == 0
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
    arguments = parser.parse_args(["volume", "show", "--full"])
    assert arguments.run(arguments) == 0 and "GENERATION" in capsys.readouterr().out
    arguments = parser.parse_args(["volume", "show", "--json"])
    assert arguments.run(arguments) == 0 and json.loads(capsys.readouterr().out)["uuid"] == v.uuid
    assert by_hand.scrub_status(v.at)["message"].startswith("never"), (
        "btrfs(8) itself finds no errors in what nobody has read"
    )
    assert by_hand.scrub(quiet, v.at)["message"] == "All data was read and is good."
    assert "finished" in by_hand.scrub_status(v.at)["message"]
    assert "used to the end" in by_hand.grow(v.at)["message"]


def test_show_names_the_disk_that_is_gone(
    place: Path, make_disk: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the serial number that was noted when it was there; and the exit status is that of 'persistctl
    status'."""
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    numbers = {d.disk.sys_path: f"S3R1AL-{i}" for i, d in enumerate(v.disks)}
    monkeypatch.setattr(blockdev.Disk, "serial", property(lambda disk: numbers.get(disk.sys_path, "")))
    recorded.note_serials(v.at)
    assert store.serials(store.read_record(v.at)) == {1: "S3R1AL-0", 2: "S3R1AL-1"}
    v.down()
    v.pull(v.disks[1])
    v.up()
    recorded.note_serials(v.at)
    found = by_hand.describe(v.at)
    assert [(m["devid"], m["state"], m["serial"], m["errors"]) for m in found["members"]] == [
        (1, "ok", "S3R1AL-0", {}),
        (2, "missing", "S3R1AL-1", None),
    ]
    assert "S3R1AL-1" in found["reasons"][0]["message"]
    monkeypatch.setattr(by_hand, "describe", lambda: found)
    parser = argparse.ArgumentParser()
    verb.add(parser.add_subparsers())
    arguments = parser.parse_args(["volume", "show"])
    assert arguments.run(arguments) == 1
    text = capsys.readouterr().out
    assert "\\n" not in text and max(map(len, text.split("\n\n")[1].splitlines())) <= 80
    for reason in found["reasons"]:
        assert f"* {reason['message']}\n  {reason['hint']}\n" in text


def test_what_is_not_known_is_no_number(
    place: Path, make_disk: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that does not tell its error counters has not counted none; nor are there no profiles."""
    v = Volume(place, [make_disk(MIB, b"")])
    v.up()
    monkeypatch.setattr(btrfs, "SYSFS", str(place / "nothing"))
    device = in_kernel.LiveDevice(1, "", v.data(v.disks[0]), MIB << 20, 0, "ok")
    monkeypatch.setattr(in_kernel, "members", lambda path: [device])
    monkeypatch.setattr(health, "examine", lambda uuid, path: [])
    monkeypatch.setattr(reserve, "in_use", lambda path: 0)
    found = by_hand.describe(v.at)
    assert found["members"][0]["errors"] is None and found["operation"] == ""
    monkeypatch.setattr(by_hand, "describe", lambda: found)
    parser = argparse.ArgumentParser()
    verb.add(parser.add_subparsers())
    arguments = parser.parse_args(["volume", "show"])
    assert arguments.run(arguments) == 0
    text = capsys.readouterr().out
    assert (
        "Data: not known; metadata: not known" in text and "Kernel: not known" in text and "none" not in text
    )


def test_grow_prints_a_line_for_each_disk(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_hand, "grow", lambda: {"message": "/dev/a: 1\n/dev/b\x1b: 2"})
    parser = argparse.ArgumentParser()
    verb.add(parser.add_subparsers())
    arguments = parser.parse_args(["volume", "grow"])
    assert arguments.run(arguments) == 0 and capsys.readouterr().out == "/dev/a: 1\n/dev/b\\x1b: 2\n"
