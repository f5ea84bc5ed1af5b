# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tolerant line parser: sections may repeat, each problem has a file and a line, nothing raises.
Boot-safe."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_LINE = 1 << 16  # of characters, with all its continuations: five hundred names of units and more

BLANKS = " \t\r"  # systemd's, less the newline: no other blank that Unicode knows ends or begins a value

ERROR, WARNING, NOTICE, DEBUG = 3, 4, 5, 7


class Problem:
    """Something wrong in a file: ``level`` as in syslog(3), ``where`` is file:line, ``path`` the entry it
    costs."""

    __slots__ = ("level", "where", "text", "path", "code")

    def __init__(
        self, level: int, where: str, text: str, path: str = "", code: str = "REGISTRY_PROBLEM"
    ) -> None:
        self.level = level
        self.where = where
        self.text = text
        self.path = path
        self.code = code

    def __str__(self) -> str:
        return self.where + ": " + self.text if self.where else self.text


class Section:
    """One ``[Name]`` of a file with its settings in order: (key, value, line number)."""

    __slots__ = ("name", "file", "line", "settings")

    def __init__(self, name: str, file: str, line: int) -> None:
        self.name = name
        self.file = file
        self.line = line
        self.settings: list[tuple[str, str, int]] = []


def parse(data: bytes, file: str, problems: list[Problem], such: str = "[Path]") -> list[Section]:
    """Split the bytes of a file into sections (systemd.syntax(7)): comments start a line, a backslash
    continues one.

    What cannot be read is reported in ``problems`` and left out. ``such`` is a section that this kind of file
    has.
    """
    sections: list[Section] = []
    current: Section | None = None
    known_bad = False
    for start, raw in _lines(_text(data, file, problems), file, problems):
        line = raw.strip(BLANKS)
        first = line[:1]
        if first in "#;":
            continue  # a blank line, too
        if first == "[":
            current = _section(line, start, file, problems)
            known_bad = current is None
            if current is not None:
                sections.append(current)
            continue
        key, sep, value = line.partition("=")
        key = key.rstrip(BLANKS)
        if not sep or not key:
            wrong = "Line '%s' is neither a section nor a setting (Key=value), ignoring." % line[:80]
            problems.append(Problem(WARNING, "%s:%d" % (file, start), wrong))
        elif current is not None:
            current.settings.append((key, value.lstrip(BLANKS), start))
        elif not known_bad:
            wrong = "Setting '%s=' outside of a section, ignoring. Put it below a line such as %s." % (
                key,
                such,
            )
            problems.append(Problem(WARNING, "%s:%d" % (file, start), wrong))
    return sections


def _text(data: bytes, file: str, problems: list[Problem]) -> str:
    """The text of a file, '' with a problem where it is none."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        wrong, before = "Not UTF-8, the file is ignored. Save it as UTF-8 text.", data[: e.start]
    else:
        if "\0" not in text:
            return text.removeprefix("\ufeff")
        wrong, before = (
            "Zero byte in a text file, the file is ignored. Write it again.",
            data[: data.index(0)],
        )
    problems.append(Problem(ERROR, "%s:%d" % (file, before.count(b"\n") + 1), wrong))
    return ""


def _section(line: str, number: int, file: str, problems: list[Problem]) -> Section | None:
    """The section that a line begins, None with a problem for a bad header."""
    if line[-1] == "]" and len(line) >= 3:
        return Section(line[1:-1].strip(BLANKS), file, number)
    wrong = "Bad section header '%s', ignoring it and its settings." % line[:80]
    problems.append(Problem(WARNING, "%s:%d" % (file, number), wrong))
    return None


def _lines(text: str, file: str, problems: list[Problem]) -> "Iterable[tuple[int, str]]":
    """The lines of a text with their numbers, those that a backslash continues made one."""
    if "\\" in text or len(text) > MAX_LINE:
        from .rare.continued import logical_lines

        return logical_lines(text, file, problems)
    return enumerate(text.split("\n"), 1)


def words(value: str) -> list[str]:
    """A value split at blanks as systemd does it; a no-break space, say, is part of a word."""
    return [word for word in value.replace("\t", " ").replace("\r", " ").split(" ") if word]


def boolean(value: str) -> bool | None:
    """systemd's booleans, None for anything else."""
    low = value.lower()
    if low in ("1", "yes", "y", "true", "t", "on"):
        return True
    if low in ("0", "no", "n", "false", "f", "off"):
        return False
    return None


def choice(attribute: str, choices: "tuple[str, ...]", wrong: str = "") -> "Callable[[object, str], str]":
    """What takes a setting that is one of some words as an attribute: it returns what is wrong, or ''."""

    def take(to: object, value: str) -> str:
        if value not in choices:
            return wrong or "must be one of " + ", ".join(choices)
        setattr(to, attribute, value)
        return ""

    return take


def yes_or_no(attribute: str) -> "Callable[[object, str], str]":
    """The same for a boolean."""

    def take(to: object, value: str) -> str:
        yes = boolean(value)
        if yes is None:
            return "must be yes or no"
        setattr(to, attribute, yes)
        return ""

    return take
