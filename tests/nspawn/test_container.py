# SPDX-License-Identifier: LGPL-2.1-or-later
"""A container that knows that it is one: persist does nothing, and says so."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.vm.cache import cache_dir
from tests.vm.checks import codes, failed_units, mounted, state
from tests.vm.errors import MachineError

from .cgroups import hierarchies
from .conftest import Boot
from .container import Container
from .registry import ENABLED, PRESET

NAME = "not-switched-off"


def test_off_in_a_container(container: Boot) -> None:
    """The whole system is asked for, yet the engine keeps the volumes: no units, no mounts."""
    one = container(files={**ENABLED, **PRESET}, machine=False)
    assert one.boot() == "running", failed_units(one)
    assert one.succeed("systemd-detect-virt").strip() == "systemd-nspawn"
    found = state(one)
    assert (found["verdict"], codes(found)) == ("off", {"off"})
    assert "in a container (systemd-nspawn)" in found["reasons"][0]["message"]
    assert one.execute("grep -rl persist-generator /run/systemd/generator*")[0] == 1
    assert mounted(one, "overlay") == ["/"] and one.execute("findmnt /run/persist/volume")[0] == 1
    assert one.execute("systemctl is-active persist-online.target")[0] != 0
    one.shutdown()


def left() -> list[str]:
    """What this machine has of the containers below: mounts, groups, directories, and processes."""
    found = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    found += [str(group) for top in hierarchies() for group in top.glob("nspawn-*")]
    found += [str(work) for work in (cache_dir() / "run").glob("nspawn-*")]
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_text(encoding="utf-8", errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return [text for text in found if f"nspawn-{NAME}." in text]


def test_nothing_is_left(tree: Path) -> None:
    """A command has its time, and of a container that is not powered off nothing stays, whenever it ends."""
    with Container(tree, NAME) as one:
        with pytest.raises(MachineError, match="is off"):
            one.run("true")
        one.boot()
        assert one.run("sleep 60", 0.2).timed_out
        assert one.fail("echo out; echo err >&2; exit 3") == "out\nerr\n"
        assert len(left()) > 3
    with Container(tree, NAME) as one:
        one.start()
        time.sleep(0.3)
        assert left()
    assert left() == []
