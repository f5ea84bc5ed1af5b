# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands inside a tree, in mount and process namespaces of their own: nothing outlives them."""

from __future__ import annotations

import subprocess
from pathlib import Path

_PREPARE = """
set -e
t=$1
mount -t proc proc "$t/proc"
mount -t sysfs -o ro sysfs "$t/sys"
mount -t tmpfs -o mode=0755 tmpfs "$t/run"
mkdir -p "$t/run/lock"
mount -t tmpfs -o mode=0755 tmpfs "$t/dev"
for node in null zero full random urandom tty; do
    : >"$t/dev/$node"
    mount --bind "/dev/$node" "$t/dev/$node"
done
mkdir "$t/dev/pts" "$t/dev/shm"
mount -t tmpfs tmpfs "$t/dev/shm"
ln -s /proc/self/fd "$t/dev/fd"
ln -s fd/0 "$t/dev/stdin"; ln -s fd/1 "$t/dev/stdout"; ln -s fd/2 "$t/dev/stderr"
exec chroot "$t" /bin/sh -c "$2"
"""

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "SYSTEMD_OFFLINE": "1",
}


class BuildError(Exception):
    """A step of an image build failed; carries what it said."""


def call(argv: list[str], what: str, environment: dict[str, str] | None = None) -> str:
    """Run a command of the build and return what it said; BuildError with the end of that when it fails."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"{what} failed with status {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


def run(tree: Path, command: str) -> str:
    """Run a shell command chrooted to TREE, which sees a small /dev of its own; no daemon is started."""
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    policy.chmod(0o755)
    try:
        return call(
            [
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--ipc",
                "--uts",
                "/bin/sh",
                "-c",
                _PREPARE,
                "sh",
                str(tree),
                command,
            ],
            f"in the image: {command}",
            _ENVIRONMENT,
        )
    finally:
        policy.unlink(missing_ok=True)
