# SPDX-License-Identifier: LGPL-2.1-or-later
"""The harness tests itself.

What every other test would be wrong without (answers, time-outs, restores, a QEMU that dies, a panic) runs in
``make test``, on a machine that is there anyway. What costs boots of its own, or what the tests of persist
use anyway, is marked ``harness``; it runs in ``make test-harness``, which is for changes in tests/vm/, and on
images without any package of ours.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from . import scene
from .errors import CommandFailed, EmergencyMode, MachineError
from .image import Image
from .journal import UnexpectedLines
from .machine import Machine

PlainImage = Callable[[str], Image]
MachineFactory = Callable[..., Machine]


@pytest.fixture(scope="module")
def shared(plain_image: PlainImage) -> Iterator[Machine]:
    """One writable machine, booted once and kept as the snapshot "booted"."""
    with Machine(plain_image("rw"), "harness", buses=("usb", "scsi")) as machine:
        machine.start()
        machine.wait_for_boot()
        machine.snapshot("booted")
        yield machine


@pytest.fixture
def booted(shared: Machine) -> Machine:
    """The shared machine, as it was when it had booted."""
    shared.restore("booted")
    return shared


def test_exit_status_and_streams(after_first_boot: Machine) -> None:
    """Status, output and errors arrive as they were."""
    one = after_first_boot
    assert one.succeed("echo one; echo two >&2") == "one\n"
    assert one.execute("echo out; exit 7") == (7, "out\n")
    result = one.run("cat; echo err >&2", data=b"\0\n\xff" * 1000)
    assert (result.status, result.stdout, result.stderr) == (0, b"\0\n\xff" * 1000, b"err\n")
    assert "no such" in one.fail("ls /nowhere 2>&1").lower()
    with pytest.raises(CommandFailed, match="status 1"):
        one.succeed("false")
    with pytest.raises(CommandFailed, match="succeeded"):
        one.fail("true")
    assert one.execute("kill -9 $$")[0] == -9


@pytest.mark.harness
def test_large_output(booted: Machine) -> None:
    """Megabytes pass in both directions."""
    data = os.urandom(4 << 20)
    booted.write_file("/run/data", data)
    assert booted.read_file("/run/data") == data


def test_timeout(after_first_boot: Machine) -> None:
    """A command that does not end is killed, with its children, and the agent goes on."""
    one = after_first_boot
    with pytest.raises(CommandFailed, match="not done in 1 s"):
        one.succeed("sleep 1000 & sleep 1001", timeout=1)
    assert one.execute("echo on; sleep 1002", timeout=1) == (124, "on\n")
    one.wait_until_succeeds("! pgrep -x sleep")
    assert one.succeed("sleep 1000 & echo background") == "background\n"


def test_units(after_first_boot: Machine) -> None:
    """wait_for_unit waits for what comes, and gives up at once on what will not."""
    one = after_first_boot
    one.wait_for_unit("ssh.service")
    one.succeed("systemd-run --no-block --unit slow -p Type=oneshot -p RemainAfterExit=yes sleep 1")
    one.wait_for_unit("slow.service")
    one.execute("systemd-run --unit bad -p Type=oneshot false")
    with pytest.raises(CommandFailed, match="bad.service is failed"):
        one.wait_for_unit("bad.service")
    with pytest.raises(CommandFailed, match="is inactive"):
        one.wait_for_unit("rescue.target")


def test_restore(after_first_boot: Machine) -> None:
    """Memory, disk and clock go back together, and a machine that is off can be restored too."""
    one = after_first_boot
    uptime = "cut -d' ' -f1 /proc/uptime"
    before = float(one.succeed(uptime))
    one.succeed("touch /run/later /home/later && sync; sleep 10")
    one.restore("booted")
    assert float(one.succeed(uptime)) < before + 10
    one.fail("test -e /run/later -o -e /home/later")
    one.crash()
    one.restore("booted")
    one.fail("test -e /run/later")


@pytest.mark.harness
@pytest.mark.parametrize("bus", ["virtio", "scsi", "usb"])
def test_hot_plug(booted: Machine, bus: str) -> None:
    """A disk appears in the running machine with its serial and header, and goes away again."""
    disk = booted.create_disk(f"hot{bus}", "64M", header=b"persist-please-format-me")
    booted.attach_disk(disk, bus=bus)  # type: ignore[arg-type]
    find = f"lsblk -dpno NAME,SERIAL | awk '$2 == \"hot{bus}\" {{print $1}}' | grep ."
    node = booted.wait_until_succeeds(find)
    assert booted.succeed(f"head -c 24 {node.strip()}") == "persist-please-format-me"
    booted.detach_disk(disk)
    booted.wait_until_succeeds(f"! lsblk -dno SERIAL | grep -qx hot{bus}")


@pytest.mark.harness
def test_snapshot_with_other_disks(booted: Machine) -> None:
    """A snapshot brings back the disks that were plugged in when it was taken, and what they held."""
    booted.add_disk("extra", "64M")
    booted.wait_until_succeeds("test -b /dev/disk/by-id/virtio-extra")
    booted.succeed("printf first | dd of=/dev/disk/by-id/virtio-extra conv=fsync")
    booted.snapshot("with-extra")
    booted.succeed("printf other | dd of=/dev/disk/by-id/virtio-extra conv=fsync")
    booted.restore("booted")
    booted.fail("test -b /dev/disk/by-id/virtio-extra")
    booted.restore("with-extra")
    assert booted.succeed("head -c 5 /dev/disk/by-id/virtio-extra") == "first"


def test_qemu_death_is_an_error(after_first_boot: Machine) -> None:
    """A QEMU that ends by itself is never a success, whatever was being waited for."""
    one = after_first_boot
    os.kill(one.qemu.process.pid, signal.SIGKILL)
    with pytest.raises(MachineError):
        one.succeed("true")
    one.restore("booted")
    os.kill(one.qemu.process.pid, signal.SIGKILL)
    with pytest.raises(MachineError):
        one.shutdown(timeout=20)


@pytest.mark.harness
def test_power(plain_image: PlainImage, machine: MachineFactory) -> None:
    """What was flushed outlives a power cut; a reboot keeps disks; a power-off is seen for what it is."""
    one = machine(plain_image("ro"))
    disk = one.add_disk("data", "64M")
    one.start()
    one.succeed("printf kept | dd of=/dev/disk/by-id/virtio-data conv=fsync")
    one.crash()
    assert one.read_disk(disk, 0, 512)[:4] == b"kept"
    one.start("persist.test=second")
    assert one.succeed("head -c 4 /dev/disk/by-id/virtio-data") == "kept"
    one.succeed("grep -q persist.test=second /proc/cmdline")
    one.fail("touch /anything")
    one.wait_for_boot()
    one.reboot()
    one.shutdown()
    assert "Power down" in one.console_text()
    assert not one.running


@pytest.mark.harness
def test_emergency_is_seen(plain_image: PlainImage, machine: MachineFactory) -> None:
    """Emergency mode ends a test soon, and can be looked into by one that expects it."""
    one = machine(plain_image("ro"))
    with pytest.raises(EmergencyMode):
        one.start("systemd.unit=emergency.target")
        one.wait_for_boot()
    one.crash()
    one.start("systemd.unit=emergency.target", expect_emergency=True)
    assert one.succeed("systemctl is-active emergency.target") == "active\n"


def test_panic_is_seen(machine: MachineFactory) -> None:
    """A kernel that panics ends the test, not the patience."""
    one = machine(scene.story_image("bookworm"))
    with pytest.raises(MachineError, match="Kernel panic"):
        one.start("rdinit=/nowhere noinitrd root=/dev/nowhere init=/nowhere")


def test_journal_gate(after_first_boot: Machine) -> None:
    """A warning of ours that is not expected fails the test, as does one that is and never comes."""
    one = after_first_boot
    one.succeed(
        "echo 'no good' | systemd-cat -t persist -p warning; echo fine | systemd-cat -t persist -p notice"
    )
    with pytest.raises(UnexpectedLines, match="not expected: <4> persist .*: no good$"):
        one.judge()
    one.judge()  # what was said once is not said again
    one.succeed(
        "echo '<3>persist-early: error: /etc does not mount' >/dev/kmsg; "
        "systemd-run --wait -u persist-x false || true"
    )
    one.expect("does not mount", "persist-x.service: Failed", "HEAL_DONE")
    with pytest.raises(UnexpectedLines, match="warning and above:\nexpected, and never said: HEAL_DONE$"):
        one.judge()
    os.kill(one.qemu.process.pid, signal.SIGKILL)
    with one.console_log.open("a") as console:
        console.write(
            "[  1.0] persist-early: /home mounted\n[  1.0] persist-early: error: /etc does not mount\n"
        )
    with pytest.raises(
        UnexpectedLines,
        match="warning and above:\nnot expected: <4> console: persist-early: error: /etc does not mount$",
    ):
        one.judge()
