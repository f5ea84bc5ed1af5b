# SPDX-License-Identifier: LGPL-2.1-or-later
"""[Migration]: what has to be done once to data that an older image has left, as its sections say
(docs/migrations.md). Boot-safe; loaded only where a registry file has such a section."""

from ..ini import ERROR, NOTICE, Problem, choice, words
from ..paths import is_unit_name, name_of_plain, unsayable, wrong_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..accept import Planned
    from ..ini import Section

    Parser = Callable[["Migration", str], str]

BEFORE, AFTER = "before-services", "after-services"
LONGEST_ID = 64
_ID = "0123456789abcdefghijklmnopqrstuvwxyz._-"
_ESCAPES = {"\\": "\\", '"': '"', "'": "'", "s": " ", "t": "\t", "n": "\n"}


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
