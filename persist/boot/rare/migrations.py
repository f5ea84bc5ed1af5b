# SPDX-License-Identifier: LGPL-2.1-or-later
"""[Migration]: what has to be done once to data that an older image has left, and the units that do it
(docs/migrations.md). Boot-safe; loaded only where a registry file has such a section."""

from ..ini import ERROR, NOTICE, Problem, choice, words
from ..paths import MIGRATED, STORES, above, is_unit_name, name_of_plain, specifiers, unsayable, wrong_path
from ..units import FIRST_LINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..accept import Planned
    from ..ini import Section
    from ..plan import Plan
    from ..registry import Registry

    Parser = Callable[["Migration", str], str]

BEFORE, AFTER = "before-services", "after-services"
LONGEST_ID = 64
DROPIN = "50-persist.migrations.conf"  # no entry has a name that makes this one
_ID = "0123456789abcdefghijklmnopqrstuvwxyz._-"
_ESCAPES = {"\\": "\\", '"': '"', "'": "'", "s": " ", "t": "\t", "n": "\n"}
# What may wait for one that runs before it: a mount, say, is there before any migration starts, and a target
# that fails takes the boot with it.
_MAY_WAIT = ("service", "socket", "path", "timer")
# What comes before the files that the migration's own unit waits for (systemd 252 and 257).
_EARLIER = ("systemd-journal-flush.service", "systemd-journald.service", "systemd-tmpfiles-setup.service")


class Migration:
    """What a section says, with the defaults of persist.d(5). ``exec`` are the words of the command line,
    ``line`` that of Id= in ``file``."""

    __slots__ = ("id", "path", "exec", "when", "services", "downgrade", "file", "line", "settings")

    def __init__(self, section: "Section") -> None:
        self.id = self.path = ""
        self.exec: list[str] = []
        self.when = BEFORE
        self.services: list[str] = []
        self.downgrade = "refuse"
        self.file = section.file
        self.line = section.line
        self.settings = section.settings

    @property
    def source(self) -> str:
        """file:line of its id."""
        return "%s:%d" % (self.file, self.line)

    def where(self, key: str, word: str = "") -> str:
        """file:line of its last setting with a key (that has a word in it)."""
        lines = [line for k, value, line in self.settings if k == key and word in value]
        return "%s:%d" % (self.file, lines[-1]) if lines else self.source


class PlannedMigration:
    """One that is in force: ``path`` without aliases, ``planned`` the entry that keeps it, ``unit`` what runs
    it."""

    __slots__ = ("migration", "planned", "path", "unit")

    def __init__(self, migration: Migration, planned: "Planned", path: str) -> None:
        self.migration = migration
        self.planned = planned
        self.path = path
        self.unit = "persist-migrate@" + migration.id + ".service"


def arguments(command: str) -> list[str]:
    """The words of a command line, quoted as in units (systemd.syntax(7)); neither specifiers nor variables
    are expanded. Raises ValueError."""
    if "\\" not in command and '"' not in command and "'" not in command:
        return words(command)
    found: list[str] = []
    word: str | None = None
    quote = ""
    at = 0
    while at < len(command):
        c = command[at]
        at += 1
        if c == "\\":
            c = command[at : at + 1]
            at += 1
            if c not in _ESCAPES or not c:
                raise ValueError(
                    "has the escape '\\%s', and only \\\\, \\\", \\', \\s, \\t and \\n are known" % c
                )
            word = (word or "") + _ESCAPES[c]
        elif c == quote:
            quote = ""
        elif not quote and c in "\"'":
            quote, word = c, word or ""
        elif not quote and c in " \t\r":
            if word is not None:
                found.append(word)
            word = None
        else:
            word = (word or "") + c
    if quote:
        raise ValueError("has a quote that is not closed")
    return found if word is None else [*found, word]


def _id(to: Migration, value: str) -> str:
    """May be the name of a file and a part of a unit's."""
    if not value or value.strip(_ID) or value[0] in "._-" or len(value) > LONGEST_ID:
        return (
            "must be of a-z, 0-9, '.', '_' and '-', begin with a letter or a digit, and be no longer than %d"
            % LONGEST_ID
        )
    to.id = value
    return ""


def _path(to: Migration, value: str) -> str:
    to.path = value
    if name_of_plain(value):
        return ""
    from . import keys  # as an entry's

    try:
        path = keys.path_value(value)
    except ValueError as e:
        return "cannot be taken: %s" % e
    if path[-1:] == "/" and path.strip("/") and not path.endswith("//"):
        path = path[:-1]
    to.path = path
    return wrong_path(path)


def _services(to: Migration, value: str) -> str:
    units = words(value)
    if not all([is_unit_name(unit) for unit in units]):
        from . import keys  # only where something is wrong

        return keys.services(to, value)
    to.services += units
    return ""


def _exec(to: Migration, value: str) -> str:
    try:
        to.exec = arguments(value)
    except ValueError as e:
        return str(e)
    if not to.exec or to.exec[0][:1] != "/":
        return "must begin with the absolute path of a program"
    return unsayable(to.exec[0])


# Each takes one setting, and returns what is wrong with it, or an empty string; those that are required come
# first. The page is persist.d(5).
_PARSERS: "dict[str, Parser]" = {
    "Id": _id,
    "Path": _path,
    "Exec": _exec,
    "When": choice("when", (BEFORE, AFTER)),
    "Services": _services,
    "Downgrade": choice("downgrade", ("refuse", "allow")),
}
_REQUIRED = ("Id", "Path", "Exec")
KEYS = tuple(_PARSERS)


def _ignored(found: Migration, line: int, wrong: str) -> Problem:
    name = "the migration " + found.id if found.id else "the migration"
    return Problem(ERROR, "%s:%d" % (found.file, line), "%s, %s is ignored." % (wrong, name))


def read(section: "Section", problems: "list[Problem]") -> Migration | None:
    """A migration from its section, or None with a problem when the section cannot stand."""
    found = Migration(section)
    seen: dict[str, int] = {}
    for key, value, line in section.settings:
        if key not in _PARSERS:
            if not key.startswith("X-"):
                from .near import unknown_key  # only where something is wrong

                problems.append(unknown_key(section, key, line, KEYS))
            continue
        wrong = _PARSERS[key](found, value)
        if wrong:
            wrong = "%s=%s %s" % (key, value, wrong)
        elif key in seen and key in _REQUIRED:
            wrong = "A second %s= in one [Migration] section" % key
        if wrong:
            problems.append(_ignored(found, line, wrong))
            return None
        seen[key] = line
    lacking = [key + "=" for key in _REQUIRED if key not in seen]
    if lacking:
        problems.append(_ignored(found, section.line, "[Migration] without " + " and ".join(lacking)))
        return None
    found.line = seen["Id"]
    return found


def each_once(found: "list[Migration]", problems: "list[Problem]") -> "list[Migration]":
    """Those of a registry, of two with one id the one that sorts first."""
    first: dict[str, Migration] = {}
    for migration in found:
        before = first.setdefault(migration.id, migration)
        if before is not migration:
            text = "Id=%s is already declared by %s, which sorts first; ignoring this one."
            problems.append(Problem(NOTICE, migration.source, text % (migration.id, before.source)))
    return list(first.values())


# -- which are in force


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
