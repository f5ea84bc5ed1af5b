# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths that somebody else mounts in a way that does not keep them: the verdict will believe what is
mounted."""

from __future__ import annotations

from collections.abc import Iterator

from persist.boot import paths
from persist.boot.ini import WARNING, Problem, words
from persist.boot.load import Loaded
from persist.foresee.image import Image
from persist.system.mountinfo import MEMORY


def _mounted_by(loaded: Loaded, image: Image, path: str) -> tuple[str, list[str]]:
    """Type and options of what fstab, or a unit that is shipped, mounts on a path; '' and none where neither
    says."""
    file, _, wanted = loaded.facts.fstab.get(path, "").rpartition(":")
    if file:
        line = next((text for number, text in image.lines(file) if str(number) == wanted), "")
        fields = words(line)
        return (fields[2] if len(fields) > 2 else ""), (fields[3].split(",") if len(fields) > 3 else [])
    unit = loaded.facts.shipped.get(f"{paths.escape(path)}.mount", "")
    says = dict(text.split("=", 1) for _, text in image.lines(unit) if "=" in text) if unit else {}
    return says.get("Type", ""), says.get("Options", "").split(",")


def check(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """Each entry whose path somebody else mounts so that it is not kept."""
    for out in loaded.plan.outside:
        if out.state != "elsewhere" or out.entry.method in ("tmpfs", "image"):
            continue
        fstype, options = _mounted_by(loaded, image, out.real)
        how = (
            f"a {fstype}, which is lost at power-off"
            if fstype in MEMORY
            else "it read-only"
            if "ro" in options
            else "it only when it is asked to (noauto)"
            if "noauto" in options
            else ""
        )
        if how:
            yield Problem(
                WARNING,
                out.entry.source,
                f"{out.entry.path} is not kept: {out.why.removesuffix(' it')} {how}. Remove that mount, "
                "or take the path "
                "out with Method=none in a file that sorts first.",
                out.entry.path,
            )
