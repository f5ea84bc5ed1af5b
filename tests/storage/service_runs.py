# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run in a mount namespace of its own by services.py: the volume service and the formatter, one after the
other, on a machine of their own.

argv: a JSON object with what a test wants. Prints one JSON object with a report for each run.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from persist import log
from persist.boot.config import load
from persist.boot.load import load as load_all
from persist.services.early import main as early_main
from persist.services.format import format_main
from persist.services.volume import volume_main
from persist.system import blockdev, mountinfo
from persist.volume.format import claims

from .own_root import own_class, own_root

RUN = Path("/run/persist")
FLAGS = ("mount-entries", "persistent", "formatted", "stale")
KEYS = {
    "device": "Device",
    "member_timeout": "MemberTimeoutSec",
    "fallback": "Fallback",
    "allow_removable": "AllowRemovable",
    "format_blank": "Format",
    "ephemeral": "Ephemeral",
    "join": "Join",
}
ENABLED = Path("/run/systemd/system/local-fs.target.wants/persist-setup.target")


def _setting(name: str, value: Any) -> str:
    if name == "format_blank":
        value = "blank" if value else "claimed"
    elif isinstance(value, bool):
        value = "yes" if value else "no"
    elif isinstance(value, list):
        value = " ".join(value)
    return f"{KEYS[name]}={value}"


def _machine(wish: dict[str, Any]) -> None:
    """The files of this machine, and its disks."""
    own_root(wish["root"], wish.get("root_in", ""), first=wish.get("first", "/"))
    if "only" in wish or "dmi" in wish:
        every = [d.node for d in blockdev.disks()]
        own_class(wish.get("only", every), wish.get("dmi", ""))
    RUN.mkdir()
    lines = [_setting(*item) for item in wish["config"].items()]
    (RUN / "persist.conf").write_text("\n".join(["[Volume]", *lines, ""]), encoding="utf-8")
    if wish.get("enabled"):
        ENABLED.parent.mkdir(parents=True)
        ENABLED.symlink_to("/usr/lib/systemd/system/persist-setup.target")
    if wish.get("registry"):
        Path("/run/persist.d").mkdir()
        Path("/run/persist.d/t.conf").write_text(wish["registry"], encoding="utf-8")
    _sh(wish.get("before", ""))


def _sh(script: str) -> None:
    subprocess.run(["sh", "-ec", script], check=True)


def _volume() -> dict[str, Any]:
    status = volume_main()
    found: dict[str, Any] = json.loads((RUN / "volume.json").read_text(encoding="utf-8"))
    ours = [m for m in mountinfo.mounts() if m.mount_point.startswith((f"{RUN}/", "/mnt/"))]
    at = {m.mount_point: [m.fstype, m.root, m.read_only] for m in ours}
    flags = [name for name in FLAGS if (RUN / name).exists()]
    return {"status": status, "at": at, "flags": flags} | found


def _early() -> dict[str, Any]:
    """The stage before PID 1, in place; what it has said for the journal is kept for the next service."""
    status = early_main("here")
    at = {m.mount_point: [m.fstype, m.root, m.read_only] for m in mountinfo.mounts()}
    flags = [name for name in (*FLAGS, "staged", "volume.json") if (RUN / name).exists()]
    lines = (RUN / "said").read_text(encoding="ascii").splitlines()
    said = [[note["priority"], note["message_id"], note["message"]] for note in map(json.loads, lines)]
    left = json.loads((RUN / "left").read_text()) if (RUN / "left").exists() else None
    record = json.loads((RUN / "volume.json").read_text()) if (RUN / "volume.json").exists() else {}
    return {"status": status, "at": at, "flags": flags, "said": said, "left": left} | record


def _plan() -> dict[str, Any]:
    """What the generator would say now."""
    plan = load_all("", os.environ).plan
    return {
        "before": [p.path for p in plan.entries if p.before_pid1],
        "after": [p.path for p in plan.entries if not p.before_pid1],
        "outside": {o.real: o.state for o in plan.outside},
        "files": list(plan.files),
    }


def _killed(milliseconds: float) -> dict[str, Any]:
    """The stage, killed after some time with all that it has started."""
    program = f"{sys.executable} -m tests.storage.service_runs stage"
    with subprocess.Popen(program.split(), start_new_session=True) as stage:
        time.sleep(milliseconds / 1000)
        os.killpg(stage.pid, signal.SIGKILL)
    # The worker is in a group of its own, and goes with its parent.
    while subprocess.run(["pgrep", "-f", program], capture_output=True).returncode == 0:
        time.sleep(0.02)
    at = mountinfo.at("/run/persist/volume")
    return {"mounted": at is not None, "flags": [name for name in FLAGS if (RUN / name).exists()]}


def _statuses(manager: socket.socket) -> list[str]:
    """What the service manager was told."""
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def main() -> None:
    """Do what is wished."""
    if sys.argv[1] == "stage":
        sys.exit(early_main("here"))
    wish = json.loads(sys.argv[1])
    _machine(wish)
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    manager.bind("/run/notify")
    os.environ["NOTIFY_SOCKET"] = "/run/notify"
    disks = [blockdev.by_node(n) for n in wish.get("disks", [])]
    report, statuses = [], []
    for what in wish["do"]:
        match what:
            case "format":
                failed = claims.format_claimed(
                    disks, load("", []), wish.get("wanted"), log.say, log.notify_status
                )
                report.append({"failed": failed})
            case "more":
                disks.append(blockdev.by_node(wish["more"]))
            case "format_main":
                report.append({"status": format_main()})
            case "volume":
                report.append(_volume())
            case str() if what.startswith("killed "):
                report.append(_killed(float(what.removeprefix("killed "))))
            case "plan":
                report.append(_plan())
            case "early":
                report.append(_early())
            case _:
                _sh(what)
        statuses += _statuses(manager)
    notes = RUN / "refused"
    refused = [json.loads(n.read_text()) for n in sorted(notes.iterdir())] if notes.is_dir() else []
    print(json.dumps({"report": report, "refused": refused, "statuses": statuses}))


if __name__ == "__main__":
    main()
