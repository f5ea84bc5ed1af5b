# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-early with real btrfs on loop disks, in a mount namespace with a /run of its own.
tests/unit/test_early*.py have its rules one by one.

The shell and the tools are those of an initrd: klibc's where they are installed, with dd, chmod and chown of
coreutils as the hook puts them there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from persist.system import btrfs
from persist.volume.ondisk import degraded_mark

from .conftest import Make
from .rig import TOP, tool
from .volumes import Volume, unmounted

SCRIPT = TOP / "packaging/initramfs-tools/persist-early"
KLIBC = Path("/usr/lib/klibc/bin")
MIB = 300

_RUN = r"""
set -eu
cd "$WORK"
mount -t tmpfs tmpfs /run
mkdir -p /run/image/etc
echo image >/run/image/etc/from-image
[ ! -e cmdline ] || mount --bind cmdline /proc/cmdline
rm -f kmsg
mkfifo kmsg
mount --bind kmsg /dev/kmsg
cat kmsg >log & reader=$!
exec 9>kmsg
PATH="$WORK/bin" PERSIST_EARLY_TABLE="$WORK/table" "$SHELL_UNDER_TEST" "$SCRIPT" /run/image
exec 9>&-
wait "$reader"
[ ! -e /run/persist/initrd-volume ] || cp /run/persist/initrd-volume noted
[ ! -e /run/persist/heal ] || : >heal
cp /proc/self/mounts mounts
sh -euc "$THEN" >said
for at in /run/image/etc /run/persist/volume /run/persist/private/readonly; do
    ! mountpoint -q "$at" || umount "$at"
done
"""


@dataclass
class Boot:
    """What a start of the initrd did: its messages, what it noted (the devices sorted), whether there is
    something to heal, the mounts, and what the commands printed."""

    log: str
    noted: list[str]
    heal: bool
    mounts: str
    said: str


class Machine:
    """A volume of two disks, and an initrd."""

    def __init__(self, top: Path, volume: Volume, shell: str) -> None:
        self.volume = volume
        self.work = top / "initrd"
        self.shell = shell
        (self.work / "bin").mkdir(parents=True)
        for name in (
            "mount",
            "umount",
            "mkdir",
            "readlink",
            "sleep",
            "blkid",
            "udevadm",
            "btrfs",
            "dd",
            "chmod",
            "chown",
        ):
            ours = KLIBC / name
            klibc = "klibc" in shell and name != "dd" and ours.exists()
            (self.work / "bin" / name).symlink_to(ours if klibc else shutil.which(name) or name)
        (self.work / "table").write_text(
            f"device\tUUID={volume.uuid}\ntimeout\t0\noverlay\tetc\t/etc\t/etc\tetc\n"
        )
        volume.up()
        for name in ("overlay/etc/upper", "overlay/etc/work"):
            os.makedirs(f"{volume.at}/.persist/{name}")
        Path(f"{volume.at}/.persist/seed/etc.json").write_text("{}")
        Path(f"{volume.at}/nocow").touch()
        subprocess.run(["chattr", "+C", f"{volume.at}/nocow"], check=True)
        volume.write("nocow", "first" * 4000)
        volume.down()

    def boot(self, then: str = "cat /run/persist/volume/nocow", cmdline: str = "quiet") -> Boot:
        """Start the initrd, run some commands, and unmount all of it."""
        for name in ("noted", "heal", "log"):
            (self.work / name).unlink(missing_ok=True)
        (self.work / "cmdline").write_text(cmdline + "\n")
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "WORK": str(self.work),
            "SCRIPT": str(SCRIPT),
            "SHELL_UNDER_TEST": self.shell,
            "THEN": then,
        }
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", _RUN],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=env,
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        noted = self.work / "noted"
        state, *nodes = noted.read_text().split() if noted.exists() else [""]
        return Boot(
            (self.work / "log").read_text(),
            [state, *sorted(nodes)] if state else [],
            (self.work / "heal").exists(),
            (self.work / "mounts").read_text(),
            (self.work / "said").read_text(),
        )

    def write(self, text: str) -> str:
        """Commands that change the file without copy on write, as long as the text, and one of /etc."""
        return (
            f"yes {text} | head -c 20000 | dd of=/run/persist/volume/nocow conv=notrunc,fsync "
            f"status=none; echo {text} >/run/image/etc/kept; sync"
        )

    def node(self, number: int) -> str:
        """The data partition of a disk."""
        return self.volume.data(self.volume.disks[number])


