# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl preset: ready registry sets, switched on by name."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from ..errors import PersistError
from . import show

SHIPPED = "/usr/share/persist/presets"
REGISTRY = "/etc/persist.d"
# Sorts after the files of packages, whose word on a single path is the better one.
LINK = "zz-preset-{}.conf"


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser("preset", help="ready registry sets", description="List, enable or disable the presets that persist ships.")
    actions = sub.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (("list", "what there is, and what is enabled"), ("enable", "link a preset into /etc/persist.d"),
                         ("disable", "take the link away; what the volume keeps stays there")):
        one = actions.add_parser(action, help=text)
        if action != "list":
            one.add_argument("names", nargs="+", metavar="NAME")
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


def enabled(root: str, name: str) -> bool:
    """Whether a preset is linked."""
    return os.path.islink(_link(root, name))


def _known(root: str, names: list[str]) -> None:
    have = shipped(root)
    for name in names:
        if name not in have:
            raise PersistError(f"There is no preset '{show.safe(name)}'.", hint=f"Known: {', '.join(have) or 'none'}.")


def enable(root: str, names: list[str]) -> None:
    """Link presets into the registry of an image. Raises PersistError when one is unknown or a file is in the way."""
    _known(root, names)
    os.makedirs(root + REGISTRY, 0o755, exist_ok=True)
    for name in names:
        link = _link(root, name)
        target = f"{SHIPPED}/{name}.conf"
        try:
            os.symlink(target, link)
        except FileExistsError:
            if not os.path.islink(link) or os.readlink(link) != target:
                raise PersistError(f"'{link}' is there and is not the preset.", hint="Move it away first.") from None


def disable(root: str, names: list[str]) -> None:
    """Take the links away again; one that is not there is no error. Raises PersistError when one is unknown."""
    have = shipped(root)
    for name in names:
        if enabled(root, name):
            os.unlink(_link(root, name))
        elif name not in have:
            _known(root, [name])


def _list(root: str, as_json: bool) -> int:
    rows = [{"name": n, "enabled": enabled(root, n)} for n in shipped(root)]
    if as_json:
        show.print_json(rows)
    else:
        show.table(("PRESET", "STATE"), [(str(r["name"]), "enabled" if r["enabled"] else "disabled") for r in rows])
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Carry out one action; enabling says what is still missing."""
    root = show.root_of(arguments)
    if arguments.action == "list":
        return _list(root, arguments.json)
    (enable if arguments.action == "enable" else disable)(root, arguments.names)
    notes = _missing(root) if arguments.action == "enable" else []
    if arguments.json:
        show.print_json({"action": arguments.action, "presets": arguments.names, "notes": notes})
    else:
        for note in notes:
            print(note, file=sys.stderr)
    return 0


def _missing(root: str) -> list[str]:
    """What else must be done before the presets take effect."""
    from ..boot.facts import gather
    from ..boot.load import Loaded
    from ..state.verdict import initrd_stage_missing

    facts = gather(root, {})
    notes = []
    if not facts.enabled:
        where = f"--root={root} " if root else ""
        notes.append(f"Nothing is kept before persist-setup.target is enabled: 'systemctl {where}enable persist-setup.target'.")
        facts.enabled = True  # to see what it will be when it is
    loaded = Loaded(root, facts, {})
    missing = initrd_stage_missing(loaded, facts)
    if missing:
        notes.append(missing)
    elif any(p.early for p in loaded.plan.entries):
        notes.append("The initrd has a table of early entries: run 'update-initramfs -u' when all is enabled.")
    if not root:
        notes.append("It takes effect at the next boot.")
    return notes
