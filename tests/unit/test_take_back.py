# SPDX-License-Identifier: LGPL-2.1-or-later
"""A link into the volume that a program has replaced by a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from persist.entries.take_back import TakeBack
from persist.errors import PersistError
from persist.seed.copy import Source, copy
from persist.seed.steps import STEPS
from persist.seed.tree import Progress
from persist.system.safepath import Dir

from .test_seed_basic import QUIET, Rig
from .test_seed_cuts import killed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root")
KEY = "/etc/ssh/key"


def replaced(top: Path, *, seeded: bool = True) -> Rig:
    """A machine on which ssh-keygen -A has been."""
    top.mkdir(exist_ok=True)
    rig = Rig(top)
    (rig.root / "etc/ssh").mkdir(parents=True)
    if seeded:
        rig.put(KEY, "old").chmod(0o600)
    rig.seed(KEY, "symlink", type="file")
    link = rig.root / KEY[1:]
    assert link.is_symlink()
    rig.put(f"{KEY}.new", "new").chmod(0o640)
    os.chown(f"{link}.new", 7, 8)
    os.rename(f"{link}.new", link)
    return rig


def back(rig: Rig, copying: Callable[..., object] = copy) -> str:
    """What is said."""
    note = TakeBack(KEY, QUIET, str(rig.root), str(rig.volume), copying).run()
    assert note is None or note.message_id == "LINK_TAKEN_BACK"
    return "" if note is None else note.message


def kept(rig: Rig) -> list[str]:
    """What was there before."""
    at = rig.at("/.persist/replaced")
    return sorted(file.read_text() for file in at.iterdir()) if at.exists() else []


def whole(rig: Rig) -> None:
    """All is as it should be."""
    assert os.readlink(rig.root / KEY[1:]) == f"{rig.volume}{KEY}"
    st = rig.at(KEY).stat()
    assert (rig.at(KEY).read_text(), stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == ("new", 0o640, 7, 8)
    assert sorted(os.listdir(rig.root / "etc/ssh")) in (["key"], ["key", "key.persist-orig"])
    assert rig.leftovers() == []


@pytest.mark.parametrize("seeded", [True, False])
def test_the_file_goes_to_the_volume(tmp_path: Path, seeded: bool) -> None:
    rig = replaced(tmp_path, seeded=seeded)
    said = back(rig)
    whole(rig)
    assert kept(rig) == (["old"] if seeded else []) and (".persist/replaced/etc-ssh-key." in said) == seeded
    assert back(rig) == "", "once"


def test_cut_after_each_step(tmp_path: Path) -> None:
    cuts = 0
    for name in STEPS:
        rig = replaced(tmp_path / name)
        if not killed(lambda rig=rig: back(rig), name):  # type: ignore[misc]
            continue
        cuts += 1
        contents = {p.read_text() for top in (rig.root, rig.volume) for p in top.rglob("*") if p.is_file()}
        assert {"old", "new"} <= contents, name
        back(rig)
        whole(rig)
        assert kept(rig) == ["old"], name
    assert cuts >= 6


def test_what_is_written_meanwhile_counts(tmp_path: Path) -> None:
    rig = replaced(tmp_path)
    done: list[int] = []

    def slow(source: Source, place: Dir, name: str, progress: Progress) -> object:
        found = copy(source, place, name, progress)
        if not done:
            done.append(1)
            (rig.root / KEY[1:]).write_text("newest")
        return found

    assert back(rig, slow)
    assert rig.at(KEY).read_text() == "newest" and kept(rig) == ["new", "old"]
    assert (rig.root / KEY[1:]).is_symlink()


@pytest.mark.parametrize("there", ["directory", "link", "nothing"])
def test_all_else_is_left_alone(tmp_path: Path, there: str) -> None:
    rig = replaced(tmp_path)
    path = rig.root / KEY[1:]
    path.unlink()
    if there == "directory":
        path.mkdir()
    elif there == "link":
        path.symlink_to("/elsewhere")
    assert back(rig) == "" and kept(rig) == [] and rig.at(KEY).read_text() == "old"
    assert path.is_dir() == (there == "directory") and path.is_symlink() == (there == "link")


def test_a_directory_on_the_volume_is_no_place_for_a_file(tmp_path: Path) -> None:
    rig = replaced(tmp_path)
    rig.at(KEY).unlink()
    rig.at(KEY).mkdir()
    with pytest.raises(PersistError, match="is not a file"):
        back(rig)
    assert (rig.root / KEY[1:]).read_text() == "new" and rig.at(KEY).is_dir()


def test_what_was_written_through_the_link_since_a_cut_stays(tmp_path: Path) -> None:
    rig = replaced(tmp_path)
    assert killed(lambda: back(rig), "taken-linked")
    (rig.root / KEY[1:]).write_text("newest")
    assert "an older one is" in back(rig)
    assert rig.at(KEY).read_text() == "newest" and kept(rig) == ["new", "old"]
    assert (rig.root / KEY[1:]).is_symlink() and rig.leftovers() == []


def test_a_file_that_a_program_writes_to_stays_until_shutdown(tmp_path: Path) -> None:
    """What it writes afterwards would be nowhere."""
    rig = replaced(tmp_path)
    path = rig.root / KEY[1:]
    with path.open("a") as f:
        with pytest.raises(PersistError, match="open for writing"):
            back(rig)
        assert path.read_text() == "new" and rig.at(KEY).read_text() == "old" and kept(rig) == []
        f.write("er")
        f.flush()
        assert TakeBack(KEY, QUIET, str(rig.root), str(rig.volume), last=True).run()
    assert path.is_symlink() and path.read_text() == "newer" and kept(rig) == ["old"]


def test_who_had_it_open_before_it_was_exchanged(tmp_path: Path) -> None:
    rig = replaced(tmp_path)
    path = rig.root / KEY[1:]
    opened = []

    def meanwhile(source: Source, place: Dir, name: str, progress: Progress) -> object:
        found = copy(source, place, name, progress)
        opened.append(path.open("a"))
        return found

    with pytest.raises(PersistError, match="open for writing"):
        back(rig, meanwhile)
    assert path.is_symlink() and path.read_text() == "new"
    opened[0].write("er")
    opened[0].close()
    assert back(rig)
    assert path.is_symlink() and path.read_text() == "newer" and kept(rig) == ["new", "old"]
    assert rig.leftovers() == [] and sorted(os.listdir(path.parent)) == ["key", "key.persist-orig"]


def test_not_all_that_was_ever_replaced_is_kept(tmp_path: Path) -> None:
    rig = replaced(tmp_path)
    assert back(rig)
    other = rig.at("/.persist/replaced/etc-ssh-key.7.1796130533296658130")
    other.write_text("other")
    for number in range(9):
        rig.put(f"{KEY}.new", str(number))
        os.rename(f"{rig.root}{KEY}.new", f"{rig.root}{KEY}")
        assert back(rig)
    assert kept(rig) == ["3", "4", "5", "6", "7", "other"] and rig.at(KEY).read_text() == "8"
