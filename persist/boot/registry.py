# SPDX-License-Identifier: LGPL-2.1-or-later
"""The registry: persist.d/*.conf to entries. One bad line costs that line, one bad entry costs that entry.
Boot-safe."""

from .dropins import fragments, read
from .ini import (
    DEBUG,
    DIGITS,
    ERROR,
    NOTICE,
    Problem,
    Section,
    boolean,
    is_owner,
    not_a_name,
    parse,
    unquote,
    words,
)
from .paths import ENTRY_NAME_MAX, escape, is_unit_name, wrong_path, wrong_source, wrong_unit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Parser = Callable[["Entry", str], str]

METHODS = ("overlay", "bind", "symlink", "image", "tmpfs", "none")
IDENTITY_KEYS = ("Path", "Action", "RegeneratedBy", "Class")
MIGRATION_KEYS = ("Id", "Path", "Services", "Exec", "When", "Downgrade")
LINK_KEYS = ("Path", "Target")
ACTIONS = ("remove", "truncate", "empty-dir", "write", "run", "report")

OPTIONS = "nosuid,nodev"  # what nobody asked otherwise for: a volume is data


class Entry:
    """One ``[Path]``: what is kept and how. ``source`` is file:line, ``file`` the file for SourcePath=.

    ``options`` are the flags of its mount, each said once, and whether it is nosuid and nodev said always.
    """

    __slots__ = (
        "path",
        "method",
        "type",
        "user",
        "group",
        "mode",
        "seed_from",
        "required",
        "services",
        "stale",
        "snapshot",
        "early",
        "options",
        "source",
        "file",
        "name",
        "settings",
    )

    def __init__(self, path: str, source: str, file: str) -> None:
        self.path = path
        self.name = escape(path)
        self.source = source
        self.file = file
        self.method = "overlay"
        self.type = ""
        self.user = ""
        self.group = ""
        self.mode = ""
        self.seed_from = ""
        self.required = "no"
        self.services: list[str] = []
        self.stale = "ro"
        self.snapshot = True
        self.early: bool | None = None
        self.options = OPTIONS
        self.settings: list[tuple[str, str, int]] = []

    def where(self, key: str, word: str = "") -> str:
        """file:line of its last setting with a key (that has a word in it), of the entry where there is
        none."""
        lines = [line for k, value, line in self.settings if k == key and (not word or word in words(value))]
        return "%s:%d" % (self.file, lines[-1]) if lines else self.source


class Registry:
    """What the files said: entries sorted by path (a parent before its children), and the other sections as
    they stand.

    ``ignored``: entries for a path that a file which sorts before has declared, each with the one that
    counts. ``refused``: mistakes that cost an entry whose path could be read.
    """

    __slots__ = ("entries", "others", "ignored", "refused")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.others: list[Section] = []
        self.ignored: list[tuple[Entry, Entry]] = []
        self.refused: list[Problem] = []


def _path_value(value: str) -> str:
    """The path that Path= or SeedFrom= names. Raises ValueError."""
    if value[:1] == '"':
        return unquote(value)
    what = not_a_name(value)
    if what:
        raise ValueError(
            "this looks like %s and would be taken for the name of one path (in double quotes it is one)"
            % what
        )
    return value


def _known(section: Section, key: str, line: int, problems: list[Problem], path: str = "") -> bool:
    """Whether a section has a key; says so where it has not."""
    if key in _KEYS[section.name]:
        return True
    if not key.startswith("X-"):
        from .rare.near import unknown_key  # only where something is wrong

        problems.append(unknown_key(section, key, line, _KEYS[section.name], path))
    return False


def _instead(value: str) -> str:
    from .rare.near import instead  # only where something is wrong

    return instead(value)


def _choice(attribute: str, choices: "tuple[str, ...]", wrong: str) -> "Parser":
    def parse(entry: Entry, value: str) -> str:
        if value not in choices:
            return wrong
        setattr(entry, attribute, value)
        return ""

    return parse


