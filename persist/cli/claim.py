# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl claim: mark blank disks for persist."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from persist.cli import show
from persist.errors import PersistError

if TYPE_CHECKING:
    from persist.boot.config import Config
    from persist.volume.ondisk.header import Options

MOUNTED = "mounted"  # --join without an id


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser(
        "claim",
        help="ask persist to format disks",
        description="Write the magic header to blank disks. They are formatted at once where udev runs, or "
        "at the next boot; "
        "several become one volume.",
    )
    sub.add_argument("device", metavar="DEVICE", nargs="*", help="a whole disk, such as /dev/vdb")
    sub.add_argument(
        "--force",
        action="store_true",
        help="also a disk that is not blank: WHAT IS ON IT IS LOST; never one in use",
    )
    sub.add_argument(
        "--join",
        metavar="UUID",
        nargs="?",
        const=MOUNTED,
        help="become a member of this volume (default: the one that is mounted)",
    )
    sub.add_argument(
        "--layout",
        choices=("auto", "single", "raid1"),
        help="auto mirrors where there are several disks, raid1 refuses a single one",
    )
    sub.add_argument(
        "--bind-serial", action="store_true", help="a copy of the header counts for no other disk"
    )
    show.yes(sub)
    show.options(sub)
    sub.set_defaults(run=run, parser=sub)


def _volume(wanted: str) -> str:
    """The volume to join. Raises PersistError."""
    from persist.boot.paths import VOLUME
    from persist.system import uuids
    from persist.system.btrfs import mounted_uuid

    if wanted != MOUNTED:
        if not uuids.valid(wanted.lower()):
            raise PersistError(
                f"'{wanted}' is not the UUID of a volume.", hint="'persistctl status' shows it."
            )
        return wanted.lower()
    found = mounted_uuid(VOLUME)
    if not found:
        raise PersistError(
            "There is no state volume to join.",
            hint="Name one with --join=UUID. Without --join the disk becomes a volume of its own.",
        )
    return found


def _wishes(arguments: argparse.Namespace) -> tuple[list[str], Options]:
    """The disks that were named, and what their headers shall say. Raises PersistError."""
    from persist.volume.ondisk.header import Options

    devices = list(arguments.device)
    join = arguments.join
    if join is not None and join.startswith("/"):
        # 'claim --join /dev/vdb': the parser takes the next word for the option's value.
        devices.insert(0, join)
        join = MOUNTED
    if not devices:
        arguments.parser.error("the following arguments are required: DEVICE")
    if join is not None and arguments.layout:
        arguments.parser.error("--layout is not for a disk that joins: the volume has its layout")
    return devices, Options(arguments.layout or "", join=_volume(join) if join is not None else "")


def _agreed(arguments: argparse.Namespace, devices: list[str], config: Config, join: str) -> bool:
    from persist.volume.format.write_claim import describe

    lost = "; WHAT IS ON IT IS LOST" if arguments.force else ""
    lines = [
        f"{line}{lost}"
        for line in describe(devices, config, force=arguments.force, bind_serial=arguments.bind_serial)
    ]
    what = (
        f"Let {'it' if len(lines) == 1 else 'them'} "
        f"{f'join the state volume {join}' if join else 'become a state volume'}? "
    )
    return show.ask(lines, f"{what}Formatting begins at once where persist-setup.target is enabled.")


def run(arguments: argparse.Namespace) -> int:
    """Claim disks."""
    from persist.volume.format.write_claim import write_claims

    devices, options = _wishes(arguments)
    config = show.settings()
    if show.somebody(arguments) and not _agreed(arguments, devices, config, options.join):
        print("Nothing was done.", file=sys.stderr)
        return 1
    claimed = write_claims(devices, config, options, force=arguments.force, bind_serial=arguments.bind_serial)
    disks = [d.node for d in claimed]
    if arguments.json:
        members = len(disks) if len(disks) > 1 and not options.join else None
        show.print_json(
            {
                "devices": disks,
                "claimed": True,
                "join": options.join or None,
                "layout": options.layout or None,
                "members": members,
            }
        )
    else:
        print(_done(disks, options.join))
    return 0


def _done(disks: list[str], join: str) -> str:
    """What happens next."""
    several = len(disks) > 1
    claimed = f"Claimed {', '.join(disks)}. {'They are' if several else 'It is'}"
    if join:
        return (
            f"{claimed} prepared at once where persist-setup.target is enabled, and "
            f"{'become members' if several else 'becomes a member'} of {join}."
        )
    return (
        f"{claimed} formatted at once where persist-setup.target is enabled, else at the first boot where "
        "it is. Entries are mounted at the next boot."
    )
