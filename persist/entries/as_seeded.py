# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry stays what it was seeded as: a bind entry whose content lies in an overlay's upper is mounted as
that overlay, until it is converted.

The marker on the volume knows it, and not the generator: a preset may say another method than it did, on
machines that nobody can reach.
"""

from __future__ import annotations

import os

from persist.boot import paths
from persist.boot.load import Loaded
from persist.boot.paths import above
from persist.boot.plan import Planned
from persist.entries import stores
from persist.errors import PersistError
from persist.system.safepath import Dir


def _method(name: str) -> str:
    try:
        with Dir.at(paths.VOLUME) as volume:
            return stores.seeded_for(volume, name)
    except (PersistError, OSError):
        return ""  # stores.note() says what is wrong with its marker


def _binds_below(loaded: Loaded, path: str) -> list[Planned]:
    """Bind entries that a bind above them would keep, and an overlay does not: what they were seeded with
    lies beside it."""
    found = []
    for out in list(loaded.plan.outside):
        if out.state == "ignored" and out.entry.method == "bind" and out.real.startswith(path + "/"):
            planned = Planned(out.entry, out.real, path)
            if _method(planned.name) == "bind":
                loaded.plan.outside.remove(out)
                loaded.problems = [p for p in loaded.problems if p is not out]
                found.append(planned)
    return found


def settle(loaded: Loaded) -> list[str]:
    """Give entries of the plan that say bind, and were seeded for an overlay, that method; returns their
    paths.

    The other way round nothing can be done here: their mount is PID 1's. Nor below a mount of fstab, which
    comes later.
    """
    found: list[str] = []
    plan = loaded.plan
    if not os.path.isdir(paths.STORE):
        return found
    for planned in [p for p in plan.entries if p.entry.method == "bind" and not above(p.path, plan.fstab)]:
        if _method(planned.name) == "overlay":
            planned.entry.method = "overlay"
            found.append(planned.path)
            plan.entries += _binds_below(loaded, planned.path)
    if found:
        plan.entries.sort(key=lambda p: p.path + "/")  # parents first, as the plan has them
    return found
