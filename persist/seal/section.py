# SPDX-License-Identifier: LGPL-2.1-or-later
"""[Identity]: what must not be in the image of a machine that is cloned, in persist/identity.d/*.conf and in
persist.d/*.conf. A bad section is left out, with a problem."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from persist.boot.ini import ERROR, WARNING, Problem, Section, parse, words
from persist.boot.paths import is_unit_name
from persist.boot.rare.keys import ACTIONS, IDENTITY_KEYS
from persist.boot.rare.near import Unknown, at_most, did_you_mean, unknown_key
from persist.record import Record
from persist.seal.look.pattern import wrong_pattern
from persist.seal.look.tree import Tree, content, fragments

CLASSES = ("identity", "secret", "log", "cache", "user", "shared")
KEPT_BY_ALL = "shared"  # what the clones have in common: told, and never wiped
NOBODY = "none"  # RegeneratedBy= of what may simply be absent
ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


Found = dict[str, Any]  # the fields of an item, as far as its section was read
Take = Callable[[Found, str], None]


class Item(Record):
    """One [Identity] section. ``patterns`` as Path= has them, unquoted; ``content`` is what ``write`` leaves,
    its escapes resolved; ``exec`` and ``regenerate`` are command lines; ``source`` is file:line."""

    patterns: tuple[str, ...]
    action: str
    cls: str = "identity"
    content: str = ""
    exec: str = ""
    regenerated_by: str = ""
    regenerate: str = ""
    reason: str = ""
    source: str = ""


def arguments(command: str) -> list[str]:
    """The words of a command line, quoted as for sh(1), which does not read it. Raises ValueError."""
    quoted = any(character in command for character in "\"'\\")
    found = shlex.split(command) if quoted else words(command)
    if not found or not found[0]:
        raise ValueError("names no program")
    if "/" in found[0] and not found[0].startswith("/"):
        raise ValueError("must begin with the name of a program or its absolute path")
    return found


def split_patterns(value: str) -> list[str]:
    r"""The words of a Path=: blanks between them; in double quotes a word may have blanks, and ``\\`` and
    ``\"``. Raises ValueError."""
    if '"' not in value:
        return words(value)
    found: list[str] = []
    at = 0
    while at < len(value):
        if value[at] in " \t\r":
            at += 1
            continue
        word, quoted = "", value[at] == '"'
        at += quoted
        while at < len(value) and value[at] not in ('"' if quoted else " \t\r"):
            if quoted and value[at] == "\\":
                at += 1
                if value[at : at + 1] not in ("\\", '"'):
                    raise ValueError('in double quotes only \\\\ and \\" are escapes')
            word += value[at]
            at += 1
        if quoted:
            if at == len(value):
                raise ValueError("a quote is not closed")
            at += 1
            if at < len(value) and value[at] not in " \t\r":
                raise ValueError("something follows a closing quote")
        found.append(word)
    return found


def unescape(value: str) -> str:
    r"""The text of a Content=: ``\n``, ``\t`` and ``\\``. Raises ValueError for other escapes."""
    out = ""
    at = 0
    while at < len(value):
        if value[at] == "\\":
            at += 1
            letter = value[at : at + 1]
            if letter not in ESCAPES:
                raise ValueError(f"'\\{letter}' is not an escape, only \\n, \\t and \\\\ are")
            out += ESCAPES[letter]
        else:
            out += value[at]
        at += 1
    return out


def _path(found: Found, value: str) -> None:
    patterns = split_patterns(value)
    for pattern in patterns:
        wrong = wrong_pattern(pattern)
        if wrong:
            raise ValueError(f"'{pattern}' {wrong}")
    found["patterns"] = (*found["patterns"], *patterns)


def _choice(field: str, words: tuple[str, ...]) -> Take:
    def take(found: Found, value: str) -> None:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        found[field] = value

    return take


