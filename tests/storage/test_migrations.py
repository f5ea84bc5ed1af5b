# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrations on a volume: done once, cut at each step, failed, put back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from persist.boot.paths import MIGRATED, STORES, VOLUME
from persist.cli.migrate import retry, rollback
from persist.migrate import snapshot
from persist.migrate.records import Records
from persist.migrate.steps import RESTORE, RUN
from persist.services import seed

from .migrating import DATA, ENTRY, MIGRATION, NEW, OLD, STORE, World, btrfs, child, snapshots, tree
from .namespace import disk, own_machine, registry, sh

BOTH = [pytest.param(btrfs, id="btrfs"), pytest.param(disk, id="ext4")]


def _stamp(id: str = "one") -> dict[str, object]:
    found: dict[str, object] = json.loads((STORE / id).read_text())
    return found


@own_machine
def test_done_once() -> None:
    btrfs()
    world = World(ENTRY + MIGRATION + "Services=a.service\nDowngrade=allow\n")
    world.old_data()
    world.boot()
    assert world.condition() and world.run() == 0
    assert tree(DATA) == NEW and world.records() == ["one"]
    found = _stamp()
    assert {k: found[k] for k in ("id", "path", "services", "downgrade", "how")} == {
        "id": "one",
        "path": "/srv/data",
        "services": ["a.service"],
        "downgrade": "allow",
        "how": "run",
    }
    assert not world.condition(), "PID 1 skips it from now on"
    assert (
        len(snapshots()) == 1
        and tree(Path("/run/top/@persist-state-snapshots") / snapshots()[0] / "srv/data") == OLD
    )
    world.reboot()
    assert not world.condition() and world.said == []
    sh("rm -r /run/persist/migrations")  # and where the flag is lost, the stamp counts
    assert world.run() == 0 and tree(DATA) == NEW
    assert (
        Path("/run/runs").read_text().startswith("one /srv/data ")
        and Path("/run/runs").read_text().count("\n") == 1
    )


@pytest.mark.parametrize("step", RUN)
@own_machine
def test_cut_after_each_step(step: str) -> None:
    btrfs()
    world = World()
    world.old_data()
    world.boot()
    assert world.run(step=step) == -9
    world.reboot()
    assert tree(DATA) == (NEW if step in ("stamped", "run-done") else OLD)
    assert world.condition() == (step not in ("stamped", "run-done"))
    assert world.run() == 0
    assert tree(DATA) == NEW and world.records() == ["one"] and os.listdir(f"{VOLUME}/.persist/tmp") == []
    world.reboot()
    assert not world.condition() and tree(DATA) == NEW


@pytest.mark.parametrize("step", ["", *RESTORE])
@own_machine
def test_cut_in_the_middle_and_while_it_is_put_back(step: str) -> None:
    btrfs()
    world = World()
    world.old_data()
    world.boot()
    Path("/run/cut").touch()
    assert world.run() == -9 and tree(DATA) == {**OLD, "f": "half\n"}
    if step:
        world.off()
        assert child(lambda: world.boot(step), step) == -9
    world.reboot()
    assert tree(DATA) == OLD, "as before it began"
    assert world.condition() and world.run() == 0
    assert tree(DATA) == NEW and world.records() == ["one"] and os.listdir(f"{VOLUME}/.persist/tmp") == []
    assert len(snapshots()) == 2 and _stamp()["snapshot"] == snapshots()[1], "one for each attempt"


