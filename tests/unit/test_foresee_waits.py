# SPDX-License-Identifier: LGPL-2.1-or-later
"""What persistctl verify knows of those who wait for what we mount, or for whom we wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_foresee import Machine

BIND = "[Path]\nPath=/srv/d\nMethod=bind\n"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    found = Machine(tmp_path)
    (tmp_path / "srv/d").mkdir()
    (tmp_path / "etc/keys").mkdir()
    return found


def said(machine: Machine, capsys: pytest.CaptureFixture[str]) -> list[tuple[int, str, str]]:
    return [(p["level"], p["where"], p["message"]) for p in machine.verify(capsys)[1]]


@pytest.mark.parametrize(
    ("device", "crypttab", "entry", "found"),
    [
        ("/dev/mapper/state", "state /dev/vdb /etc/keys/state.key luks", "/etc", True),
        (
            "/dev/mapper/state",
            "# comment\nother /dev/vdc /etc/keys/a\nstate\t/dev/vdb\t/etc/keys/state.key",
            "/etc/keys",
            True,
        ),
        ("/dev/disk/by-id/dm-name-state", "state /dev/vdb /etc/keys/state.key", "/etc/keys", True),
        (
            "LABEL=other /dev/mapper/state",
            "state /dev/vdb none luks,header=/etc/keys/state.img",
            "/etc/keys",
            True,
        ),
        ("/dev/mapper/state", "state /dev/vdb - luks", "/etc", True),  # /etc/cryptsetup-keys.d/state.key
        ("/dev/mapper/state", "state /dev/vdb none luks", "/srv/d", False),
        ("/dev/mapper/state", "other /dev/vdb /etc/keys/state.key", "/etc/keys", False),
        ("/dev/mapper/state", "state /dev/vdb /dev/urandom swap", "/etc/keys", False),
        ("/dev/vdb", "state /dev/vdb /etc/keys/state.key", "/etc/keys", False),
    ],
)
def test_a_volume_that_is_opened_with_a_file_on_it(
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    device: str,
    crypttab: str,
    entry: str,
    found: bool,
) -> None:
    machine.file("etc/crypttab", crypttab + "\n")
    machine.file("etc/cryptsetup-keys.d/state.key")
    machine.file("usr/lib/persist/persist.conf", f"[Volume]\nDevice={device}\n")
    machine.registry(f"[Path]\nPath={entry}\n")
    problems = said(machine, capsys)
    assert len(problems) == found, problems
    assert all(
        level == 3 and where.startswith("/etc/crypttab:") and "each would wait for the other" in text
        for level, where, text in problems
    )


@pytest.mark.parametrize(
    ("device", "unit", "found"),
    [
        ("/dev/mapper/state", "systemd-cryptsetup@state.service", True),
        ("/dev/mapper/my-state", "systemd-cryptsetup@my\\x2dstate.service", True),
        ("/dev/mapper/mpatha", "multipathd.service", True),
        ("/dev/md0", "mdadm-grow-continue@md0.service", True),
        ("/dev/mapper/state", "systemd-cryptsetup@other.service", False),
        ("/dev/vdb", "multipathd.service", False),
    ],
)
def test_what_opens_the_disks_of_the_volume_waits_for_no_entry(
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    device: str,
    unit: str,
    found: bool,
) -> None:
    machine.file("usr/lib/persist/persist.conf", f"[Volume]\nDevice={device}\n")
    machine.file(f"usr/lib/systemd/system/{unit}")
    machine.registry(f"{BIND}Services={unit}\n")
    problems = said(machine, capsys)
    assert len(problems) == found and all(
        "opens the device of the state volume" in text for _, _, text in problems
    ), problems


@pytest.mark.parametrize(
    ("section", "found"),
    [
        ("Path=/etc/keys/ssh_host_rsa_key\nMethod=bind", "Add Type=file,"),
        ("Path=/srv/app.conf", "Add Method=bind and Type=file,"),
        ("Path=/srv/app.db\nMethod=bind", "Add Type=file"),
        ("Path=/var/lib/machine-id\nMethod=bind", "Add Type=file"),
        ("Path=/srv/app.db\nMethod=bind\nType=file", ""),
        ("Path=/srv/app.db\nMethod=bind\nType=directory", ""),
        ("Path=/srv/conf.d\nMethod=bind", ""),
        ("Path=/srv/monkey\nMethod=bind", ""),
        ("Path=/srv/there.db\nMethod=bind", ""),
        ("Path=/srv/x.db\nMethod=bind\nSeedFrom=/srv/there.db", ""),
    ],
)
def test_a_directory_that_is_named_like_a_file(
    machine: Machine, capsys: pytest.CaptureFixture[str], section: str, found: str
) -> None:
    machine.file("srv/there.db")
    machine.registry(f"[Path]\n{section}\n")
    problems = [problem for problem in said(machine, capsys) if "named like a file" in problem[2]]
    assert len(problems) == bool(found) and all(
        level == 4 and found in text for level, _, text in problems
    ), problems


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/mnt/state/media /srv/docker none bind 0 0", True),
        ("/srv/d/x /export none bind 0 0", True),
        ("/dev/vdc /mnt/state/more ext4 defaults 0 0", True),
        ("/mnt/state/media /srv/docker none bind,nofail 0 0", False),
        ("/mnt/state/media /srv/docker none bind,noauto 0 0", False),
        ("/mnt/state/swapfile none swap sw 0 0", False),
        ("/dev/vdc /unconcerned ext4 defaults 0 0", False),
        ("/srv/d /export none bind 0 0", False),
        ("/srv/d/sub /export none bind 0 0", False),
        ("/dev/vdc /srv/d/sub ext4 defaults 0 0", False),
        ("/dev/vdc /srv/d/absent ext4 defaults 0 0", True),
        ("o /export overlay lowerdir=/srv/d/sub:/srv/d/absent 0 0", True),
        ("o /export overlay lowerdir=/srv/d/sub:/srv/d 0 0", False),
        ("/srv/l/x /export none bind 0 0", True),
    ],
)
def test_a_line_of_fstab_that_stops_a_boot_without_the_volume(
    machine: Machine, capsys: pytest.CaptureFixture[str], line: str, found: bool
) -> None:
    (machine.top / "srv/d/sub").mkdir()
    machine.link("srv/l", "/run/persist/volume/srv/l")
    machine.file("etc/fstab", f"/dev/vda1 / ext4 defaults 0 1\n{line}\n")
    machine.registry(f"{BIND}[Path]\nPath=/srv/l\nMethod=symlink\n")
    problems = said(machine, capsys)
    assert len(problems) == found, problems
    assert all(
        level == 4 and where == "/etc/fstab:2" and "Add nofail" in text for level, where, text in problems
    )


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("early.service", "[Unit]\nDefaultDependencies=no\nRequiresMountsFor=/mnt/state\n", True),
        ("early.service", "[Unit]\nDefaultDependencies=no\nRequiresMountsFor=/opt /srv/d/sub\n", True),
        ("export.mount", "[Mount]\nWhat=/srv/d\nWhere=/export\n", True),
        ("mnt-state-swap.swap", "[Swap]\nWhat=/mnt/state/swap\n", True),
        (
            "early.service",
            "[Unit]\nDefaultDependencies=no\nRequiresMountsFor=/mnt/state\nAfter=persist-volume.service\n",
            False,
        ),
        ("late.service", "[Unit]\nRequiresMountsFor=/mnt/state /srv/d\n", False),
        ("early.service", "[Unit]\nDefaultDependencies=no\nRequiresMountsFor=/srv/over /opt\n", False),
        (
            "systemd-journal-flush.service",
            "[Unit]\nDefaultDependencies=no\nRequiresMountsFor=/srv/d\n",
            False,
        ),
        ("named.service", "[Unit]\nDefaultDependencies=no\nRequiresMountsFor=/srv/d\n", False),
    ],
)
def test_a_unit_that_holds_on_to_nothing(
    machine: Machine, capsys: pytest.CaptureFixture[str], name: str, text: str, found: bool
) -> None:
    (machine.top / "srv/over").mkdir()
    for unit in ("named.service", name):
        machine.file(f"usr/lib/systemd/system/{unit}", text if unit == name else "")
    machine.registry(f"{BIND}Services=named.service\n[Path]\nPath=/srv/over\n")
    problems = said(machine, capsys)
    assert len(problems) == found, problems
    assert all(
        level == 4 and where == f"/usr/lib/systemd/system/{name}" and "does not order it" in message
        for level, where, message in problems
    )
