# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries that say something else than at the boot before, under a real PID 1: what they have kept is in
sight, and no unit fails."""

from __future__ import annotations

import uuid

import pytest

from tests.vm.checks import entries, failed_units, records, state

from .conftest import Boot
from .container import Container
from .disk import Disk
from .registry import ENABLED, named

BEFORE = """[Path]
Path=/etc
[Path]
Path=/srv/bind
Method=bind
[Path]
Path=/srv/over
[Path]
Path=/srv/linked
Method=bind
"""
AFTER = """[Path]
Path=/etc
[Path]
Path=/etc/ssh
Services=ssh.service
[Path]
Path=/srv/bind
Method=overlay
Required=service
Services=ssh.service
[Path]
Path=/srv/over
Method=bind
[Path]
Path=/srv/linked
Method=symlink
"""
FILES = {f"/srv/{name}/image": "image\n" for name in ("bind", "over", "linked")}
REGISTRY = "/usr/lib/persist.d/t.conf"
MINE = "cat /srv/bind/mine /srv/over/mine /srv/linked/mine /etc/ssh/mine"


def _boot(one: Container, disk: Disk) -> None:
    one.start(devices=disk.nodes())
    one.wait_for_boot()
    found = state(one)
    assert (found["verdict"], failed_units(one)) == ("online", []), found["reasons"]


@pytest.mark.parametrize("stage", [True, False])
def test_what_was_kept_is_in_sight(disk: Disk, container: Boot, stage: bool) -> None:
    name = str(uuid.uuid4())
    disk.make_volume(name)
    # Without the stage /etc is not kept.
    before, after = (text if stage else text.replace("=/etc\n", "=/opt\n") for text in (BEFORE, AFTER))
    one = container(files={**ENABLED, **FILES, **named(name), REGISTRY: before}, stage=stage)
    _boot(one, disk)
    one.succeed("for d in /srv/bind /srv/over /srv/linked /etc/ssh; do echo mine >$d/mine; done")
    key = one.succeed("sha256sum /etc/ssh/ssh_host_*_key")
    one.succeed(f"cat >{REGISTRY} <<'E'\n{after}E")
    for boot in (2, 3):
        one.shutdown()
        _boot(one, disk)
        assert one.succeed(MINE).split() == ["mine"] * 4
        assert one.succeed("sha256sum /etc/ssh/ssh_host_*_key") == key
        mounts = one.succeed("findmnt -nlo TARGET,FSTYPE -t btrfs,overlay | grep -E '^/(srv|etc)/'").split(
            "\n"
        )
        assert sorted(line.split() for line in mounts if line) == [
            ["/etc/ssh", "overlay"],
            ["/srv/bind", "btrfs"],
            ["/srv/over", "overlay"],
        ], "each once"
        assert one.succeed("readlink /srv/linked").strip() == "/run/persist/volume/srv/linked"
        found = state(one)
        assert entries(found)["/srv/linked"] == "linked" and entries(found)["/srv/bind"] == "mounted"
        said = {r["PERSIST_PATH"] for r in records(one, "ENTRY_AS_SEEDED")}
        assert said == {"/srv/bind", "/srv/over"}
        assert bool(records(one, "ENTRY_CONVERTED")) == (boot == 2)
        assert one.succeed("systemctl is-active ssh.service").strip() == "active"
    one.shutdown()


LINKED = """[Path]
Path=/etc/ssh/ssh_host_ed25519_key
Method=symlink
Type=file
"""
KEY = "/etc/ssh/ssh_host_ed25519_key"


def test_a_link_that_was_replaced_while_the_machine_ran(disk: Disk, container: Boot) -> None:
    """ssh-keygen -A writes beside a file and renames. Taken back at shutdown, and by the verdict."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**ENABLED, **named(name), REGISTRY: LINKED})
    one.start(devices=disk.nodes())
    one.wait_for_boot()
    unit = "persist-link@etc-ssh-ssh_host_ed25519_key.service"
    assert one.succeed(f"systemctl show -p ActiveState -p ExecMainPID --value {unit}").split() == [
        "0",
        "active",
    ]
    # There is none yet, nor an empty file, at which this would ask.
    one.succeed(f"ssh-keygen -q -N '' -t ed25519 -f {KEY} </dev/null; test -L {KEY}")
    old = one.succeed(f"sha256sum <{KEY}")
    one.succeed(f"rm {KEY} {KEY}.pub; ssh-keygen -q -A; test -f {KEY} -a ! -L {KEY}")
    new = one.succeed(f"sha256sum <{KEY}")
    assert new != old
    for boot in (2, 3):
        one.shutdown()
        _boot(one, disk)
        assert one.succeed(f"sha256sum <{KEY}") == new and one.succeed(f"readlink {KEY}").strip()
        one.succeed(f"cmp {KEY} /run/persist/volume{KEY}")
        replaced = one.succeed("sha256sum /run/persist/volume/.persist/replaced/* | cut -d' ' -f1").split()
        assert replaced == [old.split()[0]], boot
    one.succeed(f"rm {KEY} {KEY}.pub; ssh-keygen -q -A; systemctl restart persist-verify.service")
    assert one.succeed(f"sha256sum <{KEY}") != new and one.succeed(f"readlink {KEY}").strip()
    assert [r["PERSIST_PATH"] for r in records(one, "LINK_TAKEN_BACK")] == [KEY]
    found = state(one)
    assert (found["verdict"], entries(found)[KEY]) == ("online", "linked")
    one.shutdown()


def test_what_cannot_be_taken_back_stays(disk: Disk, container: Boot) -> None:
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**ENABLED, **named(name), REGISTRY: LINKED})
    _boot(one, disk)
    unit, there = "persist-link@etc-ssh-ssh_host_ed25519_key.service", f"/run/persist/volume{KEY}"
    new = f"echo new >{KEY}.new; mv {KEY}.new {KEY}"
    # Failed by the verdict, tried again at shutdown.
    one.succeed(f"{new}; mkdir {there}; systemctl restart persist-verify.service; systemctl is-active {unit}")
    assert entries(state(one))[KEY] == "failed" and one.succeed(f"cat {KEY}") == "new\n"
    one.succeed(f"rmdir {there}")
    one.shutdown()
    _boot(one, disk)
    assert one.succeed(f"readlink {KEY}; cat {there}").split() == [there, "new"]
    # No volume any more: it would go to /run.
    one.succeed(f"{new}; umount -l /mnt/state /run/persist/volume; systemctl stop {unit}")
    assert one.succeed(f"test ! -L {KEY}; cat {KEY}; ls -A /run/persist/volume") == "new\n"
    assert "the file stays where it is" in one.succeed(f"journalctl -b -u {unit} -o cat")
    one.shutdown()
