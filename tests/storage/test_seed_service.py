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
mkdir -p /srv/disk/data; echo live > /srv/disk/data/f; chown 7 /srv/disk/data
mount -t tmpfs none /run
mkdir -p /run/persist/volume /run/persist/private/image /run/persist/private/lower /run/persist.d
wants=/run/systemd/system/local-fs.target.wants
mkdir -p $wants
ln -s /usr/lib/systemd/system/persist-setup.target $wants/persist-setup.target
touch /run/persist/mount-entries
mount --bind / /run/persist/private/image
mount --bind / /run/persist/private/lower; mount -o remount,bind,ro /run/persist/private/lower
{ echo '[Path]'; echo 'Path=/srv/alias/data'; echo 'Method=bind'; echo 'User=1';
  echo '[Path]'; echo 'Path=/srv/real/bad'; echo 'Method=bind'; echo 'User=no-such-user';
  echo '[Path]'; echo 'Path=/srv/disk/data'; echo 'Method=overlay';
  echo '[Path]'; echo 'Path=/srv/real/link'; echo 'Method=symlink'; } > /run/persist.d/t.conf
echo 'UUID=1 /srv/disk ext4 defaults' > /run/fstab
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run the scene, then this, with seed() as a shell function for the service's program."""
    seed = f"""seed() {{ {sys.executable} -c 'import sys
from persist.services.seed import main
sys.exit(main(sys.argv[1]))' "$1"; }}
"""
    argv = ["unshare", "-m", "sh", "-c", SCENE + seed + script]
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, env=os.environ | {"SYSTEMD_FSTAB": "/run/fstab"}
    )


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
    assert done.stderr.splitlines() == [
        "'/srv/real/data' was seeded from /srv/real/data: 1 file, 5 bytes.",
        "'/srv/real/data' was seeded before.",
    ]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("seed srv-real-data", "No state volume is mounted at /run/persist/volume."),
        (
            "mount -t tmpfs none /run/persist/volume; seed srv-nowhere",
            "No entry of the registry has the name 'srv-now",
        ),
        ("mount -t tmpfs none /run/persist/volume; seed srv-real-bad", "'no-such-user'"),
    ],
)
def test_failures_are_said(script: str, said: str) -> None:
    done = run(script)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


def test_nothing_is_done_for_what_is_not_mounted_on_this_boot() -> None:
    """A root that keeps everything itself: only links are made."""
    done = run("""mount -t tmpfs none /run/persist/volume
rm /run/persist/mount-entries
seed srv-real-data; seed srv-disk-data; seed srv-real-bad
ls -A /run/persist/volume
seed srv-real-link
readlink /srv/real/link""")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "/run/persist/volume/srv/real/link\n"
    assert done.stderr.splitlines() == ["'/srv/real/link' begins empty."]


def test_an_entry_below_a_mount_of_fstab() -> None:
    done = run("""mount -t tmpfs none /run/persist/volume
seed srv-disk-data
stat -c %u /run/persist/volume/.persist/overlay/srv-disk-data/upper""")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "7\n",
        "'/srv/disk/data' is ready for changes.\n",
    )


@pytest.mark.parametrize(
    ("target", "status"), [("/data/volume", 0), ("/run/persist/volume", 0), ("/mnt/state", 1)]
)
def test_links_by_the_public_name(target: str, status: int) -> None:
    """What Mount= says is a name of the volume; what it would say by default is none then."""
    done = run(f"""mount -t tmpfs none /run/persist/volume
{{ echo '[Volume]'; echo 'Mount=/data/volume'; }} > /run/persist/persist.conf
ln -s {target}/srv/real/link /srv/real/link
seed srv-real-link""")
    assert done.returncode == status, done.stderr
    assert ("and not to the state volume" in done.stderr) == (status == 1)
