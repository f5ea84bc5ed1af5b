# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl status: the verdict of this boot, the volume, and each entry."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import PersistError
from . import show

EXIT = {"online": 0, "off": 0, "degraded": 1, "volatile": 2}
UNITS = ("persist-setup.target", "persist-format.service", "persist-volume.service", "persist-reload.service", "persist-verify.service", "persist-heal.service")


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser("status", help="the verdict of this boot", description="Show the verdict, the volume and the entries as they are now. "
                           "Exit status: 0 online or off, 1 degraded, 2 volatile.")
    show.options(sub)
    sub.set_defaults(run=run)


def _units() -> list[tuple[str, str]]:
    """The state of our own units, or one line that says why it is not known."""
    from ..bus import unit_states

    try:
        return [(name, f"{s.active} ({s.sub}){': ' + s.text if s.text else ''}") for name, s in unit_states(UNITS).items()]
    except PersistError as e:
        return [("units", str(e))]


def run(arguments: argparse.Namespace) -> int:
    """Print the verdict of this moment."""
    from ..state.verify_service import current, document

    found, _ = current()
    state = document(found)
    if arguments.json:
        show.print_json(state)
        return EXIT[found.verdict]
    volume = found.volume
    print(f"Verdict: {show.colour(found.verdict, found.verdict)}")
    if volume.get("kind", "none") != "none":
        mode = "read-only" if volume.get("read_only") else "writable"
        print(show.safe(f" Volume: {volume['kind']} {volume.get('device', '')} {volume.get('uuid', '')}".rstrip()) + f", {mode}")
    else:
        print(" Volume: none")
    for name, text in _units():
        print(show.safe(f"   Unit: {name}: {text}"))
    if found.entries:
        print()
        show.table(("PATH", "METHOD", "STATE", "DECLARED IN"), [(e.path, e.method, e.state, e.source) for e in found.entries])
    if found.reasons:
        print()
    for reason in found.reasons:
        print(show.safe(f"* {reason.message}"))
        if reason.hint:
            print(show.safe(f"  {reason.hint}"))
    return EXIT[found.verdict]