def _owner(attribute: str) -> "Parser":
    def parse(entry: Entry, value: str) -> str:
        if not is_owner(value):
            return (
                "is not the name or number of a "
                + attribute
                + ("" if value.strip(DIGITS) else " (at most 4294967294)")
            )
        setattr(entry, attribute, value)
        return ""

    return parse


def _yes_or_no(attribute: str) -> "Parser":
    def parse(entry: Entry, value: str) -> str:
        yes = boolean(value)
        if yes is None:
            return "must be yes or no"
        setattr(entry, attribute, yes)
        return ""

    return parse


def _mode(entry: Entry, value: str) -> str:
    if not 3 <= len(value) <= 4 or value.strip("01234567"):
        return "must be three or four octal digits"
    entry.mode = value
    return ""


def _seed_from(entry: Entry, value: str) -> str:
    try:
        entry.seed_from = _path_value(value)
    except ValueError as e:
        return "cannot be taken: %s" % e
    return wrong_path(entry.seed_from) or wrong_source(entry.seed_from)


def _services(entry: Entry, value: str) -> str:
    for unit in words(value):
        if not is_unit_name(unit):
            return "'%s' is not the full name of a unit, such as foo.service%s" % (
                unit,
                "; blanks stand between units, not commas" if "," in unit else "",
            )
        entry.services.append(unit)
    return ""


def _options(entry: Entry, value: str) -> str:
    from .rare import flags  # rare

    try:
        entry.options = flags.added(entry.options, value)
    except ValueError as e:
        return str(e)
    return ""


# Each takes one setting of an entry, and returns what is wrong with it, or an empty string. The defaults are
# Entry's own, the page is persist.d(5).
_PARSERS: "dict[str, Parser]" = {
    "Method": _choice("method", METHODS, "must be one of " + ", ".join(METHODS)),
    "Type": _choice("type", ("directory", "file"), "must be directory or file"),
    "User": _owner("user"),
    "Group": _owner("group"),
    "Mode": _mode,
    "SeedFrom": _seed_from,
    "Required": _choice("required", ("no", "service", "boot"), "must be no, service or boot"),
    "Services": _services,
    "Stale": _choice("stale", ("ro", "allow"), "must be ro or allow"),
    "Snapshot": _yes_or_no("snapshot"),
    "Early": _yes_or_no("early"),
    "Options": _options,
}
PATH_KEYS = ("Path", *_PARSERS)
_KEYS = {"Path": PATH_KEYS, "Identity": IDENTITY_KEYS, "Migration": MIGRATION_KEYS, "Link": LINK_KEYS}


def _entry(section: Section, problems: list[Problem]) -> Entry | None:
    """An entry from a [Path] section, or None when the section cannot stand."""
    path = ""
    where = ""
    settings, file = section.settings, section.file
    for key, value, line in settings:
        if key == "Path":
            where = "%s:%d" % (file, line)
            if path:
                problems.append(
                    Problem(
                        ERROR,
                        where,
                        "A second Path= in one [Path] section, the section is ignored. Begin a new [Path].",
                        path,
                    )
                )
                return None
            try:
                path = _path_value(value)
            except ValueError as e:
                problems.append(
                    Problem(
                        ERROR, where, "Path=%s: %s, the entry is ignored.%s" % (value, e, _instead(value))
                    )
                )
                return None
    if not path:
        problems.append(
            Problem(
                ERROR,
                where or "%s:%d" % (section.file, section.line),
                "Path= is empty, the entry is ignored."
                if where
                else "[Path] without Path=, the entry is ignored.",
            )
        )
        for key, _, line in section.settings:
            _known(section, key, line, problems)  # a misspelled Path=, for one
        return None
    if path[-1] == "/" and path.strip("/") and not path.endswith("//"):
        path = path[:-1]
    wrong = wrong_path(path)
    if wrong:
        problems.append(Problem(ERROR, where, "Path=%r %s, the entry is ignored." % (path, wrong), path))
        return None
    entry = Entry(path, where, file)
    entry.settings = settings
    if len(entry.name) > ENTRY_NAME_MAX:
        problems.append(
            Problem(
                ERROR,
                where,
                "Path=%s is too long for the name of a unit, the entry is ignored. Keep a directory above it."
                % path,
                path,
            )
        )
        return None
    for key, value, line in settings:
        if key == "Path" or (key not in PATH_KEYS and not _known(section, key, line, problems, path)):
            continue
        wrong = _PARSERS[key](entry, value)
        if wrong:
            problems.append(
                Problem(
                    ERROR,
                    "%s:%d" % (section.file, line),
                    "%s=%s %s, the entry for %s is ignored.%s"
                    % (key, value, wrong, path, _instead(value) if key == "SeedFrom" else ""),
                    path,
                )
            )
            return None
    wrong = (
        "Method=overlay is for directories"
        if entry.method == "overlay" and entry.type == "file"
        else wrong_unit(path, entry.method)
    )
    if wrong:
        instead = (
            ""
            if entry.method != "overlay"
            else " Use Method=bind."
            if "," not in path
            else " Write one [Path] section for each path if this is a list; Method=bind keeps a path with a "
            "comma."
        )
        problems.append(
            Problem(ERROR, where, "%s, the entry for %s is ignored.%s" % (wrong, path, instead), path)
        )
        return None
    options = (
        [line for key, _, line in settings if key == "Options"]
        if entry.method in ("symlink", "image", "tmpfs")
        else []
    )
    if options:
        problems.append(
            Problem(
                ERROR,
                "%s:%d" % (section.file, options[0]),
                "Options= is for Method=overlay and Method=bind, which have a mount of their own, "
                "the entry for %s is ignored." % path,
                path,
            )
        )
        return None
    return entry


