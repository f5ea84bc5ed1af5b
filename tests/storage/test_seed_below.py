# SPDX-License-Identifier: LGPL-2.1-or-later
"""An overlay entry below an overlay that has kept things at its path until now: with real overlays on
btrfs, the machine shows the same before and after."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.boot.units import OVERLAY_OPTIONS
from persist.errors import PersistError
from persist.record import replace
from tests.unit.test_seed_basic import Rig
from tests.unit.test_seed_cuts import killed

from .test_seed_btrfs import btrfs, mounted, tool

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None, reason="root and mkfs.btrfs"
)


def view(top: Path) -> dict[str, tuple[object, ...]]:
    """All that a directory shows."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        st = path.lstat()
        text = path.read_text() if stat.S_ISREG(st.st_mode) else ""
        found[str(path.relative_to(top))] = (stat.filemode(st.st_mode), st.st_uid, text)
    return found


class Machine(Rig):
    """A root whose /etc is an overlay."""

    def __init__(self, top: Path, volume: Path) -> None:
        super().__init__(top, volume)
        self.image = top / "image"
        for name, text in {
            "ssh/key": "image",
            "ssh/config": "image",
            "ssh/d/f": "image",
            "ssh/e/g": "g",
        }.items():
            (self.image / "etc" / name).parent.mkdir(parents=True, exist_ok=True)
            (self.image / "etc" / name).write_text(text)
        (self.root / "etc").mkdir()
        self.roots = replace(self.roots, image=str(self.image), lower=str(self.image))
        self.seed("/etc", "overlay")

    def overlay(self, path: str, name: str) -> list[str]:
        """The arguments of the mount that the entry's unit makes."""
        at = f"{self.volume}/.persist/overlay/{name}"
        options = f"lowerdir={self.image}{path},upperdir={at}/upper,workdir={at}/work,{OVERLAY_OPTIONS}"
        return ["-t", "overlay", "-o", options, "overlay", f"{self.root}{path}"]

    def below(self, path: str = "/etc/ssh") -> dict[str, object]:
        """Seed an overlay there."""
        result = self.seed(path, "overlay", overlay_above="/etc")
        return {"state": result.state, "source": result.source, "notes": self.notes(result)}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with btrfs(tmp_path, 256) as volume:
        made = Machine(tmp_path, volume)
        with mounted(*made.overlay("/etc", "etc")):
            yield made


def changed(ssh: Path) -> None:
    """What a machine may do there."""
    (ssh / "key").write_text("mine")
    (ssh / "config").unlink()
    shutil.rmtree(ssh / "d")
    (ssh / "d").mkdir()
    (ssh / "d/new").write_text("new")
    shutil.rmtree(ssh / "e")
    (ssh / "more").mkdir(mode=0o700)
    (ssh / "more/x").write_text("x")
    os.chown(ssh / "more", 7, 7)
    tool("setfacl", "-m", "u:5:rwx", ssh / "key")
    ssh.chmod(0o750)


def anew(ssh: Path) -> None:
    """The whole directory was removed, and made anew: it is opaque."""
    shutil.rmtree(ssh)
    (ssh / "d").mkdir(parents=True)
    (ssh / "d/mine").write_text("mine")
    (ssh / "key").write_text("mine")


def emptied(ssh: Path) -> None:
    """Nothing was put there."""
    shutil.rmtree(ssh)
    ssh.mkdir()


@pytest.mark.parametrize("change", [changed, anew, emptied])
@pytest.mark.parametrize("cut", ["", "copied", "synced", "intent", "placed", "marker"])
def test_the_machine_shows_the_same(machine: Machine, change: object, cut: str) -> None:
    ssh = machine.root / "etc/ssh"
    change(ssh)  # type: ignore[operator]
    before = view(ssh)
    if cut:
        assert killed(machine.below, cut)
    state = "present" if cut == "marker" else "seeded"
    assert machine.below() == {"state": state, "source": "/etc/ssh as a part of /etc", "notes": []}
    assert view(ssh) == before, "it stays above, too"
    kept = machine.volume / ".persist/overlay/etc-ssh/upper"
    marks = {m for p in [kept, *kept.rglob("*")] for m in os.listxattr(p, follow_symlinks=False)}
    assert {m for m in marks if m.startswith("trusted.")} <= {"trusted.overlay.opaque"}
    with mounted(*machine.overlay("/etc/ssh", "etc-ssh")):
        assert view(ssh) == before
        (ssh / "later").write_text("later")
    assert (kept / "later").read_text() == "later" and view(ssh) == before


