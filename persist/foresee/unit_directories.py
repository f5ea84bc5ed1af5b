# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths that somebody else makes in a way of his own: the directories that PID 1 makes for units, and files
that are always replaced by new ones.

Tried on systemd 252 and 257: a link at the directory of a unit ends its start with 238/STATE_DIRECTORY,
whether or not there is something behind it; so does a mount there for a unit with DynamicUser=, since PID 1
would move it to private/ (EBUSY). A link above it works, and so does a mount on the directory in private/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from persist.boot.ini import ERROR, WARNING, Problem, boolean, words
from persist.boot.load import Loaded
from persist.foresee.image import Image
from persist.foresee.unit_files import Units

# systemd.exec(5), RuntimeDirectory=; what lies in /run and /etc is not for us.
_KEYS = {"StateDirectory": "/var/lib", "CacheDirectory": "/var/cache", "LogsDirectory": "/var/log"}
# passwd(1), useradd(8), systemd-sysusers and PID 1 write a new file and rename it: a link is replaced by it,
# on a mount it fails.
_REPLACED = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/machine-id")


class Owner(NamedTuple):
    """A unit that has PID 1 make a directory, by a key; ``dynamic``: it is below private/, for a user that
    changes."""

    unit: str
    key: str
    dynamic: bool


def owners(units: Units) -> dict[str, Owner]:
    """The directories that PID 1 makes, each with a unit that it does so for, one with DynamicUser= before
    others. What only an instance or a user knows (specifiers) is left out."""
    found: dict[str, Owner] = {}
    for name in units.names():
        unit = units.find(name)
        if unit is None:
            continue
        for (section, key), values in unit.settings.items():
            if key not in _KEYS:
                continue
            dynamic = bool(boolean(unit.last(section, "DynamicUser")))
            for word in (word for value in values for word in words(value)):
                directory = word.partition(":")[0].strip("/")  # from 250: DIRECTORY:LINK
                path = f"{_KEYS[key]}/{directory}"
                if not directory or "%" in directory or (path in found and found[path].dynamic):
                    continue
                found[path] = Owner(unit.name, key, dynamic)
                if dynamic:
                    found[private(path)] = Owner(unit.name, key, False)
    return found


def private(path: str) -> str:
    """Where the directory of a unit with DynamicUser= is in truth, '' for what cannot be one."""
    top = next((top for top in _KEYS.values() if path.startswith(top + "/")), "")
    return f"{top}/private{path[len(top) :]}" if top else ""


def wrong(path: str, method: str, known: dict[str, Owner]) -> str:
    """Why an entry at a path breaks what others do there, and what to do, as sentences; '' where it does
    not. Pure."""
    if method not in ("overlay", "bind", "symlink"):
        return ""
    if path in _REPLACED:
        return (
            f"{path} by itself cannot be kept: whoever changes it writes a new file and renames that. Keep "
            "/etc, with Method=overlay."
        )
    owner = known.get(path)
    if owner is None:
        return ""
    whose = f"{path} is {owner.key}= of {owner.unit}"
    if method == "symlink":
        use = private(path) if owner.dynamic else path
        there = "" if use == path else f" for {use}"
        return f"{whose}, which does not start where that is a link. Use Method=bind{there}."
    if owner.dynamic:
        return (
            f"{whose}, whose DynamicUser= has PID 1 move it away: it does not start where something is "
            f"mounted there. Keep {private(path)} instead."
        )
    return ""


def check(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """Entries with a method that breaks a unit of the image, or does not last."""
    planned = [p for p in loaded.plan.entries if p.entry.method in ("overlay", "bind", "symlink")]
    known = owners(Units(image)) if planned else {}
    for each in planned:
        sentence = wrong(each.path, each.entry.method, known)
        if sentence:
            level = WARNING if each.path in _REPLACED else ERROR
            yield Problem(level, each.entry.where("Method"), sentence, each.entry.path)
