# SPDX-License-Identifier: LGPL-2.1-or-later
"""Markers as those read them that only look: whatever the volume has there, cheaply."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from persist.state.marker import marker_method

from .test_seed_basic import Rig

GOOD = {"version": 1, "method": "overlay"}


def place(top: Path, data: bytes) -> Path:
    """A marker of /srv with this content."""
    file = top / ".persist/seed/srv.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    return file


@pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root")
@pytest.mark.parametrize("method", ["bind", "overlay", "symlink"])
def test_what_seeding_wrote(tmp_path: Path, method: str) -> None:
    rig = Rig(tmp_path)
    rig.put("/srv/my-data/f")
    rig.seed("/srv/my-data", method)
    assert marker_method(str(rig.volume), r"srv-my\x2ddata") == method


def test_nothing_there(tmp_path: Path) -> None:
    assert marker_method(str(tmp_path / "nowhere"), "srv") == ""
    assert marker_method(str(tmp_path), "srv") == ""
    place(tmp_path, json.dumps(GOOD).encode())
    assert marker_method(str(tmp_path), "srv") == "overlay"
    assert marker_method(str(tmp_path), "var") == "" and marker_method(str(tmp_path), "../seed/srv") == ""


@pytest.mark.parametrize("data", [
    b"", b"{", b"\xff", b"[1]", b"3", b"[" * 100_000, b'{"version": 2, "method": "bind"}', b'{"method": "bind"}',
    b'{"version": 1}', b'{"version": 1, "method": ["bind"]}',
])
def test_what_is_no_marker(tmp_path: Path, data: bytes) -> None:
    place(tmp_path, data)
    assert marker_method(str(tmp_path), "srv") == ""


@pytest.mark.parametrize("where", [".persist", ".persist/seed", ".persist/seed/srv.json"])
def test_links_are_not_followed(tmp_path: Path, where: str) -> None:
    place(tmp_path, json.dumps(GOOD).encode())
    (tmp_path / where).rename(tmp_path / "elsewhere")
    (tmp_path / where).symlink_to(tmp_path / "elsewhere")
    assert marker_method(str(tmp_path), "srv") == ""


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    file = place(tmp_path, b"")
    file.unlink()
    os.mkfifo(file)
    assert marker_method(str(tmp_path), "srv") == ""
    file.unlink()
    file.mkdir()
    assert marker_method(str(tmp_path), "srv") == ""


def test_it_costs_next_to_nothing() -> None:
    code = "import sys, persist.state.marker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).resolve().parents[2])
    assert {m for m in done.stdout.split() if m.startswith("persist")} == {"persist", "persist.state", "persist.state.marker"}
    assert not {"subprocess", "threading", "ctypes", "shutil", "dataclasses", "pwd"} & set(done.stdout.split())
