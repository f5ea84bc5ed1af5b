# SPDX-License-Identifier: LGPL-2.1-or-later
"""A read-only root and a volume: the whole system is kept over boots, by the mounts of a real PID 1."""

from __future__ import annotations

import uuid

from tests.vm import scene
from tests.vm.checks import entries, healthy_boot, records
from tests.vm.steady import identity, steady

from .conftest import Boot
from .container import Container
from .disk import Disk
from .registry import ENABLED, NOTES, ODD, PRESET, named


def off(one: Container) -> None:
    """A clean power-off, at which nothing fails."""
    begin = len(one.console_text())
    one.shutdown()
    end = one.console_text()[begin:]
    assert "Powering off" in end, end
    assert not [line for line in end.splitlines() if "FAILED" in line or "Failed to unmount" in line], end


def test_whole_system(disk: Disk, container: Boot) -> None:
    """The boot that seeds, then two that find everything in its place: all that a person has changed is
    there."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**ENABLED, **PRESET, **NOTES, **ODD, **named(name)}, read_only=True)
    one.start(devices=disk.nodes())
    found = healthy_boot(one)
    assert (found["volume"]["kind"], found["volume"]["uuid"]) == ("btrfs", name)
    assert set(entries(found).values()) <= {"mounted", "image", "tmpfs", "elsewhere"}
    seeded = {r["PERSIST_PATH"] for r in records(one, "SEED_DONE")}
    assert seeded >= {"/etc", "/var", "/home", "/var/lib/demo-notes", *scene.ODD}
    ids = identity(one)
    assert len(set(ids)) == 1, ids
    scene.change_as_a_person_would(one)
    before = scene.look(one)
    for boot in (2, 3):
        off(one)
        one.start(devices=disk.nodes())
        found = healthy_boot(one)
        assert entries(found)["/etc"] == "early"
        steady(one)
        assert identity(one) == ids
        rows = scene.compare(before, scene.look(one))
        assert boot == 3 or all(good for _, _, good in rows), rows
        assert one.succeed("journalctl --list-boots -q --no-pager | wc -l").strip() == str(boot)
    shipped_texts(one)
    off(one)


def shipped_texts(one: Container) -> None:
    """systemd's own judges on what we ship and generate; the catalog knows our messages."""
    said = one.succeed(
        "cd /usr/lib/systemd/system; systemd-analyze verify --man=no persist-*.service persist-*.target"
        " /run/systemd/generator/*.mount 2>&1 | grep -v persist-test"
    )
    assert "persist" not in said and ".mount" not in said, said
    if one.execute("udevadm verify --help")[0] == 0:  # not in Debian 12
        one.succeed("udevadm verify /usr/lib/udev/rules.d/65-persist.rules")
    assert "State is kept" in one.succeed("journalctl -b -x -u persist-verify.service --no-pager")
    assert one.succeed("persistctl verify").strip().endswith(": nothing is wrong.")
    assert one.succeed("persistctl list --json")
