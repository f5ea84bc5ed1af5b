# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl volume on real disks."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.cli import volume as verb
from persist.errors import PersistError, Refusal
from persist.volume import heal_lock, live, manage, outcome, store

from .conftest import Make
from .rig import LoopDisk
from .volumes import Volume, unmounted

MIB = 320


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a volume is mounted; not any more when the test ends. /run is left alone."""
    monkeypatch.setattr(heal_lock, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(outcome, "HEAL", str(tmp_path / "heal"))
    with unmounted(str(tmp_path / "volume")):
        yield tmp_path


def quiet(text: str) -> None:
    """Nobody listens."""


def add(v: Volume, disk: LoopDisk) -> None:
    """Add a disk as the command does."""
    v.disks.append(disk)
    manage.add(disk.node, quiet, path=v.at, config=v.config)


def test_from_one_disk_to_three_and_back(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b"")])
    v.up()
    v.write("text", "kept")
    add(v, make_disk(MIB, b""))
    assert v.profiles() == {"data raid1", "metadata raid1", "system raid1"} and len(store.read_record(v.at)["members"]) == 2
    assert outcome.take_heal(), "the verdict is made anew by persist-heal.service"
    add(v, make_disk(MIB, b""))
    assert v.profiles() == {"data raid1", "metadata raid1c3", "system raid1c3"}
    done = manage.remove(v.disks[1].node, quiet, path=v.at)
    assert "no longer a member" in done["message"]
    assert v.profiles() == {"data raid1", "metadata raid1", "system raid1"} and len(store.read_record(v.at)["members"]) == 2
    manage.remove(v.data(v.disks[0]), quiet, path=v.at)
    assert v.profiles() == {"data single", "metadata dup", "system dup"} and len(store.read_record(v.at)["members"]) == 1
    assert v.read("text") == "kept" and [m.state for m in live.members(v.at)] == ["ok"]
    with pytest.raises(Refusal, match="only disk"):
        manage.remove(v.disks[2].node, quiet, path=v.at)
    v.down()
    v.up(v.disks[2])
    assert v.read("text") == "kept"


def test_add_refuses_a_disk_that_is_not_blank(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b"")])
    v.up()
    other = make_disk(MIB, b"")
    other.write(4096, b"somebody's")
    with pytest.raises(Refusal) as caught:
        add(v, other)
    assert caught.value.code == "not-blank" and other.read(4096, 10) == b"somebody's" and len(live.members(v.at)) == 1


def test_missing_one_is_given_up(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.pull(v.disks[1])
    v.up()
    v.write("text", "kept")
    with pytest.raises(Refusal, match="missing"):
        manage.remove(v.disks[0].node, quiet, path=v.at)
    done = manage.remove("missing", quiet, path=v.at)
    assert "given up" in done["message"] and v.profiles() == {"data single", "metadata dup", "system dup"}
    v.down()
    v.back(v.disks[1])
    assembly = v.up()
    assert not assembly.degraded and [m.node for m in assembly.stale] == [v.data(v.disks[1])] and v.read("text") == "kept"


def test_no_room(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")], "single")
    v.up()
    Path(f"{v.at}/big").write_bytes(os.urandom(300 << 20))
    os.sync()
    with pytest.raises(Refusal, match="no room"):
        manage.remove(v.disks[0].node, quiet, path=v.at)


def test_which(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    with pytest.raises(Refusal, match="No disk of the state volume is missing"):
        manage.remove("missing", quiet, path=v.at)
    with pytest.raises(Refusal, match="not a disk of the state volume"):
        manage.remove(make_disk(64, b"").node, quiet, path=v.at)
    with pytest.raises(PersistError, match="no state volume"):
        manage.describe(str(place))


def test_show_scrub_and_grow(place: Path, make_disk: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    found = manage.describe(v.at)
    assert [m["state"] for m in found["members"]] == ["ok", "ok"] and found["profiles"] == {"data": ["raid1"], "metadata": ["raid1"]}
    assert found["operation"] == "none" and found["reasons"] == [] and found["layout"] == "auto" and found["scrub"]
    monkeypatch.setattr(manage, "describe", lambda: found)
    parser = argparse.ArgumentParser()
    verb.add(parser.add_subparsers())
    arguments = parser.parse_args(["volume", "show"])
    assert arguments.run(arguments) == 0
    text = capsys.readouterr().out
    assert v.data(v.disks[1]) in text and "raid1" in text and "GENERATION" in text
    arguments = parser.parse_args(["volume", "show", "--json"])
    assert arguments.run(arguments) == 0 and json.loads(capsys.readouterr().out)["uuid"] == v.uuid
    assert manage.scrub(quiet, v.at)["message"] == "All data was read and is good."
    assert "finished" in manage.scrub_status(v.at)["message"]
    assert "used to the end" in manage.grow(v.at)["message"]
