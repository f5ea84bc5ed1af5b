# SPDX-License-Identifier: LGPL-2.1-or-later
"""The unit that the stage before PID 1 leaves for the volume's swap space."""

from __future__ import annotations

from pathlib import Path

from persist.early import swap_unit


def test_a_unit_and_its_link(tmp_path: Path) -> None:
    for _ in range(2):
        swap_unit.leave("/dev/vdb1", str(tmp_path))
    text = (tmp_path / "dev-vdb1.swap").read_text(encoding="utf-8")
    assert "What=/dev/vdb1\n" in text and "DefaultDependencies=no" in text
    link = tmp_path / swap_unit.WANTS / "dev-vdb1.swap"
    assert link.is_symlink() and link.read_text(encoding="utf-8") == text


def test_a_node_in_a_directory(tmp_path: Path) -> None:
    swap_unit.leave("/dev/cciss/c0d0p1", str(tmp_path))
    assert (tmp_path / "dev-cciss-c0d0p1.swap").exists()
