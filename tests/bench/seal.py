# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sealing a tree of 500 MB beside find(1) over the same tree with as many patterns, as a ratio.

Both run in turns, as root. The tree has as many files as a Debian system of that size, of which the shipped
catalogue finds some; before each round they are put back. Ours is the whole command: Python's start, both
passes, the wipe and the report. find(1) only looks. The exit status says whether the bar holds, by the
medians.
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
from py_compile import PycInvalidationMode

TOP = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
BAR = 2.0
DIRECTORIES, FILES, SIZE = 400, 50, 25 << 10  # 20,000 files, 500 MB in all
ID = "0123456789abcdef0123456789abcdef"
# What a prototype has and a clone must not.
WIPED = (
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    f"var/log/journal/{ID}/system.journal",
    *(f"var/log/apt/{name}.log" for name in ("history", "term")),
    *(f"var/cache/apt/archives/p{i}.deb" for i in range(50)),
    *(f"tmp/f{i}" for i in range(50)),
    "root/.bash_history",
)


def make(tree: Path) -> None:
    """The tree, of files without blocks: nobody reads them."""
    for i in range(DIRECTORIES):
        directory = tree / f"usr/share/{i % 20}/{i}"
        directory.mkdir(parents=True)
        for j in range(FILES):
            with (directory / f"file{j}").open("wb") as f:
                f.truncate(SIZE)
    shutil.copytree(TOP / "units/identity.d", tree / "usr/lib/persist/identity.d")
    units = tree / "usr/lib/systemd/system"
    shutil.copytree("/lib/systemd/system", units, symlinks=True)
    for unit in (TOP / "units").glob("*.service"):
        shutil.copy(unit, units)
    (tree / "usr/lib/os-release").write_text("ID=x\n")
    (tree / "etc").mkdir()
    (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")


def put_back(tree: Path) -> None:
    """What the round before has wiped."""
    for name in WIPED:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    (tree / "etc/machine-id").write_text(f"{ID}\n")


def patterns(tree: Path) -> list[str]:
    """What find(1) is asked for: each pattern of the catalogue."""
    found: list[str] = []
    for file in sorted((tree / "usr/lib/persist/identity.d").glob("*.conf")):
        for line in file.read_text(encoding="utf-8").split("\n"):
            if line.startswith("Path="):
                found += line.removeprefix("Path=").split()
    words: list[str] = []
    for pattern in found:
        begin = f"{tree}{pattern}" if pattern.startswith("/") else f"*/{pattern.partition('/')[2]}"
        words += ["-o", "-path", begin.replace('"', "").replace("**", "*")]
    return words[1:]


def seconds(argv: list[str], env: dict[str, str]) -> float:
    """How long a command takes that has to succeed."""
    begin = time.perf_counter()
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    took = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"bench: {argv[0]} failed: {done.stderr}")
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure persistctl seal against its bar.")
    parser.add_argument("--rounds", type=int, default=20, help="runs of each (default: %(default)s)")
    parser.add_argument("--directory", help="where to put the tree (default: /dev/shm or /tmp)")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: root is needed")
    where = arguments.directory or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    with tempfile.TemporaryDirectory(prefix="persist-bench-", dir=where) as directory:
        library, tree = Path(directory) / "lib", Path(directory) / "tree"
        shutil.copytree(TOP / "persist", library / "persist", ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(library, quiet=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
        make(tree)
        env = {"PATH": os.environ["PATH"], "PERSIST_LIBRARY": str(library)}
        wanted = patterns(tree)
        programs = {
            f"find, {wanted.count('-path')} patterns": ["find", str(tree), *wanted],
            "persistctl seal": [PYTHON, str(TOP / "bin/persistctl"), "seal", f"--root={tree}", "--yes"],
        }
        took: dict[str, list[float]] = {name: [] for name in programs}
        for number in range(arguments.rounds + 2):
            put_back(tree)
            for name, argv in programs.items():
                each = seconds(argv, env)
                if number >= 2:  # the first ones warm the caches
                    took[name].append(each)
            if (tree / WIPED[0]).exists():
                sys.exit("bench: nothing was wiped")
    for name, every in took.items():
        print(f"{name:24} median {statistics.median(every) * 1000:7.1f} ms, best {min(every) * 1000:7.1f} ms")
    theirs, ours = (statistics.median(every) for every in took.values())
    print(f"{'ratio':24} {ours / theirs:.2f}, bar {BAR}: {'pass' if ours / theirs <= BAR else 'MISS'}")
    return 0 if ours / theirs <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
