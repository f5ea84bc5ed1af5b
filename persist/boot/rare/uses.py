# SPDX-License-Identifier: LGPL-2.1-or-later
"""What others mount from our places, or onto them: drop-ins that order it after us. Boot-safe.

systemd orders a mount after those of its own path and of its source, where these have units with a fragment.
The volume and binds have none (units.py), nor is an overlay's lowerdir= looked at. So a line of fstab that
uses what we mount is told here to wait for it; it waits for us and requires nothing of ours, and nothing of
ours ever waits for what it would wait for itself.
"""

from ..facts import resolve
from ..fstab import mounted_by_units
from ..ini import WARNING, Problem
from ..paths import VOLUME, above
from ..units import DROPIN, FIRST_LINE, NET_UNIT, VOLUME_UNIT
from .in_time import InTime, Use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..accept import Planned
    from ..config import Config
    from ..facts import Facts
    from ..fstab import Line
    from ..plan import Plan

# Mounted before anything of ours, or by PID 1 itself; what lies below may come late.
_NEVER = ("/", "/usr", "/proc", "/sys", "/dev", "/run")


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


def _at_or_above(path: str, places: "dict[str, Planned]") -> "Planned | None":
    return places.get(path) or places.get(above(path, places))


class _Looking:
    """One look at all lines."""

    def __init__(self, plan: "Plan", config: "Config", facts: "Facts") -> None:
        self.plan, self.config, self.facts = plan, config, facts
        self.volume = NET_UNIT if plan.net else VOLUME_UNIT
        self.entries = {p.path: p for p in plan.entries}
        self.known: dict[str, str] = {}
        self.uses: dict[str, Use] = {}  # by unit

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
        if entry is None or entry.before_pid1:
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
                return None if found.before_pid1 or self.plan.net else found
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
    InTime(plan, facts, looking.uses).keep()
    _hidden(plan, config, facts)
    for unit in sorted(looking.uses):
        use = looking.uses[unit]
        plan.uses.append(use)
        plan.files[unit + ".d/" + DROPIN] = FIRST_LINE + "[Unit]\nAfter=" + "\nAfter=".join(use.units) + "\n"
