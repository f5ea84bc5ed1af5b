# SPDX-License-Identifier: LGPL-2.1-or-later
"""Seeding onto btrfs: what cp keeps, no space, read-only roots, overlays as the live root. Root, and a loop
device."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.seed.tree import Progress
from tests.unit.test_seed_basic import Rig
from tests.unit.test_seed_cuts import killed, snapshot

from .namespace import own_machine, sh

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None, reason="root and mkfs.btrfs"
)


def tool(*argv: str | Path) -> str:
    """Run a tool and return what it printed."""
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def mounted(*argv: str | Path) -> Iterator[Path]:
    """mount(8) for the time of a block; the last argument is the place."""
    place = Path(argv[-1])
    place.mkdir(parents=True, exist_ok=True)
    tool("mount", *argv)
    try:
        yield place
    finally:
        tool("umount", "-l", place)


@contextlib.contextmanager
def btrfs(top: Path, mib: int) -> Iterator[Path]:
    """A btrfs in a sparse file; loop device and mount go away whatever happens."""
    image = top / "disk"
    with image.open("wb") as f:
        f.truncate(mib << 20)
    tool("mkfs.btrfs", "-q", "-m", "single", image)
    loop = tool("losetup", "-f", "--show", image).strip()
    try:
        with mounted(loop, top / "volume") as place:
            yield place
    finally:
        tool("losetup", "-d", loop)
        image.unlink()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with btrfs(tmp_path, 256) as volume:
        yield Rig(tmp_path, volume)


HARD_NAMES = [
    "with space",
    "äöü 日本",
    "new\nline",
    "back\\slash",
    "-rf",
    "*",
    "%n$HOME",
    os.fsdecode(b"\xff\xfe"),
    "'\"",
    ".hidden",
]


def test_everything_that_belongs_to_a_file(rig: Rig) -> None:
    top = rig.root / "data"
    for name in HARD_NAMES:
        rig.put(f"/data/{name}/f", name.encode("utf-8", "replace").decode("utf-8", "replace"))
    rig.put("/data/acl").chmod(0o640)
    tool("setfacl", "-m", "u:5:rwx,g:6:r", top / "acl")
    (top / "acldir").mkdir()
    tool("setfacl", "-m", "u:5:rx,d:u:7:rwx", top / "acldir")
    rig.put("/data/attr")
    os.setxattr(top / "attr", "user.colour", b"blue\0\xff")
    os.setxattr(top / "attr", "trusted.secret", b"42")
    os.setxattr(top, "user.top", b"1")
    rig.put("/data/cap", "x").chmod(0o755)
    tool("setcap", "cap_net_raw+ep", top / "cap")
    rig.put("/data/link1", "linked")
    os.link(top / "link1", top / "acldir/link2")
    with (top / "sparse").open("wb") as f:
        f.truncate(64 << 20)
        f.seek(32 << 20)
        f.write(b"x" * 4096)
    rig.put("/data/suid", "x")
    os.chown(top / "suid", 11, 12)
    (top / "suid").chmod(0o6755)
    (top / "dangling").symlink_to("/nowhere/at/all")
    os.lchown(top / "dangling", 13, 14)
    os.mkfifo(top / "fifo", 0o620)
    os.mknod(top / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(top / "sock"))
    os.utime(top / "attr", ns=(1_111_111_111_123_456_789, 1_222_222_222_987_654_321))
    os.utime(top / "dangling", ns=(1, 1_000_000_001), follow_symlinks=False)
    os.utime(top / "acldir", ns=(5, 6_000_000_007))
    os.chown(top, 21, 22)
    os.utime(top, ns=(5, 7_000_000_008))

    result = rig.seed("/data")
    assert result.state == "seeded" and result.notes == []
    new = rig.at("/data")

    def all_of(base: Path) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for path in [base, *base.rglob("*")]:
            st = path.lstat()
            names = os.listxattr(path, follow_symlinks=False)
            attributes = {n: os.getxattr(path, n, follow_symlinks=False) for n in names}
            found[str(path.relative_to(base))] = (
                st.st_mode,
                st.st_uid,
                st.st_gid,
                st.st_mtime_ns,
                st.st_nlink if stat.S_ISREG(st.st_mode) else 0,
                st.st_rdev,
                attributes,
                st.st_size if stat.S_ISREG(st.st_mode) else 0,
            )
        return found

    assert all_of(new) == all_of(top)
    assert "system.posix_acl_default" in os.listxattr(new / "acldir")
    assert "cap_net_raw=ep" in tool("getcap", new / "cap")
    assert (new / "link1").stat().st_ino == (new / "acldir/link2").stat().st_ino
    assert (new / "sparse").stat().st_blocks * 512 < 1 << 20
    tool("diff", "-r", "--no-dereference", "--exclude=fifo", "--exclude=sock", "--exclude=null", top, new)


def test_lost_attributes_are_said(rig: Rig, tmp_path: Path) -> None:
    """A volume without user attributes gets the files, and the log says what it did not get."""
    with mounted("-t", "ramfs", "none", tmp_path / "plain") as plain:
        rig.put("/data/f", "x")
        os.setxattr(rig.root / "data/f", "user.colour", b"blue")
        small = Rig(tmp_path, plain)
        result = small.seed("/data")
        assert (plain / "data/f").read_text() == "x"
        assert [n.message for n in result.notes] == [
            "The state volume does not support some extended attributes of /data."
        ]


def test_upper_has_acl_and_attributes(rig: Rig) -> None:
    rig.put("/var/f")
    tool("setfacl", "-m", "u:5:rwx,d:u:6:rx", rig.root / "var")
    os.setxattr(rig.root / "var", "user.colour", b"blue")
    rig.seed("/var", "overlay")
    upper = rig.volume / ".persist/overlay/var/upper"
    assert {n: os.getxattr(upper, n) for n in os.listxattr(upper)} == {
        n: os.getxattr(rig.root / "var", n) for n in os.listxattr(rig.root / "var")
    }
    options = f"lowerdir={rig.root}/var,upperdir={upper},workdir={upper.parent}/work"
    options += ",index=off,metacopy=off,redirect_dir=nofollow,xino=off"
    with mounted("-t", "overlay", "-o", options, "overlay", rig.root / "var") as var:
        assert os.listdir(var) == ["f"]
        tool("touch", var / "new")
    assert "new" in os.listdir(upper)


def test_no_space(tmp_path: Path) -> None:
    """An entry that is too large costs no other entry."""
    with btrfs(tmp_path, 120) as volume:
        rig = Rig(tmp_path, volume)
        rig.put("/small/f", "x")
        (rig.root / "data").mkdir()
        (rig.root / "data/big").write_bytes(os.urandom(200 << 20))
        with pytest.raises(PersistError, match=r"no room for /data: 1 file, 200\.0 MiB.* free") as caught:
            rig.seed("/data")
        assert caught.value.message_id == "SEED_FAILED" and caught.value.hint
        assert rig.marker("/data") is None and not rig.at("/data").exists() and rig.leftovers() == []
        assert rig.seed("/small").state == "seeded"
        (rig.root / "data/big").unlink()
        assert rig.seed("/data").state == "seeded"


def _quota(volume: Path) -> None:
    tool("btrfs", "quota", "enable", volume)
    tool("btrfs", "qgroup", "limit", str(8 << 20), volume)


@pytest.mark.parametrize("limit", ["inodes", "quota"])
def test_no_space_that_was_not_foreseen(tmp_path: Path, limit: str) -> None:
    """The half copy goes away: what statfs(2) shows as free is not all that a copy needs."""
    with contextlib.ExitStack() as stack:
        if limit == "quota":
            volume = stack.enter_context(btrfs(tmp_path, 256))
            _quota(volume)
        else:
            volume = stack.enter_context(mounted("-t", "tmpfs", "-o", "nr_inodes=30", "none", tmp_path / "v"))
        rig = Rig(tmp_path, volume)
        for number in range(40):
            rig.put(f"/data/{number}").write_bytes(os.urandom(1 << 20))
        with pytest.raises(PersistError, match="no room for /data: 40 files") as caught:
            rig.seed("/data")
        assert caught.value.message_id == "SEED_FAILED" and caught.value.hint
        assert rig.marker("/data") is None and not rig.at("/data").exists() and rig.leftovers() == []


def _cp(script: str) -> None:
    """The cp(1) that is found first is this one; in a machine of its own."""
    sh("mount -t tmpfs none /usr/local/bin")
    cp = Path("/usr/local/bin/cp")
    cp.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    cp.chmod(0o755)


@own_machine
def test_progress_of_a_long_copy() -> None:
    said: list[str] = []
    rig = Rig(Path("/srv"), progress=Progress(said.append, first_look=0.0))
    rig.put("/data/f", "x" * 1000)
    _cp('/usr/bin/cp "$@"; exec sleep 1.5')
    assert rig.seed("/data").state == "seeded"
    assert said == ["Copying /data", "Copying /data: 1 of 1 files, 1000 bytes of 1000 bytes (99 %)"]


@own_machine
def test_a_copy_that_stands_still_ends() -> None:
    rig = Rig(Path("/srv"), progress=Progress(print, stalled=0.2, first_look=0.1))
    rig.put("/data/f", "text")
    _cp("exec sleep 1000")
    began = time.monotonic()
    with pytest.raises(PersistError, match="no progress") as caught:
        rig.seed("/data")
    assert caught.value.message_id == "SEED_FAILED" and "/data" in caught.value.message
    assert time.monotonic() - began < 60
    assert rig.leftovers() == []


def test_what_is_mounted_below_stays_out_but_subvolumes_come_along(tmp_path: Path) -> None:
    with btrfs(tmp_path, 256) as disk:
        (disk / "root").mkdir()
        (disk / "volume").mkdir()
        rig = Rig(disk)
        rig.put("/data/under/hidden", "image")
        tool("btrfs", "-q", "subvolume", "create", rig.root / "data/sub")
        rig.put("/data/sub/f", "in a subvolume")
        with mounted("-t", "tmpfs", "none", rig.root / "data/under") as under:
            (under / "volatile").touch()
            rig.seed("/data")
        assert os.listdir(rig.at("/data/under")) == ["hidden"]
        assert rig.at("/data/sub/f").read_text() == "in a subvolume"


@pytest.mark.parametrize("mib", [6, 9])
def test_no_reflinks_on_the_same_filesystem(tmp_path: Path, mib: int) -> None:
    """A symlink entry in the store of the root filesystem: the copy needs as much again."""
    with mounted("-t", "tmpfs", "-o", "size=16m", "none", tmp_path / "root"):
        rig = Rig(tmp_path, tmp_path / "root/store")
        rig.put("/data/f").write_bytes(b"x" * (mib << 20))
        if mib == 6:
            assert rig.seed("/data", "symlink").state == "seeded"
            return
        with pytest.raises(PersistError, match="has no room for /data") as caught:
            rig.seed("/data", "symlink")
        assert caught.value.message_id == "SEED_FAILED" and "exit status" not in str(caught.value)
        assert caught.value.__cause__ is None, "cp(1) must not have been tried"
        assert rig.leftovers() == [] and (rig.root / "data/f").is_file()


def test_reflinks_on_the_same_filesystem(tmp_path: Path) -> None:
    with btrfs(tmp_path, 256) as top:
        for name in ("root", "store"):
            tool("btrfs", "-q", "subvolume", "create", top / name)
        rig = Rig(top, top / "store")
        rig.put("/data/f").write_bytes(b"x" * (160 << 20))
        assert rig.seed("/data").state == "seeded"
        assert rig.at("/data/f").stat().st_size == 160 << 20


@pytest.mark.parametrize(
    ("method", "path", "hint"),
    [
        (
            "bind",
            "/new/dir",
            "cannot be made: Read-only file system.*Add '/new/dir' to the image, or keep one of its par",
        ),
        ("overlay", "/new/dir", "cannot be made: Read-only file system.*or use Method=bind"),
        (
            "symlink",
            "/there",
            "has to become a link.*Make it a link to '/run/persist/volume/there' in the image",
        ),
        ("symlink", "/new", "has to become a link.*in the image"),
    ],
)
def test_read_only_root(rig: Rig, method: str, path: str, hint: str) -> None:
    rig.put("/there/f", "x")
    before = snapshot(rig.root)
    with mounted("--bind", rig.root, rig.root):
        tool("mount", "-o", "remount,bind,ro", rig.root)
        with pytest.raises(PersistError, match=hint):
            rig.seed(path, method)
        assert rig.marker(path) is None
        assert rig.seed("/there").state == "seeded"
    assert rig.leftovers() == [] and snapshot(rig.root) == before


def test_read_only_volume(rig: Rig) -> None:
    rig.put("/srv/f")
    tool("mount", "-o", "remount,ro", rig.volume)
    with pytest.raises(PersistError, match="The state volume is read-only"):
        rig.seed("/srv")


@pytest.fixture
def merged(tmp_path: Path) -> Iterator[Rig]:
    """A root that is an overlay: its directories cannot be renamed (EXDEV)."""
    lower = tmp_path / "lower"
    (lower / "var/lib/x/d").mkdir(parents=True)
    (lower / "var/lib/x/d/f").write_text("content")
    os.chown(lower / "var/lib/x", 3, 3)
    for name in ("upper", "work", "root"):
        (tmp_path / name).mkdir()
    with mounted(
        "-t",
        "overlay",
        "-o",
        f"lowerdir={lower},upperdir={tmp_path}/upper,workdir={tmp_path}/work,redirect_dir=nofollow",
        "overlay",
        tmp_path / "root",
    ):
        yield Rig(tmp_path)


@pytest.mark.parametrize("step", ["", "placed", "link-aside-copied", "link-aside", "linked"])
def test_symlink_where_directories_cannot_be_renamed(merged: Rig, step: str) -> None:
    if step:
        assert killed(lambda: merged.seed("/var/lib/x", "symlink"), step)
    assert merged.seed("/var/lib/x", "symlink").state == "seeded"
    lib = merged.root / "var/lib"
    assert sorted(os.listdir(lib)) == ["x", "x.persist-orig"]
    assert os.readlink(lib / "x") == "/run/persist/volume/var/lib/x"
    assert (lib / "x.persist-orig/d/f").read_text() == merged.at("/var/lib/x/d/f").read_text() == "content"
    assert (lib / "x.persist-orig").stat().st_uid == 3


def test_nine_thousand_files(rig: Rig) -> None:
    for i in range(90):
        for j in range(100):
            rig.put(f"/data/{i}/{j}", f"{i} {j}")
    result = rig.seed("/data")
    assert result.summary.files == 9000
    assert len((rig.volume / ".persist/seed/data.manifest").read_text().splitlines()) == 9091
