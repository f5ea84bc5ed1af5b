# SPDX-License-Identifier: LGPL-2.1-or-later
"""What others mount from our places, or onto them: drop-ins that order it after us. Boot-safe.

systemd orders a mount after those of its own path and of its source, where these have units with a fragment.
The volume and binds have none (units.py), nor is an overlay's lowerdir= looked at. So a line of fstab that
uses what we mount is told here to wait for it; it waits for us and requires nothing of ours, and nothing of
ours ever waits for what it would wait for itself.
"""

from ..facts import above, resolve
from ..fstab import mounted_by_units
from ..ini import WARNING, Problem
from ..paths import VOLUME, escape
from ..units import BEFORE_NET, BEFORE_US, DROPIN, FIRST_LINE, NET_UNIT, VOLUME_UNIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..accept import Planned
    from ..config import Config
    from ..facts import Facts
    from ..fstab import Line
    from ..plan import Plan

# Mounted before anything of ours, or by PID 1 itself; what lies below may come late.
_NEVER = ("/", "/usr", "/proc", "/sys", "/dev", "/run")
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


def _used(line: "Line") -> list[str]:
    """The paths that a line needs, beside its mount point."""
    found = [line.what] if line.what[:1] == "/" and line.what[:5] != "/dev/" else []
    if "=" in line.options:
        found += [
            path
            for key in ("requires", "wants")
            for value in line.option("x-systemd." + key + "-mounts-for")
            for path in value.split(" ")
        ]
        if line.fstype == "overlay":
            found += [
                path
                for key in ("lowerdir", "upperdir", "workdir")
                for value in line.option(key)
                for path in value.split(":")
            ]
    return [path for path in found if path[:1] == "/"]


def _ordered(line: "Line", key: str) -> list[str]:
    """The units that x-systemd.before=, say, names: a path there is that of a mount (systemd.mount(5))."""
    if "x-systemd." not in line.options:
        return []
    return [
        escape(value) + ".mount" if value[:1] == "/" else value for value in line.option("x-systemd." + key)
    ]


def _at_or_above(path: str, places: "dict[str, Planned]") -> "Planned | None":
    return places.get(path) or places.get(above(path, places))


class _Looking:
    """One look at all lines."""

    def __init__(self, plan: "Plan", config: "Config", facts: "Facts") -> None:
        self.plan, self.config, self.facts = plan, config, facts
        self.volume = NET_UNIT if plan.net else VOLUME_UNIT
        self.entries = {p.path: p for p in plan.entries}
        self.known: dict[str, str] = {}
        self.lines = {line.unit(): line for line in facts.lines}
        self.uses: dict[str, Use] = {}  # by unit
        self.before: dict[str, list[str]] = {}  # unit -> those of lines that ask to be mounted before it
        for line in facts.lines:
            for unit in _ordered(line, "before"):
                self.before.setdefault(unit, []).append(line.unit())

    def _place(self, use: Use, path: str) -> None:
        try:
            path = resolve(self.facts.root, path, self.known) or "/"
        except OSError:
            return  # a loop of links: systemd finds nothing there either
        for name in (self.config.mount, VOLUME):
            if path == name or path.startswith(name + "/"):
                kept = _at_or_above(path[len(name) :] or "/", self.entries)
                seeds = (
                    ["persist-seed@" + kept.name + ".service"]
                    if kept is not None and kept.entry.method in ("bind", "symlink")
                    else []
                )
                use.add(path, kept, self.volume, *seeds)
                return
        entry = _at_or_above(path, self.entries)
        if entry is None or entry.mounted_early:
            return
        if entry.entry.method == "symlink":
            use.add(path, entry, self.volume, "persist-seed@" + entry.name + ".service")
        elif entry.entry.method == "bind":
            use.add(path, entry, self.volume, entry.unit)
        else:
            use.add(path, entry, entry.unit)

    def line(self, line: "Line") -> None:
        """Note what a line uses."""
        if line.where in _NEVER and line.where != self.config.mount:
            return
        use = Use(line)
        for path in _used(line):
            self._place(use, path)
        if line.where.startswith((self.config.mount + "/", VOLUME + "/")):
            use.add(line.where, None, self.volume)
        elif line.where:
            bind = self._bind_above(line.where)
            if bind is not None:
                use.add(line.where, bind, VOLUME_UNIT, bind.unit)
        if use.units:
            self.uses.setdefault(line.unit(), use)

    def _bind_above(self, where: str) -> "Planned | None":
        """The bind entry that would hide what is mounted below it: nothing orders that, as a fragment
        would."""
        at = above(where, self.entries)
        while at:
            found = self.entries[at]
            if found.entry.method == "bind":
                return None if found.mounted_early or self.plan.net else found
            at = found.parent
        return None

    def shipped(self) -> None:
        """The same for mount units that are shipped, of which only the name is known."""
        from ..fstab import Line

        below = mounted_by_units(self.facts)
        if "/var" in self.entries and "/var/tmp" not in self.facts.fstab:
            below.setdefault("var-tmp.mount", "/var/tmp")  # of systemd-gpt-auto-generator, perhaps
        for unit, path in below.items():
            if path not in self.entries and unit not in self.uses:
                self.line(Line("", path, "", "", unit))

    def in_time(self) -> None:
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
        for entry in (
            use.entries if use.units != [self.volume] else ()
        ):  # what is on the volume needs no entry
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


def _hidden(plan: "Plan", config: "Config", facts: "Facts") -> None:
    """Lines of which one mount hides another."""
    seen: dict[str, Line] = {}
    for line in facts.lines:
        where = line.where
        if where and where == config.mount:
            plan.problems.append(
                Problem(
                    WARNING,
                    line.source,
                    "Mounts %s, the public name of the state volume: one hides the other. "
                    "Set Mount= in persist.conf to another path." % where,
                )
            )
        elif where and config.mount.startswith(where.rstrip("/") + "/") and where != "/":
            plan.problems.append(
                Problem(
                    WARNING,
                    line.source,
                    "Mounts %s, and may hide %s below it, the public name of the state volume. "
                    "Set Mount= in persist.conf to a path that is not below." % (where, config.mount),
                )
            )
        elif where and where in seen:
            plan.problems.append(
                Problem(
                    WARNING,
                    line.source,
                    "Mounts %s, as %s does: one hides the other." % (where, seen[where].source),
                )
            )
        if where:
            seen.setdefault(where, line)


def order(plan: "Plan", config: "Config", facts: "Facts") -> None:
    """Add the drop-ins to the plan, and what is wrong to its problems; ``Plan.uses`` says which lines use our
    places."""
    looking = _Looking(plan, config, facts)
    for line in facts.lines:
        looking.line(line)
    looking.shipped()
    looking.in_time()
    _hidden(plan, config, facts)
    for unit in sorted(looking.uses):
        use = looking.uses[unit]
        plan.uses.append(use)
        plan.files[unit + ".d/" + DROPIN] = FIRST_LINE + "[Unit]\nAfter=" + "\nAfter=".join(use.units) + "\n"
