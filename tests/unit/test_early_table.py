# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the stage before PID 1 leaves to the real root: a test for each row of the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from persist.boot.config import Config
from persist.boot.load import load
from persist.early import firmware, sealing, table
from persist.volume.find.decision import Found
from persist.volume.outcome import Outcome


def _machine(tmp_path: Path, cmdline: str = "", *, enabled: bool = True, entries: bool = True) -> str:
    if enabled:
        wants = tmp_path / "etc/systemd/system/local-fs.target.wants"
        wants.mkdir(parents=True)
        (wants / "persist-setup.target").symlink_to("/usr/lib/systemd/system/persist-setup.target")
    if entries:
        (tmp_path / "etc/persist.d").mkdir(parents=True)
        (tmp_path / "etc/persist.d/a.conf").write_text("[Path]\nPath=/srv/a\nMethod=bind\n")
    loaded = load(str(tmp_path), {"SYSTEMD_PROC_CMDLINE": cmdline, "SYSTEMD_FSTAB": "/dev/null"})
    assert table.nothing_to_do(loaded, "podman") == "this is a container (podman)"
    return table.nothing_to_do(loaded)


@pytest.mark.parametrize(
    "cmdline, wanted",
    [
        ("quiet", ""),
        ("quiet persist=off", "persist=off is on the kernel command line"),
        ('quiet "persist=off" ro', "persist=off is on the kernel command line"),
        ("persist=on", ""),
        ("persist=volatile", ""),
        ("persist=ro", ""),
        ("persist=something", ""),
    ],
)
def test_the_command_line(tmp_path: Path, cmdline: str, wanted: str) -> None:
    assert _machine(tmp_path, cmdline) == wanted


def test_a_machine_that_has_nothing_for_us(tmp_path: Path) -> None:
    assert _machine(tmp_path, enabled=False) == "persist-setup.target is not enabled"
    assert _machine(tmp_path / "other", entries=False) == "the registry has no entries"


def test_before_any_disk_is_looked_at() -> None:
    config = Config()
    assert table.before_looking(config, credentials=[]) is None
    why = table.before_looking(config, credentials=["fstab.extra", "persist.volume"])
    assert why is not None and why.code == "credentials"
    assert "fstab.extra, persist.volume" in why.message
    config.netdev = True
    why = table.before_looking(config, credentials=[])
    assert why is not None and why.code == "netdev"


def test_a_soft_reboot_into_another_root() -> None:
    assert table.another_root(False) is None
    why = table.another_root(True)
    assert why is not None and why.code == "next-root" and "/run/nextroot" in why.message


def test_only_btrfs_is_mounted() -> None:
    def found(fstype: str) -> Found:
        return Found("/dev/vdb", "11111111-2222-4333-8444-555555555555", ("/dev/vdb",), fstype=fstype)

    assert table.not_this_one(found("btrfs")) is None
    why = table.not_this_one(found("ext4"))
    assert why is not None and why.code == "native" and "/dev/vdb is a ext4" in why.message


@pytest.mark.parametrize(
    "kind, reason, policy, later, claimed, wanted",
    [
        ("btrfs", "", "tmpfs", [], [], "mounted"),
        ("tmpfs", "volatile", "tmpfs", [], [], "mounted"),
        ("none", "missing", "tmpfs", [], [], None),
        ("none", "broken", "tmpfs", [], [], None),
        ("none", "ambiguous", "tmpfs", [], [], None),
        ("none", "native", "tmpfs", [], [], "native"),
        ("none", "missing", "none", [], [], "root"),
        ("none", "missing", "root", [], [], "root"),
        ("none", "missing", "fail", [], [], "root"),
        ("none", "missing", "tmpfs", ["/dev/mapper/state"], [], "later"),
        ("none", "missing", "tmpfs", [], ["/dev/vdb"], "claimed"),
    ],
)
def test_memory_takes_its_place_only_where_nothing_can_come(
    kind: Any, reason: str, policy: str, later: list[str], claimed: list[str], wanted: str | None
) -> None:
    why = table.no_memory(
        Outcome(kind=kind, reason=reason), policy, later=later, claimed=claimed, removable=False
    )
    assert (why.code if why is not None else None) == wanted
    for word in (*later, *claimed):
        assert why is not None and word in why.message


def test_what_may_be_on_a_slow_bus_is_left() -> None:
    def left(kind: Any) -> str | None:
        why = table.no_memory(Outcome(kind=kind), "tmpfs", later=[], claimed=[], removable=True)
        return why.code if why is not None else None

    assert (left("none"), left("btrfs")) == ("removable", "mounted")


def test_what_entries_are_mounted_from() -> None:
    assert [table.may_mount(Outcome(kind=kind)) for kind in ("btrfs", "tmpfs", "root", "none")] == [
        True,
        True,
        False,
        False,
    ]
    assert not table.may_mount(Outcome(kind="btrfs", read_only=True))


def _smbios(sys: Path, number: int, *strings: bytes) -> None:
    entry = sys / f"firmware/dmi/entries/11-{number}"
    entry.mkdir(parents=True)
    text = b"\0".join(strings) + b"\0\0"
    (entry / "raw").write_bytes(bytes([11, 5, 0, number, len(strings)]) + text)


def test_credentials_of_the_firmware(tmp_path: Path) -> None:
    assert firmware.credentials(str(tmp_path)) == []
    _smbios(tmp_path, 0, b"something else", b"io.systemd.credential:persist.volume.not=1")
    assert firmware.credentials(str(tmp_path)) == []
    _smbios(tmp_path, 1, b"a", b"io.systemd.credential.binary:fstab.extra=L2Rldi92ZGI=")
    assert firmware.credentials(str(tmp_path)) == ["fstab.extra"]
    (tmp_path / "firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/persist.volume").mkdir(parents=True)
    assert firmware.credentials(str(tmp_path)) == ["fstab.extra", "persist.volume"]
    (tmp_path / "firmware/dmi/entries/11-2").mkdir()
    (tmp_path / "firmware/dmi/entries/11-2/raw").write_bytes(b"\x0b")
    assert firmware.credentials(str(tmp_path)) == ["fstab.extra", "persist.volume"]


def test_what_the_firmware_and_the_command_line_say(tmp_path: Path) -> None:
    sys = str(tmp_path)
    assert sealing.credentials("quiet", sys) == []
    _smbios(
        tmp_path, 0, b"io.systemd.credential:persist.seal=a:b=c", b"io.systemd.credential:persist.seal2=x"
    )
    _smbios(tmp_path, 1, b"io.systemd.credential.binary:persist.seal=YTp0d28=")
    _smbios(tmp_path, 2, b"io.systemd.credential.binary:persist.seal=not base64")
    assert firmware.credentials(sys) == ["persist.seal"]
    assert sealing.credentials("quiet", sys) == [b"a:b=c", b"a:two", b""]
    given = tmp_path / "firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/persist.seal"
    given.mkdir(parents=True)
    assert len(firmware.values("persist.seal", sys)) == 3, "a driver without a file"
    (given / "raw").write_bytes(b"a:three\n")
    line = "systemd.set_credential=persist.seal:a:four systemd.set_credential_binary=persist.seal:YTpmaXZl"
    assert sealing.credentials(line, sys)[3:] == [b"a:three\n", b"a:four", b"a:five"]
    assert sealing.credentials(f"{line} systemd.import_credentials=no", sys) == []
    assert len(sealing.credentials(f"{line} systemd.import_credentials=yes", sys)) == 6
    assert sealing.credentials("systemd.set_credential=persist.sealed:x", sys)[3:] == [b"a:three\n"]
