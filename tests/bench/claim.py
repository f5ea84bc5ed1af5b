# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the claim to the mounted volume on two disks, as a ratio to a bare shell script of sfdisk, mkswap,
mkfs.btrfs and mount on the same disks.

The script makes the same volume: two partitions on each disk, swap, a mirror, three subvolumes, the first of
them mounted. It asks nothing and survives nothing. Both run in turns on two loop devices, as root, where a
disk costs nothing and Python all the more. Ours is all that persist-format.service does, with its Python from
start to end, and then the mount that persist-volume.service makes. The exit status says whether the bar
holds, by the medians.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
BAR = 1.3
MIB = 1 << 20
SWAP = 384

_BARE = """set -e
for disk in "$1" "$2"; do
    sfdisk --quiet --no-reread --no-tell-kernel "$disk" <<END
label: gpt
size=384MiB, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F, name=persist-swap
type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=persist-data
END
    partx --update "$disk"
    mkswap --label persist-swap "${disk}p1" >/dev/null
done
mkfs.btrfs --quiet --force --nodiscard --label persist-data --data raid1 --metadata raid1 "${1}p2" "${2}p2"
mount "${1}p2" "$3"
for name in @persist-state @persist-data @persist-state-snapshots; do
    btrfs subvolume create "$3/$name" >/dev/null
done
umount "$3"
mount -o noatime,subvol=@persist-state "${1}p2" "$3"
"""
_OURS = """
import os
import sys
sys.path.insert(0, sys.argv[4])
from persist import log
from persist.boot.config import Config
from persist.system import blockdev
from persist.volume.format import claims, only_volume
from persist.volume.find import remembered as known
from persist.volume import outcome
config = Config()
config.device = sys.argv[1:3]
config.swap_size = 384 << 20
known.DIRECTORY = sys.argv[5] + "/none"
outcome.note_formatted = lambda uuid: None
# The probing of all disks stands in for udev's database, which is text to be read.
only_volume.candidates_now = lambda: []
disks = [blockdev.by_node(n) for n in sys.argv[1:3]]
status = claims.format_claimed(disks, config, None, log.say, log.notify_status)
sys.stdout.flush()
sys.stderr.flush()
os._exit(status)  # as bin/persist-service does
"""


def tool(*argv: str | Path) -> str:
    """Run a tool and return what it printed."""
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True).stdout


class Bench:
    """Two loop devices below a directory."""

    def __init__(self, work: Path, mib: int) -> None:
        self.work = work
        self.place = work / "mounted"
        self.place.mkdir()
        self.library = work / "lib"
        shutil.copytree(
            TOP / "persist", self.library / "persist", ignore=shutil.ignore_patterns("__pycache__")
        )
        compileall.compile_dir(self.library, quiet=1)
        self.files = [work / "one.img", work / "two.img"]
        self.mib = mib
        self.nodes: list[str] = []

    def fresh(self, header: bytes) -> None:
        """Blank disks, on the media."""
        for file in self.files:
            with file.open("wb") as f:
                f.truncate(self.mib * MIB)
                f.write(header)
                os.fsync(f.fileno())
        self.nodes = [tool("losetup", "--partscan", "--find", "--show", f).strip() for f in self.files]

    def clear(self) -> None:
        """Take all down again."""
        subprocess.run(["umount", self.place], check=False, capture_output=True)
        for node in self.nodes:
            subprocess.run(["partx", "--delete", node], check=False, capture_output=True)
            subprocess.run(["losetup", "--detach", node], check=False, capture_output=True)
        self.nodes = []

    def time(self, header: bytes, *commands: list[str | Path]) -> float:
        """Seconds from claimed disks to a mounted filesystem."""
        self.fresh(header)
        try:
            begin = time.perf_counter()
            for argv in commands:
                words = [str(a).replace("ONE", self.nodes[0]).replace("TWO", self.nodes[1]) for a in argv]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    sys.exit(f"bench: {argv[0]} failed: {done.stderr}")
            took = time.perf_counter() - begin
            if not os.path.ismount(self.place):
                sys.exit("bench: nothing is mounted")
            return took
        finally:
            self.clear()

    def bare(self) -> float:
        """The shell script."""
        return self.time(b"", ["sh", "-c", _BARE, "sh", "ONE", "TWO", self.place])

    def ours(self) -> float:
        """The service, and the mount."""
        return self.time(
            b"persist-please-format-me",
            [PYTHON, "-Ic", _OURS, "ONE", "TWO", "-", self.library, self.work / "fill"],
            [
                "mount",
                "-t",
                "btrfs",
                "-o",
                "noatime,subvol=@persist-state,device=ONEp2,device=TWOp2",
                "ONEp2",
                self.place,
            ],
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the formatter against its bar.")
    parser.add_argument("--rounds", type=int, default=10, help="runs of each (default: %(default)s)")
    parser.add_argument("--size", type=int, default=4096, help="MiB of each disk (default: %(default)s)")
    parser.add_argument("--directory", help="where to put the images of the disks")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("mkfs.btrfs"):
        sys.exit("bench: root and mkfs.btrfs are needed")
    with tempfile.TemporaryDirectory(prefix="persist-bench-", dir=arguments.directory) as directory:
        bench = Bench(Path(directory), arguments.size)
        seconds: dict[str, list[float]] = {"persist": [], "sfdisk, mkswap, mkfs.btrfs, mount": []}
        for number in range(arguments.rounds + 1):
            for name, run in zip(seconds, (bench.ours, bench.bare), strict=True):
                took = run()
                if number:  # the first one warms the caches
                    seconds[name].append(took)
    for name, every in seconds.items():
        print(f"{name:36} median {statistics.median(every) * 1000:7.1f} ms, best {min(every) * 1000:7.1f} ms")
    ours, bare = (statistics.median(every) for every in seconds.values())
    print(f"{'ratio':36} {ours / bare:.2f}, bar {BAR}: {'pass' if ours / bare <= BAR else 'MISS'}")
    return 0 if ours / bare <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
