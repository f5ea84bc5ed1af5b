# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl preset: ready registry sets, switched on by name."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from persist.boot.ini import words
from persist.cli import show
from persist.errors import PersistError
from persist.system.files import write_atomically

if TYPE_CHECKING:
    from persist.boot.load import Loaded

SHIPPED = "/usr/share/persist/presets"
REGISTRY = "/etc/persist.d"
# Sorts after the files of packages, whose word on a single path is the better one.
LINK = "zz-preset-{}.conf"
# Sorts right before the link, so that its word counts against that preset and against no package's own file.
WITHOUT = "zz-preset-{}-without.conf"


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser(
        "preset",
        help="ready registry sets",
        description="List, enable or disable the presets that persist ships.",
    )
    actions = sub.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (
        ("list", "what there is, and what is enabled"),
        ("enable", "link a preset into /etc/persist.d"),
        ("disable", "take the link away; what the volume keeps stays there"),
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


def shipped(root: str) -> list[str]:
    """The names of the presets in an image."""
    try:
        return sorted(n[:-5] for n in os.listdir(root + SHIPPED) if n.endswith(".conf"))
    except FileNotFoundError:
        return []


def _link(root: str, name: str) -> str:
    return f"{root}{REGISTRY}/{LINK.format(name)}"


def _without(root: str, name: str) -> str:
    return f"{root}{REGISTRY}/{WITHOUT.format(name)}"


def _declared(root: str, file: str) -> dict[str, str]:
    """The paths that a preset, or the file of what is left out, declares, each with its method; none where
    the file is not there."""
    from persist.boot.registry import load

    return {e.path: e.method for e in load(root, [], [file]).entries} if os.path.exists(file) else {}


def left_out(root: str, name: str) -> list[str]:
    """The paths of an enabled preset that --without took out."""
    return list(_declared(root, _without(root, name)))


def leave_out(root: str, name: str, unwanted: list[str]) -> None:
    """Write the file that takes paths out of a preset, with everything that it declares below them; none
    leaves nothing out.

    Raises PersistError where the preset has no such path.
    """
    every = _declared(root, f"{root}{SHIPPED}/{name}.conf")
    for path in unwanted:
        if path not in every:
            raise _not_declared(name, path, every)
    taken = [p for p in every if any(p == u or p.startswith(u + "/") for u in unwanted)]
    file = _without(root, name)
    if not taken:
        if os.path.lexists(file):
            os.unlink(file)
        return
    text = f"# What 'persistctl preset enable {name} --without' left out.\n" + "".join(
        f"\n[Path]\nPath={quoted(p)}\nMethod=none\n" for p in taken
    )
    write_atomically(file, text)


def _not_declared(name: str, path: str, every: dict[str, str]) -> PersistError:
    """What to say of a path that a preset has no entry for."""
    from persist.boot.facts import above

    shown = show.safe(path)
    if path[:1] != "/":
        return PersistError(
            f"--without={shown} is not an absolute path.", hint=f"The preset '{name}' has {' '.join(every)}."
        )
    if any(word[:1] == "/" for word in words(path.replace(",", " "))[1:]):
        return PersistError(
            f"--without={shown} looks like a list, and takes one path.",
            hint="Say --without= once for each path.",
        )
    over = above(path, every)
    if every.get(over) in ("overlay", "bind"):
        return PersistError(
            f"'{shown}' has no entry of its own in the preset '{name}', {over} keeps it.",
            hint=f"To leave it to the image, write Path={shown} and Method=image into a [Path] section of a "
            f"file in {REGISTRY}.",
        )
    return PersistError(f"The preset '{name}' does not keep '{shown}'.", hint=f"It has {' '.join(every)}.")


def quoted(path: str) -> str:
    """A path as value of Path=, between quotes that leave nothing of it to be taken for anything else
    (persist.d(5))."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def enabled(root: str, name: str) -> bool:
    """Whether a preset is linked."""
    return os.path.islink(_link(root, name))


def _known(root: str, names: list[str]) -> None:
    have = shipped(root)
    for name in names:
        if name not in have:
            raise PersistError(
                f"There is no preset '{show.safe(name)}'.", hint=f"Known: {', '.join(have) or 'none'}."
            )


def enable(root: str, names: list[str], without: list[str]) -> None:
    """Link presets into the registry of an image, ``without`` some of their paths. Raises PersistError when
    one is unknown or a file is in the way."""
    _known(root, names)
    if without and len(names) > 1:
        raise PersistError("--without= goes with one preset.", hint="Enable the presets one after the other.")
    os.makedirs(root + REGISTRY, 0o755, exist_ok=True)
    for name in names:
        leave_out(root, name, [p.rstrip("/") or "/" for p in without])
    for name in names:
        link = _link(root, name)
        target = f"{SHIPPED}/{name}.conf"
        try:
            os.symlink(target, link)
        except FileExistsError:
            if not os.path.islink(link) or os.readlink(link) != target:
                raise PersistError(
                    f"'{link}' is there and is not the preset.", hint="Move it away first."
                ) from None


def disable(root: str, names: list[str]) -> None:
    """Take the links away again; one that is not there is no error. Raises PersistError when one is
    unknown."""
    have = shipped(root)
    for name in names:
        if enabled(root, name):
            os.unlink(_link(root, name))
            leave_out(root, name, [])
        elif name not in have:
            _known(root, [name])


def _list(root: str, as_json: bool) -> int:
    rows = [(n, enabled(root, n), left_out(root, n)) for n in shipped(root)]
    if as_json:
        show.print_json([{"name": n, "enabled": on, "without": without} for n, on, without in rows])
    else:
        show.table(
            ("PRESET", "STATE"),
            [
                (
                    n,
                    ("enabled" if on else "disabled")
                    + (f", without {' '.join(without)}" if on and without else ""),
                )
                for n, on, without in rows
            ],
        )
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Carry out one action; enabling says what is still missing."""
    root = show.root_of(arguments)
    if arguments.action == "list":
        return _list(root, arguments.json)
    early = _early(_load(root))
    try:
        if arguments.action == "enable":
            enable(root, arguments.names, arguments.without)
            notes = _along(root) + _missing(root, early)
        else:
            disable(root, arguments.names)
            notes = _left_early(root, early - _early(_load(root)))
    except PermissionError as e:
        raise PersistError(
            f"Only root can {arguments.action} presets ({e.filename}: {e.strerror}).",
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

    more = [
        (name, why)
        for name, why in missing_presets(_load(root), Image(root))
        if name in shipped(root) and not _chosen(root, name)
    ]
    enable(root, [name for name, _ in more], [])
    return [f"The preset {name} is enabled, too: {why}" for name, why in more]


def _chosen(root: str, name: str) -> bool:
    return any(os.path.lexists(file) for file in (_link(root, name), _without(root, name)))


def chroot(root: str) -> str:
    """What stands before a command that must run in an image."""
    return f"chroot {shlex.quote(root)} " if root else ""


def _load(root: str) -> Loaded:
    """What the registry asks for, as if it were switched on, whatever the command line of this boot says."""
    from persist.boot.facts import gather
    from persist.boot.load import Loaded

    facts = gather(root, {"SYSTEMD_PROC_CMDLINE": ""})
    facts.enabled = True
    return Loaded(root, facts, {})


def _early(loaded: Loaded) -> set[str]:
    return {p.path for p in loaded.plan.entries if p.early}


def _left_early(root: str, paths: set[str]) -> list[str]:
    """What to do where the initrd has entries in its table that are gone."""
    from persist.verdict.judge import HOOK

    if not paths or not os.path.lexists(root + HOOK):
        return []
    return [
        f"The initrd still mounts {' '.join(sorted(paths))} where it has been built with that: run "
        f"'{chroot(root)}update-initramfs -u' when all is done."
    ]


def _missing(root: str, early: set[str]) -> list[str]:
    """What else must be done before the presets take effect. ``early``: the paths that the initrd had to
    mount before."""
    from persist.foresee.image import Image
    from persist.foresee.switch import why_off
    from persist.verdict.judge import initrd_stage_missing

    why, remedy = why_off(Image(root))
    notes = [f"{why}, so nothing is kept. {remedy}"] if why else []
    loaded = _load(root)
    missing = initrd_stage_missing(loaded, loaded.facts)
    left = _left_early(root, early - _early(loaded))
    if missing:
        notes.append(missing)
    elif left:
        notes += left
    elif _early(loaded):
        notes.append(
            f"The initrd has a table of early entries: run '{chroot(root)}update-initramfs -u' when all is "
            "enabled."
        )
    if not root:
        notes.append("It takes effect at the next boot.")
    return notes
