# SPDX-License-Identifier: LGPL-2.1-or-later
"""The marker that says of an entry that it was seeded. For readers too that look and do nothing: no heavy imports."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

VERSION = 1
_LIMIT = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def parse(data: bytes) -> dict[str, Any]:
    """The record in a marker's text. Raises ValueError when it is none, or of another version."""
    try:
        record = json.loads(data)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
    if not isinstance(record, dict):
        raise ValueError("not an object")
    if record.get("version") != VERSION:
        raise ValueError(f"version {record.get('version')!r}")
    return record


def _read(volume_root: str, name: str) -> bytes:
    """The text of a marker, no link below the volume followed. Raises OSError."""
    here = os.open(volume_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in (".persist", "seed"):
            deeper = os.open(part, _DIRECTORY, dir_fd=here)
            os.close(here)
            here = deeper
        fd = os.open(name + ".json", _FILE, dir_fd=here)
    finally:
        os.close(here)
    with open(fd, "rb") as f:
        return f.read(_LIMIT) if stat.S_ISREG(os.fstat(fd).st_mode) else b""


def marker_method(volume_root: str, name: str) -> str:
    """The Method= that the entry with this escaped name was seeded for, or '' where no marker can be read."""
    if "/" in name:
        return ""
    try:
        method = parse(_read(volume_root, name)).get("method")
    except (OSError, ValueError):
        return ""  # not seeded, or something else is there: the seed service says what
    return method if isinstance(method, str) else ""
