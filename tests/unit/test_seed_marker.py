# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether an entry is seeded: whatever the volume has in the place of its marker, no link is followed and no
pipe waited for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from persist.entries import stores
from persist.errors import PersistError
from persist.system.safepath import Dir

from .test_seed_basic import Rig

GOOD = {"version": 1, "method": "overlay"}


def place(top: Path, data: bytes) -> Path:
    """A marker of /srv with this content."""
    file = top / ".persist/seed/srv.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    return file


def seeded(top: Path, name: str = "srv") -> bool:
    with Dir.at(str(top)) as volume:
        return stores.seeded(volume, name)


@pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root")
@pytest.mark.parametrize("method", ["bind", "overlay", "symlink"])
def test_what_seeding_wrote(tmp_path: Path, method: str) -> None:
    rig = Rig(tmp_path)
    rig.put("/srv/my-data/f")
    rig.seed("/srv/my-data", method)
    assert seeded(rig.volume, r"srv-my\x2ddata")


def test_nothing_there(tmp_path: Path) -> None:
    assert not seeded(tmp_path)
    place(tmp_path, json.dumps(GOOD).encode())
    assert seeded(tmp_path) and not seeded(tmp_path, "var")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[1]",
        b"3",
        b"[" * 60_000,
        b'{"version": 2, "method": "bind"}',
        b'{"method": "bind"}',
        pytest.param(b" " * 100_000 + b'{"version": 1}', id="huge"),
    ],
)
def test_what_is_no_marker(tmp_path: Path, data: bytes) -> None:
    place(tmp_path, data)
    with pytest.raises(PersistError, match="is not a marker of persist"):
        seeded(tmp_path)


@pytest.mark.parametrize("where", [".persist", ".persist/seed", ".persist/seed/srv.json"])
def test_links_are_not_followed(tmp_path: Path, where: str) -> None:
    place(tmp_path, json.dumps(GOOD).encode())
    (tmp_path / where).rename(tmp_path / "elsewhere")
    (tmp_path / where).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PersistError, match="symbolic link"):
        seeded(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    file = place(tmp_path, b"")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(PersistError, match="not a regular file"):
        seeded(tmp_path)
    file.unlink()
    file.mkdir()
    with pytest.raises(PersistError, match="not a regular file"):
        seeded(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root")
@pytest.mark.parametrize(
    ("before", "now"),
    [("overlay", "bind"), ("overlay", "symlink"), ("bind", "overlay"), ("symlink", "overlay")],
)
def test_what_was_kept_in_another_place_is_not_passed_over(tmp_path: Path, before: str, now: str) -> None:
    """After a changed Method= there may be something at the new place, the way to another entry for one; what
    is kept lies elsewhere."""
    rig = Rig(tmp_path)
    rig.put("/srv/data/f")
    rig.seed("/srv/data", before)
    (rig.volume / "srv/data").mkdir(parents=True, exist_ok=True)
    for part in ("upper", "work"):
        (rig.volume / ".persist/overlay/srv-data" / part).mkdir(parents=True, exist_ok=True)
    with Dir.at(str(rig.volume)) as volume:
        stores.note(volume, "/srv/data", "srv-data", before, str(tmp_path))
        with pytest.raises(
            PersistError, match=f"seeded for Method={before}, and its entry now says Method={now}"
        ) as e:
            stores.note(volume, "/srv/data", "srv-data", now, str(tmp_path))
    assert f"Method={before}" in e.value.hint
