# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl register --finalise in odd images: links at its own places, lists that are none, registry files
in its way, several calls at once. No content is lost, and nothing is left out without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .test_finalise import LIST, image, persistctl, put, registry
from .test_seed_cuts import snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root")
TOP = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image(tmp_path / "image")


def test_the_factory_behind_a_link_stays_in_the_image(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "usr/share").mkdir()
    (root / "usr/share/factory").symlink_to(outside)
    put(root, "srv/a/x", "content")
    assert persistctl(root, "register", "--leave-symlink", "/srv/a") == 0
    assert persistctl(root, "register", "--finalise") == 0
    assert not any(outside.iterdir())
    assert (root / f"{str(outside)[1:]}/srv/a/x").read_text() == "content"
    before = snapshot(root)
    assert persistctl(root, "register", "--finalise") == 0 and snapshot(root) == before


def test_a_list_below_a_linked_var(root: Path) -> None:
    (root / "var").symlink_to("/data/var")
    (root / "data/var/lib").mkdir(parents=True)
    put(root, f"data/{LIST}", "/var/lib/app;\n")
    put(root, "data/var/lib/app/x", "content")
    assert persistctl(root, "register", "--finalise") == 0
    moved = "var/lib/use-ephemeral/data/var/lib/app"
    assert (root / "data" / moved / "x").read_text() == "content"
    assert f'SeedFrom="/{moved}"' in registry(root, "50-var-lib-app.conf")


@pytest.mark.parametrize("lines", ["/var/lib;", "/var/lib;true", "/var/lib/use-ephemeral;", "/var;"])
def test_a_place_in_what_is_moved(root: Path, lines: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, LIST, f"/srv/a;\n{lines}\n")
    put(root, "srv/a/x", "content")
    put(root, "var/lib/app/x", "content")
    before = snapshot(root)
    assert persistctl(root, "register", "--finalise") == 1
    assert "and nothing of that stays in the image" in capsys.readouterr().err
    assert snapshot(root) == before


def test_a_place_in_what_another_entry_makes_a_link(root: Path) -> None:
    put(root, LIST, "/srv/a;\n")
    put(root, "srv/a/x", "content")
    assert persistctl(root, "register", "--leave-symlink", "/var/lib") == 0
    before = snapshot(root)
    assert persistctl(root, "register", "--finalise") == 1 and snapshot(root) == before


def test_a_file_above_the_place(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, "usr/share/factory/srv", "")
    put(root, "etc/first/x", "")
    put(root, "srv/a/x", "")
    assert persistctl(root, "register", "--leave-symlink", "/etc/first", "/srv/a") == 0
    before = snapshot(root)
    assert persistctl(root, "register", "--finalise") == 1 and snapshot(root) == before
    assert "'/usr/share/factory/srv' is a file" in capsys.readouterr().err


def test_a_listed_directory_of_a_dynamic_user(root: Path) -> None:
    unit = "[Service]\nDynamicUser=yes\nStateDirectory=dyn\n"
    put(root, "usr/lib/systemd/system/dyn.service", unit)
    put(root, "var/lib/private/dyn/x", "content")
    put(root, LIST, "/var/lib/dyn;\n")
    for _ in range(2):
        assert persistctl(root, "register", "--finalise") == 0
        moved = "var/lib/use-ephemeral/var/lib/private/dyn"
        assert (root / moved / "x").read_text() == "content"
        assert f'SeedFrom="/{moved}"' in registry(root, "50-var-lib-private-dyn.conf")


@pytest.mark.parametrize("path", ["/srv/a", "/srv/a/"])
@pytest.mark.parametrize("how", ["listed", "link"])
def test_registered_again_the_seed_is_still_found(root: Path, path: str, how: str) -> None:
    put(root, "srv/a/x", "content")
    again = ["--leave-symlink", path] if how == "link" else [path]
    if how == "listed":
        put(root, LIST, "/srv/a;\n")
    else:
        assert persistctl(root, "register", *again) == 0
    assert persistctl(root, "register", "--finalise") == 0
    before = snapshot(root)
    assert persistctl(root, "register", *again) == 0
    assert snapshot(root) == before


def test_a_listed_path_whose_registry_file_was_taken_away(root: Path) -> None:
    put(root, "srv/a/x", "content")
    put(root, LIST, "/srv/a;\n")
    assert persistctl(root, "register", "--finalise") == 0
    before = snapshot(root)
    assert persistctl(root, "unregister", "/srv/a") == 0
    assert persistctl(root, "register", "--finalise") == 0 and snapshot(root) == before


