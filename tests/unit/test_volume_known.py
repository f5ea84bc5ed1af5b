# SPDX-License-Identifier: LGPL-2.1-or-later
"""The note of the volume on the root filesystem, and the word on the kernel command line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from persist.boot.config import Config
from persist.boot.facts import Facts
from persist.services import volume as volume_service
from persist.system import newmount
from persist.system.mountinfo import Mount
from persist.volume import mode, outcome
from persist.volume.find import remembered
from persist.volume.find.decision import Known
from persist.volume.mount import taken_over
from persist.volume.outcome import Outcome

UUID = "11111111-1111-4111-8111-11111111abcd"
OTHER = "22222222-2222-4222-8222-222222222222"


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the note is, on a root of our own; the mount is not copied, which needs root."""
    monkeypatch.setattr(remembered, "ROOT", str(tmp_path))
    monkeypatch.setattr(newmount, "clone", lambda source: os.open(source, os.O_PATH))
    (tmp_path / "var").mkdir()
    return tmp_path / "var/lib/persist/known-volume"


def test_path() -> None:
    assert remembered.PATH == "/var/lib/persist/known-volume"


def test_note_and_read(note: Path) -> None:
    assert remembered.read() == ""
    old = os.umask(0o077)
    try:
        remembered.note(UUID.upper())
    finally:
        os.umask(old)
    assert remembered.read() == UUID
    assert note.read_text() == f"{UUID}\n" and stat.S_IMODE(note.stat().st_mode) == 0o644
    assert os.listdir(note.parent) == ["known-volume"]


def test_written_only_when_different(note: Path) -> None:
    remembered.note(UUID)
    before = note.stat()
    remembered.note(UUID)
    assert (note.stat().st_ino, note.stat().st_mtime_ns, note.parent.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        note.parent.stat().st_mtime_ns,
    )
    remembered.note(OTHER)
    assert remembered.read() == OTHER and note.stat().st_ino != before.st_ino, "another file takes its place"


@pytest.mark.parametrize(
    "text", ["", "\n", "garbage", UUID[:-1], f"{UUID}x", f"{UUID}\n{OTHER}\n", "\udcff" * 36]
)
def test_bad_note(note: Path, text: str) -> None:
    note.parent.mkdir(parents=True)
    note.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert remembered.read() == ""
    remembered.note(OTHER)
    assert remembered.read() == OTHER


@pytest.mark.parametrize("link", ["var", "var/lib", "var/lib/persist"])
def test_links_are_not_followed(note: Path, tmp_path: Path, link: str) -> None:
    remembered.note(UUID)
    (tmp_path / link).rename(tmp_path / "elsewhere")
    (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    assert remembered.read() == ""
    with pytest.raises(OSError):
        remembered.note(OTHER)
    assert next((tmp_path / "elsewhere").rglob("known-volume")).read_text() == f"{UUID}\n"


def test_note_that_is_a_link(note: Path, tmp_path: Path) -> None:
    note.parent.mkdir(parents=True)
    (tmp_path / "other").write_text(f"{UUID}\n")
    note.symlink_to(tmp_path / "other")
    assert remembered.read() == ""
    remembered.note(OTHER)
    assert not note.is_symlink() and (tmp_path / "other").read_text() == f"{UUID}\n"


def test_no_fifo_stops_us(note: Path) -> None:
    note.parent.mkdir(parents=True)
    os.mkfifo(note)
    assert remembered.read() == ""


@pytest.mark.parametrize(
    ("cmdline", "word"),
    [
        ("", ""),
        ("quiet", ""),
        ("persist", ""),
        ("persist=", ""),
        ("persist=on", ""),
        ("persist=off", ""),
        ("persist=volatile", "volatile"),
        ("persist=ro", ""),
        ("persist=Off", "Off"),
        ("persist=ro persist=on", ""),
        ("persist=on persist=of", "of"),
        ("persist.volume=x", ""),
        ("xpersist=ro", ""),
    ],
)
def test_volatile_word(cmdline: str, word: str) -> None:
    facts = Facts()
    facts.cmdline = cmdline
    assert mode.volatile_word(facts) == word


@pytest.mark.parametrize(
    ("cmdline", "ro"),
    [
        ("", False),
        ("ro", False),
        ("persist=ro", True),
        ("persist=off persist=ro", True),
        ("persist=ro persist=on", False),
    ],
)
def test_read_only(cmdline: str, ro: bool) -> None:
    facts = Facts()
    facts.cmdline = cmdline
    assert mode.read_only(facts) == ro


def test_the_word_is_said() -> None:
    assert mode.explain("volatile")[0] == "persist=volatile is on the kernel command line."
    for word in ("RO", "of"):
        message, hint = mode.explain(word)
        assert (
            message.startswith(f"persist={word} is")
            and "treats as persist=volatile" in message
            and "volatile" in hint
        )


def test_a_volume_that_is_no_btrfs_is_not_forgotten(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run of the service takes over what is mounted. Only btrfs tells its id then; an empty one
    would have replaced the note."""
    remembered.note(UUID)
    monkeypatch.setattr(outcome, "read", lambda: Outcome(kind="native", device="/dev/vdb", uuid=UUID))
    result = Outcome()
    taken_over.keep(
        Config(),
        Facts(),
        Known(),
        result,
        Mount(1, 1, "254:16", "/", "/run/persist/volume", "rw", "ext4", "/dev/vdb", "rw"),
    )
    assert (result.kind, result.uuid) == ("native", UUID)
    volume_service._note_known(result)
    assert remembered.read() == UUID and note.exists()
    volume_service._note_known(Outcome(kind="native"))
    assert remembered.read() == UUID
