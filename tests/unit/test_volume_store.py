# SPDX-License-Identifier: LGPL-2.1-or-later
"""The record on the volume, which is data and not a friend, and the records below /run."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from persist.boot.config import Config
from persist.entries import bind
from persist.errors import PersistError
from persist.services import volume as volume_service
from persist.system import mountinfo
from persist.system.mountinfo import Mount
from persist.volume import outcome, root_kept
from persist.volume.find import around, search
from persist.volume.find.decision import Found, Known, Missing
from persist.volume.mount import find_and_mount, native, strange
from persist.volume.ondisk import store
from persist.volume.outcome import Outcome


def test_directories(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        store.make(str(tmp_path))
        store.make(str(tmp_path))
    finally:
        os.umask(old)
    top = tmp_path / ".persist"
    assert {p.name for p in top.iterdir()} == {"overlay", "seed", "tmp", "migrations"}
    assert {stat.S_IMODE(p.stat().st_mode) for p in (top, *top.iterdir())} == {0o700}


def test_an_immutable_store_that_is_as_it_should_be_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.make(str(tmp_path))

    def refused(*args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refused)
    store.make(str(tmp_path))


@pytest.mark.parametrize(
    ("number", "lost"),
    [(errno.EPERM, False), (errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EIO, True)],
)
def test_a_volume_that_takes_no_store_is_a_volume(
    number: int, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands against writing is said later, with what to do."""

    def make(path: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store, "make", make)
    mount = Mount(2, 1, "8:1", "/", "/there", "rw", "ext4", "/dev/vdb1", "rw")
    undone: list[object] = []
    monkeypatch.setattr(native, "mount_native", lambda *args, **keys: mount)
    monkeypatch.setattr(strange, "check", lambda *args: None)
    monkeypatch.setattr(find_and_mount, "run", lambda *args: undone.append(args))
    with pytest.raises(OSError) if lost else contextlib.nullcontext():
        assert find_and_mount._mount(Found("/dev/vdb1", "u", (), ()), None, Config()) == mount
    assert bool(undone) == lost


