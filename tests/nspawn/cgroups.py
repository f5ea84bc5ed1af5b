# SPDX-License-Identifier: LGPL-2.1-or-later
"""The control groups of one container: made before it starts, gone after it whatever became of it."""

from __future__ import annotations

import time
from pathlib import Path

END_SEC = 20.0


def hierarchies() -> list[Path]:
    """Where systemd-nspawn makes groups: the unified hierarchy, and systemd's own of old, if any."""
    found = []
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, where, fstype, options, *_ = line.split()
        if fstype == "cgroup2" or (fstype == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(where))
    return found


class Cgroups:
    """A group of this name in each of the hierarchies."""

    def __init__(self, name: str) -> None:
        self.groups = [top / name for top in hierarchies()]
        for group in self.groups:
            group.mkdir()

    def remove(self) -> None:
        """Wait until nothing runs in them, and remove them. Raises TimeoutError."""
        deadline = time.monotonic() + END_SEC
        for group in self.groups:
            while group.exists():
                below = sorted(group.rglob("cgroup.procs"), key=lambda path: -len(path.parts))
                try:
                    for procs in below:
                        procs.parent.rmdir()
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{group} does not end") from error
                    time.sleep(0.05)
