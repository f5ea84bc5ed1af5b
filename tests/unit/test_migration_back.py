# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a boot makes of runs that were cut, failed, or are to be rolled back: on plain directories, of which
one is the volume and the others its snapshots."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from persist.migrate.at_boot import AtBoot
from persist.migrate.records import Records, Run, Stamp
from persist.migrate.restore import Places
from persist.migrate.steps import RESTORE
from persist.note import Note
from persist.record import replace
from persist.system.safepath import Dir

from .test_migration_records import RUN, STAMP
from .test_seed_cuts import killed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the store is root's")
OLD, NEW = {"f": "old", "gone/g": "old"}, {"f": "new", "added": "new"}
DONE = replace(STAMP, id="a", path="/srv/data", snapshot="migration-x")
BACK = replace(RUN, state="back")


def _quiet(text: str, wait: float = 0) -> None:
    pass


class Scene:
    """A volume with old data and a snapshot of it, and then new data."""

    def __init__(self, top: Path) -> None:
        self.volume, self.snapshots, self.said = top / "volume", top / "snapshots", list[Note]()
        for part in ("", ".persist", ".persist/migrations", ".persist/tmp"):
            (self.volume / part).mkdir(mode=0o700)
        self.data = self.volume / "srv/data"
        self.put(OLD)
        self.snapshots.mkdir()
        self.snapshot("migration-x")
        shutil.rmtree(self.data)
        self.put(NEW)

    def put(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.data / name).parent.mkdir(parents=True, exist_ok=True)
            (self.data / name).write_text(text)

    def snapshot(self, name: str) -> None:
        shutil.copytree(self.volume, self.snapshots / name)

    def write(self, *found: Stamp | Run) -> None:
        with Records(str(self.volume)) as records:
            for record in found:
                records.write(record)

    def boot(self, known: tuple[str, ...] = ("a",)) -> None:
        places = Places(str(self.volume), lambda name: Dir.at(str(self.snapshots / name)))
        with Records(str(self.volume)) as records:
            one = AtBoot(records, known, self.said.append, _quiet, places)
            one.each(records.begun(), one.go_on)

    def run(self) -> Run | None:
        with Records(str(self.volume)) as records:
            return records.run("a")

    def stamped(self) -> list[str]:
        with Records(str(self.volume)) as records:
            return records.stamped()

    def tree(self, at: Path | None = None) -> dict[str, str]:
        top = at or self.data
        return {str(p.relative_to(top)): p.read_text() for p in sorted(top.rglob("*")) if p.is_file()}

    def replaced(self) -> list[dict[str, str]]:
        """What was kept of what was there, but for copies of the old data that a cut has left."""
        top = self.volume / ".persist/replaced"
        every = [self.tree(p) for p in sorted(top.iterdir())] if top.exists() else []
        return [each for each in every if each != OLD]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_one_that_was_cut_gets_a_snapshot_of_its_own(scene: Scene) -> None:
    """What is written until it runs is not for it to take away."""
    scene.write(RUN)
    scene.boot()
    assert scene.tree() == OLD and scene.replaced() == []
    assert scene.run() == replace(RUN, state="due", cuts=1, snapshot="", before="")
    scene.put({"f": "newer"})
    for known in (("a",), ()):
        scene.boot(known)
        assert scene.tree() == {**OLD, "f": "newer"}
    assert scene.run() is None, "an image that does not know it has nothing to undo"


def test_a_second_attempt_that_was_cut_goes_back_to_where_it_began(scene: Scene) -> None:
    scene.snapshot("migration-y")
    scene.put({"f": "half"})
    scene.write(replace(RUN, snapshot="migration-y"))
    scene.boot()
    assert scene.tree() == NEW
    assert scene.run() == replace(RUN, state="due", cuts=1, snapshot="", before="migration-x")


def test_the_third_cut(scene: Scene) -> None:
    scene.write(replace(RUN, cuts=2))
    scene.boot()
    found = scene.run()
    assert scene.tree() == OLD and found is not None
    assert (found.state, found.cuts, found.before) == ("failed", 3, "migration-x")