@pytest.mark.parametrize("mask", ["none", "null"])
def test_a_file_of_that_name_in_etc_counts(root: Path, mask: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, "srv/a/x", "content")
    if mask == "none":
        put(root, "etc/persist.d/50-srv-a.conf", "[Path]\nPath=/srv/a\nMethod=none\n")
    else:
        (root / "etc/persist.d").mkdir()
        (root / "etc/persist.d/50-srv-a.conf").symlink_to("/dev/null")
    said = "/etc/persist.d/50-srv-a.conf stands in place of /usr/lib/persist.d/50-srv-a.conf: that counts"
    assert persistctl(root, "register", "/srv/a") == 0
    assert said in capsys.readouterr().err
    put(root, LIST, "/srv/a;\n")
    assert persistctl(root, "register", "--finalise") == 0
    assert said in capsys.readouterr().err
    assert (root / "srv/a/x").read_text() == "content"  # nothing would bring it back


@pytest.mark.parametrize("what", ["directory", "pipe", "long", "not UTF-8", "NUL"])
def test_a_list_that_is_none(root: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, LIST, "/srv/a\0;\n" if what == "NUL" else "/srv/some-path;\n" * 70000)
    if what == "not UTF-8":
        (root / LIST).write_bytes(b"/srv/a\xff;\n")
    elif what in ("directory", "pipe"):
        (root / LIST).unlink()
        os.mkfifo(root / LIST) if what == "pipe" else (root / LIST).mkdir()
    before = sorted(os.listdir((root / LIST).parent))
    for words in (("register", "--finalise"), ("register-state-path", "/srv/b")):
        assert persistctl(root, *words) == 1
        assert "/var/lib/use-ephemeral/stateful-paths" in capsys.readouterr().err
    assert sorted(os.listdir((root / LIST).parent)) == before and not (root / "usr/lib/persist.d").exists()


@pytest.mark.parametrize("how", ["registered", "listed"])
def test_a_path_with_a_link_above_it_is_finished_again(root: Path, how: str) -> None:
    put(root, "data/a/x", "content")
    (root / "srv").symlink_to("data")
    if how == "listed":
        put(root, LIST, "/srv/a;true\n")
    else:
        assert persistctl(root, "register", "--leave-symlink", "/srv/a") == 0
    assert persistctl(root, "register", "--finalise") == 0
    assert os.readlink(root / "data/a") == "/mnt/state/data/a"
    before = snapshot(root)
    assert persistctl(root, "register", "--finalise") == 0
    assert persistctl(root, "register", "--leave-symlink", "/srv/a") == 0
    assert snapshot(root) == before


def test_links_of_the_building_machine_are_none_of_the_image(root: Path, tmp_path: Path) -> None:
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine/a").symlink_to("/elsewhere")
    (root / "srv").symlink_to(tmp_path / "machine")
    assert persistctl(root, "register", "/srv/a") == 0


