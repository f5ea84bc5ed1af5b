# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which UEFI firmware this host has, by the descriptors that its packages install for whoever starts QEMU
(QEMU's docs/interop/firmware.json)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from persist.errors import PersistError
from persist.record import Record

DIRECTORIES = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")  # the first has precedence, by file name
_NOT_HERE = {"requires-smm", "secure-boot", "enrolled-keys"}


class Firmware(Record):
    """The program, and what the variables of a new machine are."""

    code: str
    variables: str


def from_descriptor(text: str) -> Firmware | None:
    """What one descriptor offers, None where it is not for such a machine as ours: x86_64, q35, in flash,
    without secure boot, which would need keys of the image."""
    try:
        found: Any = json.loads(text)
        mapping = found["mapping"]
        fits = (
            "uefi" in found["interface-types"]
            and mapping["device"] == "flash"
            and mapping.get("mode", "split") == "split"
            and not _NOT_HERE & set(found["features"])
            and any(
                t["architecture"] == "x86_64" and any(m.startswith("pc-q35-") for m in t["machines"])
                for t in found["targets"]
            )
        )
        parts = [mapping[part] for part in ("executable", "nvram-template")] if fits else []
        if not parts or any(part["format"] != "raw" for part in parts):
            return None
        return Firmware(*(str(part["filename"]) for part in parts))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # of a later form than this, or no descriptor


def choose(texts: Mapping[str, str], exists: Mapping[str, bool] | None = None) -> Firmware | None:
    """The first that fits, by name; of ``exists`` only those that are there."""
    for name in sorted(texts):
        found = from_descriptor(texts[name])
        if found and (exists is None or (exists.get(found.code) and exists.get(found.variables))):
            return found
    return None


def find(directories: Sequence[str] = DIRECTORIES) -> Firmware:
    """The firmware of this host. Raises PersistError where there is none."""
    texts: dict[str, str] = {}
    for directory in directories:
        for path in Path(directory).glob("*.json"):
            if path.name not in texts and path.is_file():
                texts[path.name] = path.read_text(encoding="utf-8", errors="replace")
    offered = [f for f in map(from_descriptor, texts.values()) if f]
    there = {p: os.access(p, os.R_OK) for f in offered for p in (f.code, f.variables)}
    found = choose(texts, there)
    if not found:
        raise PersistError(
            "No UEFI firmware for QEMU is installed (none without secure boot is described in "
            f"{' or '.join(directories)}).",
            hint="On Debian it is in the package ovmf.",
        )
    return found