SHELLS = ["dash", str(KLIBC / "sh")]


@pytest.fixture(params=SHELLS, ids=["dash", "klibc"])
def machine(request: pytest.FixtureRequest, make_disk: Make, tmp_path: Path) -> Iterator[Machine]:
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip("not installed")
    with unmounted(str(tmp_path / "volume")):
        yield Machine(tmp_path, Volume(tmp_path, [make_disk(MIB, b""), make_disk(MIB, b"")]), shell)


READ = "head -c 6 /run/persist/volume/nocow; echo; cat /run/image/etc/kept /run/image/etc/from-image"


def test_a_alone_then_a_stale_b(machine: Machine) -> None:
    volume, (a, b) = machine.volume, machine.volume.disks
    whole = machine.boot(machine.write("one"))
    assert whole.noted == ["plain", *sorted((machine.node(0), machine.node(1)))] and not whole.heal
    volume.pull(b)
    alone = machine.boot(machine.write("two"))
    assert (
        alone.noted == ["degraded", machine.node(0)] and alone.heal and "1 of its disks missing" in alone.log
    )
    first = degraded_mark.read(machine.node(0), volume.uuid)
    assert first is not None and first.counter == 1
    volume.back(b)
    before = degraded_mark.read(machine.node(1), volume.uuid)
    back = machine.boot(READ)
    assert back.noted == ["degraded", machine.node(0)] and back.said == "two\ntw\ntwo\nimage\n"
    second = degraded_mark.read(machine.node(0), volume.uuid)
    assert second is not None and (second.counter, second.earlier) == (2, (first.id, *first.earlier))
    assert degraded_mark.read(machine.node(1), volume.uuid) == before, "the stale one is not touched"
    assert [m.node for m in volume.look().stale] == [machine.node(1)], "the service sees it alike"
    # The stale one alone: nothing tells, and it is what the machine has.
    volume.pull(a)
    stale = machine.boot(READ)
    assert stale.noted == ["degraded", machine.node(1)] and stale.said == "one\non\none\nimage\n"


@pytest.mark.parametrize("last", [0, 1])
def test_each_written_alone(machine: Machine, last: int) -> None:
    volume, disks = machine.volume, machine.volume.disks
    for away, text in ((last, "older"), (1 - last, "newer")):
        volume.pull(disks[away])
        for _ in range(2 if text == "newer" else 1):
            assert machine.boot(machine.write(text)).noted == ["degraded", machine.node(1 - away)]
        volume.back(disks[away])
    marks = [degraded_mark.read(machine.node(n), volume.uuid) for n in (0, 1)]
    both = machine.boot("true")
    assert not both.noted and "leaving it to persist-volume.service" in both.log
    assert [degraded_mark.read(machine.node(n), volume.uuid) for n in (0, 1)] == marks, (
        "both sides are left as they are"
    )
    assert volume.look().nodes == (machine.node(last),), "the service chooses the newer one"


