# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which known word was meant by one that is not known. Boot-safe; loaded only where something is wrong."""

from ..ini import WARNING, Problem
from .values import not_a_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..ini import Section

_FARTHEST = 2  # letters that may be wrong, missing, too many or exchanged; of a short word fewer
_LONGEST = 40
# of one file, and one line that counts the others: a file of garbage must cost neither seconds nor the
# journal
MOST = 49
# What to write instead of what looks like more than one name (ini.not_a_name).
_INSTEAD = {
    "a list": " Write one [Path] section for each path.",
    "a pattern": " Name the directory that holds what is meant.",
    "a variable": " Write the path itself.",
    "a comment behind a value": " Comments stand on lines of their own.",
}


def _distance(one: str, other: str) -> int:
    """How many letters to insert, remove, replace or exchange with their neighbour (Damerau, restricted)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, c in enumerate(one):
        older, before, row = before, row, [i + 1]
        for j, d in enumerate(other):
            cost = min(before[j + 1] + 1, row[j] + 1, before[j] + (c != d))
            if older and j and c == other[j - 1] and one[i - 1] == d:
                cost = min(cost, older[j - 1] + 1)
            row.append(cost)
    return row[-1]


def did_you_mean(word: str, known: "Iterable[str]", form: str = "%s") -> str:
    """A sentence with the nearest known word, with a blank before it, or ''. ``form`` is how such a word is
    written, such as ``[%s]``."""
    if len(word) > _LONGEST:
        return ""
    low = word.lower()
    near = [(_distance(low, k.lower()), k) for k in known if -_FARTHEST <= len(k) - len(low) <= _FARTHEST]
    best = min(near, default=(_FARTHEST + 1, ""))
    return " Did you mean %s?" % (form % best[1]) if best[0] <= min(_FARTHEST, (len(word) + 1) // 3) else ""


class Unknown(Problem):
    """A word that is not known. at_most() looks for the one that was meant, and only for those that it
    keeps."""

    __slots__ = ("word", "known", "form")

    def __init__(
        self, where: str, text: str, path: str, word: str, known: "Iterable[str]", form: str
    ) -> None:
        Problem.__init__(self, WARNING, where, text, path)
        self.word = word
        self.known = known
        self.form = form


def unknown_key(section: "Section", key: str, line: int, known: "Iterable[str]", path: str = "") -> Unknown:
    """The word on a key that a section does not have."""
    return Unknown(
        "%s:%d" % (section.file, line),
        "Unknown key '%s=' in section [%s], ignoring." % (key, section.name),
        path,
        key,
        known,
        "%s=",
    )


def unknown_section(section: "Section", known: "Iterable[str]") -> Unknown:
    """The word on a section that a kind of file does not have."""
    every = ["[%s]" % name for name in known]
    return Unknown(
        "%s:%d" % (section.file, section.line),
        "Unknown section [%s], ignoring. Known are %s and %s."
        % (section.name, ", ".join(every[:-1]), every[-1]),
        "",
        section.name,
        known,
        "[%s]",
    )


def at_most(problems: "list[Problem]", before: int, file: str) -> None:
    """Keep the first MOST of a file's warnings, which are those from ``before`` on, and say how many there
    are more.

    What costs an entry is all kept: the verdict names each of them.
    """
    kept = 0
    more = 0
    new: list[Problem] = []
    for problem in problems[before:]:
        if problem.level == WARNING:
            kept += 1
            if kept > MOST:
                more += 1
                continue
            if isinstance(problem, Unknown):
                problem.text += did_you_mean(problem.word, problem.known, problem.form)
        new.append(problem)
    if more:
        new.append(Problem(WARNING, file, "… and %d more lines that are ignored." % more))
    problems[before:] = new


def instead(value: str) -> str:
    """What to write in place of a value that is no name of one path: a sentence with a blank before it, or
    ''."""
    if value[:1] == '"':
        return (
            _INSTEAD["a comment behind a value"]
            if value.rpartition('"')[2].lstrip(" \t")[:1] in ("#", ";")
            else ""
        )
    return _INSTEAD.get(not_a_name(value), "")
