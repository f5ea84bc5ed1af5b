# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl register --finalise and TripleO's register-state-path: images in directories, calls that are
killed, packages that come after."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from persist.cli.main import main
from persist.foresee.image import Image
from persist.register.finalise import STEPS, finalise

from .test_seed_cuts import killed, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root")

LIST = "var/lib/use-ephemeral/stateful-paths"


def image(top: Path) -> Path:
    """An image in which persist is switched on."""
    put(top, "usr/lib/systemd/system/persist-setup.target", "[Unit]\n")
    put(top, "usr/lib/systemd/system/local-fs.target", "[Unit]\n")
    wants = top / "etc/systemd/system/local-fs.target.wants"
    wants.mkdir(parents=True)
    (wants / "persist-setup.target").symlink_to("/usr/lib/systemd/system/persist-setup.target")
    (top / "mnt/state").mkdir(parents=True)
    return top


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image(tmp_path / "image")


def put(top: Path, name: str, text: str, mode: int = 0o644, owner: int = 0) -> None:
    path = top / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    os.chown(path, owner, owner)


def service(top: Path) -> None:
    """A directory with an owner of its own, and a file."""
    put(top, "var/lib/app/db/one", "1", 0o600, 1234)
    (top / "var/lib/app").chmod(0o2750)
    os.chown(top / "var/lib/app", 1234, 1234)
    put(top, "etc/app.conf", "option\n", 0o640)


def persistctl(root: Path, *arguments: str) -> int:
    return main([arguments[0], "--root", str(root), *arguments[1:]])


def registry(root: Path, name: str) -> list[str]:
    return (root / "usr/lib/persist.d" / name).read_text().split("\n")


