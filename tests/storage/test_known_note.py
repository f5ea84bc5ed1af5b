# SPDX-License-Identifier: LGPL-2.1-or-later
"""The note of the volume on the root filesystem, whatever lies in its place."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from persist import log
from persist.entries import set_up
from persist.system.mountinfo import Mount
from persist.volume import outcome
from persist.volume.find import remembered
from persist.volume.mount import taken_over
from persist.volume.outcome import Outcome

from .namespace import own_machine
from .own_root import own_root, upper_of

UUID = "11111111-1111-4111-8111-11111111abcd"
OTHER = "22222222-2222-4222-8222-222222222222"


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """Where the note is, on a root of our own."""
    if os.geteuid() != 0:
        pytest.skip("mounts need root")
    (tmp_path / "var").mkdir()
    return tmp_path / "var/lib/persist/known-volume"


def test_note_and_read(note: Path, tmp_path: Path) -> None:
    assert remembered.read(str(tmp_path)) == ""
    old = os.umask(0o077)
    try:
        remembered.note(UUID.upper(), str(tmp_path))
    finally:
        os.umask(old)
    assert remembered.read(str(tmp_path)) == UUID
    assert note.read_text() == f"{UUID}\n" and stat.S_IMODE(note.stat().st_mode) == 0o644
    assert os.listdir(note.parent) == ["known-volume"]


def test_written_only_when_different(note: Path, tmp_path: Path) -> None:
    remembered.note(UUID, str(tmp_path))
    before = note.stat()
    remembered.note(UUID, str(tmp_path))
    assert (note.stat().st_ino, note.stat().st_mtime_ns, note.parent.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        note.parent.stat().st_mtime_ns,
    )
    remembered.note(OTHER, str(tmp_path))
    assert remembered.read(str(tmp_path)) == OTHER and note.stat().st_ino != before.st_ino, (
        "another file takes its place"
    )


@pytest.mark.parametrize(
    "text", ["", "\n", "garbage", UUID[:-1], f"{UUID}x", f"{UUID}\n{OTHER}\n", "\udcff" * 36]
)
def test_bad_note(note: Path, tmp_path: Path, text: str) -> None:
    note.parent.mkdir(parents=True)
    note.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert remembered.read(str(tmp_path)) == ""
    remembered.note(OTHER, str(tmp_path))
    assert remembered.read(str(tmp_path)) == OTHER


@pytest.mark.parametrize("link", ["var", "var/lib", "var/lib/persist"])
def test_links_are_not_followed(note: Path, tmp_path: Path, link: str) -> None:
    remembered.note(UUID, str(tmp_path))
    (tmp_path / link).rename(tmp_path / "elsewhere")
    (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    assert remembered.read(str(tmp_path)) == ""
    with pytest.raises(OSError):
        remembered.note(OTHER, str(tmp_path))
    assert next((tmp_path / "elsewhere").rglob("known-volume")).read_text() == f"{UUID}\n"


def test_note_that_is_a_link(note: Path, tmp_path: Path) -> None:
    note.parent.mkdir(parents=True)
    (tmp_path / "other").write_text(f"{UUID}\n")
    note.symlink_to(tmp_path / "other")
    assert remembered.read(str(tmp_path)) == ""
    remembered.note(OTHER, str(tmp_path))
    assert not note.is_symlink() and (tmp_path / "other").read_text() == f"{UUID}\n"


def test_no_fifo_stops_us(note: Path, tmp_path: Path) -> None:
    note.parent.mkdir(parents=True)
    os.mkfifo(note)
    assert remembered.read(str(tmp_path)) == ""


def test_capitals(note: Path, tmp_path: Path) -> None:
    for uuid in (UUID, UUID.upper().replace("1", "A")):
        remembered.note(uuid, str(tmp_path))
        assert remembered.read(str(tmp_path)) == uuid.lower(), uuid


@own_machine
def test_a_volume_that_is_no_btrfs_is_not_forgotten(tmp_path: Path) -> None:
    """A second run of the service takes over what is mounted. Only btrfs tells its id then; an empty one
    would have replaced the note."""
    own_root(str(tmp_path))
    remembered.note(UUID)
    os.mkdir("/run/persist")
    outcome.write(Outcome(kind="native", device="/dev/vdb", uuid=UUID))
    at = Mount(1, 1, "254:16", "/", "/run/persist/volume", "rw", "ext4", "/dev/vdb", "rw")
    result = Outcome()
    taken_over.keep(result, at, log.say)
    assert (result.kind, result.uuid) == ("native", UUID)
    for found in (result, Outcome(kind="native")):
        assert set_up.note_known(found) is None
        assert remembered.read() == UUID and upper_of(tmp_path).joinpath("var/lib/persist").is_dir()
