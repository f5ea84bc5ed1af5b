# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which accelerator QEMU can really use here.

A /dev/kvm may be there and open, and still never start a kernel: so a kernel is started to see.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from . import cache
from .progress import note

QEMU = "qemu-system-x86_64"
PROBE_SEC = 12.0

# Debian 13's kernel dies early on a lesser processor in software emulation; but what is dear there is taken
# out: copies byte by byte (erms, fsrm), the gates around each access to user memory (smap, smep, umip, pku),
# a fifth level of page tables, wide registers to save and to emulate. Without svm udev loads no KVM.
TCG_CPU = "max,-erms,-fsrm,-smap,-smep,-umip,-pku,-la57,-avx,-avx2,-xsave,-xsaveopt,-xsavec,-xsaves,-svm"


def arguments(accel: str) -> list[str]:
    """The QEMU options of an accelerator."""
    if accel == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    if accel == "icount":  # the guest's clock goes by its instructions, 4 ns each (tests/bench)
        return ["-accel", "tcg,thread=single", "-icount", "shift=2,sleep=on", "-cpu", TCG_CPU]
    return ["-accel", "tcg,thread=multi", "-cpu", TCG_CPU]


def choose(kernel: Path) -> str:
    """kvm or tcg: PERSIST_TEST_ACCEL, or what a probe with KERNEL found since the host was booted."""
    wanted = os.environ.get("PERSIST_TEST_ACCEL")
    if wanted:
        if wanted not in ("kvm", "tcg"):
            raise ValueError(f"PERSIST_TEST_ACCEL={wanted}: kvm or tcg")
        return wanted
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    memory = cache.cache_dir() / f"accel.{boot}"
    if memory.exists():
        return memory.read_text(encoding="ascii").strip()
    found = "kvm" if _starts(kernel) else "tcg"
    note(f"accelerator: {found} (probed)")
    temporary = memory.with_name(f"{memory.name}.{os.getpid()}")
    temporary.write_text(f"{found}\n", encoding="ascii")
    temporary.rename(memory)
    return found


def _starts(kernel: Path) -> bool:
    """Whether a kernel says anything under KVM."""
    note("accelerator: probing KVM")
    with tempfile.TemporaryDirectory(prefix="persist-kvm.") as directory:
        console = Path(directory) / "console"
        process = subprocess.Popen(
            [
                QEMU,
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
                "-m",
                "512",
                *arguments("kvm"),
                "-kernel",
                str(kernel),
                "-append",
                "console=ttyS0 earlyprintk=ttyS0 panic=-1",
                "-serial",
                f"file:{console}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + PROBE_SEC
            while time.monotonic() < deadline:
                ended = process.poll() is not None
                if console.exists() and b"Linux version" in console.read_bytes():
                    return True
                if ended:
                    return False
                time.sleep(0.1)
            return False
        finally:
            process.kill()
            process.wait()
