# SPDX-License-Identifier: LGPL-2.1-or-later
"""A root filesystem, and pieces of /sys, of its own for a process in a mount namespace of its own. What it
writes below / is in a directory of the test, with the machine's own root below that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
# $1: where the upper layer is; $2: the type of the filesystem in memory that it is copied to, or nothing; the
# others are directories that are to be there as they are. An upper layer in memory is at /home.
_MAKE = """
upper=$1 memory=$2 root=/mnt/root
shift 2
mount -t tmpfs none /mnt
if [ -n "$memory" ]; then
    mount -t "$memory" none /home
    cp -a "$upper/upper" /home
    upper=/home
    set -- "$@" /home
fi
mkdir -p $root "$upper/upper" "$upper/work"
mount -t overlay -o "lowerdir=/,upperdir=$upper/upper,workdir=$upper/work" overlay $root
for d in /dev /proc /sys /tmp "$@"; do
    mkdir -p "$root$d"
    mount --rbind "$d" "$root$d"
done
mountpoint -q $root/run || mount -t tmpfs tmpfs $root/run
mount -t tmpfs tmpfs $root/mnt
mkdir $root/mnt/state
rm -f $root/etc/systemd/system/*.target.wants/persist-setup.target
"""


def _sh(script: str, *arguments: str) -> None:
    subprocess.run(["sh", "-ec", script, "sh", *arguments], check=True)


def upper_of(top: Path) -> Path:
    """What a process with this top has written below its root."""
    return top / "upper"


def own_root(top: str, memory: str = "", keep: Sequence[str] = (), *, first: str = "/") -> None:
    """Enter a root whose upper layer is in ``top``, a directory on a disk; or in a filesystem in memory of
    that type, which begins with what is in ``top``. /run and /mnt are empty but for /mnt/state;
    ``keep``: directories that stay as they are.

    ``first``: the root of process 1, which is ours where nothing else is said: then we are in no chroot. It
    sees the mounts that we see.
    """
    upper_of(Path(top)).mkdir(parents=True, exist_ok=True)
    _sh(_MAKE, top, memory, str(TOP), top, *keep)
    os.chroot("/mnt/root")
    os.chdir("/")
    _sh(
        'mount -t tmpfs none /proc/1; ln -s "$1" /proc/1/root; ln -s ../self/mountinfo /proc/1/mountinfo',
        first,
    )


def own_class(disks: Sequence[str], dmi: str = "") -> None:
    """Have /sys/class show these disks alone, by node, and this id of the firmware's."""
    block, firmware = Path("/sys/class/block"), Path("/sys/class/dmi/id")
    shown = {path: path.resolve() for path in (block / node.removeprefix("/dev/") for node in disks)}
    _sh("mount -t tmpfs none /sys/class")
    for directory in (block, firmware):
        directory.mkdir(parents=True)
    for path, device in shown.items():
        path.symlink_to(device)
    if dmi:
        (firmware / "product_uuid").write_text(f"{dmi}\n", encoding="ascii")
