# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks for the tests of persist/volume: loop devices over sparse files. Whatever a test does to them,
nothing is left behind."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from persist.boot.config import DEFAULT_HEADER, Config
from persist.system import blockdev
from persist.system.blockdev import Disk
from persist.volume.find import candidates
from persist.volume.format import asking

from .own_root import own_class

TOP = Path(__file__).resolve().parents[2]
HEADER = DEFAULT_HEADER.encode()
PAGE = 4096
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable

_FORMAT = """
import json, sys
from persist.boot.config import Config
from persist.system import blockdev
from persist.volume.format.under_lock import format_disks
wish = json.loads(sys.argv[1])
config = Config()
config.device = wish["nodes"]
config.swap_size = wish["swap"]
disks = [blockdev.by_node(n) for n in wish["nodes"]]
done = format_disks(disks, config, lambda step, nodes, text: print(step, flush=True))
print("uuid", done.uuid if done else "")
"""


def format_set(
    disks: list[LoopDisk], kill_after: str = "", swap: str = "auto", kill_after_seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the formatter over these disks in a process of its own, which may be killed after a step, or with
    all its children after a time."""
    env = {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin"),
        "PYTHONPATH": str(TOP),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if kill_after:
        env["PERSIST_TEST_KILL_AFTER"] = kill_after
    wish = {"nodes": [d.node for d in disks], "swap": None if swap == "auto" else int(swap)}
    argv = [PYTHON, "-c", _FORMAT, json.dumps(wish)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=kill_after_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            wait_for_group(process.pid)
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def tool(*argv: str | Path, stdin: str | None = None) -> str:
    """Run a tool and return what it printed."""
    return subprocess.run(
        [str(a) for a in argv], check=True, capture_output=True, text=True, input=stdin
    ).stdout


def mounts_of(node: str) -> list[str]:
    """Where a device or its partitions are mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        lines = [line.split() for line in f]
    return [fields[4] for fields in lines if is_part_of(fields[fields.index("-") + 2], node)]


def is_part_of(device: str, disk: str) -> bool:
    """Whether a node is a disk or a partition of it: /dev/loop1p2 is one of /dev/loop1, /dev/loop10 is
    not."""
    return device == disk or device.startswith(f"{disk}p")


def attached(file: Path) -> list[str]:
    """The loop devices over a file."""
    return tool("losetup", "--associated", file, "--noheadings", "--output", "NAME").split()


def wait_for_group(group: int) -> None:
    """Wait, 10 s at most, until a killed process group is gone: mount(2) goes on in the kernel after the
    signal, and ends with a mount."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)


@contextmanager
def serial_number(disk: LoopDisk, text: str) -> Iterator[None]:
    """The kernel shows a serial number for this disk, in the mounts of the test."""
    place = Path("/run/serial") / disk.disk.name
    place.mkdir(parents=True, exist_ok=True)
    (place / "serial").write_text(f"{text}\n", encoding="ascii")
    at = disk.disk.sys_path
    tool("mount", "-t", "overlay", "-o", f"lowerdir={place}:{at}", "overlay", at)
    try:
        yield
    finally:
        tool("umount", at)


@contextmanager
def only_disks(*disks: LoopDisk) -> Iterator[None]:
    """A machine that has these disks, in the mounts of the test."""
    own_class([disk.node for disk in disks])
    try:
        yield
    finally:
        tool("umount", "/sys/class")


def udev_tags(disks: Sequence[LoopDisk]) -> None:
    """udev has tagged these disks in this boot, for they carry claims. In the /run of the test."""
    tags = Path(asking.TAGS)
    tags.mkdir(parents=True, exist_ok=True)
    for disk in disks:
        (tags / f"b{disk.disk.device}").touch()


def udev_sees(disks: Sequence[LoopDisk]) -> None:
    """udev's database has what is on these disks now, and nothing else. In the /run of the test."""
    data = Path(candidates.UDEV_DATA)
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    for disk in (d.disk for d in disks if d.node):
        for device in (disk, *blockdev.partitions(disk)):
            found = subprocess.run(["blkid", "-p", "-o", "udev", device.node], capture_output=True, text=True)
            lines = [f"E:{line}\n" for line in found.stdout.splitlines()]
            (data / f"b{device.device}").write_text("".join(lines), encoding="utf-8")


def _written(fd: int) -> Iterator[tuple[int, int]]:
    """From where to where a file is no hole."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # nothing more
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


class LoopDisk:
    """A disk of so many MiB. ``node`` is /dev/loopN; what is on it stays in the file over ``replug()``."""

    def __init__(self, top: Path, mib: int, header: bytes = HEADER, name: str = "disk") -> None:
        self.file = top / f"{name}.img"
        with self.file.open("wb") as f:
            f.truncate(mib << 20)
            f.write(header)
        self.node = ""
        self.plug()

    def plug(self, *options: str) -> None:
        """Attach the loop device."""
        self.node = tool("losetup", "--partscan", *options, "--find", "--show", self.file).strip()

    def unplug(self) -> None:
        """Detach it, with whatever is mounted from it."""
        if not self.node:
            return
        for place in reversed(mounts_of(self.node)):
            if subprocess.run(["umount", place], check=False, capture_output=True).returncode != 0:
                subprocess.run(["umount", "-l", place], check=False)
        for node in blockdev.swaps():
            if is_part_of(node, self.node):
                subprocess.run(["swapoff", node], check=False)
        subprocess.run(["partx", "--delete", self.node], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", self.node], check=False)
        # The kernel detaches when the last user lets go, and an unmounted btrfs may still be writing.
        deadline = time.monotonic() + 20
        while attached(self.file) and time.monotonic() < deadline:
            for place in reversed(mounts_of(self.node)):
                # A mount(2) that ended after its process was killed.
                subprocess.run(["umount", place], check=False, capture_output=True)
            time.sleep(0.05)
        self.node = ""

    def replug(self, *options: str) -> None:
        """As a restart of the machine has it: partitions are what the table says, nothing is mounted."""
        self.unplug()
        self.plug(*options)
        subprocess.run(["partx", "--update", self.node], check=False, capture_output=True)

    def digest(self) -> str:
        """What tells all its bytes apart from any other: made of those that are not zero, and where they are,
        for most of a disk has never been written."""
        if self.node:
            fd = os.open(self.node, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        found = hashlib.sha256(str(self.file.stat().st_size).encode())
        with self.file.open("rb", buffering=0) as f:
            for start, end in _written(f.fileno()):
                for at in range(start - start % PAGE, end, PAGE):
                    page = os.pread(f.fileno(), PAGE, at)
                    if page.strip(b"\0"):
                        found.update(b"%d:" % at + page)
        return found.hexdigest()

    def holds(self, text: str) -> int:
        """How often a text stands on it, in blocks that are free, too."""
        subprocess.run(["sync"], check=True)
        with self.file.open("rb", buffering=0) as f:
            parts = [os.pread(f.fileno(), end - start, start) for start, end in _written(f.fileno())]
        return sum(part.count(text.encode()) for part in parts)

    @property
    def disk(self) -> Disk:
        """The disk as the product sees it."""
        return blockdev.by_node(self.node)

    def config(self) -> Config:
        """A configuration that names this disk: a loop device is not trusted unasked."""
        config = Config()
        config.device = [self.node]
        return config

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the disk."""
        with open(self.node, "rb") as f:
            f.seek(offset)
            return f.read(length)

    def write(self, offset: int, data: bytes) -> None:
        """Write to the disk itself."""
        with open(self.node, "r+b") as f:
            f.seek(offset)
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        for part in glob.glob(f"{self.node}p*"):
            # It has a cache of its own, which lives as long as anybody has it open.
            tool("blockdev", "--flushbufs", part)

    def format(
        self, kill_after: str = "", swap: str = "auto", kill_after_seconds: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the formatter in a process of its own, which may be killed after a step, or with all its
        children after a time."""
        return format_set([self], kill_after, swap, kill_after_seconds)
