# SPDX-License-Identifier: LGPL-2.1-or-later
"""Seeding with plain directories: sources, types, owners, adoption, links that a volume supplies."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from persist.boot.paths import escape
from persist.errors import PersistError
from persist.seed.request import Result, Roots, image_version
from persist.seed.seed import seed
from persist.seed.tree import Progress
from persist.system.safepath import Dir, LinkRefused

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root")
QUIET = Progress(lambda text: None)
ID, OTHER = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"


@dataclass
class Entry:
    """An entry as the registry has it."""

    path: str
    method: str = "bind"
    type: str = ""
    user: str = ""
    group: str = ""
    mode: str = ""
    seed_from: str = ""
    source: str = "/usr/lib/persist.d/test.conf:1"
    below_mount: bool = False
    snapshot: bool = True
    overlay_above: str = ""


class Rig:
    """A volume and a root below one directory; the image is the root itself unless ``image`` is given."""

    def __init__(self, top: Path, volume: Path | None = None, progress: Progress = QUIET) -> None:
        self.root, self.progress = top / "root", progress
        self.volume = volume or top / "volume"
        self.root.mkdir(mode=0o755, exist_ok=True)
        self.volume.mkdir(mode=0o755, exist_ok=True)
        self.roots = Roots(
            volume=str(self.volume),
            image=str(self.root),
            lower=str(self.root),
            root=str(self.root),
            image_version="7",
        )

    def seed(self, path: str, method: str = "bind", **more: Any) -> Result:
        """Seed an entry."""
        return seed(Entry(path, method, **more), self.roots, self.progress)

    def put(self, path: str, text: str = "") -> Path:
        """A file in the root."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def at(self, path: str) -> Path:
        """A path on the volume."""
        return self.volume / path.lstrip("/")

    def marker(self, path: str) -> dict[str, object] | None:
        """What the marker of an entry says."""
        file = self.volume / ".persist/seed" / (escape(path) + ".json")
        if not file.exists():
            return None
        record: dict[str, object] = json.loads(file.read_text())
        return record

    def leftovers(self) -> list[str]:
        """What is in the directory for temporary files."""
        return os.listdir(self.volume / ".persist/tmp")

    def notes(self, result: Result) -> list[str]:
        """The names of the messages that are to be logged."""
        return [n.message_id for n in result.notes]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_bind_copies_the_live_path_once(rig: Rig) -> None:
    rig.put("/var/lib/x/a", "one")
    os.chmod(rig.root / "var/lib", 0o751)
    os.chown(rig.root / "var/lib", 3, 4)
    result = rig.seed("/var/lib/x")
    assert (result.state, result.source, result.summary.files, result.summary.bytes) == (
        "seeded",
        "/var/lib/x",
        1,
        3,
    )
    parent = rig.at("/var/lib").stat()
    assert (stat.S_IMODE(parent.st_mode), parent.st_uid, parent.st_gid) == (0o751, 3, 4)
    marker = rig.marker("/var/lib/x")
    assert marker is not None and marker["image_version"] == "7" and marker["adopted"] is False
    listing = (rig.volume / ".persist/seed/var-lib-x.manifest").read_text().splitlines()
    assert [json.loads(line)[0] for line in listing] == ["", "a"]
    assert rig.leftovers() == []
    rig.put("/var/lib/x/a", "two")
    assert rig.seed("/var/lib/x").state == "present"
    assert rig.at("/var/lib/x/a").read_text() == "one"