@pytest.mark.parametrize("state", ["running", "failed", "due"])
def test_an_image_that_does_not_know_it_has_the_old_data(scene: Scene, state: str) -> None:
    """They are half migrated, and nobody keeps its services down. What it writes then stays."""
    scene.write(replace(RUN, state=state))
    scene.boot(())
    assert scene.tree() == OLD and scene.run() is None
    assert scene.replaced() == [NEW], "for whoever looks into what went wrong"
    scene.put({"f": "newer"})
    scene.boot(())
    assert scene.tree() == {**OLD, "f": "newer"}


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(replace(RUN, state="failed", file="/etc/persist.d/x.conf"), id="etc"),
        pytest.param(replace(RUN, state="failed", file="/usr/local/lib/persist.d/x.conf"), id="local"),
        pytest.param(replace(RUN, state="failed", snapshot="", before=""), id="no way back"),
        pytest.param(replace(RUN, state="failed", when="after-services", snapshot="", before=""), id="after"),
    ],
)
def test_what_an_image_that_does_not_know_it_leaves(scene: Scene, run: Run) -> None:
    """/etc is not there yet when this is looked at."""
    scene.write(run)
    scene.boot(())
    assert scene.tree() == NEW and scene.run() == run


def test_failed_ones_are_left_alone(scene: Scene) -> None:
    run = replace(RUN, state="failed")
    scene.write(run)
    scene.boot()
    assert scene.tree() == NEW and scene.run() == run and scene.said == []


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("known", [("a",), ()])
def test_rolled_back(scene: Scene, done: bool, known: tuple[str, ...]) -> None:
    scene.write(*([DONE] if done else []), BACK, replace(DONE, id="b", path="/srv/data/added"))
    scene.write(replace(DONE, id="c", path="/srv"), replace(DONE, id="d", path="/srv/other"))
    scene.boot(known)
    assert scene.tree() == OLD and scene.replaced() == [NEW]
    assert scene.run() == replace(BACK, state="held", snapshot="", before="", why="it was rolled back")
    assert scene.stamped() == ["c", "d"], "what was done to it since is gone, too"
    assert [n.message_id for n in scene.said] == ["MIGRATION_RESTORED"] and "replaced" in scene.said[
        0
    ].message
    scene.put({"f": "newer"})
    for again in ((), ("a",)):
        scene.boot(again)
        assert scene.tree() == {**OLD, "f": "newer"}
    found = scene.run()
    assert found is not None and found.state == "held", "until somebody says so"


def test_a_stamp_that_the_snapshot_has_stays(scene: Scene) -> None:
    scene.write(replace(DONE, id="b"))
    shutil.rmtree(scene.snapshots)
    scene.snapshots.mkdir()
    scene.snapshot("migration-x")
    scene.write(DONE, BACK)
    scene.boot()
    assert scene.stamped() == ["b"]


def _after(step: str, work: Callable[[], None]) -> bool:
    return killed(work, step)


@pytest.mark.parametrize("step", RESTORE)
def test_a_cut_while_it_is_rolled_back_loses_nothing(scene: Scene, step: str) -> None:
    scene.write(DONE, BACK)
    assert _after(step, scene.boot)
    scene.boot()
    found = scene.run()
    assert scene.tree() == OLD and found is not None and found.state == "held"
    assert scene.stamped() == [] and scene.replaced() == [NEW]


@pytest.mark.parametrize("step", RESTORE)
def test_a_cut_while_it_is_put_back(scene: Scene, step: str) -> None:
    scene.write(RUN)
    assert _after(step, scene.boot)
    scene.boot()
    assert scene.tree() == OLD and os.listdir(scene.volume / ".persist/tmp") == []
    found = scene.run()
    assert found is not None and found.state == "due"


@pytest.mark.parametrize("there", [True, False])
def test_what_the_snapshot_does_not_have(scene: Scene, there: bool) -> None:
    shutil.rmtree(scene.snapshots / "migration-x/srv" / ("data" if there else ""))
    scene.write(DONE, BACK)
    scene.boot()
    assert not scene.data.exists() and scene.replaced() == [NEW]


def test_what_is_not_there_any_more(scene: Scene) -> None:
    shutil.rmtree(scene.data)
    scene.write(DONE, BACK)
    scene.boot()
    assert scene.tree() == OLD and scene.replaced() == []
    shutil.rmtree(scene.volume / "srv")
    scene.write(BACK)
    scene.boot()
    assert scene.run() == BACK and scene.said[-1].message_id == "MIGRATION_FAILED"


def test_a_stamp_beside_a_run(scene: Scene) -> None:
    """The cut came between the two."""
    (scene.volume / ".persist/tmp/migration:a").mkdir()
    scene.write(DONE, RUN)
    scene.boot()
    assert scene.tree() == NEW and scene.run() is None and scene.stamped() == ["a"]
    assert os.listdir(scene.volume / ".persist/tmp") == []
