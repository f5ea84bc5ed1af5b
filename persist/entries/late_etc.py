# SPDX-License-Identifier: LGPL-2.1-or-later
"""/etc that comes after PID 1, on a boot that does not seed it: PID 1 has bound an id of its own over the
image's machine-id by then."""

from __future__ import annotations

from persist.boot.load import Loaded
from persist.boot.paths import READONLY, VOLUME
from persist.boot.plan import Planned
from persist.entries import stores
from persist.note import Note
from persist.seed import machine_id
from persist.system import mountinfo
from persist.system.safepath import Dir


def _has_id(top: str, planned: Planned) -> bool:
    """Whether what is kept of /etc brings a machine-id. Raises PersistError and OSError."""
    place = (
        f".persist/overlay/{planned.name}/upper" if planned.entry.method == "overlay" else planned.path[1:]
    )
    try:
        with Dir.at(top) as volume, volume.inner(place) as etc:
            return machine_id.valid(
                (etc.read(machine_id.NAME, 64) or b"").decode("ascii", "replace").removesuffix("\n")
            )
    except FileNotFoundError:
        return False


def give_way(loaded: Loaded) -> Note | None:
    """Take PID 1's bind away where /etc is about to be mounted over it: it would be out of reach then, and
    fail to unmount at shutdown.

    Only where /etc will have an id all the same; the boot that seeds it has seed/attempt.py do this.
    Returns what was done, if anything. Raises PersistError and OSError.
    """
    planned = next(
        (p for p in loaded.plan.entries if p.path == "/etc" and p.entry.method in ("overlay", "bind")), None
    )
    if planned is None or mountinfo.at("/etc") is not None or not machine_id.is_bound(""):
        return None
    with Dir.at(VOLUME) as volume:
        if not stores.seeded(volume, planned.name):
            return None
        stores.check_method(volume, planned.path, planned.name, planned.entry.method)
        stores.look(volume, planned.path, planned.name, planned.entry.method)
    return machine_id.take_bind_away("") if any(_has_id(top, planned) for top in (VOLUME, READONLY)) else None
