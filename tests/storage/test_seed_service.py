# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-seed@.service as PID 1 runs it, in a mount namespace of its own with the real paths."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SCENE = r"""
set -e
mount -t tmpfs none /srv
mkdir -p /srv/real/data; echo kept > /srv/real/data/f; ln -s real /srv/alias
mount -t tmpfs none /run
mkdir -p /run/persist/volume /run/persist/image /run/persist/lower /run/persist.d
mkdir -p /run/systemd/system/local-fs.target.wants
ln -s /usr/lib/systemd/system/persist-setup.target /run/systemd/system/local-fs.target.wants/persist-setup.target
mount --bind / /run/persist/image
mount --bind / /run/persist/lower; mount -o remount,bind,ro /run/persist/lower
{ echo '[Path]'; echo 'Path=/srv/alias/data'; echo 'Method=bind'; echo 'User=1';
  echo '[Path]'; echo 'Path=/srv/real/bad'; echo 'Method=bind'; echo 'User=no-such-user'; } > /run/persist.d/t.conf
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run the scene, then this, with seed() as a shell function for the service's program."""
    seed = f"""seed() {{ {sys.executable} -c 'import sys
from persist.state.seed_service import main
sys.exit(main(sys.argv[1]))' "$1"; }}
"""
    argv = ["unshare", "-m", "sh", "-c", SCENE + seed + script]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_from_registry_to_marker() -> None:
    done = run("""mount -t tmpfs none /run/persist/volume
seed srv-real-data
seed srv-real-data
stat -c %u /run/persist/volume/srv/real/data
cat /run/persist/volume/srv/real/data/f
cat /run/persist/volume/.persist/seed/srv-real-data.json""")
    assert done.returncode == 0, done.stderr
    uid, content, marker = done.stdout.split("\n", 2)
    assert (uid, content) == ("1", "kept")
    assert json.loads(marker)["path"] == "/srv/real/data"
    assert done.stderr.splitlines() == ["'/srv/real/data' was seeded from /srv/real/data: 1 file, 5 bytes.",
                                        "'/srv/real/data' was seeded before."]


@pytest.mark.parametrize(("script", "said"), [
    ("seed srv-real-data", "No state volume is mounted at /run/persist/volume."),
    ("mount -t tmpfs none /run/persist/volume; seed srv-nowhere", "No entry of the registry has the name 'srv-now"),
    ("mount -t tmpfs none /run/persist/volume; seed srv-real-bad", "'no-such-user'"),
])
def test_failures_are_said(script: str, said: str) -> None:
    done = run(script)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
