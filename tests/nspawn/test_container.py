# SPDX-License-Identifier: LGPL-2.1-or-later
"""A container that knows that it is one: persist does nothing, and says so."""

from __future__ import annotations

from tests.vm.checks import codes, failed_units, mounted, state

from .conftest import Boot
from .registry import ENABLED, PRESET


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
