# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl seal: filesystems and files that stand in the way of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.seal.engine import Seal
from persist.seal.opened import open_tree
from persist.system.mountinfo import mounts
from tests.unit.seal_tree import ID, MadeUp, as_lines, no_way_back

from .seal_rig import AS_ROOT, LIST, SEAL_JSON, full, sh

pytestmark = AS_ROOT


@pytest.mark.parametrize(
    ("flag", "at"),
    [("i", "/etc/key"), ("a", "/etc/key"), ("i", "/etc/d"), ("i", "/srv/t/u/f"), ("i", "/srv/t/u")],
)
@pytest.mark.parametrize("action", ["remove", "truncate"])
def test_immutable(on_disk: MadeUp, flag: str, at: str, action: str) -> None:
    for path in ("/etc/key", "/etc/d/key", "/srv/t/u/f"):
        on_disk.put(path)
    on_disk.section(
        "/etc/key /etc/d/key /srv/t/u/f" if action == "truncate" else "/etc/key /etc/d/key /srv/t", action
    )
    sh('chattr +"$1" "$2"', flag, on_disk.at(at))
    result = on_disk.seal(mounts=mounts())
    sh('chattr -"$1" "$2"', flag, on_disk.at(at))
    if action == "truncate" and at in ("/etc/d", "/srv/t/u"):
        assert result.sealed, "the directory is not changed"
    else:
        assert len(result.errors) == 1 and not result.touched
        assert f"chattr -{flag}" in result.errors[0]


def test_read_only(on_disk: MadeUp) -> None:
    full(on_disk)
    sh('mount -o remount,ro,bind "$1"', on_disk.root)
    result = on_disk.seal(mounts=mounts())
    assert not result.touched
    assert any(
        "'/etc/machine-id': its filesystem is read-only: mount it with 'rw'." in e for e in result.errors
    )
    assert any("var' is read-only" in e for e in result.errors)
    sh('mount -o remount,rw,bind "$1"', on_disk.root)
    assert on_disk.seal(mounts=mounts()).sealed


def test_a_full_disk(on_disk: MadeUp) -> None:
    """Without room for the list of what the clone makes nothing is wiped that it is for."""
    on_disk.put("/etc/key", "secret")
    on_disk.section("/etc/key", "remove", more="Regenerate=ssh-keygen -A")
    on_disk.section("/var/cache/*", "remove", cls="cache", more="")
    on_disk.at("/var/cache").mkdir()
    fill = on_disk.at("/fill")
    sh('cat /dev/zero > "$1" 2>/dev/null || while echo >> "$1" 2>/dev/null; do :; done', fill)
    result = on_disk.seal(mounts=mounts())
    assert not result.sealed and len(result.failures) == 1 and "No space left" in result.failures[0]
    assert on_disk.text("/etc/key") == "secret" and not on_disk.has(SEAL_JSON)
    # Logs and caches go first, and make room.
    fill.rename(on_disk.at("/var/cache/fill"))
    assert on_disk.seal(mounts=mounts()).sealed
    assert not on_disk.has("/etc/key") and on_disk.has(LIST)


def test_a_pipe_and_a_socket_are_not_opened(made: MadeUp) -> None:
    os.mkfifo(made.at("/var/log/pipe"))
    os.mkfifo(made.at("/etc/machine-id-pipe"))
    os.mknod(made.at("/var/log/null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    made.section("/var/log/*", "truncate", cls="log")
    made.section("/etc/*-pipe", "remove")
    assert made.seal().sealed
    assert made.has("/var/log/pipe") and made.has("/var/log/null") and not made.has("/etc/machine-id-pipe")


def test_an_overlay_over_an_image(tmp_path: Path, mounted: Callable[..., Path]) -> None:
    """What is unlinked in it stays in the image below, behind a whiteout."""
    lower = MadeUp(tmp_path / "lower")
    lower.put("/etc/ssh/host_key")
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    words = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    top = mounted(tmp_path / "merged", "-t", "overlay", "-o", words, "overlay")
    (top / "usr/lib/persist/identity.d/t.conf").write_text(
        "[Identity]\nPath=/etc/ssh/host_key /etc/own\nAction=remove\nRegeneratedBy=none\n"
    )
    (top / "etc/own").write_text("x")
    with open_tree(str(top)) as tree:
        result = Seal(tree, (), mounts(), no_way_back, as_lines).first_pass()
    assert sorted(e.partition(":")[0] for e in result.errors) == ["'/etc/machine-id'", "'/etc/ssh/host_key'"]
    assert all(f"an overlay shows it from '{tmp_path}/lower'" in e for e in result.errors)
    # Copied up, the old content is still below.
    (top / "etc/machine-id").write_text("another\n")
    with open_tree(str(top)) as tree:
        assert len(Seal(tree, (), mounts(), no_way_back, as_lines).first_pass().errors) == 2


def test_filesystems_of_the_image_are_sealed(
    on_disk: MadeUp, tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    image = tmp_path / "var"
    sh('truncate -s 16M "$1"; mkfs.ext4 -q -O ^has_journal "$1"', image)
    mounted(on_disk.at("/srv"), "-o", "loop", image)
    on_disk.put("/srv/key")
    on_disk.section("/srv/key", "remove")
    result = on_disk.seal(mounts=mounts())
    assert result.sealed and not on_disk.has("/srv/key")
    assert len(result.notes) == 1 and result.notes[0].startswith("'/srv' is a filesystem of its own")


def test_memory_over_the_machine_id(made: MadeUp, mounted: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "id").write_text("transient\n")
    sh('mount --bind "$1" "$2"', tmp_path / "id", made.at("/etc/machine-id"))
    try:
        result = made.seal(mounts=mounts())
    finally:
        sh('umount "$1"', made.at("/etc/machine-id"))
    assert any("'/etc/machine-id' is a mount of" in e and "Unmount it." in e for e in result.errors)
    assert (tmp_path / "id").read_text() == "transient\n" and made.text("/etc/machine-id") == f"{ID}\n"


def test_a_mount_that_nothing_asks_for_is_told(made: MadeUp, mounted: Callable[..., Path]) -> None:
    mounted(made.at("/srv"), "-t", "tmpfs", "none")
    mounted(made.at("/proc"), "-t", "proc", "none")
    result = made.seal(mounts=mounts())
    assert result.sealed and [note.partition(",")[0] for note in result.notes] == [
        "'/srv' is a mount of 'none'"
    ]


def test_a_store_that_others_may_write(made: MadeUp, tmp_path: Path) -> None:
    made.at("/var/lib/persist").mkdir(mode=0o777)
    made.at("/var/lib/persist").chmod(0o777)
    with pytest.raises(PersistError, match="may be written by others than root"):
        made.seal()
    made.at("/var/lib/persist").rmdir()
    (tmp_path / "outside").mkdir()
    made.link("/var/lib/persist", str(tmp_path / "outside"))
    with pytest.raises(PersistError, match="symbolic link"):
        made.seal()
    assert os.listdir(tmp_path / "outside") == []


def test_a_report_that_somebody_made(made: MadeUp) -> None:
    made.at("/var/lib/persist").mkdir()
    for text in (
        "[" * 100000,
        '{"items": 1}',
        '{"items": [{"source": 1, "patterns": [], "wiped": "x"}]}',
        "\xff",
    ):
        made.put(SEAL_JSON, text)
        assert made.seal().sealed
    made.at(SEAL_JSON).unlink()
    made.link(SEAL_JSON, "/etc/passwd")
    assert "is a symbolic link" in made.seal().failures[0]
    assert made.text("/etc/passwd").startswith("root:")
