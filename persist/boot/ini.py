# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tolerant line parser: sections may repeat, each problem has a file and a line, nothing raises.
Boot-safe."""

from .paths import PLAIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE = 1 << 16  # of characters, with all its continuations: five hundred names of units and more

DIGITS = "0123456789"
_BLANKS = " \t\r"  # systemd's, less the newline: no other blank that Unicode knows ends or begins a value

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
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        number = data.count(b"\n", 0, e.start) + 1
        problems.append(
            Problem(ERROR, "%s:%d" % (file, number), "Not UTF-8, the file is ignored. Save it as UTF-8 text.")
        )
        return sections
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        problems.append(
            Problem(
                ERROR,
                "%s:%d" % (file, number),
                "Zero byte in a text file, the file is ignored. Write it again.",
            )
        )
        return sections
    if text.startswith("\ufeff"):
        text = text[1:]
    current: Section | None = None
    known_bad = False
    for line, start in (
        _logical_lines(text, file, problems) if "\\" in text or len(text) > MAX_LINE else _plain_lines(text)
    ):
        if line[0] == "[":
            if line[-1] != "]" or len(line) < 3:
                problems.append(
                    Problem(
                        WARNING,
                        "%s:%d" % (file, start),
                        "Bad section header '%s', ignoring it and its settings." % line[:80],
                    )
                )
                current, known_bad = None, True
                continue
            current, known_bad = Section(line[1:-1].strip(_BLANKS), file, start), False
            sections.append(current)
            continue
        key, sep, value = line.partition("=")
        key = key.rstrip(_BLANKS)
        if not sep or not key:
            problems.append(
                Problem(
                    WARNING,
                    "%s:%d" % (file, start),
                    "Line '%s' is neither a section nor a setting (Key=value), ignoring." % line[:80],
                )
            )
        elif current is None:
            if not known_bad:
                problems.append(
                    Problem(
                        WARNING,
                        "%s:%d" % (file, start),
                        "Setting '%s=' outside of a section, ignoring. "
                        "Put it below a line such as %s." % (key, such),
                    )
                )
        else:
            current.settings.append((key, value.lstrip(_BLANKS), start))
    return sections


def _plain_lines(text: str) -> list[tuple[str, int]]:
    """The same as _logical_lines(), of a text in which no line can be continued or too long: nearly every
    file, in half the time."""
    return [
        (line, number)
        for number, raw in enumerate(text.split("\n"), 1)
        if (line := raw.strip(_BLANKS)) and line[0] not in "#;"
    ]


def _logical_lines(text: str, file: str, problems: list[Problem]) -> "Iterator[tuple[str, int]]":
    """The lines that are neither blank nor comments, those that a backslash continues made one, each with its
    number.

    The pieces of a line are put together once: a line that grew piece by piece would take the square of its
    length.
    """
    pieces: list[str] = []
    number = start = length = 0
    going_on = False
    for raw in text.split("\n"):
        number += 1
        line = raw.strip(_BLANKS)
        if not going_on:
            if not line or line[0] in "#;":
                continue
            start, length = number, 0
        elif line and line[0] in "#;":
            continue
        going_on = line[-1:] == "\\" and (
            line[-2:-1] != "\\" or (len(line) - len(line.rstrip("\\"))) % 2 == 1
        )
        length += len(raw) + 1
        if length > MAX_LINE:
            pieces.clear()  # read to its end and not kept
            if not going_on:
                problems.append(
                    Problem(
                        ERROR,
                        "%s:%d" % (file, start),
                        "The line is longer than 64 KiB, ignoring it. Make several settings of it.",
                    )
                )
        elif going_on:
            pieces.append(line[:-1].strip(_BLANKS))
        elif pieces:
            line = " ".join([piece for piece in (*pieces, line) if piece])
            pieces.clear()
            if line:
                yield line, start
        else:
            yield line, start
    if going_on:
        problems.append(
            Problem(WARNING, "%s:%d" % (file, start), "The last line ends in a backslash, ignoring it.")
        )


def unquote(value: str) -> str:
    """A value without the double quotes around it, ``\\\\`` and ``\\"`` resolved. Raises ValueError where
    they do not begin and end it."""
    if value[:1] != '"':
        return value
    out: list[str] = []
    i = 1
    while i < len(value):
        c = value[i]
        if c == '"':
            if i + 1 < len(value):
                raise ValueError("something follows the closing quote")
            return "".join(out)
        if c == "\\":
            i += 1
            c = value[i : i + 1]
            if c and c not in '\\"':
                raise ValueError("'\\%s' is not an escape, only \\\\ and \\\" are" % c)
        out.append(c)
        i += 1
    raise ValueError("the quote is not closed")


def words(value: str) -> list[str]:
    """A value split at blanks as systemd does it; a no-break space, say, is part of a word."""
    return [word for word in value.replace("\t", " ").replace("\r", " ").split(" ") if word]


def not_a_name(value: str) -> str:
    """What an unquoted value is that somebody takes for more than one name, or an empty string. Quotes make
    it a name all the same."""
    if not value.strip(PLAIN) or not value.isprintable():
        return ""  # the usual name, or wrong_path() says what that is
    for c in "*?[]{}":
        if c in value:
            return "a pattern"
    if "$" in value:
        return "a variable"
    if " #" in value or "\t#" in value or " ;" in value or "\t;" in value:
        return "a comment behind a value"
    for part in words(value.replace(",", " "))[1:]:
        if part[0] == "/":
            return "a list"
    return ""


def boolean(value: str) -> bool | None:
    """systemd's booleans, None for anything else."""
    low = value.lower()
    if low in ("1", "yes", "y", "true", "t", "on"):
        return True
    if low in ("0", "no", "n", "false", "f", "off"):
        return False
    return None


def number(value: str) -> int | None:
    """A user's or group's number: ASCII digits, at most 4294967294, for the one above it means "as it is" to
    chown(2). None for anything else."""
    value = value.lstrip("0") or value[:1]
    if not value or value.strip(DIGITS) or len(value) > 10 or int(value) > 0xFFFFFFFE:
        return None
    return int(value)


def is_owner(value: str) -> bool:
    """Whether a text is the name or the number of a user or a group."""
    if not value.strip(DIGITS):
        return number(value) is not None
    return (
        bool(value) and value.isascii() and all(c.isalnum() or c in "_-.$" for c in value) and value[0] != "-"
    )