def test_unfinished_replace(machine: Machine, make_disk: Make) -> None:
    """Its target belongs to the volume, and carries the mark from then on."""
    volume, (_, b) = machine.volume, machine.volume.disks
    third = make_disk(MIB, b"")
    volume.marks[str(third.file)] = volume.marks[str(b.file)]
    volume.divide(third)
    volume.up()
    subprocess.run(
        ["dd", "if=/dev/urandom", f"of={volume.at}/bulk", "bs=1M", "count=100", "conv=fsync", "status=none"],
        check=True,
    )
    volume.down()
    volume.pull(b)
    volume.up()
    # A replace heeds it: some seconds instead of an instant.
    Path(f"{btrfs.SYSFS}/{volume.uuid}/devinfo/1/scrub_speed_max").write_text("20m", encoding="ascii")
    tool("btrfs", "replace", "start", "-f", "2", volume.data(third), volume.at)
    tool("mount", "-o", "remount,ro", volume.at)  # the kernel suspends it, as an unmount would
    tool(
        "sh",
        "-c",
        f"i=0; until umount {volume.at} 2>/dev/null; do sleep 0.05; i=$((i + 1)); [ $i -lt 100 ]; done",
    )
    assert sorted(m.superblock.devid for m in volume.look(volume.disks[0], third).use) == [0, 1], (
        "the replace was over before it was stopped"
    )
    found = machine.boot("cat /run/image/etc/from-image")
    assert (
        found.noted == ["degraded", *sorted((machine.node(0), volume.data(third)))]
        and found.heal
        and found.said == "image\n"
    )
    marks = [degraded_mark.read(n, volume.uuid) for n in (machine.node(0), volume.data(third))]
    assert marks[0] is not None and marks[0].counter == 2 and marks[0] == marks[1]


def test_read_only(machine: Machine) -> None:
    volume, (_, b) = machine.volume, machine.volume.disks
    machine.boot(machine.write("kept"))
    volume.pull(b)
    before = Path(volume.disks[0].file).read_bytes()
    found = machine.boot(
        "cat /run/image/etc/kept; echo changed >/run/image/etc/kept; cat /run/image/etc/kept; touch "
        "/run/image/etc/new;"
        "ls -A /run/persist/volume/.persist/seed; ! touch /run/persist/private/readonly/x 2>/dev/null",
        cmdline="persist=ro",
    )
    assert (
        found.said == "kept\nchanged\netc.json\n"
        and found.noted == ["degraded", machine.node(0)]
        and not found.heal
    )
    assert Path(volume.disks[0].file).read_bytes() == before, "nothing at all is written"
    volume.back(b)
    assert machine.boot("cat /run/image/etc/kept").said == "kept\n"


def test_data_on_one_disk_only(make_disk: Make, tmp_path: Path) -> None:
    """A volume that cannot do without a disk is left to the service, with no mark on the others: it would
    make the missing one stale."""
    with unmounted(str(tmp_path / "volume")):
        volume = Volume(tmp_path, [make_disk(MIB, b""), make_disk(MIB, b"")], "single")
        machine = Machine(tmp_path, volume, shutil.which("dash") or "sh")
        volume.up()
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={volume.at}/bulk", "bs=1M", "count=150", "conv=fsync", "status=none"],
            check=True,
        )
        volume.down()
        volume.pull(volume.disks[1])
        found = machine.boot("true")
        assert found.noted == [] and not found.heal and "may need the disks that are missing" in found.log
        mark = degraded_mark.read(machine.node(0), volume.uuid)
        assert mark is not None and not mark.counter, "no new one"
        volume.back(volume.disks[1])
        assert machine.boot().noted == ["plain", *sorted((machine.node(0), machine.node(1)))]


def test_full(machine: Machine) -> None:
    """overlayfs cannot make its working directory there, mounts read-only and reports success."""
    volume = machine.volume
    volume.up()
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={volume.at}/fill", "bs=1M", "status=none"],
        check=False,
        capture_output=True,
    )
    subprocess.run(["sync", "-f", volume.at], check=True)
    # What has no data is kept in metadata. After each commit there is a little room again.
    made, small = 1, False
    while made:
        made = 0
        with contextlib.suppress(OSError):
            while True:
                name = f"{volume.at}/{os.urandom(8).hex()}"
                os.mkdir(name) if small else os.symlink("x" * 3000, name)
                made += 1
        made, small = made or not small, True
        subprocess.run(["sync", "-f", volume.at], check=True)
    volume.down()
    found = machine.boot("mkdir /run/image/etc/made; ls /run/image/etc")
    assert (
        found.said == "from-image\nmade\n"
        and "growing it into its reserve" in found.log
        and "still read-only" not in found.log
    )
