# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which migrations are in force, and the units that run them (docs/migrations.md). Boot-safe; loaded only
where a registry file has a [Migration] section."""

from ..ini import ERROR, NOTICE, Problem
from ..paths import MIGRATED, STORES, above, specifiers
from ..units import FIRST_LINE
from .migrations import AFTER, BEFORE, Migration, PlannedMigration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..accept import Planned
    from ..plan import Plan
    from ..registry import Registry

DROPIN = "50-persist.migrations.conf"  # no entry has a name that makes this one
# What may wait for one that runs before it: a mount, say, is there before any migration starts, and a target
# that fails takes the boot with it.
_MAY_WAIT = ("service", "socket", "path", "timer")
# What comes before the files that the migration's own unit waits for (systemd 252 and 257).
_EARLIER = ("systemd-journal-flush.service", "systemd-journald.service", "systemd-tmpfiles-setup.service")


def _keeper(path: str, entries: "dict[str, Planned]") -> "tuple[Planned | None, str]":
    """The nearest entry at or above a path, by its own path or by that without aliases, and the path without
    them."""
    at = path if path in entries else above(path, entries)
    best, length = entries.get(at), len(at)
    real = path
    for planned in entries.values():
        name = planned.entry.path
        if name != planned.path and len(name) > length and (path == name or path.startswith(name + "/")):
            best, real, length = planned, planned.path + path[len(name) :], len(name)
    return best, real


def _gone(path: str, keeper: "Planned | None", plan: "Plan") -> str:
    """Why an entry between a path and the one that keeps it is not in force, or ''."""
    for out in plan.outside:
        for name in (out.real, out.entry.path):
            if (
                out.state in ("refused", "elsewhere", "not-before-pid1")
                and (path == name or path.startswith(name + "/"))
                and (keeper is None or len(name) > len(keeper.path))
            ):
                return "%s is not kept (%s)" % (name, out.why)
    return ""


def _wrong(migration: Migration, keeper: "Planned | None", path: str, plan: "Plan") -> str:
    """Why a migration can be in force nowhere, or ''."""
    if keeper is None:
        return "no entry keeps %s. Add a [Path] section for it, or correct Path=" % path
    entry = keeper.entry
    if entry.method == "image":
        return "%s is left to the image by %s (Method=image), and not kept" % (keeper.path, entry.source)
    if entry.method == "tmpfs":
        return "%s is in memory by %s (Method=tmpfs), and not kept" % (keeper.path, entry.source)
    if not entry.snapshot:
        return "%s says Snapshot=no for %s, so there would be no way back" % (entry.source, keeper.path)
    if plan.net and migration.when == BEFORE and not migration.services:
        return "the state volume comes with the network, after basic.target. Name services in Services="
    return ""


def _accept(migration: Migration, accepted: "dict[str, Planned]", plan: "Plan") -> PlannedMigration | None:
    keeper, path = _keeper(migration.path, accepted)
    gone = _gone(migration.path, keeper, plan)
    if not gone and keeper is not None:
        at = path if path in plan.fstab else above(path, plan.fstab)
        if len(at) > len(keeper.path):
            gone = "%s mounts %s, which is not on the state volume" % (plan.fstab[at], at)
    wrong = "" if gone else _wrong(migration, keeper, path, plan)
    if wrong or gone or keeper is None:
        text = "Will not run the migration %s: %s." % (migration.id, wrong or gone)
        plan.problems.append(Problem(ERROR if wrong else NOTICE, migration.where("Path"), text))
        return None
    return PlannedMigration(migration, keeper, path)


# -- units


def _cannot_wait(unit: str, plan: "Plan") -> str:
    """Why a unit cannot wait for a migration, or ''."""
    from .services import BEFORE_NET, BEFORE_US, OUR_TEMPLATES, OURS

    if unit in OURS or unit.startswith(OUR_TEMPLATES):
        return "is a unit of persist"
    if unit.rpartition(".")[2] not in _MAY_WAIT:
        return "is neither a service nor a socket, path or timer"
    if unit in BEFORE_US or unit in _EARLIER or plan.net and unit in BEFORE_NET:
        return "starts before a migration can run"
    return ""


def _waiting(found: PlannedMigration, plan: "Plan") -> list[str]:
    """The units that wait for one that runs before them; says which cannot."""
    migration, good = found.migration, []
    for unit in dict.fromkeys(migration.services):
        why = _cannot_wait(unit, plan)
        if why:
            text = (
                "Services=%s %s, so it cannot wait for the migration %s; it is not ordered. Take it out of "
                "Services=." % (unit, why, migration.id)
            )
            plan.problems.append(Problem(ERROR, migration.where("Services", unit), text))
        else:
            good.append(unit)
    return good


def _unit(found: PlannedMigration, after: list[str], before: list[str]) -> str:
    migration = found.migration
    return (
        f"{FIRST_LINE}[Unit]\nDescription=persist: migration {migration.id} of {specifiers(found.path)}\n"
        f"Documentation=man:persist.d(5)\nSourcePath={specifiers(migration.file)}\nDefaultDependencies=no\n"
        f"Conflicts=shutdown.target\nAfter={' '.join(after)}\nBefore={' '.join(before)}\n"
        f"ConditionPathExists={STORES}/{found.planned.name}\nConditionPathExists=!{MIGRATED}/{migration.id}\n"
        # What the program prints is for the journal, and that PID 1 skips the unit is not. No time-out:
        # nobody knows how much there is to do.
        "\n[Service]\nLogLevelMax=notice\nSyslogLevel=notice\nType=oneshot\nNotifyAccess=main\n"
        "ExecStart=/usr/lib/persist/persist-service migrate %i\nStandardOutput=journal\n"
        "TimeoutStartSec=infinity\n"
    )


def _lines(key: str, units: list[str]) -> str:
    return "".join([key + unit + "\n" for unit in units])


def add(plan: "Plan", registry: "Registry", accepted: "dict[str, Planned]") -> None:
    """Add the migrations of a registry that are in force to a plan, with their units in the order of the
    files, and what is wrong with the others to its problems."""
    begin = ["persist-setup.target", "local-fs.target", "systemd-sysusers.service"]
    begin += ["systemd-tmpfiles-setup.service", *(["remote-fs.target"] if plan.net else [])]
    earlier: list[str] = []  # in the order of the files; of which a boot may leave out any
    later: list[str] = []
    alone: list[str] = []
    required: dict[str, list[str]] = {}
    for migration in registry.migrations:
        found = _accept(migration, accepted, plan)
        if found is None:
            continue
        plan.migrations.append(found)
        if migration.when == AFTER:
            after = [*begin, "sysinit.target", *dict.fromkeys(migration.services), *later]
            plan.files[found.unit] = _unit(found, after, ["shutdown.target"])
            later.append(found.unit)
            continue
        services = _waiting(found, plan)
        plan.files[found.unit] = _unit(
            found, begin + earlier, [*(services or ["basic.target"]), "shutdown.target"]
        )
        earlier.append(found.unit)
        for service in services:
            required.setdefault(service, []).append(found.unit)
        if not services:
            alone.append(found.unit)
    for service, units in required.items():
        text = _lines("Requires=", units) + _lines("After=", units)
        plan.files[service + ".d/" + DROPIN] = FIRST_LINE + "[Unit]\n" + text
    for target, units in (("basic.target", alone), ("multi-user.target", later)):
        if units:
            plan.files[target + ".d/" + DROPIN] = FIRST_LINE + "[Unit]\n" + _lines("Wants=", units)
