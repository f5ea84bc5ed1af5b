# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshot=no on a real btrfs: the store of the entry is a subvolume, and nothing else is different."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from persist.boot import paths
from persist.entries import stores
from persist.entries.bring_up import bring_up
from persist.entries.take_back import TakeBack
from persist.errors import PersistError
from persist.seal.wipe import remove
from persist.seed.steps import STEPS
from persist.services import bind as bind_service
from persist.services import seed as seed_service
from persist.system.safepath import Dir
from persist.verdict import current
from persist.volume import outcome
from persist.volume.ondisk import store
from persist.volume.outcome import Outcome
from tests.unit.test_seed_basic import QUIET, Rig
from tests.unit.test_seed_cuts import killed, snapshot, tree

from .namespace import own_machine, registry, sh
from .test_seed_btrfs import btrfs, tool

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None, reason="root and mkfs.btrfs"
)
PATH = "/var/lib/x"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with btrfs(tmp_path, 256) as volume:
        made = Rig(tmp_path, volume)
        tree(made)
        top = made.root / PATH[1:]
        os.chown(top, 7, 8)
        top.chmod(0o2750)
        tool("setfacl", "-m", "u:5:rwx,d:u:6:rx", top)
        os.setxattr(top, "user.colour", b"blue")
        os.utime(top, ns=(5, 7_000_000_008))
        yield made


def place(rig: Rig, method: str) -> Path:
    """Where the entry has its store."""
    return rig.at("/.persist/overlay/var-lib-x" if method == "overlay" else PATH)


def look(top: Path) -> tuple[object, ...]:
    """What a directory is like."""
    st = top.stat()
    attributes = {n: os.getxattr(top, n) for n in os.listxattr(top)}
    return st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, attributes


@pytest.mark.parametrize("method", ["bind", "symlink", "overlay"])
def test_snapshots_leave_it_out(rig: Rig, method: str) -> None:
    before, was = look(rig.root / PATH[1:]), snapshot(rig.root / PATH[1:])
    assert rig.seed(PATH, method, snapshot=False).state == "seeded"
    at = place(rig, method)
    assert at.stat().st_ino == 256 and rig.leftovers() == []
    assert look(at / "upper" if method == "overlay" else at) == before
    if method != "overlay":
        assert snapshot(at) == was
    tool("btrfs", "-q", "subvolume", "snapshot", "-r", rig.volume, rig.volume / "kept")
    assert os.listdir(rig.volume / "kept" / at.relative_to(rig.volume)) == []
    assert (rig.volume / "kept/.persist/seed/var-lib-x.json").exists()
    # Without it, it is as ever.
    assert rig.seed("/var/lib", method if method == "overlay" else "overlay").state == "seeded"
    assert rig.at("/.persist/overlay/var-lib").stat().st_ino != 256


@pytest.mark.parametrize("method", ["bind", "overlay"])
def test_nothing_to_copy(rig: Rig, method: str) -> None:
    rig.seed("/new", method, snapshot=False, user="3", mode="0700")
    at = rig.at("/.persist/overlay/new/upper" if method == "overlay" else "/new")
    assert (at.stat().st_uid, at.stat().st_mode & 0o7777) == (3, 0o700)
    assert (at.parent if method == "overlay" else at).stat().st_ino == 256


@pytest.mark.parametrize("method", ["bind", "overlay"])
def test_cut_after_each_step(tmp_path: Path, method: str) -> None:
    with btrfs(tmp_path, 512) as volume:
        cuts, expected = 0, None
        for name in ("whole", *STEPS):
            (volume / name).mkdir()
            (tmp_path / name).mkdir()
            cut = Rig(tmp_path / name, volume / name)
            tree(cut)
            if name != "whole":
                cuts += killed(lambda cut=cut: cut.seed(PATH, method, snapshot=False), name)  # type: ignore[misc]
            cut.seed(PATH, method, snapshot=False)
            assert place(cut, method).stat().st_ino == 256 and cut.leftovers() == []
            expected = expected or snapshot(cut.volume)
            assert snapshot(cut.volume) == expected, name
        assert cuts >= 8


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with btrfs(tmp_path, 120) as volume:
        rig = Rig(tmp_path, volume)
        tree(rig)
        large = rig.root / PATH[1:] / "large"
        large.write_bytes(os.urandom(150 << 20))
        with pytest.raises(PersistError):
            rig.seed(PATH, snapshot=False)
        assert rig.leftovers() == [] and not rig.at(PATH).exists()
        large.unlink()
        assert rig.seed(PATH, snapshot=False).state == "seeded"