def test_the_content_goes_and_links_stay(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service(root)
    assert (
        persistctl(root, "register", "--leave-symlink", "/var/lib/app", "/etc/app.conf", "/var/log/none") == 0
    )
    assert (root / "var/lib/app/db/one").exists()  # nothing is moved yet
    capsys.readouterr()
    assert persistctl(root, "register", "--finalise") == 0
    assert capsys.readouterr().out.split() == ["/etc/app.conf", "/var/lib/app", "/var/log/none"]
    for path in ("/etc/app.conf", "/var/lib/app", "/var/log/none"):
        assert os.readlink(f"{root}{path}") == f"/mnt/state{path}"
    moved = root / "usr/share/factory/var/lib/app"
    assert (moved / "db/one").read_text() == "1" and (moved / "db/one").stat().st_uid == 1234
    assert stat.S_IMODE(moved.stat().st_mode) == 0o2750 and moved.stat().st_gid == 1234
    assert 'SeedFrom="/usr/share/factory/var/lib/app"' in registry(root, "50-var-lib-app.conf")
    assert not any("SeedFrom" in line for line in registry(root, "50-var-log-none.conf"))
    assert persistctl(root, "verify") == 0
    before = snapshot(root)
    capsys.readouterr()
    assert persistctl(root, "register", "--finalise", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"action": "finalise", "paths": [], "notes": []}
    assert snapshot(root) == before


def test_nothing_to_finish(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert persistctl(root, "register", "/var/lib/bound") == 0
    before = snapshot(root)
    assert persistctl(root, "register", "--finalise") == 0
    assert snapshot(root) == before
    assert persistctl(root, "register") == 1 and "no path to register" in capsys.readouterr().err
    assert persistctl(root, "register", "--finalise", "/srv/a") == 1


@pytest.mark.parametrize("obstacle", ["factory", "pipe", "foreign link", "registry of a package"])
def test_all_is_looked_at_before_anything_moves(
    root: Path, obstacle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service(root)
    assert persistctl(root, "register", "--leave-symlink", "/var/lib/app", "/var/lib/zzz") == 0
    if obstacle == "factory":
        put(root, "usr/share/factory/var/lib/zzz/theirs", "")
        put(root, "var/lib/zzz/ours", "")
    elif obstacle == "pipe":
        os.mkfifo(root / "var/lib/zzz")
    elif obstacle == "foreign link":
        (root / "var/lib/zzz").symlink_to("/srv")
    else:
        put(root, "var/lib/theirs/x", "")
        put(root, "usr/lib/persist.d/theirs.conf", "[Path]\nPath=/var/lib/theirs\nMethod=symlink\n")
    before = snapshot(root)
    assert persistctl(root, "register", "--finalise") == 1
    assert snapshot(root) == before
    words = {
        "factory": "'/usr/share/factory/var/lib/zzz', and something is there already",
        "pipe": "'/var/lib/zzz' is neither a directory nor a regular file",
        "foreign link": "'/var/lib/zzz' is a symbolic link to '/srv', which is not ours",
        "registry of a package": "/usr/lib/persist.d/theirs.conf:2 does not say where its seed",
    }
    assert words[obstacle] in capsys.readouterr().err


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("what", ["new", "replaced", "listed"])
def test_killed_at_each_step_the_next_call_completes_it(
    root: Path, tmp_path: Path, step: str, what: str
) -> None:
    def scene(top: Path) -> None:
        service(top)
        if what == "listed":
            put(top, LIST, "/var/lib/app;\n/etc/app.conf;true\n")
            return
        assert persistctl(top, "register", "--leave-symlink", "/var/lib/app", "/etc/app.conf") == 0
        if what == "replaced":
            finalise(Image(str(top)))
            (top / "var/lib/app").unlink()
            put(top, "var/lib/app/db/two", "2", 0o600, 1234)
            put(top, "var/lib/app/db/one", "newer", 0o600, 1234)
            os.chown(top / "var/lib/app/db", 0, 0)

    other = tmp_path / "whole"
    os.system(f"cp -a '{root}' '{other}'")  # noqa: S605
    scene(root)
    scene(other)
    finalise(Image(str(other)))
    wanted = snapshot(other)
    was_killed = killed(lambda: finalise(Image(str(root))), step)
    # Within one filesystem nothing is copied where it can be renamed, and nothing is emptied.
    assert was_killed == (step not in (("moved",) if what == "replaced" else ("copied", "emptied")))
    finalise(Image(str(root)))
    assert snapshot(root) == wanted
    assert finalise(Image(str(root))) == ([], [])


def test_what_a_package_has_put_in_the_place_of_a_link(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service(root)
    assert persistctl(root, "register", "--leave-symlink", "/var/lib/app") == 0
    assert persistctl(root, "register", "--finalise") == 0
    (root / "var/lib/app").unlink()
    put(root, "var/lib/app/db/two", "2")
    put(root, "var/lib/app/db/one", "newer")
    assert persistctl(root, "verify") == 1
    out = capsys.readouterr().out
    assert (
        "/var/lib/app is a directory and not a link to the volume, though its content was moved to "
        "/usr/share/factory/var/lib/app"
        in out
        and f"'persistctl register --root={root} --finalise'" in out
    )
    assert persistctl(root, "register", "--finalise") == 0
    moved = root / "usr/share/factory/var/lib/app"
    assert [p.read_text() for p in (moved / "db/one", moved / "db/two")] == ["newer", "2"]
    assert os.readlink(root / "var/lib/app") == "/mnt/state/var/lib/app"
    assert persistctl(root, "verify") == 0


def test_registered_again_after_it(root: Path) -> None:
    service(root)
    for _ in range(2):
        assert persistctl(root, "register", "--leave-symlink", "--mode=0700", "/var/lib/app") == 0
        assert persistctl(root, "register", "--finalise") == 0
        lines = registry(root, "50-var-lib-app.conf")
        assert 'SeedFrom="/usr/share/factory/var/lib/app"' in lines and "Mode=0700" in lines


def test_an_entry_below_a_link_that_was_left_is_kept_as_before(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(root, "data/a/b/x", "content")
    (root / "srv").symlink_to("data")
    assert persistctl(root, "register", "--leave-symlink", "/srv/a/b", "/srv/a") == 0
    for _ in range(2):
        assert persistctl(root, "register", "--finalise") == 0
        capsys.readouterr()
        assert persistctl(root, "verify") == 0
        assert "Will not keep /srv/a/b (/data/a/b): /data/a above it keeps it already" in (
            capsys.readouterr().out
        )
    assert (root / "usr/share/factory/data/a/b/x").read_text() == "content"


def test_directories_with_names_of_units_are_none(root: Path) -> None:
    (root / "usr/lib/systemd/system/odd.service").mkdir()
    assert persistctl(root, "register", "/srv/a") == 0
    (root / "srv/a").mkdir(parents=True)
    assert persistctl(root, "verify") == 0


# -- TripleO's


def test_register_state_path(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert persistctl(root, "register-state-path", "/var/lib/app/") == 0
    assert persistctl(root, "register-state-path", "--leave-symlink", "/etc/app.conf") == 0
    assert persistctl(root, "register-state-path", "/srv/a b") == 0
    assert (root / LIST).read_text() == "/var/lib/app;\n/etc/app.conf;true\n/srv/a b;\n"
    capsys.readouterr()
    assert persistctl(root, "register-state-path", "/srv/a b") == 0 and capsys.readouterr().out == ""
    assert persistctl(root, "register-state-path", "--leave-symlink", "/srv/a b") == 0
    assert (root / LIST).read_text() == "/var/lib/app;\n/etc/app.conf;true\n/srv/a b;true\n"
    for path in ("relative", "/srv/a;b", "/usr/bin", "/etc/shadow", "/a\nb"):
        assert persistctl(root, "register-state-path", path) == 1, path
    assert (root / LIST).read_text().count("\n") == 3


def test_the_list_becomes_registry_files(root: Path) -> None:
    service(root)
    put(root, LIST, "/var/lib/app\n/etc/app.conf;yes\n/srv/none;\n/srv/none-link;true\n\n/var/lib/app;\n")
    assert persistctl(root, "register", "--finalise") == 0
    point = root / "var/lib/app"
    assert point.is_dir() and not point.is_symlink() and not any(point.iterdir())
    assert stat.S_IMODE(point.stat().st_mode) == 0o2750 and point.stat().st_uid == 1234
    assert (root / "var/lib/use-ephemeral/var/lib/app/db/one").read_text() == "1"
    assert registry(root, "50-var-lib-app.conf")[2:] == [
        'Path="/var/lib/app"',
        "Method=bind",
        'SeedFrom="/var/lib/use-ephemeral/var/lib/app"',
        "",
    ]
    assert os.readlink(root / "etc/app.conf") == "/mnt/state/etc/app.conf"
    assert (root / "var/lib/use-ephemeral/etc/app.conf").read_text() == "option\n"
    assert "SeedFrom" not in "".join(registry(root, "50-srv-none.conf")) and not (root / "srv/none").exists()
    assert os.readlink(root / "srv/none-link") == "/mnt/state/srv/none-link"
    assert (root / LIST).exists()
    before = snapshot(root)
    assert finalise(Image(str(root))) == ([], []) and snapshot(root) == before
    put(root, "var/lib/app/later", "of a package")
    assert persistctl(root, "register", "--finalise") == 0
    assert (root / "var/lib/use-ephemeral/var/lib/app/later").exists() and not any(point.iterdir())


@pytest.mark.parametrize(
    "text, method",
    [("/srv/a", "bind"), ("/srv/a;", "bind"), ("/srv/a;true", "symlink"), ("/srv/a/;1\n/srv/a;", "symlink")],
)
def test_lines_of_the_list(root: Path, text: str, method: str) -> None:
    put(root, LIST, text)
    put(root, "srv/a/x", "")
    finalise(Image(str(root)))
    assert f"Method={method}" in registry(root, "50-srv-a.conf")


@pytest.mark.parametrize(
    "order", ["/srv/a;true\n/srv/a/b;true\n", "/srv/a/b;\n/srv/a;\n", "/srv/a/b;true\n/srv/a;\n"]
)
def test_child_and_parent_on_the_list_give_one_tree(root: Path, order: str) -> None:
    put(root, LIST, order)
    put(root, "srv/a/b/x", "deep")
    put(root, "srv/a/y", "")
    assert persistctl(root, "register", "--finalise") == 0
    assert (root / "var/lib/use-ephemeral/srv/a/b/x").read_text() == "deep"
    assert persistctl(root, "verify") == 0


def test_a_line_that_is_no_path(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, LIST, "/srv/a;\nrelative;true\n")
    put(root, "srv/a/x", "")
    before = snapshot(root)
    assert persistctl(root, "register", "--finalise") == 1
    assert "/var/lib/use-ephemeral/stateful-paths:2: 'relative' is not absolute." in capsys.readouterr().err
    assert snapshot(root) == before
