# SPDX-License-Identifier: LGPL-2.1-or-later
"""A path that somebody wants kept, and the registry file that says so. Pure."""

from __future__ import annotations

from persist.boot.entry import Entry
from persist.boot.ini import Problem
from persist.boot.paths import escape
from persist.boot.registry import Registry, parse_file
from persist.errors import PersistError
from persist.record import Record

DIRECTORY = "/usr/lib/persist.d"
HEADER = "# Written by 'persistctl register'; 'persistctl unregister' takes it away."


class Wish(Record):
    """One path and how it is kept, as persist.d(5) has the keys; '' leaves one out."""

    path: str
    method: str = "bind"
    type: str = ""
    user: str = ""
    group: str = ""
    mode: str = ""
    services: tuple[str, ...] = ()
    seed_from: str = ""

    @property
    def file(self) -> str:
        """The registry file of the path. It sorts before those of packages and presets, and after what
        administrators number lower."""
        return f"{DIRECTORY}/50-{escape(self.path)}.conf"

    @property
    def text(self) -> str:
        """What the file says."""
        lines = [HEADER, "[Path]", f"Path={quoted(self.path)}", f"Method={self.method}"]
        for key, value in (
            ("Type", self.type),
            ("User", self.user),
            ("Group", self.group),
            ("Mode", self.mode),
            ("Services", " ".join(self.services)),
            ("SeedFrom", quoted(self.seed_from) if self.seed_from else ""),
        ):
            if value:
                lines.append(f"{key}={value}")
        return "\n".join([*lines, ""])


def quoted(path: str) -> str:
    """A path as value of Path=, between quotes that leave nothing of it to be taken for anything else
    (persist.d(5))."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def read_back(wish: Wish) -> Entry:
    """The entry that the registry's own parser makes of a file. Raises PersistError where it refuses it, or
    reads something else out of it."""
    registry, problems = Registry(), list[Problem]()
    parse_file(wish.text.encode("utf-8", "surrogateescape"), wish.file, registry, problems)
    if problems or len(registry.entries) != 1 or registry.others:
        said = problems[0].text if problems else "it would not be one entry."
        said = said.replace(f", the entry for {wish.path} is ignored", "")
        raise PersistError(f"'{wish.path}' cannot be registered: {said}")
    entry = registry.entries[0]
    if of(entry) != wish:
        raise PersistError(f"'{wish.path}' cannot be registered: a registry file cannot say {wish!r}.")
    return entry


def of(entry: Entry) -> Wish:
    """What would have made an entry."""
    return Wish(
        entry.path,
        entry.method,
        entry.type,
        entry.user,
        entry.group,
        entry.mode,
        tuple(entry.services),
        entry.seed_from,
    )