def test_a_strange_volume_that_was_put_down_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that binds on a writable root are held read-only."""

    def check(*args: str) -> None:
        raise PersistError("others may write it", message_id="VOLUME_STRANGE", PERSIST_REASON="strange-store")

    monkeypatch.setattr(strange, "check", check)
    monkeypatch.setattr(strange, "run", lambda *args: "")
    for known in ("", "11111111-2222-4333-8444-555555555555"):
        result = Outcome(kind="btrfs")
        strange.put_down(result, Known(known=known))
        assert (result.kind, result.expected) == ("none", bool(known))


@pytest.mark.parametrize("expected", [True, False])
def test_binds_are_held_where_the_unexpected_cost_the_volume(
    expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[object] = []

    def hold(loaded: object) -> list[PersistError]:
        held.append(loaded)
        return []

    monkeypatch.setattr(mountinfo, "at", lambda path: None)
    monkeypatch.setattr(root_kept, "look", lambda: root_kept.Root("/", False, ""))
    monkeypatch.setattr(volume_service, "load", lambda *args: "loaded")
    monkeypatch.setattr(bind, "hold_stale", hold)
    result = Outcome(expected=expected)
    volume_service._rescue(result, OSError(errno.EIO, "Input/output error"))
    assert held == (["loaded"] if expected else []) and result.kind == "none"


def test_a_hint_that_cannot_be_made_does_not_cost_the_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    missing_one = Missing("None is here.", "")

    def gather(config: Config) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(around, "gather", gather)
    monkeypatch.setattr(search, "_once", lambda config, told: (missing_one, None))
    assert search.search(Config(), Known(), 0.0) == (missing_one, None)


def test_record(tmp_path: Path) -> None:
    store.make(str(tmp_path))
    record = store.record("u", ["m"], ["s"])
    store.write_record(str(tmp_path), record)
    assert (
        store.read_record(str(tmp_path))
        == record
        == {"version": 1, "layout": 1, "uuid": "u", "members": ["m"], "swap": ["s"]}
    )
    assert os.listdir(tmp_path / ".persist").count("volume.json.tmp") == 0


def test_no_record(tmp_path: Path) -> None:
    assert store.read_record(str(tmp_path)) == {}
    store.make(str(tmp_path))
    assert store.read_record(str(tmp_path)) == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "\udcff", "x" * 100000, pytest.param("[" * 60000, id="deep")]
)
def test_bad_record(tmp_path: Path, text: str) -> None:
    store.make(str(tmp_path))
    (tmp_path / ".persist/volume.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert store.read_record(str(tmp_path)) == {}


def test_links_are_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    store.make(str(other))
    store.write_record(str(other), store.record("u", [], ["s"]))
    one = tmp_path / "one"
    one.mkdir()
    store.make(str(one))
    (one / ".persist/volume.json").symlink_to(other / ".persist/volume.json")
    assert store.read_record(str(one)) == {}
    with pytest.raises(PersistError, match="symbolic link"):
        store.check(str(one))
    two = tmp_path / "two"
    two.mkdir()
    (two / ".persist").symlink_to(other / ".persist")
    assert store.read_record(str(two)) == {}
    for use in (store.check, store.make):
        with pytest.raises(PersistError, match="symbolic link"):
            use(str(two))


def test_no_fifo_stops_us(tmp_path: Path) -> None:
    store.make(str(tmp_path))
    os.mkfifo(tmp_path / ".persist/volume.json")
    assert store.read_record(str(tmp_path)) == {}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = {
        "RECORD": "/volume.json",
        "BEFORE": "/volume.json.before",
        "MOUNT_ENTRIES": "/mount-entries",
        "PERSISTENT": "/persistent",
        "FORMATTED": "/formatted",
    }
    for name, value in names.items():
        monkeypatch.setattr(outcome, name, f"{tmp_path}{value}")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("btrfs", {"mount-entries", "persistent"}),
        ("native", {"mount-entries", "persistent"}),
        ("tmpfs", {"mount-entries"}),
        ("root", {"persistent"}),
        ("none", set()),
    ],
)
def test_outcome(run: Path, kind: outcome.Kind, flags: set[str]) -> None:
    for flag in ("mount-entries", "persistent"):
        (run / flag).touch()
    written = Outcome(kind=kind, device="/dev/x", reason="r", message="m")
    outcome.write(written)
    assert {p.name for p in run.iterdir()} == flags | {"volume.json"}
    found = json.loads((run / "volume.json").read_text())
    assert found["version"] == 1
    assert list(found)[1:] == [
        "kind",
        "device",
        "uuid",
        "reason",
        "message",
        "hint",
        "read_only",
        "from_initrd",
        "root",
        "root_read_only",
        "root_memory",
        "memory",
        "expected",
        "degraded",
        "read_only_below",
        "rescue",
        "others",
        "time",
    ]
    assert outcome.read() == written


@pytest.mark.parametrize(
    "kept",
    [
        {"kind": "root", "root_memory": "a tmpfs"},
        {"kind": "root", "root_read_only": True},
        {"kind": "btrfs", "memory": "on zram0"},
    ],
)
def test_memory_is_not_called_persistent(run: Path, kept: dict[str, Any]) -> None:
    """Entries with Required= assert that what they write stays."""
    outcome.write(Outcome(**kept))
    assert not (run / "persistent").exists()


def test_nothing_is_mounted_over_a_volume_that_takes_no_writes(run: Path) -> None:
    for kind in ("btrfs", "root"):
        outcome.write(Outcome(kind="btrfs"))
        outcome.write(Outcome(kind=kind, read_only=True))
        assert {p.name for p in run.iterdir()} == {"volume.json"}


@pytest.mark.parametrize("fails", ["mount-entries", "persistent", "volume.json"])
@pytest.mark.parametrize("earlier", [False, True])
def test_no_record_of_success_before_it_is_one(
    run: Path, monkeypatch: pytest.MonkeyPatch, fails: str, earlier: bool
) -> None:
    """Whichever of the writes fails, nothing says that the volume is there with all that comes with it; also
    where an earlier run had said so."""
    if earlier:
        outcome.write(Outcome(kind="btrfs", device="/dev/x"))
        (run / "mount-entries").unlink()
    replaced = os.replace

    def replace(source: str, target: str) -> None:
        if target.endswith(fails):
            raise OSError(28, "No space left on device")
        replaced(source, target)

    outcome.begin()
    monkeypatch.setattr(os, "replace", replace)
    (run / "persistent").unlink(missing_ok=True)
    with pytest.raises(OSError):
        outcome.write(Outcome(kind="btrfs", device="/dev/x"))
    assert not (run / "volume.json").exists()
    assert (outcome.read() is not None) == earlier, "what an earlier run saw is still there for the next one"
    monkeypatch.undo()


@pytest.mark.parametrize("text", ["", "null", "{}", '{"version": 1, "strange": 2}'])
def test_outcome_that_is_not_ours(run: Path, text: str) -> None:
    assert outcome.read() is None
    (run / "volume.json").write_text(text)
    assert outcome.read() is None


def test_formatted(run: Path) -> None:
    assert not outcome.formatted()
    outcome.note_formatted("u")
    assert outcome.formatted()
