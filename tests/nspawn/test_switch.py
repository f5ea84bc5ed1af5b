# SPDX-License-Identifier: LGPL-2.1-or-later
"""The master switch, looked at by the generator as PID 1 starts it."""

from __future__ import annotations

from tests.vm.checks import codes, failed_units, mounted, state
from tests.vm.system import System

from .conftest import Boot
from .registry import NOTES, OVERLAY


def generated(one: System) -> set[str]:
    """The files that our generator wrote."""
    return set(one.succeed("grep -rl persist-generator /run/systemd/generator* || true").split())


def test_the_switch(container: Boot) -> None:
    """Nothing is done or generated before persist-setup.target is enabled, with persist=off, and after
    it is disabled."""
    one = container(files={**NOTES, **OVERLAY})
    assert one.boot() == "running", failed_units(one)
    assert (state(one)["verdict"], codes(state(one)), generated(one)) == ("off", {"off"}, set())
    assert one.execute("systemctl is-active persist-setup.target persist-volume.service")[0] != 0
    one.succeed("systemctl enable persist-setup.target")
    one.shutdown()
    assert one.boot("persist=off") == "running", failed_units(one)
    assert (state(one)["verdict"], codes(state(one)), generated(one)) == ("off", {"off"}, set())
    skipped = one.succeed(
        "systemctl show -p ConditionResult --value persist-volume.service persist-settle.service"
    )
    assert skipped.split() == ["no", "no"]
    one.shutdown()
    assert one.boot() == "running", failed_units(one)

    units = generated(one)
    assert "/run/systemd/generator/srv-over.mount" in units
    one.succeed("systemctl daemon-reload")
    assert generated(one) == units
    assert mounted(one, "overlay") == ["/"]
    one.succeed("systemctl disable persist-setup.target && systemctl daemon-reload")
    assert generated(one) == set()
    one.shutdown()
