# SPDX-License-Identifier: LGPL-2.1-or-later
"""Units that no file of an image is, and that are there when it runs: others make them from fstab, crypttab
and init scripts, or PID 1 does by itself."""

from __future__ import annotations

from persist.boot.ini import words
from persist.boot.load import Loaded
from persist.boot.paths import escape
from persist.foresee.image import Image

_BY_ITSELF = (".device", ".slice")  # of what udev sees, and of what is put there


def is_made(unit: str, loaded: Loaded, image: Image) -> bool:
    """Whether a unit is made when the image boots (systemd-fstab-generator(8),
    systemd-cryptsetup-generator(8), systemd-sysv-generator(8), persist)."""
    if unit in loaded.plan.files or unit == "-.mount" or unit.endswith(_BY_ITSELF):
        return True
    if unit.endswith((".mount", ".swap")):
        return any(line.unit() == unit for line in loaded.facts.lines)
    stem = unit.removesuffix(".service")
    if stem == unit:
        return False
    if stem.startswith("systemd-cryptsetup@"):
        opened = [
            fields[0]
            for fields in (words(line) for _, line in image.lines("/etc/crypttab"))
            if len(fields) > 1 and not fields[0].startswith("#")
        ]
        return stem.partition("@")[2] in [escape("/" + name) for name in opened]
    return "/" not in stem and image.kind_behind(f"/etc/init.d/{stem}") == "file"
