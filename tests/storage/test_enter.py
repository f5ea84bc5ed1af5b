# SPDX-License-Identifier: LGPL-2.1-or-later
"""The trees of an initrd in a root that was changed to: a mount namespace stands for the initrd, a bind of
the machine's root for the root."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from .namespace import own_machine, sh
from .rig import PYTHON, TOP

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

_SCENE = """
mkdir /opt/root; mount --bind / /opt/root
for tree in run dev proc sys; do mount -t tmpfs -o mode=755 empty /opt/root/$tree; done
echo of the initrd >/run/file
"""
_WORK = f"""
import os, sys
sys.path.insert(0, {str(TOP)!r})
from persist.early.enter import entered
from persist.errors import PersistError
"""


def _in_the_root(program: str, trees: str = "3</run 4</dev 5</proc 6</sys") -> str:
    command = f'exec chroot /opt/root {PYTHON} -IS -c "$1" {trees}'
    done = subprocess.run(["sh", "-c", command, "sh", _WORK + program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _mounts(below: str) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        points = [line.split()[4] for line in f]
    return [p for p in points if p == below or p.startswith(below + "/")]


@own_machine
def test_what_is_mounted_below_run_stays_and_nothing_else() -> None:
    sh(_SCENE)
    before = _mounts("/opt/root")
    said = _in_the_root("""
with entered():
    assert open("/run/file").read() == "of the initrd\\n"
    for path in ("/dev/null", "/proc/self/mountinfo", "/sys/block"):
        assert os.path.exists(path), path
    os.makedirs("/run/persist/volume")
    os.system("mount -t tmpfs volume /run/persist/volume && echo kept >/run/persist/volume/file")
print(os.listdir("/run"), os.listdir("/proc"))
""")
    assert said == "[] []\n"
    assert Path("/run/persist/volume/file").read_text(encoding="ascii") == "kept\n"
    assert _mounts("/opt/root") == before
    # As initramfs-tools does next, and switch_root.
    sh("mkdir /opt/new; mount --move /run /opt/new")
    assert [p for p in _mounts("/opt/new") if "private" not in p] == ["/opt/new", "/opt/new/persist/volume"]


@own_machine
def test_it_is_tidied_up_after_an_error() -> None:
    sh(_SCENE)
    before = _mounts("/opt/root")
    _in_the_root("""
try:
    with entered():
        raise KeyError
except KeyError:
    pass
""")
    assert _mounts("/opt/root") == before


@own_machine
def test_what_is_missing_is_said() -> None:
    sh(_SCENE)
    before = _mounts("/opt/root")
    said = _in_the_root(
        """
import json
found = []
for trees in ((("/run", 3), ("/not-there", 4)), (("/run", 3), ("/dev", 9))):
    try:
        with entered(trees):
            found.append("entered")
    except PersistError as e:
        found.append(e.message)
print(json.dumps(found))
"""
    )
    assert json.loads(said) == [
        "Failed to bring /not-there of the initrd into the root: No such file or directory.",
        "Failed to bring /dev of the initrd into the root: Bad file descriptor.",
    ]
    assert _mounts("/opt/root") == before
