# SPDX-License-Identifier: LGPL-2.1-or-later
"""What PID 1 must know of the mounts of a volume that comes with the network."""

from __future__ import annotations

from pathlib import Path

from persist.system import mountinfo
from persist.system.run import run
from persist.volume.mount import netdev


def test_netdev_is_noted(tmp_path: Path) -> None:
    """libmount has the word afterwards, from which PID 1 reads it, and the mount is as it was."""
    source, target = tmp_path / "a", tmp_path / "b c"
    source.mkdir()
    target.mkdir()
    run("mount", "--bind", str(source), str(target))
    try:
        run("mount", "-o", "remount,bind,nosuid", str(target))
        before = mountinfo.at(str(target))
        netdev.note(str(target))
        assert (
            mountinfo.at(str(target)) == before
            and before is not None
            and "nosuid" in before.options.split(",")
        )
        said = run("findmnt", "--mtab", "--noheadings", "--output", "OPTIONS", "--target", str(target))
        assert "_netdev" in said.strip().split(","), said
    finally:
        run("umount", str(target))
