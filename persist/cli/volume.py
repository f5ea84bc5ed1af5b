# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl volume: look at the members of the state volume, and change them by hand."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from persist import log
from persist.cli import show
from persist.note import INFO, Note

if TYPE_CHECKING:
    from persist.boot.config import Config


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser(
        "volume",
        help="the disks of the state volume",
        description="Look at the members of the state volume, and change them.",
    )
    actions = sub.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = actions.add_parser(name, help=text)
        show.options(parser)
        parser.set_defaults(run=run)
        return parser

    action(
        "show",
        "members, profiles, errors, space, and what the kernel is doing; exit status 1 where something is "
        "not well",
    ).add_argument(
        "-l",
        "--full",
        action="store_true",
        help="also how new each member is and its degraded mark; nothing is cut to fit the terminal",
    )
    join = action("add", "make a blank disk a member, and mirror to it as the layout asks")
    join.add_argument("device", metavar="DEVICE", help="the whole disk, such as /dev/vdc")
    show.yes(join)
    join.add_argument(
        "--force",
        action="store_true",
        help="also a disk that is not blank: WHAT IS ON IT IS LOST; never one in use",
    )
    action("remove", "take a member out; its data goes to the others first").add_argument(
        "device",
        metavar="DEVICE|missing",
        help="the disk or its data partition; 'missing' for one that is gone for good",
    )
    action("scrub", "read everything and repair what has a second copy").add_argument(
        "--status", action="store_true", help="only show how far the last one is"
    )
    action("grow", "follow disks and partitions that have grown")


def run(arguments: argparse.Namespace) -> int:
    """Do one action."""
    from persist.volume.heal import by_hand

    def say(note: Note) -> None:
        if note.priority != INFO:
            log.say(note)
        elif not arguments.json:
            print(show.safe(note.message), flush=True)

    match arguments.action:
        case "show":
            found = by_hand.describe()
            if not arguments.json:
                print_members(found, full=arguments.full)
        case "add":
            config = show.settings()
            if show.somebody(arguments) and not _agreed(arguments, config):
                return 1
            found = by_hand.add(arguments.device, say, force=arguments.force, config=config)
        case "remove":
            found = by_hand.remove(arguments.device, say)
        case "scrub":
            found = by_hand.scrub_status() if arguments.status else by_hand.scrub(say)
        case _:
            found = by_hand.grow()
    if arguments.json:
        show.print_json(found)
    elif "message" in found:
        show.print_lines(str(found["message"]))
    return 1 if found.get("failed") or found.get("reasons") else 0


def _agreed(arguments: argparse.Namespace, config: Config) -> bool:
    from persist.volume.format.write_claim import describe

    lines = describe([arguments.device], config, force=arguments.force)
    return show.ask(
        [f"{line}{'; WHAT IS ON IT IS LOST' if arguments.force else ''}" for line in lines],
        "Make it a member of the state volume?",
    )


def _errors(counted: dict[str, int] | None) -> str:
    return "not known" if counted is None else ", ".join(f"{k} {n}" for k, n in counted.items()) or "none"


def print_members(found: dict[str, Any], *, full: bool) -> None:
    """Print what by_hand.describe() has described."""
    data, metadata = (", ".join(found["profiles"][kind]) or "not known" for kind in ("data", "metadata"))
    operation = found["operation"] or "not known"
    print(show.safe(f"State volume {found['uuid']} at {found['path']}"))
    print(f"   Data: {data}; metadata: {metadata}; layout {found['layout']}")
    print(
        f"  Space: {show.mib(found['used'])} used, {show.mib(found['free'])} free of "
        f"{show.mib(found['size'])}, as df shows them; "
        f"reserve {'in use' if found['reserve_used'] else 'not used'}"
    )
    print(show.safe(f" Kernel: {operation}{': ' + found['progress'] if found['progress'] else ''}"))
    print(show.safe(f"  Scrub: {found['scrub']}"))
    print()
    rows = []
    for m in found["members"]:
        mark = f"{m['mark']['id']} ({m['mark']['counter']})" if m["mark"] else "-"
        row = (
            str(m["devid"]),
            m["node"] or "-",
            m["state"],
            show.mib(m["size"]),
            show.mib(m["allocated"]),
            m["serial"] or "-",
            _errors(m["errors"]),
        )
        rows.append((*row, str(m["generation"] or "-"), mark) if full else row)
    head = ("ID", "DEVICE", "STATE", "SIZE", "ALLOCATED", "SERIAL", "ERRORS")
    show.table((*head, "GENERATION", "MARK") if full else head, rows, flexible=(1, 5, 6), full=full)
    for other in found["others"]:
        print()
        print(
            show.safe(
                f"- {other['device']} (UUID={other['uuid']}) could be a state volume, too, and is left alone."
            )
        )
    for reason in found["reasons"]:
        print()
        print(show.safe(f"* {reason['message']}"))
        if reason["hint"]:
            print(show.safe(f"  {reason['hint']}"))
