# SPDX-License-Identifier: LGPL-2.1-or-later
"""``make demo``: a Debian machine with a read-only root keeps its state over a reboot, for anyone to watch.

python3 -m tests.vm.demo [--suite bookworm|trixie]
"""

from __future__ import annotations

import argparse
import sys

from . import scene
from .chroot import BuildError
from .errors import CommandFailed, MachineError
from .machine import Machine
from .progress import note

STAGES = (
    (
        "the claim is found",
        "journalctl -b -q -o cat PERSIST_DEVICE=/dev/vdb _SYSTEMD_UNIT=persist-format.service | head -n 3",
    ),
    ("the disk is formatted", "lsblk -o NAME,SIZE,FSTYPE,LABEL,PARTLABEL /dev/vdb"),
    (
        "the volume is mounted",
        "findmnt -no TARGET,SOURCE,FSTYPE /run/persist/volume; findmnt -no TARGET,SOURCE /mnt/state",
    ),
    (
        "the entries are up",
        "findmnt -rno TARGET,FSTYPE /etc; findmnt -rno TARGET,FSTYPE /var; findmnt -rno TARGET,FSTYPE /home; "
        "findmnt -rno TARGET,FSTYPE /var/lib/demo-notes",
    ),
    ("the root stays read-only", "findmnt -no TARGET,SOURCE,OPTIONS /"),
)


def show(title: str, text: str) -> None:
    """A titled block on standard output."""
    print(f"\n=== {title}\n{text.rstrip()}", flush=True)


def play(suite: str) -> bool:
    """The whole story; whether everything survived."""
    note(f"demo: an image of Debian {suite} with a read-only root and persist")
    image = scene.story_image(suite)
    with Machine(image, "demo") as machine:
        machine.add_disk("state", "4G", header=scene.HEADER)
        note("demo: a blank 4 GiB disk that carries only the magic header; first boot")
        machine.start()
        machine.wait_for_boot()
        for title, command in STAGES:
            show(title, machine.succeed(command))
        note("demo: change the machine as a person would")
        scene.change_as_a_person_would(machine)
        before = scene.look(machine)
        machine.reboot()
        machine.wait_for_boot()
        rows = scene.compare(before, scene.look(machine))
        width = max(len(what) for what, _, _ in rows)
        show(
            "after the reboot",
            "\n".join(
                f"{'survived' if good else 'LOST    '}  {what.ljust(width)}  {shown}"
                for what, shown, good in rows
            ),
        )
        show("persistctl status", machine.execute("persistctl status")[1])
        show("journalctl -b -u 'persist-*'", machine.succeed("journalctl -b --no-pager -u 'persist-*'"))
        verdict = machine.succeed(
            'python3 -c \'import json; print(json.load(open("/run/persist/state.json"))["verdict"])\''
        ).strip()
        machine.shutdown()
    good = all(ok for _, _, ok in rows) and verdict == "online"
    print(
        f"\n{'Everything survived.' if good else 'NOT everything survived.'} Verdict of the second boot: "
        f"{verdict}."
    )
    return good


def main() -> int:
    """Exit status 0 only if everything survived."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.demo", description=__doc__)
    parser.add_argument("--suite", default="bookworm", choices=("bookworm", "trixie"))
    try:
        return 0 if play(parser.parse_args().suite) else 1
    except (MachineError, CommandFailed, BuildError) as e:
        print(f"demo: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
