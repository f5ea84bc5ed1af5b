# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether paths that somebody wants kept can be, beside what an image has and registers already."""

from __future__ import annotations

import os
from collections.abc import Sequence

from persist.boot.entry import Entry
from persist.boot.facts import gather_paths
from persist.boot.load import Loaded
from persist.boot.paths import DIRECTORIES, VOLUME, forbidden, wrong_path
from persist.boot.plan import Planned, plan
from persist.errors import PersistError
from persist.foresee.image import Image
from persist.foresee.switch import as_if_on
from persist.foresee.unit_directories import Owner, owners, private, wrong
from persist.foresee.unit_files import Units
from persist.record import replace
from persist.register.wish import Wish, read_back


class Plan:
    """What is to be written: ``wishes``, some of them for another place than was asked for, and ``notes`` on
    that. ``entries``: all that the image keeps with them, ``mount``: where its volume will be."""

    def __init__(self, mount: str) -> None:
        self.mount = mount
        self.wishes: list[Wish] = []
        self.notes: list[str] = []
        self.entries: list[Planned] = []


def judge(asked: Sequence[Wish], image: Image) -> Plan:
    """What becomes of wishes. Raises PersistError for the first one that cannot be fulfilled."""
    known, loaded = owners(Units(image)), as_if_on(image.root)
    found = Plan(loaded.config.mount)
    for wish in asked:
        placed = _placed(_normal(wish), image, known, found)
        found.wishes.append(replace(placed, seed_from=_seed_from(placed, loaded, image)))
    _beside_the_registry(found, loaded, known, image)
    return found


def _normal(wish: Wish) -> Wish:
    """A wish without a slash at the end of its path. Raises PersistError for what is no path of an entry."""
    path = wish.path[:-1] if wish.path[-1:] == "/" and wish.path.strip("/") else wish.path
    what = wrong_path(path)
    if what:
        raise PersistError(f"'{wish.path}' {what}.")
    return replace(wish, path=path)


def _placed(wish: Wish, image: Image, known: dict[str, Owner], found: Plan) -> Wish:
    """A wish at the place where it works. Raises PersistError where there is none."""
    what = forbidden(wish.path, found.mount)
    if what:
        raise PersistError(f"'{wish.path}' cannot be kept: {what}.")
    owner = known.get(wish.path)
    if owner is not None and owner.dynamic and wish.method in ("bind", "overlay"):
        place = private(wish.path)
        found.notes.append(
            f"'{wish.path}' is registered as '{place}', where {owner.unit} has it (DynamicUser=)."
        )
        wish = replace(wish, path=place)
    what = wrong(wish.path, wish.method, known)
    if what:
        raise PersistError(what)
    place = image.place(wish.path)
    target = image.target(place)
    ours = target in [top + each for top in (VOLUME, found.mount) for each in (wish.path, place)]
    if ours and wish.method != "symlink":
        raise PersistError(
            f"'{wish.path}' is a link to the volume, and Method={wish.method} needs what was there before.",
            hint="Register it with --leave-symlink, or put its content back first.",
        )
    if target and not ours:
        raise PersistError(
            f"'{wish.path}' is a symbolic link to '{target}', which is not ours.",
            hint="Register the path that it leads to, or take the link out of the image.",
        )
    return wish


def must_be_read(image: Image) -> None:
    """Raise PersistError where the registry of an image is behind links that only the image itself
    follows."""
    for directory in (top + "/persist.d" for top in DIRECTORIES):
        real = os.path.realpath(image.root + directory)
        if image.root and real != os.path.realpath(image.root) + image.behind(directory):
            raise PersistError(
                f"'{directory}' is behind a symbolic link to an absolute path, with which the registry of an "
                "image is not read from outside.",
                hint="Make it a relative link, or run this in a chroot of the image.",
            )


def _seed_from(wish: Wish, loaded: Loaded, image: Image) -> str:
    """Where 'register --finalise' has moved the content of a path to, which stays in its file as long as
    something is there."""
    for entry in loaded.registry.entries:
        if entry.path == wish.path and entry.file == wish.file and image.has(entry.seed_from or "/"):
            return entry.seed_from
    return ""


def _name(entry: Entry) -> str:
    return entry.file.rpartition("/")[2]


def _masked(wish: Wish, image: Image) -> str:
    """The file that stands in place of the one of a wish, of the same name in a higher directory; '' where
    there is none."""
    name = wish.file.rpartition("/")[2]
    for top in DIRECTORIES:
        if top != "/usr/lib" and image.lstat(f"{image.behind(top + '/persist.d')}/{name}") is not None:
            return f"{top}/persist.d/{name}"
    return ""


def _beside_the_registry(found: Plan, loaded: Loaded, known: dict[str, Owner], image: Image) -> None:
    """Plan the machine with the new entries among those that it has. Raises PersistError where one would be
    refused then."""
    entries = {entry.path: entry for entry in loaded.registry.entries}
    ours: list[Entry] = []
    for wish in found.wishes:
        entry = read_back(wish)
        first = entries.get(entry.path)
        if first is not None and _name(first) < _name(entry):
            found.notes.append(f"{first.source} declares {entry.path} as well, and sorts first: that counts.")
            continue
        masked = _masked(wish, image)
        if masked:
            found.notes.append(f"{masked} stands in place of {entry.file}: that counts, whatever it says.")
            continue
        entries[entry.path] = entry
        ours.append(entry)
    loaded.registry.entries = sorted(entries.values(), key=lambda e: e.path + "/")
    gather_paths(loaded.facts, loaded.registry, {})
    planned = plan(loaded.config, loaded.registry, loaded.facts)
    found.entries = planned.entries
    for each in planned.entries:
        what = wrong(each.path, each.entry.method, known) if each.entry in ours else ""
        if what:  # behind a link above it
            raise PersistError(what)
    for outside in planned.outside:
        if outside.entry in ours:
            if outside.state == "refused":
                raise PersistError(f"'{outside.entry.path}' cannot be kept: {outside.why}.")
            found.notes.append(outside.text)
