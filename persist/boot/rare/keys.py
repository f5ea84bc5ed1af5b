# SPDX-License-Identifier: LGPL-2.1-or-later
"""All keys of the registry, what they take, and what can be wrong with a section. Boot-safe; loaded for the
first section that says more than Path= and Method= (entry.py)."""

from ..entry import METHODS, Entry
from ..ini import ERROR, NOTICE, Problem, Section, choice, words, yes_or_no
from ..paths import ENTRY_NAME_MAX, is_unit_name, wrong_path, wrong_source, wrong_unit
from .values import DIGITS, is_owner, not_a_name, unquote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .migrations import Migration

    Parser = Callable[[Entry, str], str]

IDENTITY_KEYS = ("Path", "Action", "RegeneratedBy", "Class", "Content", "Exec", "Regenerate", "Reason")
LINK_KEYS = ("Path", "Target")
ACTIONS = ("remove", "truncate", "empty-dir", "write", "run", "report")


def path_value(value: str) -> str:
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
        from .near import unknown_key  # only where something is wrong

        problems.append(unknown_key(section, key, line, _KEYS[section.name], path))
    return False


def _instead(value: str) -> str:
    from .near import instead  # only where something is wrong

    return instead(value)


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


def _mode(entry: Entry, value: str) -> str:
    if not 3 <= len(value) <= 4 or value.strip("01234567"):
        return "must be three or four octal digits"
    entry.mode = value
    return ""


def _seed_from(entry: Entry, value: str) -> str:
    try:
        entry.seed_from = path_value(value)
    except ValueError as e:
        return "cannot be taken: %s" % e
    return wrong_path(entry.seed_from) or wrong_source(entry.seed_from)


def services(to: "Entry | Migration", value: str) -> str:
    """Take Services=; returns what is wrong with it, or an empty string."""
    for unit in words(value):
        if not is_unit_name(unit):
            return "'%s' is not the full name of a unit, such as foo.service%s" % (
                unit,
                "; blanks stand between units, not commas" if "," in unit else "",
            )
        to.services.append(unit)
    return ""


def _options(entry: Entry, value: str) -> str:
    from . import flags  # rare

    try:
        entry.options = flags.added(entry.options, value)
    except ValueError as e:
        return str(e)
    return ""


# Each takes one setting of an entry, and returns what is wrong with it, or an empty string. The defaults are
# Entry's own, the page is persist.d(5).
_PARSERS: "dict[str, Parser]" = {
    "Method": choice("method", METHODS),
    "Type": choice("type", ("directory", "file"), "must be directory or file"),
    "User": _owner("user"),
    "Group": _owner("group"),
    "Mode": _mode,
    "SeedFrom": _seed_from,
    "Required": choice("required", ("no", "service", "boot"), "must be no, service or boot"),
    "Services": services,
    "Stale": choice("stale", ("ro", "allow"), "must be ro or allow"),
    "Snapshot": yes_or_no("snapshot"),
    "Options": _options,
}
PATH_KEYS = ("Path", *_PARSERS, "Early")
# Those of [Migration] are in migrations.py, which reads that.
_KEYS = {"Path": PATH_KEYS, "Identity": IDENTITY_KEYS, "Migration": (), "Link": LINK_KEYS}


def path_of(section: Section, problems: list[Problem]) -> tuple[str, int]:
    """The path of a section and its line, or '' with a problem."""
    path, at = "", 0
    for key, value, line in section.settings:
        if key != "Path":
            continue
        at = line
        wrong = ""
        if path:
            wrong = "A second Path= in one [Path] section, the section is ignored. Begin a new [Path]."
        else:
            try:
                path = path_value(value)
            except ValueError as e:
                wrong = "Path=%s: %s, the entry is ignored.%s" % (value, e, _instead(value))
        if wrong:
            problems.append(Problem(ERROR, "%s:%d" % (section.file, line), wrong, path))
            return "", 0
    where = "%s:%d" % (section.file, at or section.line)
    if not path:
        what = "Path= is empty" if at else "[Path] without Path="
        problems.append(Problem(ERROR, where, what + ", the entry is ignored."))
        for key, _, line in section.settings:
            _known(section, key, line, problems)  # a misspelled Path=, for one
        return "", 0
    if path[-1] == "/" and path.strip("/") and not path.endswith("//"):
        path = path[:-1]
    wrong = wrong_path(path)
    if wrong:
        problems.append(Problem(ERROR, where, "Path=%r %s, the entry is ignored." % (path, wrong), path))
        return "", 0
    return path, at


def take(entry: Entry, section: Section, key: str, value: str, line: int, problems: list[Problem]) -> bool:
    """Take one setting of an entry; False with a problem where it costs the entry."""
    if not _known(section, key, line, problems, entry.path):
        return True
    if key == "Early":  # of when the initrd worked from a table
        text = "Early= has no effect: what PID 1 reads is mounted before it starts. Remove the line."
        problems.append(Problem(NOTICE, "%s:%d" % (section.file, line), text, entry.path))
        return True
    wrong = _PARSERS[key](entry, value)
    if wrong:
        instead = _instead(value) if key == "SeedFrom" else ""
        text = "%s=%s %s, the entry for %s is ignored.%s" % (key, value, wrong, entry.path, instead)
        problems.append(Problem(ERROR, "%s:%d" % (section.file, line), text, entry.path))
    return not wrong


def unfit(entry: Entry) -> Problem:
    """Why an entry cannot be in force whose settings are each right."""
    path, where = entry.path, entry.source
    wrong = wrong_unit(path, entry.method)
    if entry.method == "overlay" and entry.type == "file":
        wrong = "Method=overlay is for directories"
    if len(entry.name) > ENTRY_NAME_MAX:
        text = (
            "Path=%s is too long for the name of a unit, the entry is ignored. Keep a directory above it."
            % path
        )
    elif wrong:
        text = "%s, the entry for %s is ignored." % (wrong, path)
        if entry.method == "overlay" and "," in path:
            text += " Write one [Path] section for each path if this is a list; "
            text += "Method=bind keeps a path with a comma."
        elif entry.method == "overlay":
            text += " Use Method=bind."
    else:
        where = entry.where("Options")
        text = (
            "Options= is for Method=overlay and Method=bind, which have a mount of their own, "
            "the entry for %s is ignored." % path
        )
    return Problem(ERROR, where, text, path)


def is_known(section: Section, problems: list[Problem]) -> bool:
    """Whether a section that is no [Path] is one of the registry; says what is wrong with it."""
    if section.name not in _KEYS:
        if not section.name.startswith("X-"):
            from .near import unknown_section  # only where something is wrong

            problems.append(unknown_section(section, _KEYS))
        return False
    for key, value, line in section.settings:
        known = _known(section, key, line, problems)
        if known and section.name == "Identity" and key == "Action" and value not in ACTIONS:
            wrong = "Action=%s must be one of %s." % (value, ", ".join(ACTIONS))
            problems.append(Problem(ERROR, "%s:%d" % (section.file, line), wrong))
    return True
