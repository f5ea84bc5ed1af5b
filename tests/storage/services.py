# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two services on real disks, each run in a mount namespace of its own with a /run and a /mnt of its
own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .own_root import upper_of
from .rig import PYTHON, TOP, LoopDisk, tool


class Result:
    """What service_runs.py reported: ``statuses`` are for the service manager, ``log`` is standard error."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        self.report: list[dict[str, Any]] = found["report"]
        self.refused: list[dict[str, Any]] = found["refused"]
        self.statuses: list[str] = found["statuses"]
        self.log = done.stderr

    @property
    def last(self) -> dict[str, Any]:
        """The last report."""
        return self.report[-1]


def services(
    *do: str,
    cmdline: str = "",
    device: list[str] | None = None,
    config: dict[str, Any] | None = None,
    root: Path | None = None,
    fstab: str = "/dev/null",
    **wish: Any,
) -> Result:
    """Run services, and shell commands between them, on a machine of their own that ends with them.

    ``root``: a directory with what it has written below / (own_root.py), so that it can be started again;
    ``root_in``: that is lost, for the root is in a filesystem in memory. ``only``: it has these disks and no
    others. ``dmi``: the id of its firmware. ``enabled``: the master switch is on. ``registry``: its entries.
    ``before``: a script that runs first. ``first``: the root of process 1, where that is not ours. ``fstab``:
    its file.
    """
    wish |= {"do": do, "config": {"device": device or ["auto"]} | (config or {})}
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(TOP),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SYSTEMD_PROC_CMDLINE": cmdline,
        "SYSTEMD_FSTAB": fstab,
    }
    with tempfile.TemporaryDirectory(dir="/tmp") as fresh:
        wish["root"] = str(root or fresh)
        program = [PYTHON, "-m", "tests.storage.service_runs", json.dumps(wish)]
        return Result(
            subprocess.run(
                ["unshare", "--mount", "--propagation", "private", *program],
                capture_output=True,
                text=True,
                env=env,
            )
        )


KNOWN = "11111111-2222-4333-8444-555555555555"
READ_ONLY = "mount -o remount,bind,ro /"


def uuid_of(disk: LoopDisk) -> str:
    return tool("blkid", "-p", "-o", "value", "-s", "UUID", f"{disk.node}p1").strip()


def note_of(root: Path) -> Path:
    """The note of its volume of a machine with this root."""
    return upper_of(root) / "var/lib/persist/known-volume"


def write_note(root: Path, uuid: str) -> None:
    """Have the note there before the machine is started."""
    note_of(root).parent.mkdir(parents=True)
    note_of(root).write_text(f"{uuid}\n")
