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

from .accept import Outside, accept
from .accept import Planned as Planned
from .facts import above
from .facts import why_nothing as why_nothing
from .ini import ERROR, NOTICE, WARNING, Problem, words
from .paths import escape, overlay_option, parents, specifiers
from .units import (
    BACKLIGHT,
    BEFORE_NET,
    BEFORE_US,
    DROPIN,
    FIRST_LINE,
    NET_UNIT,
    OUR_TEMPLATES,
    OURS,
    RELOAD,
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
    from .rare.uses import Use
    from .registry import Registry

EARLY_BY_DEFAULT = ("/etc", "/etc/systemd", "/etc/systemd/system")


class Plan:
    """Units as data: ``files`` is relative path to text, written in this order; ``reason`` says why there is
    nothing.

    ``outside``: the entries that are not in force. ``read_only``: persist=ro, the volume lies below memory.
    ``net``: it comes with the network. ``reload``: PID 1 has to look at its units again. ``fstab`` as in the
    facts. ``uses``: lines of it that are told to wait for us.
    """

    __slots__ = (
        "files",
        "entries",
        "outside",
        "problems",
        "early_table",
        "reason",
        "read_only",
        "net",
        "reload",
        "fstab",
        "uses",
    )

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.entries: list[Planned] = []
        self.outside: list[Outside] = []
        self.problems: list[Problem] = []
        self.early_table = ""
        self.reason = ""
        self.read_only = False
        self.net = False
        self.reload = False
        self.fstab: dict[str, str] = {}
        self.uses: list[Use] = []


def _early(plan: Plan, facts: "Facts", accepted: dict[str, Planned]) -> None:
    lines = []
    for path, planned in accepted.items():
        entry = planned.entry
        wanted = path in EARLY_BY_DEFAULT if entry.early is None else entry.early
        if not wanted:
            continue
        if entry.method not in ("overlay", "bind"):
            plan.problems.append(
                Problem(
                    WARNING,
                    entry.where("Early"),
                    "Early=yes is for Method=overlay and Method=bind, ignoring.",
                    path,
                )
            )
            continue
        if planned.parent and not accepted[planned.parent].early:
            plan.problems.append(
                Problem(NOTICE, entry.source, "Not early, because %s above it is not." % planned.parent, path)
            )
            continue
        mounted = above(path, facts.fstab)
        if mounted:
            plan.problems.append(
                Problem(
                    NOTICE,
                    entry.source,
                    "Not early, because %s mounts %s above it." % (facts.fstab[mounted], mounted),
                    path,
                )
            )
            continue
        planned.early = True
        planned.mounted_early = planned.name in facts.early
        lines.append(
            "\t".join((entry.method, planned.name, path, overlay_option(path), overlay_option(planned.name)))
            + "\n"
        )
    plan.early_table = "".join(lines)


def _children(accepted: dict[str, Planned]) -> dict[str, list[str]]:
    """For each entry the store names of the entries that are seeded after it is mounted: those right below
    it."""
    children: dict[str, list[str]] = {}
    for planned in accepted.values():
        entry = planned.entry
        if entry.method in ("image", "tmpfs"):
            continue
        if planned.parent:
            children.setdefault(planned.parent, []).append(planned.name)
        if (entry.user or entry.group) and planned.parent != "/etc" and planned.path != "/etc":
            children.setdefault("/etc", []).append(planned.name)  # names of users are looked up there
    return children


def _above(planned: Planned, accepted: dict[str, Planned]) -> list[Planned]:
    """The entries above one, the nearest first."""
    found = []
    parent = planned.parent
    while parent:
        found.append(accepted[parent])
        parent = found[-1].parent
    return found


_ANYWAY = ("local-fs.target", "sysinit.target", "basic.target")


def _goes_round(plan: Plan, planned: Planned, service: str, circles: "set[tuple[str, str]]") -> str:
    """Why a unit cannot be ordered after an entry, or ''. PID 1 breaks a circle by dropping whatever job it
    likes."""
    if service in OURS or service.startswith(OUR_TEMPLATES):
        return "is a unit of persist"
    if service in (planned.unit, planned.name + ".mount"):
        return "is the unit of the entry"
    if service.endswith(".slice") and (service.startswith("system") or service == "-.slice"):
        return "has units in it that the entry waits for"
    if (
        service in BEFORE_US
        or (service == "swap.target" and planned.entry.method == "tmpfs")
        or plan.net
        and service in BEFORE_NET
    ):
        return (
            "starts before the state volume is there"
            if planned.entry.method != "tmpfs"
            else "starts before memory is mounted"
        )
    if service.endswith(".mount"):
        if any(
            [
                parent in plan.fstab and service == escape(parent) + ".mount"
                for parent in parents(planned.path)
            ]
        ):
            return "mounts the filesystem that the entry lies on"
        if any(
            [
                parent in plan.fstab and service == escape(parent) + ".mount"
                for parent in parents(planned.entry.seed_from + "/")
            ]
        ):
            return "mounts the filesystem that SeedFrom= lies on"
    return "has to be there before the entry" if (planned.path, service) in circles else ""


def _services(plan: Plan, planned: Planned, circles: "set[tuple[str, str]]") -> None:
    entry = planned.entry
    unit = planned.unit or "persist-seed@" + planned.name + ".service"
    requirement = "Wants=" if entry.required == "no" else "Requires="
    # The mount of a bind has no fragment, but PID 1 unmounts it all the same when the machine stops, and
    # after its users.
    after = unit + " " + planned.name + ".mount" if entry.method == "bind" else unit
    lines: dict[str, str] = {}
    for service in dict.fromkeys(entry.services):
        why = _goes_round(plan, planned, service, circles)
        anyway = service in _ANYWAY and not plan.net
        if (why or anyway) and not lines:  # once, and only where something is wrong
            lines = {
                word: "%s:%d" % (entry.file, line)
                for key, value, line in entry.settings
                if key == "Services"
                for word in words(value)
            }
        if why:
            plan.problems.append(
                Problem(
                    ERROR,
                    lines.get(service, entry.source),
                    "Services=%s %s, so it cannot wait for %s; it is not ordered. "
                    "Take it out of Services=." % (service, why, planned.path),
                    planned.path,
                )
            )
            continue
        if anyway:
            plan.problems.append(
                Problem(
                    WARNING,
                    lines.get(service, entry.source),
                    "Services=%s waits for every entry anyway, ignoring. Take it out of "
                    "Services=; with Required=boot the boot does not go on without %s."
                    % (service, planned.path),
                    planned.path,
                )
            )
            continue
        file = service + ".d/50-persist-" + planned.name + ".conf"
        plan.files[file] = (
            FIRST_LINE
            + "[Unit]\nSourcePath="
            + specifiers(entry.file)
            + "\n"
            + requirement
            + unit
            + "\nAfter="
            + after
            + "\n"
        )


def _circles(accepted: dict[str, Planned], facts: "Facts") -> set[tuple[str, str]]:
    """As rounds(): (path, unit) of each Services= that its entry waits for itself."""
    asked = [
        (p, service)
        for p in accepted.values()
        for service in p.entry.services
        if service.endswith((".mount", ".swap")) or service == "swap.target"
    ]
    if not asked:
        return set()
    from .rare.rounds import rounds  # such a Services= is rare

    return rounds(accepted, facts, asked)


def _after_mount(path: str, why: str) -> str:
    """Settings of what has to come after a mount of others, and not without it."""
    unit = escape(path) + ".mount\n"
    # What the initrd mounts has no unit that says so: there where it did, and else nothing.
    return ("Wants=" if why.startswith("mount.usr=") else "Requires=") + unit + "After=" + unit


def _named(owner: str) -> bool:
    return owner.strip("0123456789") != ""


def _entry_files(
    plan: Plan, planned: Planned, children: list[str], above_it: "Sequence[Planned]", again: bool
) -> None:
    """The unit of one entry, and the drop-in of its seed where it lies on a filesystem of fstab."""
    entry = planned.entry
    binds = [p.unit for p in above_it if p.entry.method == "bind" and not p.mounted_early] if above_it else []
    if entry.method == "bind":
        plan.files[planned.unit] = bind_unit(plan, planned, children, binds)
    elif planned.unit:
        plan.files[planned.unit] = mount_unit(plan, planned, children, binds, again)
    mounted = above(planned.path, plan.fstab) if plan.fstab else ""
    if entry.method in ("image", "tmpfs"):
        return
    after = "Wants=" + NET_UNIT + "\nAfter=" + NET_UNIT + "\n" if plan.net else ""
    if plan.reload and planned.path not in RELOAD and (_named(entry.user) or _named(entry.group)):
        # Where /etc comes late, sysusers.d can make users only when it is there: the target is queued again
        # then, and systemd-sysusers.service with it.
        after += "After=persist-reload.service\n"
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


def _target(name: str, wants: list[str]) -> tuple[str, str]:
    # A line for each: PID 1 drops a file with a line of more than 1 MiB.
    return name + ".d/" + DROPIN, FIRST_LINE + "[Unit]\nWants=" + "\nWants=".join(
        wants
    ) + "\nAfter=" + "\nAfter=".join(wants) + "\n"


def plan(config: "Config", registry: "Registry", facts: "Facts") -> Plan:
    """What shall be mounted, seeded and ordered on this machine. Never raises on what users wrote: see
    Plan.outside."""
    result = Plan()
    result.reason = why_nothing(facts)
    if result.reason:
        return result
    if not registry.entries:
        result.reason = "the registry has no entries"
        return result
    result.fstab = facts.fstab
    result.read_only = facts.mode == "ro"
    result.net = config.netdev
    result.entries, result.outside = accept(config, registry, facts)
    accepted = {p.path: p for p in result.entries}
    _early(result, facts, accepted)
    children = _children(accepted)
    ways = {p.path: _above(p, accepted) for p in result.entries if p.parent}
    # Overlays that persist-volume.service mounts because a bind lies in them (entries/bind.py).
    again = {p.path for path, way in ways.items() if accepted[path].entry.method == "bind" for p in way}
    wants: list[str] = []
    required: list[str] = []
    backlight: list[str] = []
    # PID 1 has read the image's units; it must look again when these have come up.
    result.reload = any([p.path in RELOAD and not p.mounted_early for p in result.entries])
    circles = _circles(accepted, facts)
    for planned in result.entries:
        entry = planned.entry
        if not planned.mounted_early:
            _entry_files(
                result,
                planned,
                children.get(planned.path, []),
                ways.get(planned.path, ()),
                planned.path in again,
            )
            wants.append(planned.unit or "persist-seed@" + planned.name + ".service")
            if entry.required == "boot":
                required.append(wants[-1])
            if planned.path[:4] == "/var" and entry.method == "bind" and serves(planned.path, BACKLIGHT[1]):
                backlight.append(planned.unit)
        if entry.services:
            _services(result, planned, circles)
    if _others(facts, accepted):
        from .rare.uses import order

        order(result, config, facts)
    if backlight:
        result.files[BACKLIGHT[0] + ".d/" + DROPIN] = (
            FIRST_LINE + "[Unit]\nAfter=" + VOLUME_UNIT + " " + " ".join(backlight) + "\n"
        )
    if result.reload:
        wants.append("persist-reload.service")
    if required:
        result.files["local-fs.target.d/" + DROPIN] = (
            FIRST_LINE + "[Unit]\nRequires=" + "\nRequires=".join(required) + "\n"
        )
    # Last, so that a generator that dies half-way has wanted nothing.
    if result.net:
        from .rare import net

        memory = [p.unit for p in result.entries if p.entry.method == "tmpfs"]
        result.files.update(net.files([unit for unit in wants if unit not in memory]))
        wants = memory
    if wants:
        name, text = _target("persist-setup.target", wants)
        result.files[name] = text
    return result
