# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stage before PID 1 of a boot that may seal the machine: it finds all as it was."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from persist.boot.seal.look import UNITS
from persist.boot.seal.request import Request, serialise

from .conftest import Make
from .rig import LoopDisk
from .services import READ_ONLY, services

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

MACHINE = "0123456789abcdef0123456789abcdef"
UUID = "c0ffee00-c0ff-ee00-c0ff-ee00c0ffee00"
ENTRIES = "[Path]\nPath=/etc\nMethod=overlay\n[Path]\nPath=/var\nMethod=overlay\n"
HAVE = f"mkdir -p /run/systemd/system /etc/persist; echo {MACHINE} >/etc/machine-id; " + "; ".join(
    f"echo '[Unit]' >/run/systemd/system/{unit}" for unit in UNITS
)
ASKED = f"quiet persist.seal={MACHINE}:one"


def boots(do: str, disk: LoopDisk, **wish: Any) -> Any:
    """As services(), on a machine with this disk, the units of a boot that seals, and ENTRIES."""
    more: dict[str, Any] = {"enabled": True, "registry": ENTRIES, "only": [disk.node], "dmi": UUID}
    more["before"] = HAVE
    return services(*do.split("\n"), device=[disk.node], **(more | wish))


def request(**changes: Any) -> str:
    """A command that leaves a request of this machine."""
    fields: dict[str, Any] = {"machine_id": MACHINE, "uuid": UUID.replace("-", ""), "time": int(time.time())}
    text = serialise(Request("one", **(fields | changes))).strip()
    return f"printf '%s' '{text}' >/etc/persist/seal.request"


def untouched(seen: dict[str, Any], disk: LoopDisk) -> None:
    """Neither formatted nor mounted, and the word is left."""
    assert seen["status"] == 0 and seen["kind"] if "kind" in seen else True
    assert not [path for path in seen["at"] if path in ("/etc", "/var", "/run/persist/volume")]
    assert not {"staged", "volume.json", "formatted", "persistent"} & set(seen["flags"])
    assert disk.read(0, 24) == b"persist-please-format-me"
    assert "may be a boot that seals the machine" in seen["left"]["/etc"]


@pytest.mark.parametrize(
    "cmdline", [ASKED, f"persist.seal={UUID}:one", f"systemd.set_credential=persist.seal:{UUID}:one"]
)
def test_nothing_is_formatted_or_mounted(make_disk: Make, cmdline: str) -> None:
    disk = make_disk()
    seen = boots("early\ncat /run/persist/seal-seen >&2", disk, cmdline=cmdline)
    untouched(seen.last, disk)
    assert "(ID one)" in seen.log
    assert "Left to the real root: This may be a boot that seals" in str(seen.last["said"])


def test_a_local_request_on_a_writable_root(make_disk: Make) -> None:
    disk = make_disk()
    seen = boots("early\ncat /run/persist/seal-seen >&2", disk, before=f"{HAVE}\n{request()}")
    untouched(seen.last, disk)
    assert "/etc/persist/seal.request (ID one)" in seen.log


def test_a_machine_that_has_no_id_yet(make_disk: Make) -> None:
    """PID 1 makes it, from the firmware's UUID or as it is told: what the stage cannot know refuses
    nothing."""
    disk = make_disk()
    seen = boots("early", disk, before=f"{HAVE}; : >/etc/machine-id", cmdline=f"persist.seal={'a' * 32}:one")
    untouched(seen.last, disk)


@pytest.mark.parametrize(
    "cmdline, more",
    [
        (f"persist.seal={'a' * 32}:one", ":"),
        (f"{ASKED} single", ":"),
        (ASKED, "echo one >/etc/persist/seal.done"),
        (ASKED, "ln -sf /dev/null /etc/systemd/system/persist-seal.target"),
        (ASKED, "mkdir -p /run/persist; : >/run/persist/ordinary"),
        (f"systemd.set_credential=persist.seal:{UUID}:one systemd.import_credentials=0", ":"),
        ("quiet", request(time=5)),
        ("quiet", request(uuid="a" * 32)),
    ],
)
def test_what_is_refused_for_certain_is_an_ordinary_boot(make_disk: Make, cmdline: str, more: str) -> None:
    seen = boots("early", make_disk(), cmdline=cmdline, before=f"{HAVE}\n{more}").last
    assert seen["kind"] == "btrfs" and seen["at"]["/etc"][0] == "overlay" and "formatted" in seen["flags"]
    assert seen["left"] == {} and "seals" not in str(seen["said"])


def test_a_request_that_lies_on_the_volume(make_disk: Make, tmp_path: Path) -> None:
    """On a root that is read-only, what persistctl writes to /etc goes to the volume: the stage mounts
    /etc, sees it, and mounts nothing else."""
    disk = make_disk()
    wish: dict[str, Any] = {"root": tmp_path, "before": f"{HAVE}\n{READ_ONLY}"}
    first = boots(f"early\nmkdir -p /etc/persist; {request()}", disk, **wish)
    assert "staged" in first.last["flags"] and "/var" in first.last["at"]
    seen = boots("early\ncat /etc/persist/seal.request /run/persist/seal-seen >&2", disk, **wish)
    assert seen.last["at"]["/etc"][0] == "overlay" and "/var" not in seen.last["at"]
    assert "staged" not in seen.last["flags"] and seen.last["kind"] == "btrfs"
    assert seen.log.count("/etc/persist/seal.request (ID one)") == 1
    again = boots("early", disk, **wish | {"dmi": UUID.replace("c", "d")})
    assert "staged" in again.last["flags"] and "/var" in again.last["at"], "it is another machine's"
