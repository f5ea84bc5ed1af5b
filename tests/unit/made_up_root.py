# SPDX-License-Identifier: LGPL-2.1-or-later
"""A system in a directory, for the glue: the machine's own /usr below what a test puts there, in mount and
process namespaces of its own. Its persist-service, timeout and init write down how they were called.

The directory has blanks in its name, and its root filesystem is read-only but for /said.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

GLUE = Path(__file__).parents[2] / "packaging/initrd"
KLIBC = Path("/usr/lib/klibc/bin")
# Each shell with the chroot that an initrd has beside it.
SHELLS = {
    "dash": ("/usr/bin/dash", "/usr/sbin/chroot"),
    "bash": ("/usr/bin/bash --posix", "/usr/sbin/chroot"),
    "busybox": ("/usr/bin/busybox sh", "/usr/bin/busybox"),
    "klibc": (f"{KLIBC}/sh", f"{KLIBC}/chroot"),
}

needs_root = pytest.mark.skipif(
    os.geteuid() != 0
    or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="mounts need root",
)

RECORDER = """#!/usr/bin/python3 -I
import json, os, sys
found = {}
for n in range(100):
    try:
        st = os.fstat(n)
    except OSError:
        continue
    found[n] = (st.st_dev, st.st_ino)
says = {"argv": sys.argv, "fds": found, "cwd": os.getcwd(), "env": dict(os.environ), "pid": os.getpid()}
if os.path.exists("/proc/self/mountinfo"):
    with open("/proc/self/mountinfo") as f:
        says["mounts"] = [line.split() for line in f]
name = "/said/" + os.path.basename(sys.argv[0])
assert not os.path.exists(name), "called twice"
with open(name, "w") as f:
    json.dump(says, f)
"""
# Coreutils' own timeout, whose patience is another.
TIMEOUT = """#!/bin/sh
printf '%s\\n' "$@" >/said/timeout
shift 3
exec /usr/bin/timeout -k 0.2 SECONDS "$@"
"""

# The root is read-only, as it is before fstab is read.
_PREPARE = r"""
set -eu
cd "$BASE"
mount --bind root root
mount -o remount,bind,ro root
mount --bind said root/said
mount -t overlay -o "lowerdir=$BASE/usr:/usr" overlay root/usr
mount -t tmpfs tmpfs /run
cp -a run/. /run
mount -t tmpfs tmpfs dev
mknod dev/null c 1 3
"""

# In an initrd; the kernel's log is a file.
_STAGE = (
    _PREPARE
    + r"""
case $LOG in
    file) : >dev/kmsg ;;
    directory) mkdir dev/kmsg ;;
esac
mount --bind dev /dev
mount --bind "$CHROOT" /usr/sbin/chroot
cd /
status=0
$SHELL_UNDER_TEST "$SCRIPT" "$@" || status=$?
stat -c '[%d, %i]' /run /dev /proc /sys >"$BASE/outside"
ls /dev >"$BASE/devices"
[ ! -f /dev/kmsg ] || cp /dev/kmsg "$BASE/kmsg"
exit "$status"
"""
)

# As the kernel starts what init= names: process 1, two variables, and nothing mounted but the root.
_INIT = (
    _PREPARE
    + r"""
for tree in $MOUNTED; do
    case $tree in
        dev) : >dev/kmsg; mount --bind "$BASE/kmsg" dev/kmsg; mount --rbind dev root/dev ;;
        proc) mount -t proc proc root/proc ;;
        *) mount -t tmpfs -o mode=0700 mine "root/$tree" ;;
    esac
