# SPDX-License-Identifier: LGPL-2.1-or-later
"""Patterns of Path=: what they look like, and what they find in a tree."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from fnmatch import translate
from functools import lru_cache

from persist.boot.ini import BLANKS
from persist.boot.paths import RUNNING, unsayable
from persist.errors import PersistError
from persist.record import Record
from persist.seal.look.tree import DEEPEST, Link, Parts, Tree

HOME, ESP = "~/", "ESP:/"  # what a pattern may begin with instead of a slash
MAGIC = "*?["
VENDOR = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "boot")  # top directories that are packages'
ESP_PLACES = ("/efi", "/boot/efi", "/boot")
_USERS = range(1000, 65534)  # the uids of people (login.defs, UID_MIN), and nobody's is not among them
_HOME_OF_ROOT = "/root"


class Found(Record):
    """Something at a place. ``named``: the pattern's last component is a name and no wildcard; ``of`` is the
    pattern."""

    parts: Parts
    mode: int
    named: bool
    of: str

    @property
    def path(self) -> str:
        """The place as a path of the tree."""
        return "/" + "/".join(self.parts)


class Place(Record):
    """A place that a pattern has led to in another tree of the same machine; ``inside``: what is in it, and
    not the directory itself. ``named`` as in Found."""

    parts: Parts
    named: bool
    inside: bool = False


def is_a_packages(found: Found, parts: Parts) -> bool:
    """Whether a place is where packages have their files, and the pattern does not say so: a link led
    there."""
    first = found.of.split("/")[1] if found.of.startswith("/") else ""
    ours = parts[:1] == () or parts[0] not in VENDOR or parts[:2] == ("usr", "local")
    return not (ours or first in VENDOR or found.of.startswith(ESP))


class Way(Record):
    """A link on the way to what a pattern names that is not followed, and why (tree.Link)."""

    path: str
    why: str


@lru_cache(maxsize=1024)
def _matches(part: str) -> Callable[[str], object]:
    """What tells whether a name matches one component of a pattern. Most have one star and nothing else: no
    regular expression is made for these."""
    head, star, tail = part.partition("*")
    if star and not _is_magic(head) and not _is_magic(tail):
        return lambda n: len(n) >= len(head) + len(tail) and n.startswith(head) and n.endswith(tail)
    return re.compile(translate(part)).match


def _is_magic(part: str) -> bool:
    return "*" in part or "?" in part or "[" in part  # MAGIC, and asked at each step


def homes(tree: Tree) -> list[str]:
    """The homes of root and of people, as the tree's own passwd has them; nobody else is asked."""
    found = []
    for line in (tree.read("/etc/passwd") or b"").decode("utf-8", "surrogateescape").split("\n"):
        fields = line.split(":")
        if len(fields) < 7 or not fields[2].isascii() or not fields[2].isdigit() or len(fields[2]) > 10:
            continue
        home = fields[5].strip(BLANKS).rstrip("/")
        if (
            (int(fields[2]) == 0 or int(fields[2]) in _USERS)
            and home.startswith("/")
            and ".." not in home.split("/")
        ):
            found.append(home)
    return list(dict.fromkeys(found or [_HOME_OF_ROOT]))


def system_partitions(tree: Tree) -> list[str]:
    """Where the tree has an EFI system partition: one of its usual places with a directory EFI or loader."""
    return [place for place in ESP_PLACES if {"efi", "loader"} & {name.lower() for name in tree.names(place)}]


def wrong_pattern(pattern: str) -> str:
    """Why a text is no pattern of Path=, or ''."""
    body = pattern
    for begin in (HOME, ESP):
        if pattern.startswith(begin):
            body = "/" + pattern[len(begin) :]
    if not body.startswith("/"):
        return f"begins neither with / nor with {HOME} or {ESP}"
    wrong = unsayable(pattern)
    if wrong:
        return wrong
    parts = body[1:].split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "is not normalised (no '//', '.', '..' or '/' at the end)"
    if any("**" in part and part != "**" for part in parts):
        return "has ** beside other letters of a name; it stands alone between two slashes"
    if body is pattern:
        if any(c in parts[0] for c in MAGIC):
            return "has a wildcard below /; name a directory there"
        if "/" + parts[0] in RUNNING:
            return f"is below /{parts[0]}, which belongs to the running system and is in no image"
    elif parts[0] == "**":
        return "is all that there is; name a file or a directory"
    return ""


