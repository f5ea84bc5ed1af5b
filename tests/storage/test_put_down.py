# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes that take no store, and those that must not be used: real filesystems, mounted and put down."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from persist import log
from persist.boot import paths
from persist.boot.config import Config
from persist.boot.paths import VOLUME
from persist.errors import PersistError
from persist.note import Note
from persist.services import volume as volume_service
from persist.system import mountinfo
from persist.volume.find import search
from persist.volume.find.decision import Found, Known, Missing
from persist.volume.mount import find_and_mount, strange
from persist.volume.ondisk import store
from persist.volume.outcome import Outcome

from .namespace import disk, own_machine, registry, sh

EXT4 = "truncate -s 32M /run/disk; mkfs.ext4 -q /run/disk"
# As PID 1 would mount it, which is not there for a namespace.
SYSTEMD_MOUNT = """#!/bin/sh
for word; do
    case $word in --type=*) type=${word#*=};; --options=*) options=${word#*=};; --*) ;; *) at=$word;; esac
done
shift $(($# - 2))
exec mount -t "$type" -o "$options" "$1" "$2"
"""


@own_machine
def test_an_immutable_store_that_is_as_it_should_be_is_not_touched() -> None:
    disk()
    sh(f"chattr +i {VOLUME}/.persist/* {VOLUME}/.persist {VOLUME}")
    with pytest.raises(PermissionError):
        os.chmod(f"{VOLUME}/.persist", 0o700)
    store.make(VOLUME)


@pytest.mark.parametrize("what", ["immutable", "full", "read-only"])
@own_machine
def test_a_volume_that_takes_no_store_is_a_volume(what: str) -> None:
    """What stands against writing is said later, with what to do; anything else is an error at once."""
    os.makedirs("/run/at")
    if what == "immutable":
        sh(f"{EXT4}; mount -o loop /run/disk /run/at; chattr +i /run/at")
    else:
        sh(f"mount -t tmpfs -o {'nr_inodes=1' if what == 'full' else 'ro'} none /run/at")
    with pytest.raises(OSError) if what == "read-only" else contextlib.nullcontext() as caught:
        find_and_mount.make_store("/run/at")
    assert caught is None or caught.value.errno == errno.EROFS
    assert not os.path.exists("/run/at/.persist")


@pytest.mark.parametrize("mode", [0o755, 0o777])
@own_machine
def test_a_volume_that_must_not_be_used_is_unmounted_again(mode: int) -> None:
    sh(f"mount -t tmpfs none /usr/local/sbin; {EXT4}")
    Path("/usr/local/sbin/systemd-mount").write_text(SYSTEMD_MOUNT, encoding="utf-8")
    sh("chmod 755 /usr/local/sbin/systemd-mount")
    sh(f"mount -o loop /run/disk /opt; chmod {mode:o} /opt; umount /opt")
    found = Found("/run/disk", "u", ("/run/disk",), fstype="ext4")
    with pytest.raises(PersistError) if mode == 0o777 else contextlib.nullcontext():
        find_and_mount.mount(found, None, Config(), log.say, log.notify_status)
    assert (mountinfo.at(VOLUME) is None) == (mode == 0o777)


@pytest.mark.parametrize("known", ["", "11111111-2222-4333-8444-555555555555"])
@own_machine
def test_a_strange_volume_that_was_put_down_is_missed(known: str) -> None:
    """So that binds on a writable root are held read-only."""
    disk()
    os.chown(f"{VOLUME}/.persist", 65534, 65534)
    result = Outcome(kind="native")
    said: list[Note] = []
    strange.put_down(result, Known(known=known), said.append)
    assert (result.kind, result.expected, result.reason) == ("none", bool(known), strange.STRANGE)
    assert mountinfo.at(VOLUME) is None and [n.message_id for n in said] == ["VOLUME_STRANGE"]


@pytest.mark.parametrize("expected", [True, False])
@own_machine
def test_binds_are_held_where_the_unexpected_cost_the_volume(expected: bool) -> None:
    os.makedirs("/srv/x")
    registry("[Path]\nPath=/srv/x\nMethod=bind\n")
    result = Outcome(expected=expected)
    volume_service.rescue(result, OSError(errno.EIO, "Input/output error"))
    held = mountinfo.at("/srv/x")
    assert (held is not None and held.read_only) == expected and os.path.exists(paths.STALE) == expected
    assert result.kind == "none"


@own_machine
def test_a_hint_that_cannot_be_made_does_not_cost_the_decision() -> None:
    sh("mount -t tmpfs none /sys")
    said: list[Note] = []
    decision, assembly = search.search(Config(), Known(), 0.0, said.append, log.notify_status, list)
    assert isinstance(decision, Missing) and decision.code == "missing" and assembly is None
    assert [n.message_id for n in said] == ["FAILED"] and "/sys" in said[0].message
