# SPDX-License-Identifier: LGPL-2.1-or-later
"""Services= that name mounts and swap space, and would make a circle with what is mounted first anyway.
Boot-safe; loaded only where one does."""

from ..fstab import mounted_by_units
from ..paths import above, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..accept import Planned
    from ..facts import Facts

_SWAP = "swap.target"


def _mounts(facts: "Facts") -> set[str]:
    """Where others mount: by fstab, and by units that are shipped."""
    return {*facts.fstab, *mounted_by_units(facts).values()}


def _waits(accepted: "dict[str, Planned]", facts: "Facts") -> dict[str, list[str]]:
    """Unit -> units that it waits for, as far as entries and lines of fstab say. The units of binds are named
    by their mounts."""
    waits: dict[str, list[str]] = {_SWAP: [line.unit() for line in facts.lines if not line.where]}
    mounts = _mounts(facts)

    def nearest(path: str) -> list[str]:
        """What has to be there for a path; the rest follows from that."""
        return [
            escape(at) + ".mount" for at in (above(path + "/", accepted), above(path + "/", mounts)) if at
        ]

    for path, planned in accepted.items():
        entry = planned.entry
        found = waits.setdefault(planned.name + ".mount", [])
        found += nearest(path.rpartition("/")[0])
        if entry.seed_from:
            found += nearest(entry.seed_from)
        if (entry.user or entry.group) and "/etc" in accepted and path != "/etc" and planned.parent != "/etc":
            found.append("etc.mount")
        if entry.method == "tmpfs":
            found.append(_SWAP)
    for line in facts.lines:
        found = waits.setdefault(line.unit(), [])
        if line.where:
            found += nearest(line.where.rpartition("/")[0])
        if line.what[:1] == "/" and line.what[:5] != "/dev/":
            found += nearest(line.what)
    return waits


def _rings(waits: dict[str, list[str]]) -> dict[str, int]:
    """Unit -> the number of the ring that it is in: two units have the same where each waits for the other
    (Kosaraju)."""
    done: list[str] = []
    seen: set[str] = set()
    for first in waits:
        way = [(first, iter(waits[first]))] if first not in seen else []
        seen.add(first)
        while way:
            for unit in way[-1][1]:
                if unit not in seen:
                    seen.add(unit)
                    way.append((unit, iter(waits.get(unit, ()))))
                    break
            else:
                done.append(way.pop()[0])
    back: dict[str, list[str]] = {}
    for unit, found in waits.items():
        for other in found:
            back.setdefault(other, []).append(unit)
    ring: dict[str, int] = {}
    for number, last in enumerate(reversed(done)):
        todo = [last]
        while todo:
            unit = todo.pop()
            if unit not in ring:
                ring[unit] = number
                todo += [other for other in back.get(unit, ()) if other not in ring]
    return ring


def rounds(
    accepted: "dict[str, Planned]", facts: "Facts", asked: "list[tuple[Planned, str]]"
) -> set[tuple[str, str]]:
    """(path, unit) of each Services= in ``asked`` that has to be there before its own entry, by fstab, by
    entries, or by another Services=."""
    waits = _waits(accepted, facts)
    for planned, service in asked:
        waits.setdefault(service, []).append(planned.name + ".mount")
    ring = _rings(waits)
    return {(p.path, service) for p, service in asked if ring[service] == ring[p.name + ".mount"]}
