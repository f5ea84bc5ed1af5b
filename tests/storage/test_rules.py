# SPDX-License-Identifier: LGPL-2.1-or-later
"""The udev rule on real devices, by 'udevadm test' in a mount namespace with a /run of its own: no udev need
run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from persist.volume.ondisk import header
from persist.volume.ondisk.header import Options

from .conftest import Make
from .rig import HEADER, TOP

RULES = TOP / "units" / "65-persist.rules"
# udevadm makes the links in /dev that the other rules ask for.
_SCRIPT = """set -e
mkdir -p /dev/disk
mount -t tmpfs tmpfs /dev/disk
mount -t tmpfs tmpfs /run
mkdir -p /run/udev/rules.d
[ -z "$3" ] || mkdir /run/persist
cp "$1" /run/udev/rules.d/
exec udevadm test --action=change "$2" 2>&1
"""
LONG = "x" * 47 + "-please-format-me"


@pytest.mark.parametrize(
    ("head", "tagged"),
    [
        (HEADER, True),
        (HEADER + b"\n", True),
        (
            header.encode(
                HEADER.decode(), Options("raid1", 2, "S%20N", "11111111-2222-4333-8444-555555555555")
            ),
            True,
        ),
        (b"lightwhale-please-format-me", True),
        (b"lightwhale-please-format-me\nmembers=2\n", True),
        (LONG.encode(), True),
        (LONG.encode() + b"\nlayout=single", True),
        (b"", False),
        (b"-please-format-me", False),
        (HEADER[:-1], False),
        (b"\0" + HEADER, False),
        (HEADER + b"-not", False),
        (b"\xeb\x63\x90" * 20, False),
        (b"x" + LONG.encode(), False),
    ],
)
@pytest.mark.parametrize("ours", [True, False], ids=["later", "before anything of ours has run"])
def test_tag(make_disk: Make, tmp_path: Path, head: bytes, tagged: bool, ours: bool) -> None:
    if shutil.which("udevadm") is None:
        pytest.skip("udevadm")
    disk = make_disk(1, head)
    rules = tmp_path / RULES.name
    text = RULES.read_text()
    assert text.count('KERNEL=="loop*|') == 1
    rules.write_text(text.replace('KERNEL=="loop*|', 'KERNEL=="'))
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            _SCRIPT,
            "sh",
            rules,
            disk.disk.sys_path,
            "persist" if ours else "",
        ],
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
    )
    assert ("SYSTEMD_WANTS=persist-format.service persist-format.path" in done.stdout) == tagged, done.stdout
    assert ("/usr/bin/touch /run/persist/format" in done.stdout) == (tagged and ours), done.stdout
    assert "65-persist.rules" in done.stdout and "Invalid" not in done.stdout
