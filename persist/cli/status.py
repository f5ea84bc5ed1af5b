# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl status: the verdict of this boot, the volume, and each entry."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from persist.cli import show
from persist.errors import PersistError

if TYPE_CHECKING:
    from persist.verdict.judge import Verdict
    from persist.volume.outcome import Outcome

EXIT = {"online": 0, "off": 0, "degraded": 1, "volatile": 2}
UNITS = (
    "persist-setup.target",
    "persist-format.service",
    "persist-volume.service",
    "persist-verify.service",
    "persist-heal.service",
)


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser(
        "status",
        help="the verdict of this boot",
        description="Show the verdict, the volume and the entries as they are now. "
        "Exit status: 0 online or off, 1 degraded, 2 volatile.",
    )
    show.options(sub)
    show.full(sub)
    sub.set_defaults(run=run)


def _units() -> list[tuple[str, str]]:
    """The state of our own units, or one line that says why it is not known."""
    from persist.system.systemd_bus import unit_states

    try:
        return [
            (name, f"{s.active} ({s.sub}){': ' + s.text if s.text else ''}")
            for name, s in unit_states(UNITS).items()
        ]
    except PersistError as e:
        return [("units", str(e))]


def _volume(volume: Outcome) -> list[tuple[str, str]]:
    """What there is to say of the volume, label and text."""
    kind = volume.kind
    if kind == "none":
        return [("Volume", "none")]
    mode = "read-only" if volume.read_only else "writable"
    memory = " (in memory, lost at power-off)" if kind == "tmpfs" else ""
    lines = [
        (
            "Volume",
            f"{kind} {volume.device} {volume.uuid}".rstrip() + f", {mode}{memory}",
        )
    ]
    for other in volume.others:
        lines.append(
            (
                "Beside",
                f"{other.get('device')} (UUID={other.get('uuid')}) could be a state volume, too, and is left "
                "alone",
            )
        )
    return lines


def _space(volume: Outcome) -> list[tuple[str, str]]:
    """Its disks and their space where it is a btrfs that we may look at."""
    if volume.kind != "btrfs":
        return []
    from persist.volume.heal import by_hand

    try:
        return disks(by_hand.describe())
    except (PersistError, OSError) as e:
        return [("Disks", f"not known: {e}")]


def disks(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What there is to say of disks that by_hand.describe() has described, label and text."""
    members = found["members"]
    how = (
        "mirror"
        if any(p.startswith("raid1") for p in found["profiles"]["data"])
        else "one disk"
        if len(members) == 1
        else "no mirror"
    )
    shown = ", ".join(
        f"{m['node'] or 'devid ' + str(m['devid'])}{'' if m['state'] == 'ok' else ' (' + m['state'] + ')'}"
        for m in members
    )
    return [
        ("Disks", f"{shown}; {how}"),
        ("Space", f"{show.mib(found['free'])} of {show.mib(found['size'])} free"),
        ("Scrub", str(found["scrub"]).split("\n")[0]),
    ]


def _state(word: str, kind: str) -> str:
    """How the state of an entry is shown: what is mounted from memory is not kept."""
    return "in memory" if kind == "tmpfs" and word in ("mounted", "early", "linked") else word


def _verdict() -> tuple[Verdict, dict[str, Any]]:
    if os.geteuid() != 0:
        from persist.verdict.written import read

        return read()
    from persist.verdict.current import current
    from persist.verdict.written import document

    found, _ = current()
    return found, document(found)


def run(arguments: argparse.Namespace) -> int:
    """Print the verdict of this moment, to a user the one that was written last."""
    found, state = _verdict()
    if arguments.json:
        show.print_json(state)
    else:
        print_verdict(found, _space(found.volume), _units(), full=arguments.full)
    return EXIT[found.verdict]


def print_verdict(
    found: Verdict, space: list[tuple[str, str]], units: list[tuple[str, str]], *, full: bool
) -> None:
    """Print a verdict with its volume, the ``space`` of that, our ``units`` and all entries."""
    print(f"Verdict: {show.colour(found.verdict, found.verdict)}")
    for label, text in _volume(found.volume) + space:
        print(show.safe(f"{label:>7}: {text}"))
    for name, text in units:
        print(show.safe(f"   Unit: {name}: {text}"))
    if found.entries:
        kind = found.volume.kind
        print()
        show.table(
            ("PATH", "METHOD", "STATE", "DECLARED IN"),
            [(e.path, e.method, _state(e.state, kind), e.source) for e in found.entries],
            flexible=(0, 3),
            full=full,
        )
    quiet = [
        f"{e.path} is {'taken out' if e.state == 'none' else e.state}: {e.reason}."
        for e in found.entries
        if e.state in ("ignored", "none")
    ]
    if found.reasons or found.notices or quiet:
        print()
    for text in [f"{n.message} {n.hint}".rstrip() for n in found.notices] + quiet:
        print(show.safe(f"- {text}"))
    for reason in found.reasons:
        print(show.safe(f"* {reason.message}"))
        if reason.hint:
            print(show.safe(f"  {reason.hint}"))
