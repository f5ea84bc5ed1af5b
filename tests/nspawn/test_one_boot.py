# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine that has a volume, for one boot without it: by a word on the command line, and because the disk
is away."""

from __future__ import annotations

import uuid

from tests.vm.checks import codes, entries, failed_units, healthy_boot, mounted, only_said, state

from .conftest import Boot
from .container import Container
from .disk import Disk
from .registry import ENABLED, LABEL, NOTES, PRESET, QUICK, named
from .test_kept import off

HELLO = b"""[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
"""
CHANGED = ("/home/kept", "/etc/hostname", "/var/lib/demo-notes/notes.txt", "/home/new/file", "/var/lib/new")


def test_read_only_and_volatile(disk: Disk, container: Boot) -> None:
    """persist=ro shows the volume below memory, persist=volatile shows nothing of it. Neither writes to
    it."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**ENABLED, **PRESET, **NOTES, **named(name)}, read_only=True)
    one.start(devices=disk.nodes())
    healthy_boot(one)
    identity = one.succeed("cat /etc/machine-id")
    one.succeed(
        "echo kept >/home/kept; echo kept >>/var/lib/demo-notes/notes.txt; rm /etc/issue.net; mkdir /home/new"
    )
    one.write_file("/etc/systemd/system/hello.service", HELLO)
    one.succeed("systemctl enable hello.service")
    off(one)
    disk.unplug()
    before = disk.digest()
    one.start("persist=ro", disk.nodes())
    read_only(one, identity)
    off(one)
    disk.unplug()
    assert disk.digest() == before, "not a byte of the volume was written"
    one.start("persist=volatile", disk.nodes())
    volatile(one)
    off(one)
    disk.unplug()
    assert disk.digest() == before, "not a byte of the volume was written"


def read_only(one: Container, identity: str) -> None:
    """All of the volume is there, and takes changes, which go to memory."""
    one.wait_for_boot()
    found = state(one)
    assert (found["verdict"], codes(found)) == ("volatile", {"read-only"}), found["reasons"]
    assert failed_units(one) == []
    assert one.succeed("cat /home/kept; cat /etc/machine-id") == f"kept\n{identity}"
    assert "kept" in one.succeed("cat /var/lib/demo-notes/notes.txt")
    assert one.execute("ls /etc/issue.net")[0] != 0, "what was removed stays removed"
    assert one.succeed("systemctl is-active hello.service").strip() == "active"
    for path in CHANGED:
        one.succeed(f"echo changed >{path}")
    only_said(one, "VERDICT_VOLATILE", "FALLBACK")


def volatile(one: Container) -> None:
    """Memory in the place of the volume, before PID 1, too."""
    one.wait_for_boot()
    found = state(one)
    assert (found["verdict"], codes(found)) == ("volatile", {"volatile"}), found["reasons"]
    assert failed_units(one) == []
    assert entries(found)["/etc"] == "early"
    assert one.execute("systemctl is-active hello.service")[0] != 0
    assert one.execute("ls /home/kept /home/new")[1] == ""
    one.succeed("touch /etc/x /var/x /home/x")
    only_said(one, "VERDICT_VOLATILE", "FALLBACK")


def test_a_writable_root(disk: Disk, container: Boot) -> None:
    """It goes on with what it had before there was a volume; and where the volume that it knows is away,
    nothing is forked."""
    disk.make_volume(str(uuid.uuid4()))
    one = container(files={**ENABLED, **PRESET, **NOTES, **LABEL, **QUICK, "/home/mine": "mine\n"})
    one.start(devices=disk.nodes())
    found = healthy_boot(one)
    assert (entries(found)["/etc"], entries(found)["/var"]) == ("early", "mounted")
    assert one.succeed("cat /home/mine") == "mine\n"
    one.succeed("echo more >/home/more")
    off(one)
    one.start('"persist=off"', disk.nodes())
    switched_off(one)
    off(one)
    disk.unplug()
    one.start("persist.volume=")
    stale(one)
    off(one)


def switched_off(one: Container) -> None:
    """persist=off, in quotes: nothing of ours, the root as it was before there was a volume."""
    one.wait_for_boot()
    found = state(one)
    assert (found["verdict"], codes(found)) == ("off", {"off"})
    assert mounted(one, "overlay", "btrfs") == ["/"]
    assert one.succeed("cat /home/mine") == "mine\n"
    assert one.execute("cat /home/more")[0] != 0
    only_said(one)


def stale(one: Container) -> None:
    """The volume that this root has known is away: bind entries are read-only rather than forked, everything
    else goes on, and it is said."""
    one.wait_for_boot()
    found = state(one)
    assert found["verdict"] == "volatile" and "known-volume-missing" in codes(found), found["reasons"]
    assert entries(found)["/var/lib/demo-notes"] == "stale"
    assert "Read-only file system" in one.fail("echo fork >>/var/lib/demo-notes/notes.txt")
    one.succeed("touch /var/lib/elsewhere /etc/elsewhere")
    assert one.execute("systemctl is-active persist-online.target")[0] != 0
    assert "VOLATILE" in one.succeed("cat /run/issue.d/persist.issue")
    only_said(one, "VOLUME_MISSING", "ENTRY_STALE", "VERDICT_VOLATILE", "known-volume-missing")