def test_what_is_as_in_the_image_begins_empty(machine: Machine) -> None:
    assert machine.below() == {"state": "seeded", "source": "", "notes": []}
    shutil.rmtree(machine.root / "etc/ssh/d")
    assert machine.below("/etc/ssh/d")["source"] == "", "what shows nothing is seeded from the image"
    with mounted(*machine.overlay("/etc/ssh/d", "etc-ssh-d")) as d:
        assert os.listdir(d) == ["f"]


def test_below_a_directory_that_was_made_anew(machine: Machine) -> None:
    anew(machine.root / "etc/ssh")
    assert machine.below("/etc/ssh/d")["source"] == "/etc/ssh/d as a part of /etc"
    with mounted(*machine.overlay("/etc/ssh/d", "etc-ssh-d")) as d:
        assert os.listdir(d) == ["mine"]


def test_a_directory_that_the_image_has_not(machine: Machine) -> None:
    new = machine.root / "etc/new"
    new.mkdir(mode=0o711)
    (new / "f").write_text("mine")
    before = view(new)
    assert machine.below("/etc/new")["notes"] == ["SEED_SOURCE_MISSING"]
    with mounted(*machine.overlay("/etc/new", "etc-new")):
        assert view(new) == before


@pytest.mark.parametrize("mark", ["redirect", "metacopy"])
@pytest.mark.parametrize("where", ["ssh", "ssh/d"])
def test_marks_that_lead_elsewhere_are_refused(machine: Machine, mark: str, where: str) -> None:
    upper = machine.volume / ".persist/overlay/etc/upper"
    (upper / "ssh/d").mkdir(parents=True)
    os.setxattr(upper / where, f"trusted.overlay.{mark}", b"/elsewhere")
    with pytest.raises(PersistError) as caught:
        machine.below()
    assert f"etc/upper/{where}' carries the mark trusted.overlay.{mark}" in caught.value.message
    assert caught.value.message_id == "SEED_FAILED" and caught.value.hint
    assert machine.marker("/etc/ssh") is None and machine.leftovers() == []
    assert not (machine.volume / ".persist/overlay/etc-ssh").exists()


def test_links_in_the_upper_are_not_followed(machine: Machine, tmp_path: Path) -> None:
    """Whoever could write into /etc has put one there."""
    (tmp_path / "secret/d").mkdir(parents=True)
    shutil.rmtree(machine.root / "etc/ssh")
    (machine.root / "etc/ssh").symlink_to(tmp_path / "secret")
    with pytest.raises(PersistError, match="symbolic link"):
        machine.below("/etc/ssh/d")
    with pytest.raises(PersistError, match="symbolic link"):
        machine.below("/etc/ssh")


def test_no_room_for_it(tmp_path: Path) -> None:
    """Nothing of it is left, and what was there is."""
    with btrfs(tmp_path, 256) as volume:
        small = Machine(tmp_path, volume)
        # Elsewhere, so that it is no reflink: as ext4 is.
        with (
            mounted(*small.overlay("/etc", "etc")),
            mounted("-t", "tmpfs", "-o", "size=64k", "none", tmp_path / "tiny") as tiny,
        ):
            shutil.copytree(volume / ".persist", tiny / ".persist")
            upper = tiny / ".persist/overlay/etc/upper/ssh"
            upper.mkdir()
            (upper / "big").write_bytes(b"x" * 40000)
            small.volume = tiny
            small.roots = replace(small.roots, volume=str(tiny))
            with pytest.raises(PersistError, match="no room for /etc/ssh as a part of /etc"):
                small.below()
            assert small.leftovers() == [] and small.marker("/etc/ssh") is None
