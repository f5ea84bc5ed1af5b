# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict of this machine's mounts: what the kernel shows of an overlay's upper."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from persist.record import replace
from persist.system.mountinfo import parse
from persist.verdict import judge as v

from .verdict_scene import SOMETHING, FakeLook, Scene, states


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


_PROGRAM = r"""
import os, subprocess, sys
base, through = sys.argv[1:3]
from persist.boot.paths import STORE, escape, mount_options, overlay_option
def mount(*argv):
    subprocess.run(["mount", *argv], check=True)
mount("-t", "tmpfs", "tmpfs", "/run")
os.makedirs(STORE)
for number, path in enumerate(sys.argv[3:]):
    point = "%s/%d" % (base, number)
    os.mkdir(point)
    name = escape(path)
    store = STORE + "/overlay/" + name
    os.makedirs(store + "/upper")
    os.makedirs(store + "/work")
    at = overlay_option(store)
    options = f"lowerdir=/etc,upperdir={at}/upper,workdir={at}/work"
    if through == "unit":
        # What PID 1 makes of Options=: specifiers, then fstab_filter_options() takes one of two backslashes.
        options = mount_options(options).replace("%%", "%").replace("\\\\", "\\")
    mount("-t", "overlay", "overlay", point, "-o", options + ",nosuid,nodev")
sys.stdout.buffer.write(open("/proc/self/mountinfo", "rb").read())
"""
HOSTILE = [
    "/srv/my-data",
    "/srv/a:b",
    "/srv/a\\b",
    "/srv/a\\x2db",
    "/srv/two words",
    "/srv/100%",
    "/srv/\u00fcn\u00ef",
    "/srv/a=b",
    "/srv/.hidden/a'b",
    "/srv/#1",
]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.parametrize("through", ["initrd", "unit"])
def test_what_the_kernel_shows_of_an_upper(
    scene: Scene, tmp_path_factory: pytest.TempPathFactory, through: str
) -> None:
    base = tmp_path_factory.mktemp("points")
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "--propagation",
            "private",
            sys.executable,
            "-c",
            _PROGRAM,
            str(base),
            through,
            *HOSTILE,
        ],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        cwd=Path(__file__).parents[2],
        check=False,
    )
    if done.returncode != 0 and "permission denied" in done.stderr.lower():
        pytest.skip("no mounts here")
    assert done.returncode == 0, done.stderr
    shown = {m.mount_point: m for m in parse(done.stdout)}
    scene.registry("".join(f"[Path]\nPath={path}\n" for path in HOSTILE))
    look = FakeLook(
        [
            *SOMETHING,
            *(replace(shown[f"{base}/{n}"], mount_point=path, parent_id=1) for n, path in enumerate(HOSTILE)),
        ]
    )
    found = scene.judge(look)
    assert states(found) == dict.fromkeys(HOSTILE, "mounted"), [r.message for r in found.reasons]
    crossed = FakeLook(
        [
            *SOMETHING,
            *(replace(shown[f"{base}/{n}"], mount_point=path) for n, path in enumerate(reversed(HOSTILE))),
        ]
    )
    assert set(states(scene.judge(crossed)).values()) == {"failed"}, "no two of them look alike"


def test_look_reads_this_machine() -> None:
    look = v.Look()
    root = look.mount("/")
    assert root is not None and look.hidden_by("/") == ""
    assert look.exists("/etc") and look.link("/etc") == "" and look.wrong_place("/no/such", "no-such", "bind")
    assert not look.writable("/no/such/path")