class Finder:
    """Patterns of one tree. ``stopped`` are the links that were not followed, ``barred`` the places that are
    never entered, by their parts, of which ``met`` were come across."""

    def __init__(self, tree: Tree, barred: frozenset[Parts] = frozenset()) -> None:
        self.tree = tree
        self.barred = barred
        self.met: set[Parts] = set()
        self.stopped: list[Way] = []
        self._homes: list[str] | None = None
        self._esp: list[str] | None = None

    def at_home(self, places: list[str]) -> None:
        """These are the homes, whatever passwd the tree has."""
        self._homes = places

    def _starts(self, pattern: str) -> list[str]:
        if pattern.startswith(HOME):
            if self._homes is None:
                self._homes = homes(self.tree)
            return [f"{home}/{pattern[len(HOME) :]}" for home in self._homes]
        if pattern.startswith(ESP):
            if self._esp is None:
                self._esp = system_partitions(self.tree)
            return [place + "/" + pattern[len(ESP) :] for place in self._esp]
        return [pattern]

    def at(self, place: Place) -> list[Found]:
        """What this tree has at a place, of which no parent is a link. Raises OSError."""
        of = "/" + "/".join(place.parts)
        if any(not self._is_directory(place.parts[:n]) for n in range(1, len(place.parts) + place.inside)):
            return []
        if place.inside:
            names = {(*place.parts, name): st for name, st in self.tree.entries(place.parts).items()}
            return [Found(parts, st.st_mode, False, of) for parts, st in names.items()]
        there = self.tree.lstat(place.parts)
        barred = self._is_barred(place.parts)
        return [] if there is None or barred else [Found(place.parts, there.st_mode, place.named, of)]

    def _is_directory(self, parts: Parts) -> bool:
        there = None if self._is_barred(parts) else self.tree.lstat(parts)
        return there is not None and stat.S_ISDIR(there.st_mode)

    def find(self, pattern: str) -> list[Found]:
        """All that a pattern finds, each once, in order. Raises PersistError for directories that are nested
        beyond all reason, OSError."""
        self.stopped = []
        found: dict[Parts, Found] = {}
        for start in self._starts(pattern):
            parts = [part for part in start.split("/") if part]
            literal = start if pattern.startswith((HOME, ESP)) else ""
            # What a home is called is no pattern, whatever its letters.
            fixed = len(parts) - len(pattern.split("/")[1:]) if literal else 0
            for place, mode in self._walk((), parts, fixed):
                if place not in found:
                    found[place] = Found(place, mode, not _is_magic(parts[-1]), pattern)
        return [found[place] for place in sorted(found)]

    def _walk(self, at: Parts, rest: list[str], fixed: int) -> Iterator[tuple[Parts, int]]:
        """What the rest of a pattern finds below a directory; its first ``fixed`` components are names."""
        if self._is_barred(at):
            return
        head, rest = rest[0], rest[1:]
        if head == "**" and fixed <= 0:
            yield from self._below(at, rest)
            return
        if fixed > 0 or not _is_magic(head):
            there = self.tree.lstat((*at, head))
            names = {} if there is None else {head: there}
        else:
            matches = _matches(head)
            names = {n: st for n, st in self.tree.entries(at).items() if matches(n)}
        for name, st in names.items():
            place = (*at, name)
            if not rest:
                if not self._is_barred(place):
                    yield place, st.st_mode
                continue
            deeper = self._enter(place, st.st_mode)
            if deeper is not None:
                yield from self._walk(deeper, rest, fixed - 1)

    def _below(self, at: Parts, rest: list[str]) -> Iterator[tuple[Parts, int]]:
        """The same for ``**``: no link is followed on the way down."""
        todo = [at]
        while todo:
            here = todo.pop()
            if self._is_barred(here):
                continue
            if len(here) > DEEPEST:
                raise PersistError(
                    f"'/{'/'.join(here[:8])}/…' has more than {DEEPEST} directories in one another.",
                    hint="Look at what made them, and remove them.",
                )
            if rest:
                yield from self._walk(here, rest, 0)
            for name, st in self.tree.entries(here).items():
                if not rest and not self._is_barred((*here, name)):
                    yield (*here, name), st.st_mode
                if stat.S_ISDIR(st.st_mode):
                    todo.append((*here, name))

    def _enter(self, place: Parts, mode: int) -> Parts | None:
        """The directory that a place is or leads to, None where it is none that is entered."""
        if stat.S_ISDIR(mode):
            return place
        if not stat.S_ISLNK(mode):
            return None
        link: Link = self.tree.behind(place)
        if link.parts is None:
            if link.why != "dangling":
                self.stopped.append(Way("/" + "/".join(place), link.why))
            return None
        there = self.tree.lstat(link.parts)
        return link.parts if there is not None and stat.S_ISDIR(there.st_mode) else None

    def _is_barred(self, place: Parts) -> bool:
        for length in range(1, len(place) + 1) if self.barred else ():
            if place[:length] in self.barred:
                self.met.add(place[:length])
                return True
        return False