@pytest.mark.parametrize("method", ["overlay", "image"])
def test_what_is_shown_from_the_image_below_a_listed_path(
    root: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(root, "srv/a/b/x", "content")
    put(root, LIST, "/srv/a;\n")
    if method == "overlay":
        assert persistctl(root, "register", "--method=overlay", "/srv/a/b") == 0
    else:
        put(root, "usr/lib/persist.d/60-hole.conf", "[Path]\nPath=/srv/a/b\nMethod=image\n")
    before = snapshot(root)
    assert persistctl(root, "register", "--finalise") == 1 and snapshot(root) == before
    assert "shows '/srv/a/b' from the image" in capsys.readouterr().err


@pytest.mark.parametrize("top", ["usr", "etc"])
def test_a_registry_that_is_not_read_from_outside(
    root: Path, top: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(root, "srv/a/x", "content")
    (root / top).rename(root / "system")
    (root / top).symlink_to("/system")
    before = snapshot(root)
    assert persistctl(root, "register", "--finalise") == 1
    assert "/persist.d' is behind a symbolic link to an absolute path" in capsys.readouterr().err
    assert snapshot(root) == before
    (root / top).unlink()
    (root / top).symlink_to("system")
    assert persistctl(root, "register", "--leave-symlink", "/srv/a") == 0
    assert persistctl(root, "register", "--finalise") == 0
    assert os.readlink(root / "srv/a") == "/mnt/state/srv/a"


@pytest.mark.parametrize("first", ["listed", "link"])
def test_on_the_list_or_off_it_the_content_stays_together(root: Path, first: str) -> None:
    put(root, "srv/a/x", "content")
    if first == "listed":
        put(root, LIST, "/srv/a;true\n")
    else:
        assert persistctl(root, "register", "--leave-symlink", "/srv/a") == 0
    assert persistctl(root, "register", "--finalise") == 0
    if first == "listed":
        (root / LIST).unlink()
    else:
        put(root, LIST, "/srv/a;true\n")
    (root / "srv/a").unlink()
    put(root, "srv/a/y", "of a package")
    assert persistctl(root, "register", "--finalise") == 0
    seed = "var/lib/use-ephemeral/srv/a" if first == "listed" else "usr/share/factory/srv/a"
    assert f'SeedFrom="/{seed}"' in registry(root, "50-srv-a.conf")
    assert sorted(os.listdir(root / seed)) == ["x", "y"]


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_has_the_name_of_a_mount_point_in_the_making_stays(root: Path, kind: str) -> None:
    put(root, "srv/a/x", "content")
    put(root, LIST, "/srv/a;\n")
    theirs = root / "srv/a.persist-tmp"
    if kind == "link":
        theirs.symlink_to("a")
    else:
        put(root, "srv/a.persist-tmp" + ("/x" if kind == "directory" else ""), "theirs")
    assert persistctl(root, "register", "--finalise") == 1
    assert os.path.lexists(theirs / "x" if kind == "directory" else theirs)
    theirs.rename(root / "srv/moved")
    assert persistctl(root, "register", "--finalise") == 0
    assert (root / "var/lib/use-ephemeral/srv/a/x").read_text() == "content"
    assert not any((root / "srv/a").iterdir())


def test_what_register_was_told_of_a_listed_path_counts(root: Path) -> None:
    put(root, "srv/a/x", "content")
    put(root, LIST, "/srv/a;\n")
    for _ in range(2):
        assert persistctl(root, "register", "--mode=0700", "--services=a.service", "/srv/a") == 0
        assert persistctl(root, "register", "--finalise") == 0
        lines = registry(root, "50-srv-a.conf")
        assert "Mode=0700" in lines and "Services=a.service" in lines
        assert 'SeedFrom="/var/lib/use-ephemeral/srv/a"' in lines


def test_directories_are_open_whatever_the_umask(root: Path) -> None:
    before = os.umask(0o077)
    try:
        assert persistctl(root, "register", "--leave-symlink", "/opt/new/a") == 0
        assert persistctl(root, "register", "--finalise") == 0
        assert persistctl(root, "register-state-path", "/srv/b") == 0
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    for path in ("opt/new", "usr/lib/persist.d", "var/lib/use-ephemeral"):
        assert (root / path).stat().st_mode & 0o777 == 0o755, path


def test_unregistered_after_it_says_where_the_content_is(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(root, "srv/a/x", "content")
    assert persistctl(root, "register", "--leave-symlink", "/srv/a") == 0
    assert persistctl(root, "register", "--finalise") == 0
    assert persistctl(root, "unregister", "/srv/a") == 0
    assert "'/srv/a' is still in '/usr/share/factory/srv/a'" in capsys.readouterr().err


def _at_once(calls: list[list[str]], root: Path) -> list[int]:
    """Exit statuses of calls that all begin at once."""
    command = [sys.executable, str(TOP / "bin/persistctl")]
    environment = {**os.environ, "PERSIST_LIBRARY": str(TOP)}
    running = [
        subprocess.Popen(  # noqa: S603
            [*command, call[0], "--root", str(root), *call[1:]], env=environment, stdout=subprocess.DEVNULL
        )
        for call in calls
    ]
    return [each.wait() for each in running]


def test_several_calls_at_once(root: Path) -> None:
    names = [f"p{n}" for n in range(5)]
    assert _at_once([["register", f"/srv/{name}"] for name in names], root) == [0] * 5
    for name in names:
        assert f'Path="/srv/{name}"' in registry(root, f"50-srv-{name}.conf")
    assert _at_once([["register-state-path", f"/srv/{name}"] for name in names], root) == [0] * 5
    assert sorted((root / LIST).read_text().split()) == [f"/srv/{name};" for name in names]
    for name in names:
        put(root, f"srv/{name}", "content")
    assert _at_once([["register", "--finalise"]] * 3, root) == [0] * 3
    for name in names:
        assert (root / f"var/lib/use-ephemeral/srv/{name}").read_text() == "content"
