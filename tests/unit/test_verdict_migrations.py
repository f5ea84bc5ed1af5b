# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the verdict says of migrations."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persist.boot.facts import gather
from persist.boot.load import Loaded
from persist.boot.paths import STORES
from persist.migrate.records import Records, Run, Stamp
from persist.record import replace
from persist.verdict.migrations import look

from .test_migration_records import RUN, STAMP

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the store is root's")
DONE = replace(STAMP, id="a", path="/srv/data")


class Machine:
    """A machine with one migration, and its volume."""

    def __init__(self, top: Path) -> None:
        self.volume, root = top / "volume", top / "root"
        for part in ("", ".persist", ".persist/migrations"):
            (self.volume / part).mkdir(mode=0o700)
        for file, text in (
            (
                "usr/lib/persist.d/t.conf",
                "[Path]\nPath=/srv/data\nMethod=bind\n[Migration]\nId=a\nPath=/srv/data\nExec=/bin/true\n",
            ),
            (f"{STORES[1:]}/srv-data", "1 2\n"),
        ):
            (root / file).parent.mkdir(parents=True)
            (root / file).write_text(text)
        facts = gather(str(root), {"SYSTEMD_PROC_CMDLINE": ""})
        facts.enabled = True
        self.loaded = Loaded(str(root), facts, {})

    def write(self, *found: Stamp | Run) -> None:
        with Records(str(self.volume)) as records:
            for record in found:
                records.write(record)

    def look(self, failed: bool = False) -> tuple[list[str], list[str]]:
        """Code and message of what costs the verdict, and of what does not."""
        bad, good = look(self.loaded, str(self.volume), lambda unit: failed)
        assert all(r.hint for r in bad), "each with a remedy"
        told = [[f"{r.code}: {r.message}" for r in each] for each in (bad, good)]
        return told[0], told[1]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_done(machine: Machine) -> None:
    machine.write(DONE)
    assert machine.look() == ([], [])
    machine.write(RUN)  # what a cut has left
    assert machine.look() == ([], [])


def test_none_has_run(machine: Machine) -> None:
    said = "migration-waiting: The migration a of /srv/data has not run yet."
    assert machine.look() == ([], [said])
    machine.write(replace(RUN, state="due", snapshot="", before=""))
    assert machine.look() == ([], [said])
    assert machine.look(failed=True) == (["migration-failed: The migration a of /srv/data is not done."], [])


def test_its_entry_is_not_in_place(machine: Machine) -> None:
    (Path(machine.loaded.facts.root) / f"{STORES[1:]}/srv-data").unlink()
    assert machine.look(failed=True) == ([], []), "which is told by itself"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            replace(RUN, state="failed", why="it ended with status 7"),
            "failed: {} has failed: it ended with status 7.",
        ),
        (RUN, "failed: {} did not end."),
        (replace(RUN, snapshot="", before=""), "failed: {} did not end."),
        (replace(RUN, state="held"), "held: {} was rolled back, and is held."),
    ],
)
@pytest.mark.parametrize("id", ["a", "z"])
def test_what_costs_the_verdict(machine: Machine, found: Run, said: str, id: str) -> None:
    """Also of one that this image does not know."""
    machine.write(replace(found, id=id))
    told = f"migration-{said.format(f'The migration {id} of /srv/data')}"
    bad, waiting = machine.look()
    assert bad == [told] and len(waiting) == (id != "a")


def test_while_one_runs(machine: Machine) -> None:
    machine.write(RUN)
    with Records(str(machine.volume)) as other:
        other.lock()
        assert machine.look(failed=True) == (
            [],
            ["migration-waiting: The migration a of /srv/data is running."],
        )


def test_to_be_rolled_back(machine: Machine) -> None:
    machine.write(DONE, replace(RUN, state="back"))
    assert machine.look() == (
        [],
        ["migration-waiting: The migration a of /srv/data is rolled back at the next boot."],
    )


def test_what_cannot_be_read(machine: Machine) -> None:
    """It costs itself; the others are told."""
    (machine.volume / ".persist/migrations/a:run").write_text("{}")
    machine.write(replace(RUN, id="z", state="failed", why="x"))
    bad, waiting = machine.look()
    assert ["no record of a migration" in text for text in bad] == [True, False] and waiting == []
