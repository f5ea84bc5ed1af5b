# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs in an image: its kernel's modules without compression and signatures, which software emulation would
undo and check at each boot."""

from __future__ import annotations

import lzma
from pathlib import Path

# What the kernel's scripts/sign-file.c puts behind a module: the signature, 12 bytes of which the last four
# are its length, and this.
END = b"~Module signature appended~\n"
HEAD = 12


def plain(data: bytes) -> bytes:
    """A module without its signature, if it has one."""
    if not data.endswith(END):
        return data
    end = len(data) - len(END)
    return data[: end - HEAD - int.from_bytes(data[end - 4 : end], "big")]


def main() -> None:
    """All modules of all kernels; depmod(8) has to come after it."""
    for path in list(Path("/usr/lib/modules").rglob("*.ko*")):
        data = path.read_bytes()
        if path.suffix == ".xz":
            data = lzma.decompress(data)
            path.unlink()
        path.with_name(path.name.removesuffix(".xz")).write_bytes(plain(data))


if __name__ == "__main__":
    main()