def test_bind_of_a_file(rig: Rig) -> None:
    rig.put("/etc/adjtime", "x").chmod(0o640)
    rig.seed("/etc/adjtime", type="file", user="5", group="daemon")
    st = rig.at("/etc/adjtime").lstat()
    assert (st.st_size, stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (1, 0o640, 5, 1)
    assert stat.S_ISREG(st.st_mode)


def test_source_order(rig: Rig) -> None:
    rig.put("/usr/share/factory/x/f", "factory")
    (rig.root / "lib").symlink_to("/usr/share")  # absolute links of the root lead into the root
    (rig.root / "var/x").mkdir(parents=True)
    rig.seed("/var/x", seed_from="/lib/factory/x")
    assert rig.at("/var/x/f").read_text() == "factory"
    rig.put("/var/y/own", "live")
    assert rig.seed("/var/y", seed_from="/lib/factory/x").source == "/var/y"
    assert not rig.at("/var/y/f").exists()
    result = rig.seed("/var/z", seed_from="/nowhere")
    assert result.state == "empty" and rig.notes(result) == ["SEED_SOURCE_MISSING"] * 2


def test_image_is_the_last_source(rig: Rig, tmp_path: Path) -> None:
    image = tmp_path / "image"
    (image / "srv/x").mkdir(parents=True)
    (image / "srv/x/f").write_text("image")
    rig.roots = Roots(volume=str(rig.volume), image=str(image), lower=str(image), root=str(rig.root))
    assert rig.seed("/srv/x").source == "/srv/x of the image"
    assert rig.at("/srv/x/f").read_text() == "image"
    assert (rig.root / "srv/x").is_dir()


@pytest.mark.parametrize("kind", ["directory", "file", ""])
def test_missing_source(rig: Rig, kind: str) -> None:
    result = rig.seed("/opt/a/b", type=kind, user="2", mode="0710")
    assert result.state == "empty" and rig.notes(result) == ["SEED_SOURCE_MISSING"]
    st = rig.at("/opt/a/b").lstat()
    assert (st.st_uid, stat.S_IMODE(st.st_mode)) == (2, 0o710)
    assert stat.S_ISREG(st.st_mode) == (kind == "file") == (rig.root / "opt/a/b").is_file()
    assert rig.marker("/opt/a/b") is not None


def test_unknown_user(rig: Rig) -> None:
    rig.put("/srv/f")
    with pytest.raises(PersistError, match="nobody-of-that-name.*sysusers") as caught:
        rig.seed("/srv", user="nobody-of-that-name")
    assert caught.value.message_id == "SEED_FAILED" and caught.value.fields["PERSIST_PATH"] == "/srv"
    assert rig.marker("/srv") is None and not rig.at("/srv").exists() and rig.leftovers() == []


@pytest.mark.parametrize(("kind", "wrong"), [("file", "directory"), ("directory", "file")])
def test_wrong_type(rig: Rig, kind: str, wrong: str) -> None:
    (rig.root / "x").mkdir() if wrong == "directory" else rig.put("/x")
    with pytest.raises(PersistError, match=f"is a {wrong}"):
        rig.seed("/x", type=kind)
    assert rig.marker("/x") is None


def test_adoption_never_touches_content(rig: Rig) -> None:
    rig.put("/srv/f", "image")
    rig.put("/srv/g", "image")
    rig.at("/srv").mkdir(mode=0o700)
    rig.at("/srv/f").write_text("mine")
    result = rig.seed("/srv", mode="0755")
    assert result.state == "adopted" and rig.notes(result) == ["ENTRY_ADOPTED"]
    assert os.listdir(rig.at("/srv")) == ["f"] and rig.at("/srv/f").read_text() == "mine"
    assert stat.S_IMODE(rig.at("/srv").stat().st_mode) == 0o700
    assert (rig.marker("/srv") or {})["adopted"] is True


def test_parents_are_not_content(rig: Rig) -> None:
    """What was made to hold another entry is not what its parent entry adopts."""
    rig.put("/var/lib/a/f", "a")
    rig.put("/var/lib/b/f", "b")
    rig.seed("/var/lib/a")
    with pytest.raises(PersistError, match="holds only /var/lib/a"):
        rig.seed("/var/lib")
    assert rig.at("/var/lib/a/f").read_text() == "a" and rig.marker("/var/lib") is None
    rig.put("/opt/b/f", "b")
    rig.at("/opt/c").mkdir(parents=True)
    assert rig.seed("/opt").state == "seeded"
    assert os.listdir(rig.at("/opt")) == ["b"]


def test_adopted_type_must_fit(rig: Rig) -> None:
    rig.put("/srv/f")
    rig.at("/srv").write_text("a file")
    with pytest.raises(PersistError, match="is a file, and '/srv' is a directory"):
        rig.seed("/srv")
    assert rig.at("/srv").read_text() == "a file"


@pytest.mark.parametrize(
    "where",
    [
        "var",
        "var/lib",
        "var/lib/x",
        ".persist",
        ".persist/seed",
        ".persist/tmp",
        ".persist/overlay",
        ".persist/tmp/var-lib-x",
        ".persist/seed/var-lib-x.json",
    ],
)
def test_links_on_the_volume_are_refused(rig: Rig, tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    rig.put("/var/lib/x/f")
    link = rig.volume / where
    for up in reversed(link.relative_to(rig.volume).parents):
        (rig.volume / up).mkdir(exist_ok=True, mode=0o700)
    link.symlink_to(outside)
    with pytest.raises(PersistError, match="symbolic link"):
        rig.seed("/var/lib/x")
    assert os.listdir(outside) == [] and link.is_symlink()


@pytest.mark.parametrize("part", ["", "/upper", "/work"])
def test_links_in_an_overlay_are_refused(rig: Rig, tmp_path: Path, part: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    rig.put("/etc/f")
    for name in (".persist", ".persist/overlay"):
        (rig.volume / name).mkdir(mode=0o700)
    if part:
        (rig.volume / ".persist/overlay/etc").mkdir()
    (rig.volume / f".persist/overlay/etc{part}").symlink_to(outside)
    with pytest.raises(LinkRefused):
        rig.seed("/etc", "overlay")
    assert os.listdir(outside) == [] and rig.marker("/etc") is None


def test_store_that_others_may_write_is_refused(rig: Rig) -> None:
    (rig.volume / ".persist").mkdir()
    os.chown(rig.volume / ".persist", 1000, 0)
    rig.put("/srv/f")
    with pytest.raises(PersistError, match="written by others"):
        rig.seed("/srv")


def test_bad_marker(rig: Rig) -> None:
    rig.seed("/srv")
    (rig.volume / ".persist/seed/srv.json").write_text("{")
    with pytest.raises(PersistError, match="not a marker"):
        rig.seed("/srv")


def test_overlay_is_empty_and_looks_like_the_image(rig: Rig) -> None:
    rig.put("/var/f", "image")
    os.chown(rig.root / "var", 0, 8)
    os.chmod(rig.root / "var", 0o2775)
    rig.seed("/var", "overlay")
    upper = rig.volume / ".persist/overlay/var/upper"
    assert os.listdir(upper) == [] and os.listdir(upper.parent / "work") == []
    assert (stat.S_IMODE(upper.stat().st_mode), upper.stat().st_gid) == (0o2775, 8)
    (upper / "kept").touch()
    (rig.volume / ".persist/seed/var.json").unlink()
    os.rmdir(upper.parent / "work")
    assert rig.seed("/var", "overlay").state == "adopted"
    assert os.listdir(upper) == ["kept"] and (upper.parent / "work").is_dir()


def test_overlay_over_content_that_is_not_the_image(rig: Rig, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    rig.roots = Roots(volume=str(rig.volume), image=str(image), lower=str(image), root=str(rig.root))
    rig.put("/data/f")
    with pytest.raises(PersistError, match="would hide"):
        rig.seed("/data", "overlay")
    assert rig.seed("/data/g", "overlay").state == "seeded" and (image / "data/g").is_dir()


@pytest.fixture
def below(rig: Rig, tmp_path: Path) -> Rig:
    """Something on a filesystem that is mounted at /data, and something else that it hides."""
    image = tmp_path / "image"
    (image / "data/x").mkdir(parents=True)
    (image / "data/x/hidden").write_text("image")
    rig.roots = Roots(volume=str(rig.volume), image=str(image), lower=str(image), root=str(rig.root))
    rig.put("/data/x/f", "live")
    os.chown(rig.root / "data", 0, 6)
    os.chown(rig.root / "data/x", 5, 8)
    os.chmod(rig.root / "data/x", 0o2770)
    return rig


def test_overlay_below_a_mount(below: Rig) -> None:
    assert below.seed("/data/x", "overlay", below_mount=True).state == "seeded"
    upper = (below.volume / ".persist/overlay/data-x/upper").stat()
    assert (stat.S_IMODE(upper.st_mode), upper.st_uid, upper.st_gid) == (0o2770, 5, 8)
    result = below.seed("/data/new", "overlay", below_mount=True)
    assert result.state == "seeded" and below.notes(result) == ["SEED_SOURCE_MISSING"]
    assert (below.root / "data/new").is_dir() and not (Path(below.roots.image) / "data/new").exists()
    below.put("/data/file")
    with pytest.raises(PersistError, match="'/data/file' is not a directory, and"):
        below.seed("/data/file", "overlay", below_mount=True)


def test_what_a_mount_hides_is_no_source(below: Rig) -> None:
    below.seed("/data/x", below_mount=True)
    assert os.listdir(below.at("/data/x")) == ["f"] and below.at("/data").stat().st_gid == 6
    (Path(below.roots.image) / "data/y").mkdir()
    (Path(below.roots.image) / "data/y/hidden").touch()
    assert below.seed("/data/y", below_mount=True).state == "empty"
    assert os.listdir(below.at("/data/y")) == []


@pytest.mark.parametrize("method", ["overlay", "bind"])
def test_no_machine_id_but_the_images(rig: Rig, method: str) -> None:
    """PID 1 writes its own, once /etc is there for it to look at."""
    rig.put("/etc/machine-id", "uninitialized\n")
    rig.put("/run/machine-id", ID + "\n")
    assert rig.notes(rig.seed("/etc", method)) == []
    kept = rig.volume / (".persist/overlay/etc/upper" if method == "overlay" else "etc") / "machine-id"
    assert not kept.exists() if method == "overlay" else kept.read_text() == "uninitialized\n"


def test_image_version(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert image_version(str(tmp_path)) == ""
    (tmp_path / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    assert image_version(str(tmp_path)) == "12"
    (tmp_path / "etc/os-release").write_text("IMAGE_VERSION='2026.1'\nVERSION_ID=12\n")
    assert image_version(str(tmp_path)) == "2026.1"


def test_dir_names_the_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").symlink_to("/usr")
    with Dir.at(str(tmp_path)) as top:
        with pytest.raises(LinkRefused, match="a/b' is a symbolic link to '/usr'"):
            top.sub("a/b/c")
        with pytest.raises(ValueError):
            top.sub("a/../..")
