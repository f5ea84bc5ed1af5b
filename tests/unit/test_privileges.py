# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl verify: programs and device nodes of an image that do nothing below an entry that is nosuid and
nodev."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from persist.boot.load import load
from persist.foresee import privileges
from persist.foresee.image import Image
from tests.unit.test_foresee import Machine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes need root")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep, as of ping(8)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    found = Machine(tmp_path)
    for directory in ("srv/d/sub", "srv/d/own", "srv/d/mounted"):
        (tmp_path / directory).mkdir(parents=True)
    return found


def put(machine: Machine, name: str, mode: int) -> None:
    machine.file(name)
    (machine.top / name).chmod(mode)


def said(machine: Machine, capsys: pytest.CaptureFixture[str], *files: str) -> list[str]:
    problems = machine.verify(capsys, *files)[1]
    assert all(p["level"] == 4 and p["path"] == "/srv/d" for p in problems), problems
    return [f"{p['where'].rpartition(':')[2]}: {p['message']}" for p in problems]


SUID = "without effect there, because the entry is mounted nosuid. Add Options=suid to it if"


@pytest.mark.parametrize(
    ("method", "options", "found"),
    [
        ("overlay", "", True),
        ("bind", "", True),
        ("bind", "Options=suid\n", False),
        ("overlay", "Options=noexec,nosuid\n", False),
        ("overlay", "Options=dev\n", True),
    ],
)
def test_programs(
    machine: Machine, capsys: pytest.CaptureFixture[str], method: str, options: str, found: bool
) -> None:
    put(machine, "srv/d/sub/b", 0o4755)
    put(machine, "srv/d/sub/c", 0o2755)
    put(machine, "srv/d/a", 0o755)
    os.setxattr(machine.top / "srv/d/a", "security.capability", CAPABILITY)
    for name, mode in (("plain", 0o755), ("nobody runs it", 0o4644), ("locks", 0o2644)):
        put(machine, f"srv/d/{name}", mode)
    (machine.top / "srv/d/sub").chmod(0o2775)
    (machine.top / "srv/d/link").symlink_to("/srv/d/sub/b")
    machine.registry(f"[Path]\nPath=/srv/d\nMethod={method}\n{options}")
    line = "4" if options else "2"
    expected = (
        [
            f"{line}: The image has 3 programs with set-user-ID or set-group-ID bits or with capabilities "
            "below /srv/d (the first is /srv/d/a), "
            f"which are {SUID} they are needed, Options=nosuid if not."
        ]
        if found
        else []
    )
    assert said(machine, capsys) == expected
    assert said(machine, capsys, str(machine.top / "usr/lib/persist.d/t.conf")) == expected


def test_device_nodes(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    os.mknod(machine.top / "srv/d/sub/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(machine.top / "srv/d/whiteout", stat.S_IFCHR, os.makedev(0, 0))
    os.mkfifo(machine.top / "srv/d/pipe")
    machine.registry("[Path]\nPath=/srv/d\nOptions=suid\n")
    assert said(machine, capsys) == [
        "3: The image has 1 device node below /srv/d (/srv/d/sub/null), which is without effect there, "
        "because the entry is mounted nodev. Add Options=dev to it if it is needed, Options=nodev if not."
    ]
    machine.registry("[Path]\nPath=/srv/d\nOptions=dev\n")
    assert said(machine, capsys) == []


def test_what_others_show_is_none_of_it(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("own", "mounted", "sub/hole"):
        put(machine, f"srv/d/{name}/program", 0o4755)
    machine.file("etc/fstab", "/dev/vdb /srv/d/mounted ext4 defaults 0 0\n")
    machine.registry(
        "[Path]\nPath=/srv/d\n[Path]\nPath=/srv/d/own\nMethod=bind\nOptions=suid\n[Path]\nPath=/srv/d/sub/hole\nMethod=image\n"
    )
    assert said(machine, capsys) == []


def test_a_file_that_is_an_entry(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    put(machine, "srv/program", 0o4755)
    machine.registry("[Path]\nPath=/srv/program\nMethod=bind\n")
    assert "(/srv/program), which is without effect there" in machine.verify(capsys)[1][0]["message"]


def test_the_look_has_an_end(machine: Machine) -> None:
    for i in range(40):
        put(machine, f"srv/d/sub/{i}", 0o4755)
    machine.registry("[Path]\nPath=/srv/d\n")
    top = str(machine.top)
    loaded = load(top, {"SYSTEMD_PROC_CMDLINE": ""})
    (found,) = privileges.without_effect(loaded, Image(top), most=20)
    assert 10 <= int(found.text.split()[3]) <= 20
