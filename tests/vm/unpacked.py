# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel that is not compressed: to unpack one takes software emulation seconds of each boot."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

from . import chroot

# Documentation/arch/x86/boot.rst: the number of sectors before the kernel proper; where in that the packed
# kernel begins, and how long it is, with four bytes at its end that are no part of it.
SETUP_SECTORS, PAYLOAD = 0x1F1, 0x248
XZ, ZSTD, ELF = b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\x7fELF"


def kernel(tree: Path, name: str) -> bytes:
    """The kernel in /boot of TREE as an ELF file, which QEMU starts by its entry for PVH; BuildError."""
    image = (tree / "boot" / name).read_bytes()
    offset, length = struct.unpack_from("<II", image, PAYLOAD)
    begin = (image[SETUP_SECTORS] + 1) * 512 + offset
    packed = image[begin : begin + length - 4]
    if packed.startswith(XZ):
        found = lzma.decompress(packed)
    elif packed.startswith(ZSTD):
        # Python of Debian 12 does not know it, and the host may not have it.
        (tree / "boot/packed").write_bytes(packed)
        chroot.run(tree, "zstd --quiet --decompress --force /boot/packed -o /boot/unpacked")
        found = (tree / "boot/unpacked").read_bytes()
        for path in ("packed", "unpacked"):
            (tree / "boot" / path).unlink()
    else:
        raise chroot.BuildError(f"{name} is compressed in a way that nothing here knows: {packed[:6]!r}")
    if not found.startswith(ELF):
        raise chroot.BuildError(f"what was compressed in {name} is no ELF file")
    return found
