# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which known word was meant by one that is not known. Boot-safe; loaded only where something is wrong."""

from .ini import WARNING, Problem, not_a_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .ini import Section

_FARTHEST = 2  # letters that may be wrong, missing, too many or exchanged; of a short word fewer
_LONGEST = 40
# What to write instead of what looks like more than one name (ini.not_a_name).
_INSTEAD = {"a list": " Write one [Path] section for each path.", "a pattern": " Name the directory that holds what is meant.",
            "a variable": " Write the path itself.", "a comment behind a value": " Comments stand on lines of their own."}


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
    """A sentence with the nearest known word, with a blank before it, or ''. ``form`` is how such a word is written, such as ``[%s]``."""
    if len(word) > _LONGEST:
        return ""
    low = word.lower()
    near = [(_distance(low, k.lower()), k) for k in known]
    best = min(near, default=(_FARTHEST + 1, ""))
    return " Did you mean %s?" % (form % best[1]) if best[0] <= min(_FARTHEST, (len(word) + 1) // 3) else ""


def unknown_key(section: "Section", key: str, line: int, known: "Iterable[str]", path: str = "") -> Problem:
    """The word on a key that a section does not have."""
    return Problem(WARNING, "%s:%d" % (section.file, line), "Unknown key '%s=' in section [%s], ignoring.%s"
                   % (key, section.name, did_you_mean(key, known, "%s=")), path)


def unknown_section(section: "Section", known: "Iterable[str]") -> Problem:
    """The word on a section that a kind of file does not have."""
    every = ["[%s]" % name for name in known]
    return Problem(WARNING, "%s:%d" % (section.file, section.line), "Unknown section [%s], ignoring. Known are %s and %s.%s"
                   % (section.name, ", ".join(every[:-1]), every[-1], did_you_mean(section.name, known, "[%s]")))


def instead(value: str) -> str:
    """What to write in place of a value that is no name of one path: a sentence with a blank before it, or ''."""
    if value[:1] == '"':
        return _INSTEAD["a comment behind a value"] if value.rpartition('"')[2].lstrip(" \t")[:1] in ("#", ";") else ""
    return _INSTEAD.get(not_a_name(value), "")
