# SPDX-License-Identifier: LGPL-2.1-or-later
"""The presets for programs: each beside an image that has the program as Debian packages it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persist.boot.load import load
from persist.cli.main import main
from persist.register.presets import about, paths, shipped

PRESETS = Path(__file__).parents[2] / "units" / "presets"
UNITS = "usr/lib/systemd/system"
# What the packages of Debian 12 have: the program, units, and directories (dpkg-deb -c, and postinst).
PACKAGED: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "bluetooth": ("usr/libexec/bluetooth/bluetoothd", ("bluetooth.service",), ("var/lib/bluetooth",)),
    "chrony": ("usr/sbin/chronyd", ("chrony.service",), ("var/lib/chrony",)),
    "containers": (
        "usr/bin/containerd",
        ("containerd.service",),
        ("var/lib/containers", "var/lib/containerd"),
    ),
    "docker": ("usr/sbin/dockerd", ("docker.service",), ("var/lib/docker",)),
    "libvirt": (
        "usr/sbin/libvirtd",
        ("libvirtd.service", "libvirtd.socket", "virtlogd.service"),
        ("etc/libvirt", "var/lib/libvirt/images"),
    ),
    "mariadb": ("usr/sbin/mariadbd", ("mariadb.service",), ("var/lib/mysql",)),
    "networkmanager": (
        "usr/sbin/NetworkManager",
        ("NetworkManager.service",),
        ("etc/NetworkManager/system-connections", "var/lib/NetworkManager"),
    ),
    "openssh-server": ("usr/sbin/sshd", ("ssh.service", "ssh.socket"), ("etc/ssh",)),
    "postgresql": (
        "usr/bin/pg_ctlcluster",
        ("postgresql.service", "postgresql@.service"),
        ("etc/postgresql", "var/lib/postgresql"),
    ),
    "redis": ("usr/bin/redis-server", ("redis-server.service",), ("var/lib/redis",)),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image with persist switched on, and nothing else."""
    for name in ("mnt/state", f"{UNITS}", "usr/share/persist/presets", "etc/persist.d", "usr/lib/persist"):
        (tmp_path / name).mkdir(parents=True)
    for preset in PRESETS.glob("*.conf"):
        (tmp_path / "usr/share/persist/presets" / preset.name).write_text(preset.read_text())
    put(tmp_path, f"{UNITS}/persist-setup.target", f"{UNITS}/local-fs.target")
    wants = tmp_path / "etc/systemd/system/local-fs.target.wants"
    wants.mkdir(parents=True)
    (wants / "persist-setup.target").symlink_to(f"/{UNITS}/persist-setup.target")
    return tmp_path


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[Unit]\n")


def install(root: Path, name: str) -> None:
    program, units, directories = PACKAGED[name]
    put(root, program, *(f"{UNITS}/{unit}" for unit in units))
    for directory in directories:
        (root / directory).mkdir(parents=True, exist_ok=True)


def persistctl(root: Path, *arguments: str) -> int:
    return main([*arguments, "--root", str(root)])


def test_all_are_known(root: Path) -> None:
    assert set(shipped(str(root))) == {*PACKAGED, "root", "whole-system"}
    for name in shipped(str(root)):
        head = about(str(root), name)
        assert head.description and paths(str(root), name)
        assert name in PACKAGED or not head.programs
        assert name not in PACKAGED or f"/{PACKAGED[name][0]}" in head.programs
        assert f"# persist preset: {name}\n" in (PRESETS / f"{name}.conf").read_text()


