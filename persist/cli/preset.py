# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl preset: ready registry sets, switched on by name."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from persist.boot.paths import above
from persist.cli import show
from persist.errors import PersistError
from persist.register.presets import (
    LINK,
    REGISTRY,
    WITHOUT,
    about,
    disable,
    enable,
    enabled,
    left_out,
    link_of,
    paths,
    shipped,
    without_file,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from persist.boot.plan import Planned


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser(
        "preset",
        help="ready registry sets",
        description="List, enable or disable the presets that persist ships.",
    )
    actions = sub.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (
        ("list", "show presets, and which are enabled"),
        ("enable", "link a preset into /etc/persist.d"),
        ("disable", "remove the link; what the volume keeps stays there"),
    ):
        one = actions.add_parser(action, help=text)
        if action != "list":
            one.add_argument("names", nargs="+", metavar="NAME")
        if action == "enable":
            one.add_argument(
                "--without",
                action="append",
                default=[],
                metavar="PATH",
                help="leave out this path of the preset, and what is below it; may be repeated",
            )
        show.options(one, root=True)
    sub.set_defaults(run=run)


def _list(root: str, as_json: bool) -> int:
    from persist.foresee.image import Image
    from persist.foresee.switch import as_if_on

    image = Image(root)
    kept = {planned.path: planned for planned in as_if_on(root).plan.entries}
    rows = []
    for name in shipped(root):
        head = about(root, name)
        has = [program for program in head.programs if image.has(program)]
        rows.append((name, enabled(root, name), left_out(root, name), head.description, has))
    if as_json:
        show.print_json(
            [
                {"name": n, "enabled": on, "without": without, "description": text, "programs": has}
                for n, on, without, text, has in rows
            ]
        )
        return 0
    show.table(
        ("PRESET", "STATE", "DESCRIPTION"),
        [
            (
                n,
                ("enabled" if on else "disabled")
                + (f", without {' '.join(without)}" if on and without else ""),
                text,
            )
            for n, on, without, text, _ in rows
        ],
    )
    for name, on, _, _, has in rows:
        lacking = [path for path in paths(root, name) if not _kept(path, kept)] if has and not on else []
        if lacking:
            print(
                f"The image has {has[0]}, and nothing keeps {' '.join(lacking)}: the preset {name} does.",
                file=sys.stderr,
            )
    return 0


def _kept(path: str, kept: Mapping[str, Planned]) -> bool:
    """Whether an entry, or the one above it, keeps a path."""
    at = path if path in kept else above(path, kept)
    return at != "" and kept[at].entry.method in ("overlay", "bind", "symlink")


def run(arguments: argparse.Namespace) -> int:
    """Carry out one action; enabling says what is still missing."""
    root = show.root_of(arguments)
    if arguments.action == "list":
        return _list(root, arguments.json)
    notes: list[str] = []
    try:
        if arguments.action == "enable":
            enable(root, arguments.names, arguments.without)
            notes = _twice(root, arguments.names) + _along(root) + _missing(root)
        else:
            disable(root, arguments.names)
    except PermissionError as e:
        raise PersistError(
            # Of a link that cannot be made, the first name is what it would lead to.
            f"Only root can {arguments.action} presets ({e.filename2 or e.filename}: {e.strerror}).",
            hint="Run it as root, with sudo for one.",
        ) from None
    if arguments.json:
        show.print_json({"action": arguments.action, "presets": arguments.names, "notes": notes})
    else:
        for note in notes:
            print(note, file=sys.stderr)
    return 0


def _along(root: str) -> list[str]:
    """Enable the presets of container engines that the image has and whose stores would now lie on an
    overlay; says so.

    What somebody chose by name before, a link, a mask or ``--without``, stays as it is.
    """
    from persist.foresee.image import Image
    from persist.foresee.overlay_limits import missing_presets
    from persist.foresee.switch import as_if_on

    more = [
        (name, why)
        for name, why in missing_presets(as_if_on(root), Image(root))
        if name in shipped(root) and not _chosen(root, name)
    ]
    enable(root, [name for name, _ in more], [])
    return [f"The preset {name} is enabled, too: {why}" for name, why in more]


def _twice(root: str, names: list[str]) -> list[str]:
    """What these presets keep that something else keeps already, each with a sentence."""
    from persist.foresee.switch import as_if_on

    loaded = as_if_on(root)
    files = [f"{REGISTRY}/{LINK.format(name)}" for name in names]
    left_out_by = [f"{REGISTRY}/{WITHOUT.format(name)}" for name in names]
    found = []
    for planned in loaded.plan.entries:
        if planned.entry.file in files and planned.parent and planned.entry.method != "image":
            found.append(
                f"{planned.entry.path} has a place of its own now; {planned.parent} above it is kept, too."
            )
    for entry, first in loaded.registry.ignored:
        if entry.file in files and first.method == "none":
            if first.file not in left_out_by:
                found.append(f"{entry.path} is not kept, as {first.source} takes it out: that counts.")
        elif entry.file in files:
            found.append(f"{entry.path} is kept already, as {first.source} says: that counts.")
    for outside in loaded.plan.outside:
        if outside.entry.file in files and outside.state == "ignored":
            found.append(f"{outside.entry.path} has no place of its own: {outside.why}.")
    return found


def _chosen(root: str, name: str) -> bool:
    return any(os.path.lexists(file) for file in (link_of(root, name), without_file(root, name)))


def chroot(root: str) -> str:
    """What stands before a command that must run in an image."""
    return f"chroot {shlex.quote(root)} " if root else ""


def _missing(root: str) -> list[str]:
    """What else must be done before the presets take effect."""
    from persist.foresee.image import Image
    from persist.foresee.switch import as_if_on, why_off
    from persist.verdict.not_before_pid1 import missing

    image = Image(root)
    why, remedy = why_off(image)
    notes = [f"{why}, so nothing is kept. {remedy}"] if why else []
    lacking = missing(as_if_on(root), image.has)
    if lacking:
        notes.append(lacking)
    if not root:
        notes.append("It takes effect at the next boot.")
    return notes
