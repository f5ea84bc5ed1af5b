# SPDX-License-Identifier: LGPL-2.1-or-later
"""A read-only root and a volume: the whole system is kept over boots, by the mounts of a real PID 1."""

from __future__ import annotations

import os
import stat
import uuid

from tests.vm import scene
from tests.vm.checks import codes, entries, failed_units, healthy_boot, only_said, records, state
from tests.vm.recipe import UNITS
from tests.vm.steady import identity, steady

from .conftest import Boot
from .container import Container
from .disk import Disk
from .registry import ENABLED, NOTES, ODD, PRESET, named, wanted

# PID 1 reads the table of mounts some times in a second and no more (tried, 257): what services of ours have
# mounted in the second before a power-off it would not unmount, nor what that lies in.
KNOWN = (
    "findmnt -rno TARGET -t btrfs,overlay,tmpfs | while read -r place; do"
    " case $place in /run*|/dev*|/sys*|/proc*) continue;; esac;"
    ' systemctl is-active -q -- "$(systemd-escape -p --suffix=mount "$(printf %b "$place")")" || exit 1; done'
)


def off(one: Container) -> None:
    """A clean power-off, at which nothing fails."""
    one.wait_until_succeeds(KNOWN)
    begin = len(one.console_text())
    one.shutdown()
    end = one.console_text()[begin:]
    assert "Powering off" in end, end
    assert not [line for line in end.splitlines() if "FAILED" in line or "Failed to unmount" in line], end


# The image has never been booted; what PID 1 presets then is none of these tests' business.
NEW = {
    "/etc/machine-id": "uninitialized\n",
    "/etc/systemd/system-preset/00-none.preset": "disable *\n",
    f"/{UNITS}/persist-test-first.service": "[Unit]\nConditionFirstBoot=yes\n[Service]\nType=oneshot\n"
    "RemainAfterExit=yes\nExecStart=/bin/true\n",
    **wanted("multi-user.target", "persist-test-first.service"),
}


def first(one: Container) -> bool:
    """Whether PID 1 has taken this boot for the first one."""
    return (
        one.succeed("systemctl show -p ConditionResult --value persist-test-first.service").strip() == "yes"
    )


def never_reloaded(one: Container) -> None:
    """PID 1 has read its units once."""
    said = one.succeed("journalctl --sync; journalctl -b -q -o cat _PID=1")
    assert "Startup finished" in said and "Reloading" not in said, said


def test_whole_system(disk: Disk, container: Boot) -> None:
    """The boot that seeds, then two that find everything in its place: all that a person has changed is
    there. /etc is mounted before PID 1 each time."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**ENABLED, **PRESET, **NOTES, **ODD, **NEW, **named(name)}, read_only=True)
    one.start(devices=disk.nodes())
    found = healthy_boot(one)
    assert (found["volume"]["kind"], found["volume"]["uuid"]) == ("btrfs", name)
    assert set(entries(found).values()) <= {"early", "mounted", "image", "tmpfs", "elsewhere"}
    assert entries(found)["/etc"] == "early" and first(one)
    never_reloaded(one)
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
        assert entries(found)["/etc"] == "early" and not first(one)
        never_reloaded(one)
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


BELOW_ETC = {
    "/usr/lib/persist.d/below.conf": """[Path]
Path=/etc/demo
Method=bind
Required=service
Services=persist-test-user.service
""",
    "/etc/demo/f": "image\n",
    f"/{UNITS}/persist-test-user.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
    "ExecStart=/bin/true\n",
    **wanted("multi-user.target", "persist-test-user.service"),
}


def test_without_the_stage(disk: Disk, container: Boot) -> None:
    """/etc is not kept, nor anything below it, and whoever requires it does not start; with the stage, all of
    it is as it would have been."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    files = {**ENABLED, **PRESET, **NOTES, **BELOW_ETC, **named(name)}
    one = container(files=files, stage=False, read_only=True)
    one.start(devices=disk.nodes())
    one.wait_for_boot()
    found = state(one)
    assert (found["verdict"], codes(found)) == ("degraded", {"not-before-pid1"}), found["reasons"]
    assert entries(found)["/etc"] == entries(found)["/etc/demo"] == "not-before-pid1"
    assert entries(found)["/var"] == entries(found)["/home"] == "mounted"
    by_path = {r["path"]: r for r in found["reasons"]}
    assert set(by_path) == {"/etc", "/etc/demo"}
    # The tree has the package for initramfs-tools.
    assert by_path["/etc"]["hint"].startswith("Run 'update-initramfs -u'")
    assert {r["PERSIST_PATH"] for r in records(one, "ENTRY_NOT_IN_TIME")} == set(by_path)
    assert one.execute("ls -d /run/persist/volume/.persist/overlay/etc /run/persist/volume/etc")[0] != 0
    assert one.execute("touch /etc/x")[0] != 0 and one.execute("findmnt /etc/demo")[0] != 0
    assert one.execute("systemctl is-active persist-test-user.service")[0] != 0
    stub = one.succeed("systemctl show -p AssertResult --value persist-absent@etc-demo.target")
    assert stub.strip() == "no"
    # It has no host keys: those are made in /etc, which takes no writes on this boot.
    assert set(failed_units(one)) <= {"ssh.service"}
    never_reloaded(one)
    one.shutdown()


# What the package for initramfs-tools installs.
GLUE = (
    "usr/share/initramfs-tools/hooks/persist",
    "usr/share/initramfs-tools/scripts/init-bottom/persist",
)


def test_the_stage_is_gone(disk: Disk, container: Boot) -> None:
    """A machine that was started with persist-init is started without: it keeps no /etc on that boot, and
    says what to do."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**ENABLED, **PRESET, **NOTES, **named(name)}, read_only=True)
    for file in GLUE:
        (one.own / file).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(one.own / file, stat.S_IFCHR)  # removed
    one.start(devices=disk.nodes())
    healthy_boot(one)
    one.succeed("echo kept-name >/etc/hostname")
    off(one)
    one.start(devices=disk.nodes())
    healthy_boot(one)
    assert one.succeed("hostname").strip() == "kept-name"
    off(one)
    one.stage = False
    one.start(devices=disk.nodes())
    one.wait_for_boot()
    found = state(one)
    assert (found["verdict"], codes(found)) == ("degraded", {"not-before-pid1"}), found["reasons"]
    (why,) = [r for r in found["reasons"] if r["path"] == "/etc"]
    assert "persist-initramfs-tools" in why["hint"] and "persist-init" in why["hint"], why
    assert entries(found)["/etc"] == "not-before-pid1" and entries(found)["/var"] == "mounted"
    assert one.succeed("hostname").strip() != "kept-name"
    only_said(one, "VERDICT_DEGRADED", "not-before-pid1")
    off(one)