@pytest.mark.parametrize("below", ["", "/deep/er"])
@own_machine
def test_an_overlay_is_put_back_as_its_upper_had_it(below: str) -> None:
    btrfs()
    at = f"/srv/over{below}"
    os.makedirs(at)
    (Path(at) / "image").write_text("image\n")
    (Path(at) / "removed").write_text("image\n")
    sh("mkdir -p /run/persist/private/lower/srv; mount --rbind /srv /run/persist/private/lower/srv")
    world = World(f"[Path]\nPath=/srv/over\n[Migration]\nId=one\nPath={at}\nExec=/run/up\n")
    world.old_overlay("/srv/over", below)
    world.boot()
    os.unlink(f"{at}/removed")
    before = tree(Path(at))
    assert before == {**OLD, "image": "image\n"}
    Path("/run/cut").touch()
    sh("sed -i 's/^echo half.*/&; rm $PERSIST_PATH\\/image; echo back >$PERSIST_PATH\\/removed/' /run/up")
    assert world.run() == -9 and tree(Path(at)) == {**OLD, "f": "half\n", "removed": "back\n"}
    world.reboot()
    assert tree(Path(at)) == before, "whiteouts too"
    assert world.run() == 0
    assert tree(Path(at)) == {**NEW, "removed": "back\n"}


@own_machine
def test_three_cuts_and_it_counts_as_failed() -> None:
    btrfs()
    world = World()
    world.old_data()
    world.boot()
    for _ in range(3):
        Path("/run/cut").touch()
        assert world.run() == -9
        world.reboot()
        assert tree(DATA) == OLD
    assert world.condition() and world.run() == 1 and tree(DATA) == OLD
    assert [n.message_id for n in world.said] == ["MIGRATION_RESTORED"] * 3
    assert Path("/run/runs").read_text().count("\n") == 3


@pytest.mark.parametrize("make", BOTH)
@own_machine
def test_a_failed_one_is_not_repeated_by_itself(make: object) -> None:
    assert callable(make)
    make()
    world = World()
    world.old_data()
    world.boot()
    Path("/run/bad").touch()
    assert world.run() == 1 and world.records() == ["one:run"]
    for _ in range(2):
        os.unlink("/run/bad") if os.path.exists("/run/bad") else None
        world.reboot()
        assert world.condition() and world.run() == 1, "its services stay down"
        assert tree(DATA) == {**OLD, "f": "half\n"}, "nobody touches the data"
    assert Path("/run/runs").read_text().count("\n") == 1
    (DATA / "f").write_text("old\n")
    with Records() as records:
        retry("one", records)
    assert world.run() == 0 and tree(DATA) == NEW and world.records() == ["one"]


@own_machine
def test_cut_after_it_has_failed() -> None:
    btrfs()
    world = World()
    world.old_data()
    world.boot()
    Path("/run/bad").touch()
    assert world.run(step="failed") == -9
    world.reboot()
    assert world.run() == 1 and tree(DATA) == {**OLD, "f": "half\n"}, "not repeated, and not restored"


def _seed(step: str = "") -> int:
    sh(f"rm -f {STORES}/srv-data; touch /run/persist/mount-entries")
    return child(lambda: seed.main("srv-data"), step)


@pytest.mark.parametrize("step", ["placed", "seed-stamped", "manifest", "marker"])
@own_machine
def test_what_is_seeded_is_stamped(step: str) -> None:
    """Once, by the image whose data they are."""
    disk()
    more = (ENTRY + MIGRATION).replace("one", "other").replace("/srv/data", "/srv/other")
    registry(ENTRY + MIGRATION + more)
    sh("mkdir -p /srv/data; echo image >/srv/data/f; mount --bind /srv /run/persist/private/image/srv")
    assert _seed(step) == -9
    assert _seed() == 0
    assert os.listdir(STORE) == ["one"] and _stamp()["how"] == "seeded"
    assert os.listdir(MIGRATED) == ["one"], "so PID 1 does not start it"
    assert tree(Path(f"{VOLUME}/srv/data")) == {"f": "image\n"}


@own_machine
def test_what_is_adopted_is_not() -> None:
    disk()
    registry(ENTRY + MIGRATION)
    sh(f"mkdir -p /srv/data {VOLUME}/srv/data; echo image >/srv/data/f; echo old >{VOLUME}/srv/data/f")
    sh("mount --bind /srv /run/persist/private/image/srv")
    assert _seed() == 0
    assert os.listdir(STORE) == [] and not os.path.exists(MIGRATED)


