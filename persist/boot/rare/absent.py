# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries that PID 1 came too early for, and that somebody requires (Required=): a unit that is never reached
stands for each (units/persist-absent@.target). Boot-safe; loaded only where there is one."""

from ..accept import Planned
from . import services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..accept import Outside
    from ..facts import Facts
    from ..plan import Plan


def _stand_in(out: "Outside") -> Planned:
    stub = Planned(out.entry, out.real, "")
    # As long as the longest name that is made of an entry's (paths.ENTRY_NAME_MAX).
    stub.unit = "persist-absent@" + stub.name + ".target"
    return stub


def stubs(plan: "Plan", facts: "Facts") -> list[str]:
    """Have those units required by what waits for the entries (Services=); returns those that the boot
    requires."""
    made = [_stand_in(o) for o in plan.outside if o.state == "not-before-pid1" and o.entry.required != "no"]
    services.order(plan, {stub.path: stub for stub in made}, facts)
    return [stub.unit for stub in made if stub.entry.required == "boot"]
