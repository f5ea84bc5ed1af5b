# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl migrate: what it shows, and what it does not do."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.boot.facts import gather
from persist.boot.load import Loaded
from persist.cli import migrate
from persist.errors import PersistError
from persist.migrate.records import Records, Run, Stamp
from persist.record import replace

from .test_migration_records import RUN, STAMP

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the store is root's")
DONE = replace(STAMP, id="a", path="/srv/data", snapshot="migration-x")
REGISTRY = "[Path]\nPath=/srv/data\nMethod=bind\n" + "".join(
    f"[Migration]\nId={id}\nPath=/srv/data\nExec=/bin/true\n" for id in ("a", "b", "c")
)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    for part in (".persist", ".persist/migrations"):
        (tmp_path / part).mkdir(mode=0o700)
    with Records(str(tmp_path)) as found:
        yield found


def _loaded(top: Path) -> Loaded:
    (top / "usr/lib/persist.d").mkdir(parents=True)
    (top / "usr/lib/persist.d/t.conf").write_text(REGISTRY)
    facts = gather(str(top), {"SYSTEMD_PROC_CMDLINE": ""})
    facts.enabled = True
    return Loaded(str(top), facts, {})


def _write(records: Records, *found: Stamp | Run) -> None:
    for record in found:
        records.write(record)


def test_list(records: Records, tmp_path: Path) -> None:
    loaded = _loaded(tmp_path / "root")
    _write(
        records,
        replace(STAMP, id="a", path="/srv/data", how="seeded"),
        replace(RUN, id="b", state="failed", why="it ended with status 7"),
        replace(STAMP, id="z", path="/srv/z", image="9"),
        replace(RUN, id="y", path="/srv/y", entry="/srv/y", cuts=1),
    )
    rows = migrate._rows(loaded, records)
    assert [(r["id"], r["path"], r["state"], r["image"], r["source"]) for r in rows] == [
        ("a", "/srv/data", "seeded", "12", "/usr/lib/persist.d/t.conf:5"),
        ("b", "/srv/data", "failed", "", "/usr/lib/persist.d/t.conf:9"),
        ("c", "/srv/data", "due", "", "/usr/lib/persist.d/t.conf:13"),
        ("z", "/srv/z", "done", "9", "another image"),
        ("y", "/srv/y", "due", "", "another image"),
    ]
    assert rows[1]["reason"] == "it ended with status 7" and rows[4]["reason"] == "it was cut"


def test_list_while_one_runs(records: Records, tmp_path: Path) -> None:
    loaded = _loaded(tmp_path / "root")
    records.write(RUN)
    with Records(str(tmp_path)) as other:
        other.lock()
        assert migrate._rows(loaded, records)[0]["state"] == "running"
        with pytest.raises(PersistError, match="is running"):
            migrate.retry("a", records)


def test_list_of_what_cannot_be_read(records: Records, tmp_path: Path) -> None:
    loaded = _loaded(tmp_path / "root")
    (tmp_path / ".persist/migrations/a").write_text("{}")
    row = migrate._rows(loaded, records)[0]
    assert row["state"] == "unknown" and "no record of a migration" in row["reason"]


@pytest.mark.parametrize("snapshot", ["migration-x", ""])
def test_retry(records: Records, snapshot: str) -> None:
    failed = replace(RUN, state="failed", why="x", cuts=3, snapshot=snapshot)
    records.write(failed)
    assert "runs at the next boot" in migrate.retry("a", records)
    assert records.run("a") == replace(failed, state="due", why="", cuts=0, snapshot="")


def test_retry_of_one_that_was_cut_without_a_way_back(records: Records) -> None:
    records.write(replace(RUN, snapshot=""))
    migrate.retry("a", records)
    found = records.run("a")
    assert found is not None and found.state == "due"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "has not failed"),
        (replace(STAMP, id="a"), "is done"),
        (replace(RUN, state="due"), "runs at the next boot anyway"),
        (RUN, "its data are restored"),
    ],
)
def test_nothing_to_retry(records: Records, found: Stamp | Run | None, said: str) -> None:
    _write(records, *([found] if found is not None else []))
    with pytest.raises(PersistError, match=said):
        migrate.retry("a", records)
    assert records.run("a") == (found if isinstance(found, Run) else None)


def test_retry_takes_a_rollback_back(records: Records) -> None:
    _write(records, DONE, replace(RUN, state="back"))
    assert "not rolled back" in migrate.retry("a", records)
    assert records.run("a") is None and records.has("a")


def test_retry_of_what_is_held(records: Records) -> None:
    _write(records, replace(RUN, state="held", snapshot="", before="", why="x"))
    migrate.retry("a", records)
    assert records.run("a") == replace(RUN, state="due", snapshot="", before="")


def _back(id: str, records: Records, loaded: Loaded, *, there: bool = True) -> Run:
    return migrate.rollback(id, records, loaded, lambda name: there)


def test_rollback(records: Records, tmp_path: Path) -> None:
    loaded = _loaded(tmp_path / "root")
    _write(records, DONE, replace(DONE, id="b", path="/srv", time="2025-01-01T00:00:00Z"))
    assert _back("a", records, loaded) == replace(
        RUN, state="back", old="", new="12", before="", file="/usr/lib/persist.d/t.conf"
    )
    assert records.run("a") is None, "nothing is written before somebody has agreed"
    _write(records, replace(RUN, id="c", state="failed", before="migration-first", why="x"))
    found = _back("c", records, loaded)
    assert (found.state, found.snapshot, found.before) == ("back", "migration-first", "")


@pytest.mark.parametrize(
    ("found", "there", "said"),
    [
        ([], True, "was not done"),
        ([replace(DONE, snapshot="")], True, "no way back"),
        ([replace(DONE, how="seeded", snapshot="")], True, "no way back"),
        ([replace(RUN, snapshot="", before="", state="failed")], True, "no way back"),
        ([DONE], False, "is gone"),
        (
            [DONE, replace(DONE, id="z", path="/srv")],
            True,
            "z was done to what is above /srv/data since",
        ),
    ],
)
def test_no_rollback(
    records: Records, tmp_path: Path, found: list[Stamp | Run], there: bool, said: str
) -> None:
    _write(records, *found)
    with pytest.raises(PersistError, match=said):
        _back("a", records, _loaded(tmp_path / "root"), there=there)


def test_no_rollback_of_what_this_image_does_not_know(records: Records, tmp_path: Path) -> None:
    records.write(replace(DONE, id="z"))
    with pytest.raises(PersistError, match="does not know"):
        _back("z", records, _loaded(tmp_path / "root"))


def test_without_a_volume(tmp_path: Path) -> None:
    with pytest.raises(PersistError, match="No state volume"):
        migrate.run(argparse.Namespace(action="retry", id="a", json=False), str(tmp_path / "none"))


def test_json(records: Records, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(replace(RUN, state="failed", why="x"))
    assert migrate.run(argparse.Namespace(action="retry", id="a", json=True), str(tmp_path)) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "a"