done
[ -z "$NO_CONSOLE" ] || exec <&- >&- 2>&-
exec env -i HOME=/ TERM=linux /usr/sbin/chroot "$BASE/root" $SHELL_UNDER_TEST "$SCRIPT" "$@"
"""
)


@dataclass(frozen=True)
class Result:
    status: int
    stderr: str
    kernel: str  # what the kernel's log got
    devices: list[str]  # what is in /dev
    outside: list[list[int]]  # device and inode of the four trees


class MadeUpRoot:
    """``usr`` is what the system has of its own there; ``run`` is the initrd's /run."""

    def __init__(self, base: Path, shell: str) -> None:
        self.base = base
        self.root = base / "root"
        self.usr = base / "usr"
        self.run = base / "run"
        self.name = shell
        self.shell, self.chroot = SHELLS[shell]
        for tree in ("run", "dev", "proc", "sys", "etc", "usr", "said"):
            (self.root / tree).mkdir(parents=True)
        for link in ("bin", "sbin", "lib", "lib64"):
            (self.root / link).symlink_to(f"usr/{link}")
        for directory in ("run", "said", "dev", "usr/lib/persist"):
            (base / directory).mkdir(parents=True)
        self.program("lib/persist/persist-service", RECORDER)
        self.patience(30)
        self.program("sbin/init", RECORDER)
        self.program("lib/systemd/systemd", RECORDER)
        for script in ("persist-stage", "persist-init"):
            self.program(f"lib/persist/{script}", (GLUE / script).read_text(encoding="utf-8"))

    def program(self, path: str, text: str) -> None:
        """Put a program below /usr of the system."""
        at = self.usr / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.unlink(missing_ok=True)
        at.write_text(text, encoding="utf-8")
        at.chmod(0o755)

    def patience(self, seconds: float) -> None:
        """How long the system's timeout really waits."""
        self.program("sbin/timeout", TIMEOUT.replace("SECONDS", str(seconds)))

    def missing(self, path: str) -> None:
        """Have the system not have a file below /usr, also where the machine has it."""
        (self.usr / path).unlink(missing_ok=True)
        (self.usr / path).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(self.usr / path, stat.S_IFCHR, 0)  # overlayfs: a whiteout

    def enable(self, where: str = "etc/systemd/system/local-fs.target.wants") -> Path:
        """Make the link that enables persist-setup.target, and return it."""
        top, _, rest = where.partition("/")
        base = {"usr": self.usr, "run": self.run}.get(top, self.root / top)
        link = base / rest / "persist-setup.target"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("/usr/lib/systemd/system/persist-setup.target")
        return link

    def said(self, program: str) -> dict[str, Any] | None:
        """How a program was called, None where it was not."""
        try:
            return json.loads((self.base / "said" / program).read_text(encoding="utf-8"))  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None

    def stage(self, *arguments: str, log: str = "file") -> Result:
        """Run persist-stage beside the system, as in an initrd; ``log`` is what /dev/kmsg is there."""
        script = str(self.usr / "lib/persist/persist-stage")
        return self._run(_STAGE, [], arguments, SCRIPT=script, LOG=log)

    def init(
        self, *arguments: str, mounted: str = "", no_console: bool = False, script: str = "persist-init"
    ) -> Result:
        """Run persist-init in the system, as process 1."""
        (self.base / "kmsg").touch()
        variables = {"MOUNTED": mounted, "NO_CONSOLE": "yes" if no_console else ""}
        variables["SCRIPT"] = f"/usr/lib/persist/{script}"
        return self._run(_INIT, ["--pid", "--fork"], arguments, **variables)

    def _run(self, script: str, more: list[str], arguments: Sequence[str], **variables: str) -> Result:
        done = subprocess.run(
            ["unshare", "--mount", *more, "--propagation", "private", "sh", "-c", script, "sh", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "BASE": str(self.base),
                "SHELL_UNDER_TEST": self.shell,
                "CHROOT": self.chroot,
                **variables,
            },
        )
        kernel, devices, outside = (self.base / name for name in ("kmsg", "devices", "outside"))
        return Result(
            done.returncode,
            done.stderr,
            kernel.read_text(encoding="utf-8") if kernel.exists() else "",
            devices.read_text(encoding="utf-8").split() if devices.exists() else [],
            [json.loads(line) for line in outside.read_text().splitlines()] if outside.exists() else [],
        )
