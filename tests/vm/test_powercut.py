# SPDX-License-Identifier: LGPL-2.1-or-later
"""Power cuts during the first boot: whatever the moment, the next boot completes what was begun."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import scene
from .checks import entries, healthy_boot
from .machine import Machine

CUTS = 6
COMPLETE = {"/etc", "/home", "/var", "/var/lib/demo-notes", *scene.ODD}


@pytest.fixture(scope="module")
def first_boot() -> Iterator[tuple[Machine, float]]:
    """A machine kept as it was when the agent first answered, early in its first boot, and the seconds that the rest took."""
    with Machine(scene.story_image("bookworm"), "powercut") as machine:
        machine.add_disk("state", "2G", header=scene.HEADER)
        machine.start()
        machine.snapshot("early")
        before = float(machine.succeed("cut -d' ' -f1 /proc/uptime"))
        machine.wait_for_unit("persist-setup.target", 300)
        after = float(machine.succeed("cut -d' ' -f1 /proc/uptime"))
        yield machine, after - before


@pytest.mark.parametrize("cut", range(CUTS))
def test_cut(first_boot: tuple[Machine, float], cut: int) -> None:
    """Cut at a moment between the first answer of the agent and the end of persist-setup.target, then boot."""
    machine, seconds = first_boot
    machine.restore("early")
    machine.kill_after(1000 * seconds * (cut + 0.5) / CUTS)
    machine.start()
    found = healthy_boot(machine)
    states = entries(found)
    assert {path for path, what in states.items() if what in ("mounted", "early")} == COMPLETE
    assert machine.succeed("cat /var/lib/demo-notes/notes.txt") == "shipped with the package\n"
    assert machine.succeed("head -c 440 /dev/vdb | tr -d '\\0' | wc -c").strip() == "0"
    # A cut right after the marker leaves an empty work directory; a tree in one would be a copy that nobody finishes.
    assert machine.succeed("find /run/persist/volume/.persist/tmp -mindepth 2") == ""
    ids = {machine.succeed("cat /etc/machine-id").strip(), *machine.succeed("ls /var/log/journal").split()}
    machine.crash()
    assert len(ids) <= 2, "at most the journal of the boot that was cut"