def parse_file(data: bytes, file: str, registry: Registry, problems: list[Problem]) -> None:
    """Add what one registry file says to a registry."""
    before = len(problems)
    _sections(data, file, registry, problems)
    if len(problems) > before:
        from .rare.near import at_most  # only where something is wrong

        at_most(problems, before, file)


def _sections(data: bytes, file: str, registry: Registry, problems: list[Problem]) -> None:
    for section in parse(data, file, problems):
        if section.name == "Path":
            entry = _entry(section, problems)
            if entry is not None:
                registry.entries.append(entry)
            continue
        if section.name not in _KEYS:
            if not section.name.startswith("X-"):
                from .rare.near import unknown_section  # only where something is wrong

                problems.append(unknown_section(section, _KEYS))
            continue
        for key, value, line in section.settings:
            if (
                _known(section, key, line, problems)
                and section.name == "Identity"
                and key == "Action"
                and value not in ACTIONS
            ):
                problems.append(
                    Problem(
                        ERROR,
                        "%s:%d" % (file, line),
                        "Action=%s must be one of %s." % (value, ", ".join(ACTIONS)),
                    )
                )
        registry.others.append(section)


def _path(entry: Entry) -> str:
    return entry.path + "/"  # so that /a/b sorts before /a-b, a parent always before its children


def load(root: str, problems: list[Problem], files: "Sequence[str]" = ()) -> Registry:
    """Read all files of the registry below ``root`` ('' for the running system), or only those ``files``,
    wherever they lie."""
    registry = Registry()
    before = len(problems)
    for path, shown in [(file, file) for file in files] or fragments(root, "persist.d", problems):
        data = read(path, shown, problems, "" if files else root)
        if data:
            parse_file(data, shown, registry, problems)
    seen: dict[str, Entry] = {}
    none: set[str] = set()
    for entry in registry.entries:
        first = seen.get(entry.path)
        if first is None:
            seen[entry.path] = entry
            if entry.method == "none":
                none.add(entry.path)
            continue
        registry.ignored.append((entry, first))
        if entry.path not in none:  # for that is what Method=none is for
            problems.append(
                Problem(
                    NOTICE,
                    entry.source,
                    "%s is already declared by %s, which sorts first; ignoring this one."
                    % (entry.path, first.source),
                    entry.path,
                )
            )
    for problem in problems[before:]:
        if problem.level <= ERROR and problem.path:
            registry.refused.append(problem)
            if problem.path in none:
                problem.level = DEBUG
    registry.entries = sorted(seen.values(), key=_path)
    return registry
