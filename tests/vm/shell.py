# SPDX-License-Identifier: LGPL-2.1-or-later
"""A shell in a machine of the VM tests, for looking at a boot by hand.

    python3 -m tests.vm.shell [--suite bookworm|trixie] [--claimed N] [--append WORDS]

Each line is run in the machine by bash. 'reboot', 'off' (an orderly power-off) and 'crash' (a power cut) are
the host's; after the last two 'on' boots it again. The end of input ends it. Packages and image are made as
for the tests (make deb; PERSIST_DEBS).
"""

from __future__ import annotations

import argparse
import sys

from . import scene
from .chroot import BuildError
from .errors import CommandFailed, MachineError
from .machine import Machine
from .progress import note


def step(machine: Machine, line: str) -> None:
    """Do what one line says. Raises MachineError and CommandFailed where the machine does not go along."""
    if line == "on":
        machine.start()
    elif line == "reboot":
        machine.reboot()
    elif line == "off":
        machine.shutdown()
    elif line == "crash":
        machine.crash()
    else:
        status, out = machine.execute(line, 3600)
        print(out, end="" if out.endswith("\n") or not out else "\n")
        if status:
            print(f"[exit status {status}]")


def work(suite: str, claimed: int, append: str) -> None:
    """Boot, and do what is read. Raises BuildError, MachineError and CommandFailed."""
    with Machine(scene.story_image(suite), "shell", buses=("usb", "scsi")) as machine:
        for number in range(1, claimed + 1):
            machine.add_disk(f"state{number}", "2G", header=scene.HEADER)
        machine.start(append)
        note("shell: its console is below; 'systemctl status' shows how far the boot is")
        print(machine.console_text())
        while True:
            try:
                line = input("persist-test# " if sys.stdin.isatty() else "").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if line:
                try:
                    step(machine, line)
                except (CommandFailed, MachineError) as e:
                    print(f"shell: {e}", file=sys.stderr)


def main() -> int:
    """Exit status 1 where the machine could not be made."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.vm.shell",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--suite", default="bookworm", choices=("bookworm", "trixie"))
    parser.add_argument(
        "--claimed", type=int, default=1, help="disks that carry the magic header (default: %(default)s)"
    )
    parser.add_argument("--append", default="", help="words for the kernel command line, such as persist=ro")
    arguments = parser.parse_args()
    try:
        work(arguments.suite, arguments.claimed, arguments.append)
    except (MachineError, CommandFailed, BuildError) as e:
        print(f"shell: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