@own_machine
def test_without_btrfs_it_goes_on_and_a_cut_has_no_way_back() -> None:
    disk()
    world = World()
    world.old_data()
    world.boot()
    Path("/run/cut").touch()
    assert world.run() == -9
    world.reboot()
    assert [n.message_id for n in world.said] == ["MIGRATION_FAILED"] and "no snapshot" in world.said[
        0
    ].message
    assert world.run() == 1 and tree(DATA) == {**OLD, "f": "half\n"}
    (DATA / "f").write_text("old\n")
    os.unlink(STORE / "one:run")
    assert world.run() == 0 and tree(DATA) == NEW


@own_machine
def test_an_image_that_does_not_know_it_puts_it_back_too() -> None:
    btrfs()
    world = World()
    world.old_data()
    world.boot()
    Path("/run/cut").touch()
    assert world.run() == -9
    world.text = ENTRY
    world.reboot()
    assert tree(DATA) == OLD
    world.text = ENTRY + MIGRATION
    world.reboot()
    assert world.run() == 0 and tree(DATA) == NEW


@pytest.mark.parametrize("done", [True, False])
@own_machine
def test_an_image_of_before_gets_its_data_back(done: bool) -> None:
    """By itself where it failed, by request where it was done; and what is written then stays."""
    btrfs()
    world = World()
    world.old_data()
    world.boot()
    if not done:
        Path("/run/bad").touch()
    assert world.run() == (0 if done else 1)
    (DATA / "later").write_text("mine\n")
    there = tree(DATA)
    if done:
        with Records() as records:
            assert world.loaded is not None
            records.write(rollback("one", records, world.loaded, snapshot.there))
    world.text = ENTRY
    world.reboot()
    assert tree(DATA) == OLD
    kept = Path(VOLUME) / ".persist/replaced"
    assert [tree(p) for p in kept.iterdir()] == [there]
    (DATA / "newer").write_text("mine\n")
    world.text = ENTRY + MIGRATION
    world.reboot()
    assert tree(DATA) == {**OLD, "newer": "mine\n"} and world.condition()
    if done:
        assert world.run() == 1, "held"
        with Records() as records:
            retry("one", records)
    else:
        os.unlink("/run/bad")
    assert world.run() == 0 and tree(DATA) == {**NEW, "newer": "mine\n"}


TWO = "[Migration]\nId=two\nPath=/srv/data\nExec=/run/two\n"
SECOND = """#!/bin/sh
[ "$(cat $PERSIST_PATH/f)" = new ] || exit 3
echo newer >$PERSIST_PATH/f
[ -e /run/cut2 ] && rm /run/cut2 && kill -9 $PPID && exit 1
exit 0
"""


@own_machine
def test_two_of_one_path_in_the_order_of_the_files() -> None:
    btrfs()
    world = World(
        ENTRY
        + MIGRATION
        + TWO
        + TWO.replace("two", "three").replace("/srv/data", "/srv/other")
        + ENTRY.replace("data", "other")
    )
    Path("/run/two").write_text(SECOND)
    Path("/run/three").write_text("#!/bin/sh\nexit 0\n")
    sh("chmod 755 /run/two /run/three")
    world.old_data()
    world.old_data("/srv/other")
    world.boot()
    assert world.run("two") == 1, "the first one comes first"
    assert world.run("one") == 0
    Path("/run/cut2").touch()
    assert world.run("two") == -9
    assert world.run("three") == 0
    assert len(snapshots()) == 2, "of the same path, its own; of another one, the same"
    world.reboot()
    assert tree(DATA) == NEW, "what the first one did is there"
    assert not world.condition("one") and not world.condition("three")
    assert world.run("two") == 0 and tree(DATA) == {**NEW, "f": "newer\n"}