def _command(field: str) -> Take:
    def take(found: Found, value: str) -> None:
        arguments(value)
        found[field] = value

    return take


def _content(found: Found, value: str) -> None:
    found["content"] = unescape(value)


def _unit(found: Found, value: str) -> None:
    if value != NOBODY and not is_unit_name(value):
        raise ValueError(f"must be the full name of a unit, such as foo.service, or {NOBODY}")
    found["regenerated_by"] = value


def _reason(found: Found, value: str) -> None:
    found["reason"] = value


# Each takes one setting, or raises ValueError with what is wrong. The page is persist.d(5).
KEYS: dict[str, Take] = {
    "Path": _path,
    "Action": _choice("action", ACTIONS),
    "Class": _choice("cls", CLASSES),
    "Content": _content,
    "Exec": _command("exec"),
    "RegeneratedBy": _unit,
    "Regenerate": _command("regenerate"),
    "Reason": _reason,
}


def _lacks(item: Item, keys: set[str]) -> str:
    """What is wrong with a section whose settings are each right, or ''."""
    if not item.patterns:
        return "[Identity] without Path="
    if not item.action:
        return "[Identity] without Action="
    if (item.action == "run") != ("Exec" in keys):
        return "Action=run without Exec=" if item.action == "run" else f"Exec= with Action={item.action}"
    if "Content" in keys and item.action != "write":
        return f"Content= with Action={item.action}"
    return ""


def read(section: Section, problems: list[Problem]) -> Item | None:
    """The item of an [Identity] section, None with a problem where it has none."""
    source = f"{section.file}:{section.line}"
    found: Found = {"patterns": (), "action": "", "source": source}
    good = True
    for key, value, line in section.settings:
        where = f"{section.file}:{line}"
        if key not in KEYS:
            if not key.startswith("X-"):
                problems.append(unknown_key(section, key, line, IDENTITY_KEYS))
            continue
        try:
            KEYS[key](found, value)
        except ValueError as e:
            problems.append(Problem(ERROR, where, f"{key}={value}: {e}, the section is ignored."))
            good = False
    item = Item(**found)
    wrong = _lacks(item, {key for key, _, _ in section.settings}) if good else ""
    if wrong:
        problems.append(Problem(ERROR, source, f"{wrong}, the section is ignored."))
    return item if good and not wrong else None


def parse_file(data: bytes, file: str, problems: list[Problem], *, catalogue: bool = True) -> list[Item]:
    """The items of one file. ``catalogue``: of identity.d, where no other sections are."""
    found = []
    before = len(problems)
    for section in parse(data, file, problems, "[Identity]"):
        if section.name == "Identity":
            item = read(section, problems)
            if item is not None:
                found.append(item)
        elif catalogue and not section.name.startswith("X-"):
            hint = did_you_mean(section.name, ["Identity"], "[%s]") or " Only [Identity] is known here."
            text = f"Unknown section [{section.name}], ignoring.{hint}"
            problems.append(Problem(WARNING, f"{file}:{section.line}", text))
        elif not catalogue and did_you_mean(section.name, ["Identity"]):
            where, text = f"{file}:{section.line}", f"Unknown section [{section.name}], ignoring."
            problems.append(Unknown(where, text, "", section.name, ["Identity"], "[%s]"))
    at_most(problems, before, file)
    return found


def load_from(tree: Tree, problems: list[Problem]) -> list[Item]:
    """All items of a tree: the catalogue first, then the registry's, each in the order of the files."""
    found = []
    for directory in ("persist/identity.d", "persist.d"):
        for path in fragments(tree, directory, problems):
            data = content(tree, path, problems)
            if data:
                found += parse_file(data, path, problems, catalogue=directory != "persist.d")
    return found


def load(root: str, problems: list[Problem]) -> list[Item]:
    """All items of the system below a directory, '' or '/' for the running one. Raises OSError where there is
    no such directory."""
    with Tree(root or "/") as tree:
        return load_from(tree, problems)
