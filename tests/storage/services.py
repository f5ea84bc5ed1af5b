# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two services on real disks, each run in a mount namespace of its own with a /run and a /mnt of its
own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from .rig import PYTHON, TOP, LoopDisk, tool

# argv: a JSON object with what a test wants. Prints one JSON object for each run of the volume service.
_SCRIPT = """
import json, os, subprocess, sys
wish = json.loads(sys.argv[1])
def sh(text):
    subprocess.run(["sh", "-ec", text], check=True)
sh("mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /mnt; mkdir /mnt/state; " + wish.get("before", ""))
from persist.boot.config import Config
from persist.boot import load as loading, paths
from persist.system import blockdev, mountinfo
from persist.volume.format import claims
from persist.volume.mount import fallback, lookup, btrfs_mount as mount, swap
from persist.services import format as format_service, volume as volume_service
from persist.volume.find import remembered as known, search
from persist.volume import outcome
known.ROOT = wish.get("root", "/run/root")
os.makedirs(known.ROOT, exist_ok=True)
config = Config()
for key, value in wish["config"].items():
    setattr(config, key, value)
format_service.load = lambda root, problems: config
def load(root, environ):
    loaded = loading.load(root, environ)
    loaded.config = config
    return loaded
volume_service.load = load
fallback._has_symlinks = lambda: wish.get("symlinks", False)
swap.enable = lambda members, config: []  # the machine's own swap space is none of a test's business
paths.ROOT_STORE = wish.get("root_store", paths.ROOT_STORE)
every = blockdev.disks
if wish.get("only"):
    blockdev.disks = lambda: [d for d in every() if d.node in wish["only"]]  # a machine with these disks
disks = [blockdev.by_node(n) for n in wish.get("disks", [])]
if wish.get("unexpected"):
    mount.mount_assembly = lookup.search = None
exec(wish.get("python", ""))
report = []
for what in wish["do"]:
    if what == "format":
        report.append({"failed": claims.format_claimed(disks, config, wish.get("wanted"))})
    elif what == "more":
        disks.append(blockdev.by_node(wish["more"]))
    elif what == "format_main":
        report.append({"status": format_service.format_main()})
    elif what == "volume":
        status = volume_service.volume_main()
        found = json.load(open("/run/persist/volume.json"))
        ours = [m for m in mountinfo.mounts() if m.mount_point.startswith(("/run/persist", "/mnt/"))]
        at = {m.mount_point: [m.fstype, m.root, m.read_only] for m in ours}
        names = "mount-entries", "persistent", "formatted"
        flags = [n for n in names if os.path.exists("/run/persist/" + n)]
        report.append({"status": status, "at": at, "flags": flags} | found)
    else:
        sh(what)
notes = "/run/persist/refused"
refused = [json.load(open(f"{notes}/{n}")) for n in sorted(os.listdir(notes))] if os.path.isdir(notes) else []
print(json.dumps({"report": report, "refused": refused}))
"""


# $1: the type of the filesystem that holds the upper layer of a root for the program behind $2, a directory
#     that it needs.
_IN_MEMORY = """
mount -t "$1" none /media
mkdir /media/upper /media/work /media/root
mount -t overlay -o "lowerdir=/,upperdir=/media/upper,workdir=/media/work" overlay /media/root
for d in /dev /proc /sys /run /tmp /media "$2"; do
    mkdir -p "/media/root$d"
    mount --rbind "$d" "/media/root$d"
done
shift 2
exec chroot /media/root "$@"
"""


class Result:
    """What a run of the script reported; ``log`` is standard error."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        self.report: list[dict[str, Any]] = found["report"]
        self.refused: list[dict[str, Any]] = found["refused"]
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
    **wish: Any,
) -> Result:
    """Run services, and shell commands between them, in a namespace that ends with them. ``root_in``: the
    root is an overlay with its upper in that."""
    wish |= {"do": do, "config": {"device": device or ["auto"]} | (config or {})}
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(TOP),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SYSTEMD_PROC_CMDLINE": cmdline,
    }
    root = ["sh", "-ec", _IN_MEMORY, "sh", wish.pop("root_in"), str(TOP)] if "root_in" in wish else []
    return Result(
        subprocess.run(
            [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                *root,
                PYTHON,
                "-c",
                _SCRIPT,
                json.dumps(wish),
            ],
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
    return root / "var/lib/persist/known-volume"
