# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small files, written so that no reader sees half of one, and what a file is."""

from __future__ import annotations

import os
import stat


def kind(mode: int) -> str:
    """What a mode of stat(2) says a file is, as messages and Type= have it."""
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISREG(mode):
        return "file"
    return "symbolic link" if stat.S_ISLNK(mode) else "device or pipe"


def write_atomically(path: str, text: str) -> None:
    """Write a small file so that a reader sees the old or the new one. Raises OSError."""
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(temporary, path)
