# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each unit has the sandbox that its work allows. That each works in it is shown by the boots of tests/vm,
which start them all."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SERVICES = sorted(p.name for p in (TOP / "units").glob("*.service"))
BARS = {"persist-verify.service": 5.0, "persist-scrub.service": 5.0, "persist-heal.service": 5.5}
BAR = 6.0  # of the others; 9.6 is a unit without any
# They run what packages and the operator have, as root, on a machine on which nothing else runs.
OPEN = {"persist-seal.service", "persist-operator-script.service"}
# Their work is on a copy of the root's mount, which has a mount namespace of its own.
OWN_MOUNTS = {f"persist-seal-{name}.service" for name in ("begin", "end", "off", "refused")}

# What makes a mount namespace: what a unit mounts would not be there for the machine, and what it looks at
# would be a copy. PrivateNetwork= does, from systemd 254 or so on (not 252, and 257; tried): it mounts a /sys
# of its own.
MOUNT_NAMESPACE = (
    "ProtectSystem",
    "ProtectHome",
    "ReadWritePaths",
    "ReadOnlyPaths",
    "InaccessiblePaths",
    "ExecPaths",
    "NoExecPaths",
    "BindPaths",
    "BindReadOnlyPaths",
    "TemporaryFileSystem",
    "PrivateTmp",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivateIPC",
    "PrivateUsers",
    "ProtectKernelTunables",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectControlGroups",
    "ProtectProc",
    "ProcSubset",
    "MountFlags",
    "RootDirectory",
    "RootImage",
    "MountImages",
    "ExtensionImages",
    "DynamicUser",
    "StateDirectory",
    "RuntimeDirectory",
    "CacheDirectory",
    "LogsDirectory",
    "ConfigurationDirectory",
    "LogNamespace",
    "LoadCredential",
    "SetCredential",
    "ProtectHostname",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root directory with everything of ours as it is installed."""
    directory = tmp_path_factory.mktemp("root")
    subprocess.run(
        ["make", "--silent", "-C", str(TOP), "install-persist", f"DESTDIR={directory}"], check=True
    )
    yield directory
    shutil.rmtree(directory)


def settings(root: Path, unit: str) -> list[tuple[str, str]]:
    """What the unit and its drop-ins set."""
    directory = root / "usr/lib/systemd/system"
    files = [directory / unit, *sorted((directory / f"{unit}.d").glob("*.conf"))]
    return [
        (m[1], m[2])
        for f in files
        for m in re.finditer(r"^(\w+)=(.*)$", f.read_text(encoding="utf-8"), re.MULTILINE)
    ]


@pytest.mark.parametrize("unit", sorted(set(SERVICES) - OPEN))
def test_exposure(unit: str, root: Path) -> None:
    """As systemd-analyze(1) counts it."""
    done = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            f"--root={root}",
            f"--threshold={round(BARS.get(unit, BAR) * 10)}",
            unit.replace("@.", "@etc."),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


@pytest.mark.parametrize("unit", SERVICES)
def test_no_unit_has_a_mount_namespace(unit: str, root: Path) -> None:
    assert not [name for name, _ in settings(root, unit) if name in MOUNT_NAMESPACE]


@pytest.mark.parametrize("unit", sorted(set(SERVICES) - OPEN))
def test_what_every_unit_has(unit: str, root: Path) -> None:
    found = dict(settings(root, unit))
    assert {
        k: found.get(k)
        for k in (
            "NoNewPrivileges",
            "LockPersonality",
            "RestrictRealtime",
            "RestrictNamespaces",
            "SystemCallArchitectures",
        )
    } == {
        "NoNewPrivileges": "yes",
        "LockPersonality": "yes",
        "RestrictRealtime": "yes",
        "RestrictNamespaces": "mnt" if unit in OWN_MOUNTS else "yes",
        "SystemCallArchitectures": "native",
    }
    assert set(found["RestrictAddressFamilies"].split()) <= {"AF_UNIX", "AF_NETLINK"}, "no network"
    assert found["SystemCallFilter"].split()[0] == "@system-service" and "CapabilityBoundingSet" in found


def test_only_what_may_write_disks_can(root: Path) -> None:
    """The verdict and the scrub look at them."""
    for unit in ("persist-verify.service", "persist-scrub.service"):
        found = settings(root, unit)
        assert ("DevicePolicy", "closed") in found and [
            v for k, v in found if k == "DeviceAllow" and "block" in v
        ] == ["block-* r"]


def test_the_verdict_may_ask_the_device_mapper(root: Path) -> None:
    """Else a root on a snapshot that is not persistent would count as kept."""
    assert ("DeviceAllow", "/dev/char/10:236 rw") in settings(root, "persist-verify.service")


@pytest.mark.parametrize("unit", ["persist-heal.service", "persist-format.service"])
def test_word_that_is_never_taken_does_not_start_a_service_for_ever(root: Path, unit: str) -> None:
    found = dict(settings(root, unit))
    assert int(found["StartLimitIntervalSec"]) > 0 and 100 <= int(found["StartLimitBurst"]) <= 1000


@pytest.mark.parametrize("unit", SERVICES)
def test_what_follows_no_link_may_use_openat2(unit: str, root: Path) -> None:
    """RestrictSUIDSGID= lets openat2(2) fail with ENOSYS, since a filter cannot see the mode in its argument:
    nothing on a volume could be opened."""
    found = settings(root, unit)
    looks = {"format", "volume", "seed", "bind", "verify", "heal"} & {
        v.split()[1] for k, v in found if k == "ExecStart" and "persist-service" in v
    }
    assert not looks or "RestrictSUIDSGID" not in dict(found)
