# SPDX-License-Identifier: LGPL-2.1-or-later
"""The marker that says of an entry that it was seeded. For readers too that look and do nothing: no heavy
imports."""

from __future__ import annotations

import json

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
LIMIT = 1 << 16  # bytes; ours have some hundred


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


def only_a_link(record: dict[str, Any]) -> bool:
    """Whether nothing was seeded but a link, through which a program is going to make the file."""
    return (
        record.get("method") == "symlink"
        and record.get("type") == "file"
        and not record.get("source")
        and not record.get("adopted")
    )
