# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the volume knows of migrations, as bytes; and where their data are on it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.migrate import restore
from persist.migrate.records import Records, Run, Stamp, is_id, overlap
from persist.record import replace

STAMP = Stamp("a.b-2", "/srv/ü", ("a.service",), "refuse", "12", "run", "/f.conf", "", "2026-01-01T00:00:00Z")
RUN = Run(
    "a",
    "/srv/data",
    "/srv/data",
    "bind",
    "before-services",
    "running",
    "migration-x",
    "1",
    "2",
    "/usr/lib/persist.d/t.conf",
    "migration-x",
)
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the store is root's")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    for part in (".persist", ".persist/migrations"):
        (tmp_path / part).mkdir(mode=0o700)
    return tmp_path


def test_there_and_back(volume: Path) -> None:
    with Records(str(volume)) as records:
        assert not records.has(STAMP.id) and records.stamp(STAMP.id) is None and records.run("a") is None
        records.write(STAMP)
        records.write(RUN)
        records.write(replace(RUN, state="failed", why="\udcff", cuts=2))
        assert records.stamp(STAMP.id) == STAMP and records.has(STAMP.id)
        found = records.run("a")
        assert found is not None and (found.state, found.why, found.cuts) == ("failed", "\udcff", 2)
        assert (records.stamped(), records.begun()) == ([STAMP.id], ["a"])
        assert stat.S_IMODE((volume / ".persist/migrations/a:run").stat().st_mode) == 0o600
        records.forget("a")
        records.forget("a")
        records.unstamp(STAMP.id)
        assert (records.stamped(), records.begun()) == ([], [])


def test_a_volume_without_a_place(tmp_path: Path) -> None:
    with Records(str(tmp_path)) as records:
        assert not records.there and (records.stamped(), records.begun()) == ([], [])
        assert not records.has("a") and not records.busy()
        with pytest.raises(PersistError, match="no place"):
            records.write(STAMP)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[" * 100000, '{"version": 2}', '{"version": 1}', "\xff", "null"],
)
def test_what_is_no_record(volume: Path, text: str) -> None:
    for name in ("a", "a:run"):
        (volume / ".persist/migrations" / name).write_text(text, encoding="latin-1")
    with Records(str(volume)) as records:
        assert records.has("a"), "a stamp of a later persist counts"
        for read in (records.stamp, records.run):
            with pytest.raises(PersistError, match="no record of a migration"):
                read("a")


@pytest.mark.parametrize("change", [{"id": "b"}, {"state": "gone"}, {"cuts": True}, {"snapshot": None}])
def test_a_run_that_contradicts_itself(volume: Path, change: dict[str, object]) -> None:
    with Records(str(volume)) as records:
        records.write(RUN)
        file = volume / ".persist/migrations/a:run"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(PersistError, match="no record of a migration"):
            records.run("a")


def test_links_and_names_of_others(volume: Path) -> None:
    at = volume / ".persist/migrations"
    (at / "a").symlink_to("/etc/passwd")
    (at / "Upper").touch()
    (at / ".x").touch()
    (at / "b:new").touch()
    (at / "UP:run").touch()
    with Records(str(volume)) as records:
        assert (records.stamped(), records.begun()) == (["a"], [])
        with pytest.raises(PersistError, match="symbolic link"):
            records.has("a")
    at.chmod(0o777)
    with pytest.raises(PersistError, match="others than root"):
        Records(str(volume))


def test_snapshots_that_are_needed(volume: Path) -> None:
    with Records(str(volume)) as records:
        records.write(RUN)
        records.write(replace(RUN, id="b", snapshot="", before="migration-y"))
        (volume / ".persist/migrations/c:run").touch()
        assert records.snapshots() - {""} == {"migration-x", "migration-y"}


def test_one_at_a_time(volume: Path) -> None:
    with Records(str(volume)) as one, Records(str(volume)) as other:
        assert not one.busy() and not other.busy()
        one.lock()
        assert other.busy()


@pytest.mark.parametrize("name", ["a", "0", "a.b", "a-b_c", "x" * 64])
def test_ids(name: str) -> None:
    assert is_id(name)


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "_a", "A", "a:run", "a:new", "a/b", "ü"])
def test_no_ids(name: str) -> None:
    assert not is_id(name)


@pytest.mark.parametrize(
    ("one", "other", "yes"),
    [
        ("/a", "/a", True),
        ("/a", "/a/b", True),
        ("/a/b", "/a", True),
        ("/a", "/ab", False),
        ("/a/b", "/a/c", False),
    ],
)
def test_overlaps(one: str, other: str, yes: bool) -> None:
    assert overlap(one, other) is yes


@pytest.mark.parametrize(
    ("method", "entry", "path", "place"),
    [
        ("bind", "/srv/data", "/srv/data", ("srv", "data")),
        ("symlink", "/srv/data", "/srv/data/x", ("srv/data", "x")),
        ("bind", "/top", "/top", ("", "top")),
        ("bind", "/srv/a..b", "/srv/a..b", ("srv", "a..b")),
        ("overlay", "/srv/my-data", "/srv/my-data", (".persist/overlay/srv-my\\x2ddata", "upper")),
        ("overlay", "/var", "/var/lib/x", (".persist/overlay/var/upper/lib", "x")),
    ],
)
def test_places(method: str, entry: str, path: str, place: tuple[str, str]) -> None:
    assert restore.place(replace(RUN, method=method, entry=entry, path=path)) == place


@pytest.mark.parametrize(
    ("method", "entry", "path"),
    [
        ("bind", "/srv", "/srv2"),
        ("bind", "", "/srv"),
        ("bind", "/srv", "/srv/../etc"),
        ("bind", "/.persist", "/.persist/seed"),
        ("image", "/srv", "/srv/x"),
        ("bind", "/", "/"),
        ("", "/srv", "/srv"),
    ],
)
def test_no_places(method: str, entry: str, path: str) -> None:
    with pytest.raises(PersistError, match="has no place"):
        restore.place(replace(RUN, method=method, entry=entry, path=path))
