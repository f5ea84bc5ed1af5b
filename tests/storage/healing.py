# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes that are to be healed, for the tests of healing, and how they have to look afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from persist.system import superblock, uuids
from persist.volume.members import in_kernel
from persist.volume.ondisk import header, partition_table, store
from persist.volume.ondisk.header import FormatMark, Options

from .conftest import Make
from .rig import PYTHON, TOP, LoopDisk, tool
from .volumes import Volume

MIB = 320
_HEAL = """
import sys
from persist import log
from persist.boot.config import Config
from persist.volume.heal import healer as heal
config = Config()
config.device = sys.argv[2:]
heal.Healer(sys.argv[1], config, log.say, lambda step, text: print(step, text, flush=True)).heal()
"""


def healing(v: Volume, **env: str) -> subprocess.Popen[str]:
    """A process that heals, in a session of its own."""
    env |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(TOP), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [PYTHON, "-c", _HEAL, v.at, *v.config.device],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )


def run_heal(v: Volume, kill_after: str = "", seconds: float | None = None) -> tuple[int, list[str]]:
    """Heal in a process of its own; its status and the names of its steps."""
    with healing(v, **({"PERSIST_TEST_KILL_AFTER": kill_after} if kill_after else {})) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        assert kill_after or seconds or process.returncode == 0, err
    names = [line.split(" ")[0] for line in out.splitlines()]
    return process.returncode, [n for n in names if n]


def check_whole(v: Volume, count: int, text: str = "") -> None:
    """The end state: all there, mirrored, marked as healed alike, recorded, and what was written is there."""
    devices = in_kernel.members(v.at)
    assert [m.state for m in devices] == ["ok"] * count, devices
    assert v.profiles() == {
        "data raid1",
        f"metadata {'raid1' if count == 2 else 'raid1c3'}",
        f"system {'raid1' if count == 2 else 'raid1c3'}",
    }
    marks = {m.mark for m in devices}
    assert len(marks) == 1 and all(m is None or m.counter == 0 for m in marks)
    uuids = sorted(
        tool("blkid", "-p", "-o", "value", "-s", "PART_ENTRY_UUID", m.node).strip() for m in devices
    )
    assert sorted(store.read_record(v.at)["members"]) == uuids
    for m in devices:
        size = int(tool("blockdev", "--getsize64", m.node))
        assert m.size == partition_table.filesystem_bytes(size)
        assert not superblock.read_at(m.node.removesuffix("p1"), 0, header.MARK_OFFSET).strip(b"\0"), (
            "the claim is gone"
        )
    if text:
        assert v.read("text") == text
    assert "no errors found" in v.scrub()
    v.down()
    assembly = v.look()
    assert not assembly.degraded and not assembly.heal and len(assembly.use) == count
    v.up()


def stale(place: Path, make: Make) -> Volume:
    """A mirror, mounted from its first disk; the second is there and stale. Degraded writing has left chunks
    without a mirror."""
    v = Volume(place, [make(MIB, b""), make(MIB, b"")])
    v.up()
    v.write("text", "old")
    v.down()
    v.pull(v.disks[1])
    v.up()
    v.write("text", "new")
    Path(f"{v.at}/big").write_bytes(os.urandom(70 << 20))
    tool("btrfs", "filesystem", "sync", v.at)
    v.down()
    v.back(v.disks[1])
    v.up()
    return v


def joiner(v: Volume, disk: LoopDisk) -> None:
    """As persist-format.service leaves a disk that is to join."""
    mark = v.marks[str(disk.file)] = FormatMark(uuids.new(), 0, v.uuid, 0, 1, True, "auto")
    if disk not in v.disks:
        v.disks.append(disk)
    v.divide(disk)
    disk.write(0, header.encode("persist-please-format-me", Options(join=v.uuid)))
    disk.write(header.MARK_OFFSET, mark.encode())


def single(place: Path, make: Make) -> Volume:
    """A volume on one disk."""
    v = Volume(place, [make(MIB, b"")])
    v.up()
    v.write("text", "mine")
    return v


def full_and_stale(place: Path, make: Make) -> Volume:
    """As stale(), with all space of the volume in chunks, and most of that full."""
    v = Volume(place, [make(MIB, b""), make(MIB, b"")])
    v.up()
    for n in range(MIB):
        try:
            Path(f"{v.at}/{n}").write_bytes(os.urandom(1 << 20))
            tool("btrfs", "filesystem", "sync", v.at)
        except (OSError, subprocess.CalledProcessError):
            break
    v.down()
    v.pull(v.disks[1])
    v.up()
    os.chmod(f"{v.at}/0", 0o600)
    tool("btrfs", "filesystem", "sync", v.at)
    v.down()
    v.back(v.disks[1])
    v.up()
    return v


def exchange(v: Volume, disk: LoopDisk) -> None:
    """Pull the last disk out and have another one join."""
    v.down()
    v.pull(v.disks.pop())
    v.up()
    joiner(v, disk)


def replaced(place: Path, make: Make, mib: int) -> Volume:
    """As stale(), but the second disk is gone, and another one of so many MiB is to join."""
    v = stale(place, make)
    exchange(v, make(mib, b""))
    return v


def split(place: Path, make: Make) -> Volume:
    """As stale(), and then the second one was written alone too; the first, which is newer, is mounted."""
    v = stale(place, make)
    a, b = v.disks
    v.down()
    v.pull(a)
    v.up()
    v.write("text", "written on b alone")
    v.down()
    v.back(a)
    v.up()
    return v