@pytest.mark.parametrize("name", [*PACKAGED, "root"])
def test_one_by_itself(root: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All that it says is in force, and nothing is wrong with it, in an image that has the program."""
    if name in PACKAGED:
        install(root, name)
    else:
        for directory in ("root", "srv", "opt", "usr/local"):
            (root / directory).mkdir(parents=True)
    assert persistctl(root, "preset", "enable", name) == 0
    assert capsys.readouterr().err == "" or name == "root"
    plan = load(str(root), {"SYSTEMD_PROC_CMDLINE": ""}).plan
    assert [p.path for p in plan.entries] == sorted(paths(str(root), name)) and plan.outside == []
    status = persistctl(root, "verify")
    out = capsys.readouterr().out
    assert status == (name == "root") and (name == "root" or "nothing is wrong" in out), out
    if name == "root":  # /usr/local has units, so it has to be there before PID 1
        assert [line for line in out.split("\n") if line.startswith("error:")] != [] and "initrd" in out


@pytest.mark.parametrize("name", PACKAGED)
def test_list_says_what_nothing_keeps(root: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert persistctl(root, "preset", "list") == 0
    assert capsys.readouterr().err == ""
    install(root, name)
    assert persistctl(root, "preset", "list") == 0
    shown = capsys.readouterr()
    assert shown.err == (
        f"The image has /{PACKAGED[name][0]}, and nothing keeps {' '.join(paths(str(root), name))}: the "
        f"preset {name} does.\n"
    )
    [row] = [line for line in shown.out.split("\n") if line.startswith(name + " ")]
    assert "disabled" in row and about(str(root), name).description.split()[0] in row
    assert persistctl(root, "preset", "enable", name) == 0
    capsys.readouterr()
    assert persistctl(root, "preset", "list", "--json") == 0
    shown = capsys.readouterr()
    [found] = [each for each in json.loads(shown.out) if each["name"] == name]
    assert found["enabled"] and found["programs"] == [f"/{PACKAGED[name][0]}"] and shown.err == ""


def test_list_below_whole_system(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(root, "openssh-server")
    assert persistctl(root, "preset", "enable", "whole-system") == 0
    capsys.readouterr()
    assert persistctl(root, "preset", "list") == 0
    assert capsys.readouterr().err == ""


def test_what_is_kept_twice_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("openssh-server", "mariadb"):
        install(root, name)
    (root / "etc/persist.d/local.conf").write_text("[Path]\nPath=/var/lib/mysql\nMethod=bind\n")
    assert persistctl(root, "preset", "enable", "whole-system", "openssh-server", "mariadb") == 0
    said = capsys.readouterr().err
    assert "/etc/ssh has a place of its own now; /etc above it is kept, too.\n" in said
    assert "/var/lib/mysql is kept already, as /etc/persist.d/local.conf:2 says: that counts.\n" in said
    (root / "etc/persist.d/local.conf").write_text("[Path]\nPath=/var/lib\nMethod=bind\n")
    assert persistctl(root, "preset", "enable", "mariadb") == 0
    said = capsys.readouterr().err
    assert "/var/lib/mysql has no place of its own: /var/lib above it keeps it already.\n" in said


def test_what_is_left_out_is_not_said_to_be_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    enable = ["preset", "enable", "--root", str(root), "chrony"]
    assert main([*enable, "--without=/var/lib/chrony"]) == 0
    assert "/var/lib/chrony" not in capsys.readouterr().err
    (root / "etc/persist.d/00-mine.conf").write_text("[Path]\nPath=/var/lib/chrony\nMethod=none\n")
    assert main(enable) == 0
    assert "/var/lib/chrony is not kept, as /etc/persist.d/00-mine.conf:2" in capsys.readouterr().err


def test_all_presets_are_enabled_or_none(root: Path) -> None:
    enable = ["preset", "enable", "--root", str(root)]
    assert main([*enable, "chrony", "--without=/var/lib/chrony"]) == 0
    (root / "etc/persist.d/zz-preset-redis.conf").write_text("mine\n")
    before = sorted((root / "etc/persist.d").iterdir())
    assert main([*enable, "mariadb", "chrony", "redis"]) == 1
    assert sorted((root / "etc/persist.d").iterdir()) == before


def test_a_linked_registry_stays_in_the_image(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "etc/persist.d").rmdir()
    (root / "etc/persist.d").symlink_to(outside)
    assert main(["preset", "enable", "--root", str(root), "chrony", "root", "--without=/srv"]) == 1
    assert main(["preset", "enable", "--root", str(root), "root", "--without=/srv"]) == 0
    assert not any(outside.iterdir()) and len(list((root / str(outside)[1:]).iterdir())) == 2
    assert main(["preset", "disable", "--root", str(root), "root"]) == 0
    assert not any((root / str(outside)[1:]).iterdir())
