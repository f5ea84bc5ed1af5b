# SPDX-License-Identifier: LGPL-2.1-or-later
"""UUIDs as text in lower case. uuid(3) and what it loads take 5 ms of each process, for these few lines."""

from __future__ import annotations

import os
import re

PATTERN = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def valid(text: str) -> bool:
    """Whether a text is a UUID as we write it."""
    return re.fullmatch(PATTERN, text) is not None


def new() -> str:
    """A random one (RFC 4122, version 4)."""
    number = int.from_bytes(os.urandom(16), "big")
    number = number & ~(0xF000 << 64 | 0xC << 60) | 0x4000 << 64 | 0x8 << 60
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def beside(text: str, number: int) -> str:
    """One of 15 that belong to a random one: it differs in the last digit. ``number`` is 1 to 15."""
    return f"{text[:-1]}{int(text[-1], 16) ^ number:x}"
