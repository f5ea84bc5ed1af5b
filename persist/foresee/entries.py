# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries that an image does not fit: another kind of file at the path, an unknown user, no such unit."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from persist.boot import paths
from persist.boot.facts import UNIT_DIRECTORIES
from persist.boot.ini import ERROR, NOTICE, WARNING, Problem
from persist.boot.load import Loaded
from persist.boot.paths import above
from persist.boot.plan import Planned
from persist.foresee.image import Image
from persist.foresee.made_units import is_made

# Where 'persistctl register --finalise' moves the content of links to; TripleO's use-ephemeral had the other.
FACTORY = "/usr/share/factory"
USE_EPHEMERAL = "/var/lib/use-ephemeral"


def _kept_above(planned: Planned, loaded: Loaded) -> bool:
    """Whether a path that the image has not can be made on the volume, through an entry above it."""
    by_path = {p.path: p for p in loaded.plan.entries}
    return planned.parent != "" and by_path[planned.parent].entry.method in ("overlay", "bind")


def _shown(planned: Planned) -> str:
    entry = planned.entry
    return entry.path if planned.path == entry.path else f"{entry.path} ({planned.path})"


def _no_link_there(planned: Planned, kind: str, image: Image) -> tuple[int, str]:
    """What a symlink entry finds in place of its link."""
    entry, path, shown = planned.entry, planned.path, _shown(planned)
    if entry.seed_from in (FACTORY + path, USE_EPHEMERAL + path) and image.has(entry.seed_from):
        return (
            ERROR,
            f"{shown} is a {kind} and not a link to the volume, though its content was moved to "
            f"{entry.seed_from}: something, a package for one, has put it there since. Run 'persistctl "
            f"register {image.option()}--finalise'.",
        )
    return _no_link(
        f"{shown} is a {kind}",
        f"Move the {kind} away first, and make the link: {_ln(path, image)}.",
        image,
    )


def _place(planned: Planned, loaded: Loaded, image: Image) -> tuple[int, str]:
    """What the image has at an entry's path that does not fit it: level and sentence, '' for nothing."""
    entry, path = planned.entry, planned.path
    if above(path, loaded.plan.fstab):
        return 0, ""  # another filesystem shows it, which is not here
    kind = image.kind(path)
    shown = _shown(planned)
    if entry.method == "symlink":
        if kind == "symbolic link":
            return _link(planned, loaded, image)
        if kind:
            return _no_link_there(planned, kind, image)
    wanted = "directory" if entry.method == "overlay" else entry.type
    if (
        kind
        and entry.method in ("overlay", "bind")
        and (kind not in ("directory", "file") or wanted not in ("", kind))
    ):
        hint = (
            "Use Method=bind."
            if entry.method == "overlay" and kind == "file"
            else "Correct Type=, or register the path that it leads to."
            if kind == "symbolic link"
            else "Correct Type=, or the image."
        )
        return (
            ERROR,
            f"{shown} is a {kind} in the image and the entry needs a {wanted or 'directory or file'}. {hint}",
        )
    if (
        not kind
        and entry.method in ("overlay", "bind", "tmpfs", "symlink")
        and not _kept_above(planned, loaded)
    ):
        put = (
            f"the link into the image: {_ln(path, image)}."
            if entry.method == "symlink"
            else "it into the image."
        )
        if image.root_read_only():
            return (
                WARNING,
                f"{shown} does not exist in the image, and its root is read-only (/etc/fstab), so it cannot "
                f"be made. Put {put}",
            )
        return (
            NOTICE,
            f"{shown} does not exist in the image, and where the root is read-only it cannot be made. Put "
            f"{put}",
        )
    return 0, ""


def _ln(path: str, image: Image) -> str:
    """The command that makes the link of a symlink entry; -T, for in a directory that is there it would make
    a link of another name."""
    return f"'ln -sT {shlex.quote(paths.VOLUME + path)} {image.at(path)}'"


def _no_link(what: str, remedy: str, image: Image) -> tuple[int, str]:
    """Something that a symlink entry finds in place of its link: what can be written becomes the link by
    itself."""
    if image.root_read_only():
        return (
            WARNING,
            f"{what} and not a link to the volume, and its root is read-only (/etc/fstab), so it cannot "
            f"become one. {remedy}",
        )
    return (
        NOTICE,
        f"{what} and not a link to the volume: it becomes one at the first boot, but not where the root is "
        f"read-only. {remedy}",
    )


def _link(planned: Planned, loaded: Loaded, image: Image) -> tuple[int, str]:
    target = image.target(planned.path)
    if target in (paths.VOLUME + planned.path, loaded.config.mount + planned.path):
        return 0, ""
    return ERROR, (
        f"{_shown(planned)} is a link to {target!r} and not to {paths.VOLUME}{planned.path}. "
        f"Put the right link into the image: 'ln -sfn {shlex.quote(paths.VOLUME + planned.path)} "
        f"{image.at(planned.path)}'."
    )


def check(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """What is wrong with each entry of the plan."""
    for planned in loaded.plan.entries:
        entry = planned.entry
        level, sentence = _place(planned, loaded, image)
        if sentence:
            yield Problem(level, entry.source, sentence, entry.path)
        for kind, name in (("user", entry.user), ("group", entry.group)):
            if name and not (name.isascii() and name.isdigit()) and not image.has_account(kind, name):
                yield Problem(
                    ERROR,
                    entry.where(kind.capitalize()),
                    f"{kind.capitalize()}={name}: neither "
                    f"{'/etc/passwd' if kind == 'user' else '/etc/group'} "
                    f"nor sysusers.d of the image knows that {kind}, so {entry.path} cannot be seeded. "
                    "Correct it, or ship a sysusers.d file.",
                    entry.path,
                )
        given = entry.seed_from
        if (
            given
            and entry.method in ("overlay", "bind", "symlink")
            and not image.has(given)
            and not above(given + "/", loaded.plan.fstab)
            and image.empty(planned.path)
        ):
            there = "is empty there" if image.kind(planned.path) else "is not there, too"
            yield Problem(
                WARNING,
                entry.where("SeedFrom"),
                f"SeedFrom={given} does not exist in the image, and {entry.path} {there}: it will be empty. "
                "Correct SeedFrom=, or ship what it names.",
                entry.path,
            )
        for unit in entry.services:
            if not image.has_unit(unit, UNIT_DIRECTORIES) and not is_made(unit, loaded, image):
                yield Problem(
                    WARNING,
                    entry.where("Services", unit),
                    f"Services={unit}: the image has no such unit. Correct it, or take it out.",
                    entry.path,
                )
