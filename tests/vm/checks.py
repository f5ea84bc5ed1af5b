# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the VM tests ask of every machine, whatever happened to it."""

from __future__ import annotations

import json
from typing import Any

from .journal import Gate, lines
from .system import System


def state(machine: System) -> dict[str, Any]:
    """The verdict of this boot, as persist-verify.service wrote it."""
    boot, text = machine.succeed(
        "echo $(</proc/sys/kernel/random/boot_id); cat /run/persist/state.json"
    ).split("\n", 1)
    found: dict[str, Any] = json.loads(text)
    assert found["boot_id"] == boot.replace("-", "")
    return found


def entries(found: dict[str, Any]) -> dict[str, str]:
    """The state of each entry by its path; where it was declared twice, of the one that counts, which stands
    first."""
    return {e["path"]: e["state"] for e in reversed(found["entries"])}


def codes(found: dict[str, Any]) -> set[str]:
    """The codes of the reasons."""
    return {r["code"] for r in found["reasons"]}


def failed_units(machine: System) -> list[str]:
    """Units that failed in this boot."""
    return [
        line.split()[0]
        for line in machine.succeed(
            "systemctl list-units --failed --plain --no-legend --no-pager"
        ).splitlines()
    ]


def healthy_boot(machine: System) -> dict[str, Any]:
    """Wait for a boot that must be without any failed unit, online, and without a warning of ours; returns
    the verdict."""
    machine.wait_for_boot()
    assert failed_units(machine) == []
    found = state(machine)
    assert found["verdict"] == "online", json.dumps(found, indent=2)
    assert machine.succeed("systemctl is-active persist-online.target").strip() == "active"
    warnings = lines(machine.succeed)
    assert not warnings, "\n".join(map(str, warnings))
    return found


def only_said(machine: System, *what: str) -> None:
    """In this boot each of these was said of ours at warning or above, and nothing else (journal.py): for a
    machine whose test has no gate."""
    gate = Gate()
    gate.expect(*what)
    gate.take(lines(machine.succeed))
    gate.judge()


def volatile_notices(machine: System) -> None:
    """A boot without its volume is said on the console, in the journal, before and after login; and the
    target is not reached."""
    assert "VOLATILE" in machine.console_text()
    assert records(machine, "VERDICT_VOLATILE")
    assert "VOLATILE" in machine.succeed("cat /run/issue.d/persist.issue /run/motd.d/persist")
    assert machine.execute("systemctl is-active persist-online.target")[0] != 0
    assert machine.execute("persistctl status")[0] == 2
    machine.succeed("touch /etc/x /var/x /home/x /tmp/x")


def clean_shutdown(machine: System) -> None:
    """Power off, and read in the kernel's own words that everything written is on the disk, and that nothing
    failed on the way."""
    begin = len(machine.console_text())
    machine.shutdown()
    end = machine.console_text()[begin:]
    assert "last unmount of filesystem" in end, end[-4000:]
    bad = [
        line
        for line in end.splitlines()
        if "[FAILED]" in line or "Failed unmounting" in line or "Failed to unmount" in line
    ]
    assert not bad, bad


def records(machine: System, name: str) -> list[dict[str, Any]]:
    """The journal records of this boot with one of our MESSAGE_IDs."""
    from persist.messages import MESSAGE_IDS

    out = machine.execute(f"journalctl --sync; journalctl -b -q -o json MESSAGE_ID={MESSAGE_IDS[name]}")[1]
    return [json.loads(line) for line in out.splitlines()]


def mounted(machine: System, *fstypes: str) -> list[str]:
    """The places where filesystems of these types are mounted (findmnt(8) does not say by its status that
    there are none)."""
    return [
        words[1]
        for line in machine.succeed("cat /proc/mounts").splitlines()
        if (words := line.split())[2] in fstypes
    ]
