# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which lines of fstab that use our places can wait for them. Boot-safe."""

from ..ini import WARNING, Problem
from ..paths import above, escape
from ..units import NET_UNIT, VOLUME_UNIT
from .services import BEFORE_NET, BEFORE_US

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..accept import Planned
    from ..facts import Facts
    from ..fstab import Line
    from ..plan import Plan

# What comes before anything that an entry or the volume brings.
_FIRST = ("persist-settle.service", "persist-format.service", VOLUME_UNIT, NET_UNIT)


class Use:
    """A line of fstab, the places of ours that it uses, and the units that bring these there."""

    __slots__ = ("line", "places", "units", "entries")

    def __init__(self, line: "Line") -> None:
        self.line = line
        self.places: list[str] = []
        self.units: list[str] = []
        self.entries: list[Planned] = []

    def add(self, place: str, entry: "Planned | None", *units: str) -> None:
        """One more place."""
        self.places.append(place)
        self.units += [unit for unit in units if unit not in self.units]
        if entry is not None:
            self.entries.append(entry)


def _ordered(line: "Line", key: str) -> list[str]:
    """The units that x-systemd.before=, say, names: a path there is that of a mount (systemd.mount(5))."""
    if "x-systemd." not in line.options:
        return []
    return [
        escape(value) + ".mount" if value[:1] == "/" else value for value in line.option("x-systemd." + key)
    ]


class InTime:
    """``uses``, by the unit of the line, less those that would make a circle."""

    def __init__(self, plan: "Plan", facts: "Facts", uses: dict[str, Use]) -> None:
        self.plan, self.facts, self.uses = plan, facts, uses
        self.volume = NET_UNIT if plan.net else VOLUME_UNIT
        self.entries = {p.path: p for p in plan.entries}
        self.lines = {line.unit(): line for line in facts.lines}
        self.before: dict[str, list[str]] = {}  # unit -> those of lines that ask to be mounted before it
        for line in facts.lines:
            for unit in _ordered(line, "before"):
                self.before.setdefault(unit, []).append(line.unit())

    def keep(self) -> None:
        """Take out what cannot wait for us: a volume on the network, a swap file for a tmpfs, a line that we
        wait for ourselves."""
        for unit, use in list(self.uses.items()):
            line = use.line
            first = self._asked_first(use)
            if first:
                why = "its x-systemd.before=%s asks for the other way round: take that out" % first
            elif self.plan.net and not line.network() and self._of_volume(use):
                why = "the state volume comes with the network: add _netdev to its options"
            elif not line.where and any(
                [p.entry.method == "tmpfs" for entry in use.entries for p in self._way(entry)]
            ):
                why = "memory is mounted there after the swap space: put it elsewhere"
            else:
                continue
            self._give_up(unit, why)
        self._circles()

    def _of_volume(self, use: Use) -> bool:
        """Whether one of its places is on the volume: memory is mounted without."""
        return self.volume in use.units or any(
            [p.entry.method != "tmpfs" for entry in use.entries for p in self._way(entry)]
        )

    def _needed(self, use: Use) -> list[str]:
        """Units of ours that it comes after, directly or not."""
        found = list(use.units)
        if self._of_volume(use):
            found += _FIRST
        # What is on the volume needs no entry.
        for entry in use.entries if use.units != [self.volume] else ():
            for planned in self._way(entry):
                found += [planned.unit, planned.name + ".mount", "persist-seed@" + planned.name + ".service"]
        return found

    def _asked_first(self, use: Use) -> str:
        """A unit that the line asks to be mounted before, and that has to be there before it, or ''."""
        named = _ordered(use.line, "before")
        needed = self._needed(use) if named else []
        for unit in named:
            if unit in needed or unit in BEFORE_US or self.plan.net and unit in BEFORE_NET:
                return unit
        return ""

    def _give_up(self, unit: str, why: str) -> None:
        use = self.uses.pop(unit)
        self.plan.problems.append(
            Problem(WARNING, use.line.source, "Uses %s and cannot wait for it, %s." % (use.places[0], why))
        )

    def _way(self, entry: "Planned") -> "list[Planned]":
        way = [entry]
        while way[-1].parent:
            way.append(self.entries[way[-1].parent])
        return way

    def _needs(self, unit: str) -> list[str]:
        """Units of lines that must be there before another: what the entries that it uses wait for, and what
        systemd sees itself."""
        line = self.lines.get(unit)
        paths = [line.where, line.what] if line is not None else []
        for entry in self.uses[unit].entries if unit in self.uses else ():
            for planned in self._way(entry):
                paths += [planned.path, planned.entry.seed_from]
        found = _ordered(line, "after") + _ordered(line, "requires") if line is not None else []
        if self.before:
            for needed in (unit, *(self._needed(self.uses[unit]) if unit in self.uses else ())):
                found += self.before.get(needed, ())
        for path in paths:
            at = (
                path
                if path in self.facts.fstab and (line is None or path != line.where)
                else above(path, self.facts.fstab)
            )
            if at:
                found.append(escape(at) + ".mount")  # and those above it, which it needs itself
        return found

    def _circles(self) -> None:
        state: dict[str, int] = {}  # 1 on the way, 2 done
        bad: dict[str, None] = {}
        for first in self.uses:
            way: list[tuple[str, list[str]]] = []
            if first not in state:
                state[first] = 1
                way.append((first, self._needs(first)))
            while way:
                unit, needed = way[-1]
                if not needed:
                    state[unit] = 2
                    way.pop()
                    continue
                more = needed.pop()
                if state.get(more) == 1:
                    names = [name for name, _ in way]
                    bad.update(dict.fromkeys(names[names.index(more) :]))
                elif more not in state:
                    state[more] = 1
                    way.append((more, self._needs(more)))
        why = "which itself lies below what it mounts: mount it elsewhere"
        if any(
            [
                _ordered(self.lines[unit], key)
                for unit in bad
                if unit in self.lines
                for key in ("before", "after", "requires")
            ]
        ):
            why = (
                "which itself waits for this line by x-systemd.before=, x-systemd.after= or "
                "x-systemd.requires=: take one of these out"
            )
        for unit in [unit for unit in bad if unit in self.uses]:
            self._give_up(unit, why)
