# SPDX-License-Identifier: LGPL-2.1-or-later
"""A volume that is no btrfs: with persist=ro not even its journal is played back."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from persist.boot.config import Config
from persist.volume.mount import native

from .conftest import Make
from .rig import tool
from .volumes import unmounted


def test_read_only_writes_nothing(make_disk: Make, tmp_path: Path) -> None:
    disk, cut = make_disk(320, b""), make_disk(320, b"")
    place = tmp_path / "place"
    place.mkdir()
    with unmounted(str(place)):
        tool("mkfs.ext4", "-q", disk.node)
        tool("mount", disk.node, place)
        (place / "file").write_text("kept")
        tool("sync", "--file-system", place / "file")
        tool("cp", "--sparse=always", disk.file, cut.file)  # as a power cut leaves it
        tool("umount", place)
        cut.replug()
        before = hashlib.sha256(cut.file.read_bytes()).digest()
        tool("mount", "-t", "ext4", "-o", native.options(Config(), "ext4", read_only=True), cut.node, place)
        flags = os.statvfs(place).f_flag
        tool("umount", place)
        assert hashlib.sha256(cut.file.read_bytes()).digest() == before
        assert flags & os.ST_NOSUID and flags & os.ST_NODEV
        # To be sure that there was something to play back.
        tool("mount", "-t", "ext4", "-o", "ro", cut.node, place)
        tool("umount", place)
        assert hashlib.sha256(cut.file.read_bytes()).digest() != before


def test_nothing_is_setuid_whatever_persist_conf_says(make_disk: Make, tmp_path: Path) -> None:
    """Options= of [Volume] is not the place: the entry that needs it says so."""
    disk = make_disk(320, b"")
    place = tmp_path / "place"
    place.mkdir()
    config = Config()
    config.options = "suid,dev,noexec"
    with unmounted(str(place)):
        tool("mkfs.ext4", "-q", disk.node)
        tool("mount", "-t", "ext4", "-o", native.options(config, "ext4"), disk.node, place)
        wanted = os.ST_NOSUID | os.ST_NOEXEC | os.ST_NODEV
        flags = os.statvfs(place).f_flag
        tool("umount", place)
        assert flags & wanted == wanted
