# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long PID 1 waits for the generator, as ratios that were measured in one run (make bench).

    a  100 entries in 100 files, bind mounts, against systemd-fstab-generator emitting the same 100 mounts
    from fstab b  no registry, against a Python that does nothing c  as a, and 20 migrations of these entries

Runs of all programs alternate, so that a slow moment of the machine meets all alike. The package is compiled
in a copy, as packaging/debian/persist.postinst does it. The exit status says whether the bars hold, by the
medians.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from py_compile import PycInvalidationMode

TOP = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
GENERATORS = ("/usr/lib/systemd/system-generators", "/lib/systemd/system-generators")
ENTRIES = 100
MIGRATIONS = 20
BARS = {"a": 1.4, "b": 1.05, "c": 1.4}


class Program:
    """One of the programs that are compared: run() gives seconds."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str], out: Path | None) -> None:
        self.name = name
        self.argv = argv
        self.env = env
        self.out = out
        self.seconds: list[float] = []

    def run(self) -> float:
        if self.out:
            shutil.rmtree(self.out, ignore_errors=True)
            self.out.mkdir(parents=True)
        begin = time.perf_counter()
        pid = os.posix_spawn(self.argv[0], self.argv, self.env)
        _, status = os.waitpid(pid, 0)
        took = time.perf_counter() - begin
        if status:
            sys.exit(f"bench: {self.name} failed with {os.waitstatus_to_exitcode(status)}")
        return took

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)


def machine(root: Path, entries: int, migrations: int = 0) -> None:
    """A root directory as the generator finds one, with what a Debian machine has beside the registry."""
    wants = root / "etc/systemd/system/local-fs.target.wants"
    wants.mkdir(parents=True)
    (wants / "persist-setup.target").symlink_to("/usr/lib/systemd/system/persist-setup.target")
    (root / "proc").mkdir()
    (root / "proc/cmdline").write_text(
        "BOOT_IMAGE=/boot/vmlinuz root=UUID=8d0a6a5c-0000-4000-8000-000000000000 ro quiet\n"
    )
    (root / "etc/fstab").write_text(
        "UUID=8d0a6a5c-0000-4000-8000-000000000000 / ext4 errors=remount-ro 0 1\n"
    )
    units = root / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    for i in range(300):
        (units / f"unit-{i}.service").touch()
    registry = root / "usr/lib/persist.d"
    registry.mkdir()
    for i in range(entries):
        (root / f"srv/data/{i:03}").mkdir(parents=True)
        (registry / f"{i:03}.conf").write_text(
            f"# A package's registry file\n[Path]\nPath=/srv/data/{i:03}\nMethod=bind\n"
            + (
                f"[Migration]\nId=m{i}\nPath=/srv/data/{i:03}\nExec=/usr/bin/up --to 2\n"
                f"Services=unit-{i % 5}.service\n"
                if i < migrations
                else ""
            )
        )


def prepare(work: Path) -> dict[str, tuple[Program, Program]]:
    """The pairs that are compared: (ours, the measure)."""
    library, script = work / "lib", work / "persist-generator"
    shutil.copytree(TOP / "persist", library / "persist", ignore=shutil.ignore_patterns("__pycache__"))
    if not compileall.compile_dir(library, quiet=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH):
        sys.exit("bench: the package does not compile")
    shutil.copy(TOP / "generators" / "persist-generator", script)
    fstab = work / "fstab"
    fstab.write_text(
        "".join(
            f"/run/persist/volume/srv/data/{i:03} /srv/data/{i:03} none bind,nofail 0 0\n"
            for i in range(ENTRIES)
        )
    )
    env = {"PERSIST_LIBRARY": str(library)}
    fstab_generator = next(
        (
            f"{d}/systemd-fstab-generator"
            for d in GENERATORS
            if os.path.exists(f"{d}/systemd-fstab-generator")
        ),
        "",
    )
    if not fstab_generator:
        sys.exit("bench: systemd-fstab-generator is not installed")
    for name, entries, migrations in (("full", ENTRIES, 0), ("more", ENTRIES, MIGRATIONS), ("empty", 0, 0)):
        machine(work / name, entries, migrations)
    full = Program(
        "persist-generator, 100 entries",
        [str(script), str(work / "out/full")],
        {**env, "PERSIST_GENERATOR_ROOT": str(work / "full")},
        work / "out/full",
    )
    theirs = Program(
        "systemd-fstab-generator, 100 mounts",
        [fstab_generator, *[str(work / "out/fstab")] * 3],
        {"SYSTEMD_FSTAB": str(fstab), "SYSTEMD_PROC_CMDLINE": "ro quiet", "SYSTEMD_LOG_LEVEL": "warning"},
        work / "out/fstab",
    )
    empty = Program(
        "persist-generator, no registry",
        [str(script), str(work / "out/empty")],
        {**env, "PERSIST_GENERATOR_ROOT": str(work / "empty")},
        work / "out/empty",
    )
    more = Program(
        "persist-generator, and 20 migrations",
        [str(script), str(work / "out/more")],
        {**env, "PERSIST_GENERATOR_ROOT": str(work / "more")},
        work / "out/more",
    )
    nothing = Program("python3 -IS -c pass", [PYTHON, "-IS", "-c", "pass"], {}, None)
    for program in (full, more, theirs):
        program.run()
        out = program.out or work
        written = len([*out.glob("srv-data-*.mount"), *out.glob("persist-bind@srv-data-*.service")])
        if written != ENTRIES:
            sys.exit(f"bench: {program.name} wrote the units of {written} entries and not of {ENTRIES}")
    return {"a": (full, theirs), "b": (empty, nothing), "c": (more, theirs)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the generator against its bars.")
    parser.add_argument("--rounds", type=int, default=200, help="runs of each program (default: %(default)s)")
    parser.add_argument(
        "--directory",
        help="where to write; a tmpfs such as /run is what PID 1 has (default: /dev/shm or /tmp)",
    )
    arguments = parser.parse_args()
    where = arguments.directory or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    with tempfile.TemporaryDirectory(prefix="persist-bench-", dir=where) as directory:
        pairs = prepare(Path(directory))
        programs = [program for pair in pairs.values() for program in pair]
        for number in range(arguments.rounds + 5):
            for program in programs:
                seconds = program.run()
                if number >= 5:  # the first ones warm the caches
                    program.seconds.append(seconds)
            if sys.stderr.isatty():
                print(f"\rbench: round {max(0, number - 4)} of {arguments.rounds}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"{'':2} {'milliseconds, ' + str(arguments.rounds) + ' runs each':38} {'median':>8} {'best':>8}")
    met = True
    for key, (ours, measure) in pairs.items():
        for program in (ours, measure):
            print(f"{key:2} {program.name:38} {program.median * 1000:8.2f} {program.best * 1000:8.2f}")
        ratio = ours.median / measure.median
        met &= ratio <= BARS[key]
        verdict = f"bar {BARS[key]}: {'pass' if ratio <= BARS[key] else 'MISS'}"
        print(f"{'':2} {'ratio':38} {ratio:8.2f} {ours.best / measure.best:8.2f}  {verdict}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
