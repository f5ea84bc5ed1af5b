# SPDX-License-Identifier: LGPL-2.1-or-later
"""The record on the volume, which is data and not a friend."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.volume.ondisk import store


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
