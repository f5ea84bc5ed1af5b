# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry stays what it was seeded as: what its Method= says now may be another one, since a preset may say
something else than it did, on machines that nobody can reach.

The marker on the volume knows the form, and not the generator. Content at its path on the volume serves a
bind and a link: where the root filesystem can be changed for good, the one becomes the other
(seed/content.py). All else is brought into place as what it is.
"""

from __future__ import annotations

import os

from persist.boot import paths
from persist.boot.load import Loaded
from persist.boot.paths import above
from persist.boot.plan import Planned
from persist.boot.units import READ_BY_PID1
from persist.entries import stores
from persist.errors import PersistError
from persist.record import Record, made
from persist.system import mountinfo
from persist.system.safepath import Dir


class Settled(Record):
    """``kept``: the paths that keep their form, with the method that their entry says. ``convert``: those
    that are seeded once more, to get the form that it says."""

    kept: dict[str, str] = made(dict)
    convert: list[str] = made(list)


def _method(name: str, volume: str) -> str:
    try:
        with Dir.at(volume) as top:
            return stores.seeded_for(top, name)
    except (PersistError, OSError):
        return ""  # stores.note() says what is wrong with its marker


def _binds_below(loaded: Loaded, path: str, volume: str) -> list[Planned]:
    """Bind entries that a bind above them would keep, and an overlay does not: what they were seeded with
    lies beside it."""
    found = []
    for out in list(loaded.plan.outside):
        if out.state == "ignored" and out.entry.method == "bind" and out.real.startswith(path + "/"):
            planned = Planned(out.entry, out.real, path)
            if _method(planned.name, volume) == "bind":
                loaded.plan.outside.remove(out)
                loaded.problems = [p for p in loaded.problems if p is not out]
                found.append(planned)
    return found


def link(path: str, mount: str) -> str:
    """What a path is: ``ours`` for a link to its place on the volume, ``other`` for another one, else ''."""
    try:
        target = os.readlink(path)
    except OSError:
        return ""
    whole = os.path.normpath(os.path.join(os.path.dirname(path), target))
    return "ours" if whole in (paths.VOLUME + path, mount + path) else "other"


def _lasts(planned: Planned, loaded: Loaded, *, root_kept: bool) -> bool:
    """Whether what is changed at the path of an entry is there at the next boot, and nobody has read it."""
    if loaded.plan.read_only or planned.path in READ_BY_PID1:
        return False
    over = next((p for p in loaded.plan.entries if p.path == planned.parent), None)
    return root_kept or over is not None and over.entry.method == "overlay"


def _form(planned: Planned, loaded: Loaded, seeded: str, *, root_kept: bool) -> str:
    """The method by which an entry is brought into place, '' where it is to be converted first."""
    says, path = planned.entry.method, planned.path
    if says == seeded or not seeded:
        return says
    found = link(path, loaded.config.mount)
    if seeded == "overlay":
        return says if found else seeded  # over a link it cannot be mounted: stores.note() says where it is
    if says == "overlay":
        return "symlink" if found == "ours" else "bind"
    as_it_says = found == "ours" if says == "symlink" else not found and os.path.lexists(path)
    if as_it_says:
        return says
    # What has a flag was decided in this boot, and what is mounted was before.
    open_ = not stores.flag(planned.name) and mountinfo.at(path) is None
    if open_ and _lasts(planned, loaded, root_kept=root_kept):
        return ""
    return seeded if found or says == "symlink" else says


def settle(loaded: Loaded, *, root_kept: bool) -> Settled:
    """Give the entries of the plan the method by which they are brought into place. ``root_kept``: what is
    written to the root filesystem is there at the next boot. Raises OSError where /proc is not mounted."""
    settled = Settled()
    plan = loaded.plan
    volume = paths.READONLY if plan.read_only and os.path.ismount(paths.READONLY) else paths.VOLUME
    if not os.path.isdir(f"{volume}/.persist"):
        return settled
    for planned in list(plan.entries):
        entry = planned.entry
        if entry.method not in stores.METHODS:
            continue
        form = _form(planned, loaded, _method(planned.name, volume), root_kept=root_kept)
        if not form:
            settled.convert.append(planned.path)
        elif form != entry.method:
            settled.kept[planned.path] = entry.method
            if form == "overlay":
                plan.entries += _binds_below(loaded, planned.path, volume)
            entry.method = form
    if settled.kept:
        plan.entries.sort(key=lambda p: p.path + "/")  # parents first, as the plan has them
    return settled


def waits_for_its_seed(planned: Planned, loaded: Loaded) -> bool:
    """Whether an entry in another form than its own is for persist-seed@.service to mount, below a mount of
    fstab: it gets no flag before that; nor does a link in whose place PID 1 would mount an overlay."""
    unit, method = planned.unit, planned.entry.method
    if method == "symlink":
        return unit.endswith(".mount")
    foreign = method == "bind" and unit.endswith(".mount") or not unit
    return foreign and above(planned.path, loaded.plan.fstab) != ""