def test_another_filesystem_has_a_directory(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    tree(rig)
    assert rig.seed(PATH, snapshot=False).state == "seeded"
    assert snapshot(rig.at(PATH)) == snapshot(rig.root / PATH[1:])


def test_what_is_there_is_not_converted(rig: Rig) -> None:
    rig.at(PATH).mkdir(parents=True)
    (rig.at(PATH) / "mine").touch()
    assert rig.seed(PATH, snapshot=False).state == "adopted"
    assert rig.at(PATH).stat().st_ino != 256 and (rig.at(PATH) / "mine").exists()


def test_below_the_subvolume_of_an_entry_that_is_gone(rig: Rig) -> None:
    """A directory is not renamed into another subvolume: EXDEV."""
    rig.seed("/var/lib", snapshot=False)
    rig.put("/var/lib/new/deep/f", "new")
    (rig.root / "var/lib/new").chmod(0o711)
    assert rig.seed("/var/lib/new/deep").state == "seeded"
    assert rig.at("/var/lib/new/deep/f").read_text() == "new"
    assert rig.at("/var/lib/new").stat().st_mode & 0o777 == 0o711


@own_machine
def test_it_is_mounted_and_the_verdict_knows_it() -> None:
    sh(
        "mkdir -p /run/persist/volume /srv/data /srv/over /srv/plain; echo image >/srv/data/f\n"
        "truncate -s 200M /run/disk; mkfs.btrfs -q /run/disk; mount -o loop /run/disk /run/persist/volume\n"
        "btrfs -q subvolume create /run/persist/volume/@persist-state; umount /run/persist/volume\n"
        "mount -o loop,subvol=@persist-state /run/disk /run/persist/volume; rm /run/disk\n"
        "umount /run/persist/private/lower; mount --rbind / /run/persist/private/lower"
    )
    store.make(paths.VOLUME)
    text = "".join(f"[Path]\nPath=/srv/{n}\nSnapshot=no\n%s" for n in ("data", "over", "plain"))
    os.makedirs(f"{paths.VOLUME}/srv/plain")
    text %= ("Method=bind\n", "", "Method=bind\n")
    loaded = registry(text)
    bring_up(loaded, Outcome("btrfs"), print)
    outcome.write(Outcome("btrfs"))
    for name in ("srv-data", "srv-over", "srv-plain"):
        assert seed_service.main(name) == 0
    assert bind_service.main("srv-data") == bind_service.main("srv-plain") == 0
    options = [x for x in loaded.plan.files["srv-over.mount"].splitlines() if x.startswith("Options=")]
    sh(f"mount -t overlay -o '{options[0].removeprefix('Options=')}' overlay /srv/over")
    for _ in range(2):
        found, _ = current.current({})  # the tests may run in a container
        assert [(e.path, e.state, e.reason) for e in found.entries] == [
            ("/srv/data", "mounted", ""),
            ("/srv/over", "mounted", ""),
            ("/srv/plain", "mounted", ""),
        ]
        assert [n.path for n in found.notices] == ["/srv/plain"]
        assert "Snapshot=no in its entry has no effect" in found.notices[0].message
        sh("umount /srv/data /srv/plain")
        stores.clear()
        assert bring_up(registry(text), Outcome("btrfs"), print) == []


@pytest.mark.parametrize("method", ["bind", "symlink"])
def test_a_file_below_the_subvolume_of_an_entry_that_is_gone(tmp_path: Path, method: str) -> None:
    cuts = 0
    with btrfs(tmp_path, 256) as volume:
        for name in ("whole", *STEPS):
            (volume / name).mkdir()
            (tmp_path / name).mkdir()
            cut = Rig(tmp_path / name, volume / name)
            cut.put("/var/lib/old")
            cut.seed("/var/lib", snapshot=False)
            cut.put("/var/lib/new/f", "new").chmod(0o640)
            seed = partial(cut.seed, "/var/lib/new/f", method, type="file")
            cuts += name != "whole" and killed(seed, name)
            seed()
            assert cut.at("/var/lib/new/f").read_text() == "new" and cut.leftovers() == []
            assert os.listdir(cut.at("/var/lib/new")) == ["f"], name
            assert (cut.marker("/var/lib/new/f") or {})["adopted"] is False, name
        assert cuts >= 9
        assert cut.seed("/var/lib/none", method, type="file").state == "empty"


def test_a_link_into_it_is_taken_back(tmp_path: Path) -> None:
    cuts = 0
    with btrfs(tmp_path, 256) as volume:
        for name in ("whole", *STEPS):
            (volume / name).mkdir()
            (tmp_path / name).mkdir()
            cut = Rig(tmp_path / name, volume / name)
            cut.put("/var/lib/old")
            cut.seed("/var/lib", snapshot=False)
            cut.at("/var/lib/key").write_text("old")
            cut.put("/var/lib/key", "new")
            back = TakeBack("/var/lib/key", QUIET, str(cut.root), str(cut.volume)).run
            cuts += name != "whole" and killed(back, name)
            kept = {p.read_text() for top in (cut.root, cut.volume) for p in top.rglob("*") if p.is_file()}
            assert {"old", "new"} <= kept, name
            back()
            assert os.readlink(cut.root / "var/lib/key") == str(cut.at("/var/lib/key"))
            assert cut.at("/var/lib/key").read_text() == "new" and cut.leftovers() == []
            assert {p.read_text() for p in cut.at("/.persist/replaced").iterdir()} == {"old"}
            assert sorted(os.listdir(cut.at("/var/lib"))) == ["key", "old"], name
        assert cuts >= 6


def test_what_a_cut_seed_has_left_is_removed_by_seal(rig: Rig) -> None:
    """rm(1) takes a subvolume for another filesystem."""
    assert killed(lambda: rig.seed(PATH, snapshot=False), "copied")
    assert rig.leftovers() == ["var-lib-x"]
    tool("btrfs", "-q", "subvolume", "create", rig.at("/.persist/tmp/var-lib-x/tree/inner"))
    rig.at("/.persist/tmp/var-lib-x/tree/inner/f").touch()
    with Dir.at(str(rig.at("/.persist"))) as top, top.sub("tmp") as tmp:
        remove(tmp, "var-lib-x")
        assert os.listdir(tmp.proc()) == []