@own_machine
def test_a_subvolume_that_no_snapshot_has_is_not_taken_away() -> None:
    btrfs()
    world = World()
    world.old_data()
    world.boot()
    sh(f"btrfs -q subvolume create {VOLUME}/srv/data/sub; echo mine >{VOLUME}/srv/data/sub/f")
    Path("/run/cut").touch()
    assert world.run() == -9
    for _ in range(2):
        world.reboot()
        assert (DATA / "sub/f").read_text() == "mine\n" and (DATA / "f").read_text() == "half\n"
        assert "a subvolume of its own" in world.said[-1].message
        assert world.run() == 1
    sh(f"mv {VOLUME}/srv/data/sub {VOLUME}/sub")
    world.reboot()
    assert tree(DATA) == OLD and world.run() == 0


@pytest.mark.parametrize("method", ["bind", "overlay"])
@own_machine
def test_a_store_that_is_in_no_snapshot_has_no_way_back(method: str) -> None:
    """Of an entry that said Snapshot=no once."""
    btrfs()
    world = World(ENTRY.replace("bind", method) + MIGRATION)
    top = f"{VOLUME}/srv/data" if method == "bind" else f"{VOLUME}/.persist/overlay/srv-data"
    sh(f"mkdir -p {VOLUME}/srv /srv/data; btrfs -q subvolume create {top}")
    if method == "bind":
        world.old_data()
    else:
        sh("mkdir -p /run/persist/private/lower/srv; mount --rbind /srv /run/persist/private/lower/srv")
        world.old_overlay("/srv/data")
    world.boot()
    Path("/run/cut").touch()
    assert world.run() == -9 and snapshots() == []
    world.reboot()
    assert tree(DATA) == {**OLD, "f": "half\n"}, "and not the nothing that a snapshot has there"
    assert "no snapshot" in world.said[-1].message and world.run() == 1


@own_machine
def test_what_stands_in_the_way() -> None:
    """None of these counts as a run."""
    btrfs()
    world = World()
    world.old_data()
    world.boot()
    os.chmod("/run/up", 0o644)
    assert world.run() == 1 and world.records() == []
    os.chmod("/run/up", 0o755)
    sh("umount /srv/data")
    assert world.run() == 1 and world.records() == [], "the path shows the image"
    world.reboot()
    (STORE / "one").symlink_to("/run/up")
    assert world.run() == 1 and tree(DATA) == OLD
    os.unlink(STORE / "one")
    (STORE / "one:run").write_text("{}")
    assert world.run() == 1 and tree(DATA) == OLD
    os.unlink(STORE / "one:run")
    sh("cd /run/top; btrfs -q subvolume delete @persist-state-snapshots; touch @persist-state-snapshots")
    assert world.run() == 1 and world.records() == [] and tree(DATA) == OLD, "no snapshot can be made"


@pytest.mark.parametrize(
    "change",
    [
        '"path": "/etc"',
        '"path": "/srv/data/../../etc"',
        '"path": "/.persist/seed", "entry": "/.persist"',
        '"entry": ""',
        '"method": "image"',
        '"snapshot": "../x"',
        '"snapshot": "migration-none"',
        '"snapshot": "migration-link"',
        '"state": "done"',
        '"cuts": "1"',
    ],
)
@own_machine
def test_a_hostile_record_harms_nothing(change: str) -> None:
    btrfs()
    world = World()
    world.old_data()
    world.boot()
    Path("/run/cut").touch()
    assert world.run() == -9
    os.symlink("/etc", "/run/top/@persist-state-snapshots/migration-link")
    record = json.loads((STORE / "one:run").read_text()) | json.loads(f"{{{change}}}")
    (STORE / "one:run").write_text(json.dumps(record))
    world.reboot()
    assert [n.message_id for n in world.said] == ["MIGRATION_FAILED"], world.said
    assert tree(DATA) == {**OLD, "f": "half\n"} and world.run() == 1
