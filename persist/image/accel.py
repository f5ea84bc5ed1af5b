# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether KVM works. /dev/kvm may be there and open, and still never run a guest: so one is run, of 174
bytes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from persist.errors import CommandError
from persist.image.machine import ACCELERATORS, QEMU, escaped
from persist.system import run

KVM = "/dev/kvm"
PROBE_SEC = 10.0
# A boot sector that goes the way of each kernel, by a page table into 64 bits, and ends QEMU from there:
#   0x7c00  cli; ax, ds, es, ss = 0; sp = 0x7c00; 12 KiB from 0x1000 zeroed
#   0x7c15  page tables: one page of 2 MiB, mapped to itself; lgdt; CR4.PAE; CR3; EFER.LME; CR0.PE|PG
#   0x7c5e  jump to 64 bits: data segments, stack, cpuid, rdtsc
#   0x7c7c  'K' to the serial port; 0x2a to isa-debug-exit, so that QEMU ends with 0x2a * 2 + 1; hlt
#   0x7c90  GDT: null, code of 64 bits, data; its descriptor
_SECTOR = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cbf001031c0b90018fcf3abc70600100320c70600200330c70600308300660f0116a87c"
    "0f20e06683c8200f22e066b8001000000f22d866b9800000c00f32660d000100000f300f20c0660d010000800f22c0"
    "ea637c080066b810008ed08ed848c7c4007c000031c00fa20f3166baf803b04bee66baf400b02aeef4ebfd0f1f8000"
    "0000000000000000000000ffff0000009aaf00ffff00000092cf001700907c0000"
)
_ENDED = 0x2A * 2 + 1
_FLOPPY = 1440 << 10


def choose(device: str = KVM, seconds: float = PROBE_SEC, program: str = QEMU) -> tuple[str, str]:
    """kvm or tcg, and why not kvm. Raises CommandError where there is no QEMU."""
    if not os.access(device, os.R_OK | os.W_OK):
        why = "cannot be opened by this user" if os.path.exists(device) else "is not there"
        return "tcg", f"{device} {why}"
    return ("kvm", "") if works("kvm", seconds, program) else ("tcg", f"a guest does not run with {device}")


def works(accelerator: str, seconds: float = PROBE_SEC, program: str = QEMU) -> bool:
    """Whether a guest runs to its end. Raises CommandError where there is no QEMU."""
    with tempfile.TemporaryDirectory(prefix="persist-probe.") as directory:
        floppy = Path(directory) / "floppy"
        floppy.write_bytes((_SECTOR.ljust(510, b"\0") + b"\x55\xaa").ljust(_FLOPPY, b"\0"))
        line = [
            program,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-nic",
            "none",
            "-machine",
            "pc",
        ]
        line += [*ACCELERATORS[accelerator], "-m", "64", "-no-reboot"]
        line += ["-drive", f"file={escaped(str(floppy))},format=raw,if=floppy,snapshot=on"]
        line += ["-device", "isa-debug-exit,iobase=0xf4"]
        try:
            return run.status(*line, timeout=seconds, bound=True) == _ENDED
        except CommandError as e:
            if e.returncode == 124:
                return False
            raise
