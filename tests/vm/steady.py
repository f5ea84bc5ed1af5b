# SPDX-License-Identifier: LGPL-2.1-or-later
"""What holds for each boot of a machine that remembers: who it is, and that nothing is left to do."""

from __future__ import annotations

from .journal import INFO, lines, once
from .system import System

LINES = 12  # of ours in the journal of a steady boot, at most
IDLE = (
    "persist-format.service",
    "persist-volume.service",
    "persist-seed@etc.service",
    "persist-seed@var.service",
    "persist-settle.service",
)


def identity(machine: System) -> tuple[str, ...]:
    """The machine-id as everybody sees it: the file, PID 1, hostnamed, and the directory of the journal."""
    return (
        machine.succeed("cat /etc/machine-id").strip(),
        machine.succeed("journalctl -b -q -n 1 -o export _PID=1 | sed -n 's/^_MACHINE_ID=//p'").strip(),
        machine.succeed("hostnamectl | sed -n 's/.*Machine ID: //p'").strip(),
        machine.succeed("ls /var/log/journal").strip(),
    )


def steady(machine: System, *, counted: bool = True) -> None:
    """All was in place before PID 1 started: none of the services that do it has started a process, PID 1 was
    not reloaded, and there is little to say. ``counted``: this kernel has had no other boot, whose words its
    journal would have, too."""
    started = machine.succeed(f"systemctl show -p ExecMainStartTimestampMonotonic --value {' '.join(IDLE)}")
    assert started.split() == ["0"] * len(IDLE), started
    reloaded = "journalctl -b -q -o cat _PID=1 | grep -c '^Reload' || true"
    assert machine.succeed(reloaded).strip() == "0"
    said = once(lines(machine.succeed, INFO))
    assert not counted or len(said) <= LINES, "\n".join(map(str, said))
