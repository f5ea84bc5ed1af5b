# SPDX-License-Identifier: LGPL-2.1-or-later
"""The disk of the throw-away machine: a layer over SOURCE, and the image that is made of the two."""

from __future__ import annotations

import os
import time
from pathlib import Path

from persist.image.guest import Show
from persist.system import run

CLUSTER = 4096


def lay_over(source: str, form: str, overlay: Path) -> None:
    """A qcow2 file that takes all writes, over SOURCE, which is of the format ``form`` and is not asked.
    Raises CommandError."""
    # Only a whole cluster is discarded (tried, 7.2). In those of 64 KiB, the default, a deleted key would
    # stay beside its neighbours; a filesystem's blocks have 4 KiB.
    size = f"cluster_size={CLUSTER}"
    run.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", size, "-b", source, "-F", form, overlay)


def flatten(overlay: Path, whole: Path, show: Show) -> None:
    """The image without SOURCE below it, compressed, and on the disk. Raises CommandError, OSError."""
    since = time.monotonic()

    def tick() -> str:
        written = whole.stat().st_size >> 20 if whole.exists() else 0
        show(f"writing the image, {time.monotonic() - since:.0f} s: {written} MiB", False)
        return ""

    run.follow(
        "qemu-img", "convert", "-c", "-f", "qcow2", "-O", "qcow2", overlay, whole, tick=tick, bound=True
    )
    sync(whole)


def sync(path: Path) -> None:
    """What was written to a file, or the names in a directory, is on the disk afterwards. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
