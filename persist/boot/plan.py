# SPDX-License-Identifier: LGPL-2.1-or-later
"""``plan(config, registry, facts) -> Plan``: what is wanted to what PID 1 shall know. Pure, and boot-safe.

Rules and where they come from (numbers are those of docs/architecture.md's "Rules"):
 * a unit has no [Install], names its SourcePath= and begins with the generator's name (systemd.generator(7));
 * mounts are ordered before local-fs.target and wanted by persist-setup.target, never required by
   local-fs.target unless the entry says so: a failure of ours must not end in the emergency shell;
 * conditions and not failures: what depends on /var through RequiresMountsFor= shall start on the image's
   /var when there is no volume;
 * overlay options: only without index, metacopy and redirects may the image below change (kernel,
   overlayfs.rst, "Changes to underlying filesystems"), and nofollow refuses a redirect that a hostile upper
   carries.
"""

from . import preload
from .accept import Outside, accept
from .accept import Planned as Planned
from .facts import why_nothing as why_nothing
from .ini import Problem
from .paths import above, escape, specifiers
from .units import (
    BACKLIGHT,
    DROPIN,
    FIRST_LINE,
    NET_UNIT,
    VOLUME_UNIT,
    bind_unit,
    mount_unit,
    serves,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import Config
    from .facts import Facts
    from .rare.in_time import Use
    from .rare.migrations import PlannedMigration
    from .registry import Registry


class Plan:
    """Units as data: ``files`` is relative path to text, written in this order; ``reason`` says why there is
    nothing.

    ``outside``: the entries that are not in force. ``read_only``: persist=ro, the volume lies below memory.
    ``net``: it comes with the network. ``fstab`` as in the facts. ``uses``: lines of it that are told to wait
    for us. ``migrations``: those in force, in the order of the files.
    """

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.entries: list[Planned] = []
        self.outside: list[Outside] = []
        self.problems: list[Problem] = []
        self.reason = ""
        self.read_only = False
        self.net = False
        self.fstab: dict[str, str] = {}
        self.uses: list[Use] = []
        self.migrations: list[PlannedMigration] = []


def _children(accepted: dict[str, Planned]) -> dict[str, list[str]]:
    """For each entry the store names of the entries that are seeded after it is mounted: those right below
    it."""
    children: dict[str, list[str]] = {}
    for planned in accepted.values():
        if planned.entry.method in ("image", "tmpfs"):
            continue
        if planned.parent:
            children.setdefault(planned.parent, []).append(planned.name)
    return children


def _above(planned: Planned, accepted: dict[str, Planned]) -> list[Planned]:
    """The entries above one, the nearest first."""
    found = []
    parent = planned.parent
    while parent:
        found.append(accepted[parent])
        parent = found[-1].parent
    return found


def _after_mount(path: str, why: str) -> str:
    """Settings of what has to come after a mount of others, and not without it."""
    unit = escape(path) + ".mount\n"
    # What the initrd mounts has no unit that says so: there where it did, and else nothing.
    return ("Wants=" if why.startswith("mount.usr=") else "Requires=") + unit + "After=" + unit


def _entry_files(plan: Plan, planned: Planned, children: list[str], above_it: "Sequence[Planned]") -> None:
    """The unit of one entry, and the drop-in of its seed where it lies on a filesystem of fstab."""
    entry = planned.entry
    binds = [p.unit for p in above_it if p.entry.method == "bind" and not p.before_pid1] if above_it else []
    mounted = above(planned.path, plan.fstab) if plan.fstab else ""
    if entry.method == "bind":
        plan.files[planned.unit] = bind_unit(plan, planned, children, binds, bool(mounted))
    elif planned.unit:
        plan.files[planned.unit] = mount_unit(plan, planned, children, binds)
    if entry.method in ("image", "tmpfs"):
        return
    after = "Wants=" + NET_UNIT + "\nAfter=" + NET_UNIT + "\n" if plan.net else ""
    if mounted:
        after += _after_mount(mounted, plan.fstab[mounted])
    source = above(entry.seed_from + "/", plan.fstab) if plan.fstab and entry.seed_from else ""
    if source and source != mounted:
        after += _after_mount(source, plan.fstab[source])
    if after:
        plan.files["persist-seed@" + planned.name + ".service.d/" + DROPIN] = (
            FIRST_LINE + "[Unit]\nSourcePath=" + specifiers(entry.file) + "\n" + after
        )


def _others(facts: "Facts", accepted: dict[str, Planned]) -> bool:
    """Whether others mount anything that may use our places, or hide them: most machines need not look
    closer."""
    for line in facts.lines:
        if line.where != "/" and (line.what[:5] != "/dev/" or line.where) or "-mounts-for=" in line.options:
            return True
    return bool(facts.shipped or facts.masked or "/var" in accepted) and any(
        [p.entry.method == "bind" for p in accepted.values()]
    )


def _drop_in(unit: str, text: str) -> tuple[str, str]:
    return unit + ".d/" + DROPIN, FIRST_LINE + "[Unit]\n" + text + "\n"


def _units(plan: Plan, accepted: dict[str, Planned]) -> list[str]:
    """Add the units of all entries; returns those that are wanted."""
    children = _children(accepted)
    ways = {p.path: _above(p, accepted) for p in plan.entries if p.parent}
    wants: list[str] = []
    for planned in plan.entries:
        if not planned.before_pid1:
            path = planned.path
            _entry_files(plan, planned, children.get(path, []), ways.get(path, ()))
            wants.append(planned.unit or "persist-seed@" + planned.name + ".service")
    return wants


def _others_after(plan: Plan, required: list[str]) -> None:
    """What is ordered after entries that are not wanted in time by themselves: instances for devices, and the
    boot itself, which needs the units ``required`` too."""
    ours = [p for p in plan.entries if not p.before_pid1]
    unit, used = BACKLIGHT
    binds = [p.unit for p in ours if p.entry.method == "bind" and serves(p.path, used)]
    if binds:
        name, text = _drop_in(unit, "After=" + VOLUME_UNIT + " " + " ".join(binds))
        plan.files[name] = text
    required += [p.unit or "persist-seed@" + p.name + ".service" for p in ours if p.entry.required == "boot"]
    if required:
        name, text = _drop_in("local-fs.target", "Requires=" + "\nRequires=".join(required))
        plan.files[name] = text


def _target(plan: Plan, wants: list[str]) -> None:
    """What starts all units. Last, so that a generator that dies half-way has wanted nothing."""
    if plan.net:
        from .rare import net

        memory = [p.unit for p in plan.entries if p.entry.method == "tmpfs"]
        plan.files.update(net.files([unit for unit in wants if unit not in memory]))
        wants = memory
    if wants:
        # A line for each: PID 1 drops a file with a line of more than 1 MiB.
        lines = "Wants=" + "\nWants=".join(wants) + "\nAfter=" + "\nAfter=".join(wants)
        if not plan.net:
            # They come after it: what PID 1 notes of links (units/persist-link@.service).
            links = [p.name for p in plan.entries if p.entry.method == "symlink"]
            lines += "".join(["\nWants=persist-link@" + name + ".service" for name in links])
        name, text = _drop_in("persist-setup.target", lines)
        plan.files[name] = text


def _migrations(plan: Plan, registry: "Registry", accepted: dict[str, Planned]) -> None:
    preload("rare/__init__", "rare/services", "rare/migration_units")
    from .rare import migration_units

    migration_units.add(plan, registry, accepted)


def plan(config: "Config", registry: "Registry", facts: "Facts") -> Plan:
    """What shall be mounted, seeded and ordered on this machine. Never raises on what users wrote: see
    Plan.outside."""
    result = Plan()
    result.reason = why_nothing(facts)
    if result.reason:
        return result
    if not registry.entries:
        result.reason = "the registry has no entries"
        if registry.migrations:
            _migrations(result, registry, {})
        return result
    result.fstab = facts.fstab
    result.read_only = facts.mode == "ro"
    result.net = config.netdev
    result.entries, result.outside = accept(config, registry, facts)
    accepted = {p.path: p for p in result.entries}
    wants = _units(result, accepted)
    if any([p.entry.services for p in result.entries]):
        preload("rare/__init__", "rare/services")
        from .rare import services

        services.order(result, accepted, facts)
    if registry.migrations:
        _migrations(result, registry, accepted)
    required: list[str] = []
    if any([o.state == "not-before-pid1" and o.entry.required != "no" for o in result.outside]):
        preload("rare/__init__", "rare/services", "rare/absent")
        from .rare import absent

        required = absent.stubs(result, facts)
    if _others(facts, accepted):
        preload("rare/__init__", "rare/services", "rare/in_time", "rare/uses")
        from .rare import uses

        uses.order(result, config, facts)
    _others_after(result, required)
    _target(result, wants)
    return result
