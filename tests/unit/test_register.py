# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl register, unregister: images in directories, and what verify says of the same by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from persist.boot.load import load
from persist.cli.main import main

UNITS = "usr/lib/systemd/system"
FILES = {
    f"{UNITS}/local-fs.target": "[Unit]\n",
    f"{UNITS}/persist-setup.target": "[Unit]\n",
    "etc/systemd/system/local-fs.target.wants/persist-setup.target": f"-> /{UNITS}/persist-setup.target",
    f"{UNITS}/app.service": "[Service]\nStateDirectory=app app/deep\nLogsDirectory=app-logs:link\n",
    f"{UNITS}/dyn.service": "[Service]\nDynamicUser=yes\nStateDirectory=dyn\nCacheDirectory=dyn\n",
    f"{UNITS}/each@.service": "[Service]\nStateDirectory=each/%i each-all\n",
    f"{UNITS}/masked.service": "-> /dev/null",
    "var/run": "-> /run",
    "var/lib/foreign": "-> /srv/elsewhere",
    "var/lib/ours": "-> /mnt/state/var/lib/ours",
    "var/lib/also": "-> /run/persist/volume/var/lib/also",
    "home": "-> usr/home",
    "usr/lib/persist.d/app.conf": "[Path]\nPath=/var/lib/packaged\nMethod=overlay\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(text[3:])
        else:
            path.write_text(text)
    return tmp_path


def files(root: Path) -> dict[str, str]:
    """The registry files that register wrote."""
    return {
        p.name: p.read_text() for p in sorted((root / "usr/lib/persist.d").iterdir()) if p.name != "app.conf"
    }


def entries(root: Path) -> dict[str, str]:
    """What the product makes of the registry: paths and methods."""
    return {p.path: p.entry.method for p in load(str(root), {"SYSTEMD_PROC_CMDLINE": ""}).plan.entries}


def persistctl(root: Path, *arguments: str) -> int:
    return main([arguments[0], "--root", str(root), *arguments[1:]])


def test_all_that_can_be_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        persistctl(
            root,
            *("register", "--type=directory", "--user=root", "--group=0", "--mode=0750"),
            *(
                "--services=a.service,b.socket",
                "--services",
                "c.service d.service",
                "/var/lib/x y",
                "/srv/ü\\",
            ),
        )
        == 1
    )
    assert "ends in a blank or a backslash" in capsys.readouterr().err and files(root) == {}
    assert (
        persistctl(
            root,
            *("register", "--type=directory", "--user=root", "--group=0", "--mode=0750"),
            *(
                "--services=a.service,b.socket",
                "--services",
                "c.service d.service",
                "/var/lib/x y/",
                '/srv/ü"',
            ),
        )
        == 0
    )
    shown = capsys.readouterr()
    assert shown.out.split("\n") == [
        "/usr/lib/persist.d/50-var-lib-x\\x20y.conf",
        "/usr/lib/persist.d/50-srv-\\xc3\\xbc\\x22.conf",
        "",
    ]
    assert shown.err == ""
    assert files(root)["50-var-lib-x\\x20y.conf"].split("\n")[1:] == [
        "[Path]",
        'Path="/var/lib/x y"',
        "Method=bind",
        "Type=directory",
        "User=root",
        "Group=0",
        "Mode=0750",
        "Services=a.service b.socket c.service d.service",
        "",
    ]
    assert entries(root) == {'/srv/ü"': "bind", "/var/lib/packaged": "overlay", "/var/lib/x y": "bind"}
    assert os.stat(root / "usr/lib/persist.d/50-var-lib-x\\x20y.conf").st_mode & 0o777 == 0o644


def test_the_same_again_and_other_options(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert persistctl(root, "register", "/srv/a") == 0
    name = root / "usr/lib/persist.d/50-srv-a.conf"
    before = name.stat()
    assert persistctl(root, "register", "--json", "/srv/a", "/srv/a/") == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2]) == {
        "action": "register",
        "files": [],
        "notes": [],
    }
    assert (name.stat().st_ino, name.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert persistctl(root, "register", "--method=overlay", "/srv/a") == 0
    assert entries(root)["/srv/a"] == "overlay"
    assert [p.name for p in (root / "usr/lib/persist.d").iterdir()] in (
        ["app.conf", "50-srv-a.conf"],
        ["50-srv-a.conf", "app.conf"],
    )


@pytest.mark.parametrize("order", [("/srv/a", "/srv/a/b"), ("/srv/a/b", "/srv/a")])
def test_child_and_parent_in_either_order(root: Path, order: tuple[str, str]) -> None:
    for path in order:
        assert persistctl(root, "register", "--method=overlay", path) == 0
    assert {p for p in entries(root) if p.startswith("/srv")} == {"/srv/a", "/srv/a/b"}


def test_what_a_parent_keeps_already_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert persistctl(root, "register", "/srv/a", "/srv/a/b") == 0
    assert "/srv/a above it keeps it already" in capsys.readouterr().err


def test_who_sorts_first_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "etc/persist.d").mkdir(parents=True)
    (root / "etc/persist.d/00-local.conf").write_text("[Path]\nPath=/srv/a\nMethod=none\n")
    assert persistctl(root, "register", "/srv/a", "/var/lib/packaged") == 0
    assert (
        "/etc/persist.d/00-local.conf:2 declares /srv/a as well, and sorts first" in capsys.readouterr().err
    )
    assert entries(root) == {"/var/lib/packaged": "bind"}


REFUSED = {
    "relative": (["srv/a"], "'srv/a' is not absolute."),
    "control": (["/srv/a\nb"], "has a control character."),
    "dots": (["/srv/../a"], "is not normalised"),
    "slashes": (["/srv/a//"], "is not normalised"),
    "root": (["/"], "is the root directory"),
    "image": (["/usr/share/x"], "/usr belongs to the image."),
    "running": (["/run/x"], "/run belongs to the running system."),
    "behind a link": (["/var/run/x"], "'/var/run/x' cannot be kept: /run belongs to the running system."),
    "volume": (["/mnt/state/x"], "/mnt/state is the state volume."),
    "comma": (["--method=overlay", "/srv/a,b"], "mount(8) cannot overlay a path with a comma"),
    "overlay of a file": (["--method=overlay", "--type=file", "/srv/a"], "Method=overlay is for directories"),
    "mode": (["--mode=9", "/srv/a"], "Mode=9 must be three or four octal digits."),
    "user": (["--user=a b", "/srv/a"], "User=a b is not the name or number of a user"),
    "service": (["--services=foo", "/srv/a"], "'foo' is not the full name of a unit"),
    "second line": (["--mode=0755\n[Path]\nPath=/srv/b", "/srv/a"], "cannot be registered"),
    "own comment": (["--user=root ", "/srv/a"], "a registry file cannot say"),
    "foreign link": (["/var/lib/foreign"], "'/var/lib/foreign' is a symbolic link to '/srv/elsewhere'"),
    "foreign link by a link": (["--leave-symlink", "/var/lib/foreign"], "which is not ours"),
    "our link by another method": (["/var/lib/ours"], "is a link to the volume, and Method=bind needs"),
    "state directory": (["--leave-symlink", "/var/lib/app"], "is StateDirectory= of app.service"),
    "a deeper one": (["--leave-symlink", "/var/lib/app/deep"], "Use Method=bind."),
    "logs directory": (["--leave-symlink", "/var/log/app-logs"], "is LogsDirectory= of app.service"),
    "template": (["--leave-symlink", "/var/lib/each-all"], "is StateDirectory= of each@.service"),
    "dynamic user": (["--leave-symlink", "/var/lib/dyn"], "Use Method=bind for /var/lib/private/dyn."),
    "what it is in truth": (
        ["--leave-symlink", "/var/cache/private/dyn"],
        "/var/cache/private/dyn is CacheDirectory= of dyn.service, which does not start where that is",
    ),
    **{name: ([f"/etc/{name}"], "Keep /etc, with Method=overlay.") for name in ("passwd", "group", "shadow")},
    "gshadow": (["--leave-symlink", "/etc/gshadow"], "Keep /etc, with Method=overlay."),
    "machine-id": (["/etc/machine-id"], "Keep /etc, with Method=overlay."),
    "too long": (["/" + "a" * 240], "too long for the name of a unit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence_and_nothing_written(
    root: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, sentence = REFUSED[case]
    assert persistctl(root, "register", "/srv/fine") == 0
    capsys.readouterr()
    assert persistctl(root, "register", *arguments[:-1], "/srv/also-fine", arguments[-1]) == 1
    shown = capsys.readouterr()
    assert sentence in shown.err and shown.out == "" and "\x1b" not in shown.err
    assert len(shown.err.splitlines()) <= 2  # with the way out
    assert list(files(root)) == ["50-srv-fine.conf"]


def test_links_of_ours_and_links_above(root: Path) -> None:
    assert (
        persistctl(root, "register", "--leave-symlink", "/var/lib/ours", "/var/lib/also", "/var/lib/app/x")
        == 0
    )
    assert persistctl(root, "register", "/home/a") == 1  # behind the link it is the image's


def test_a_directory_of_a_dynamic_user(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert persistctl(root, "register", "/var/lib/dyn", "/var/cache/dyn") == 0
    assert (
        "'/var/lib/dyn' is registered as '/var/lib/private/dyn', where dyn.service has it"
        in capsys.readouterr().err
    )
    assert {p for p in entries(root) if "dyn" in p} == {"/var/lib/private/dyn", "/var/cache/private/dyn"}
    assert persistctl(root, "unregister", "/var/lib/dyn", "/var/cache/private/dyn") == 0
    assert files(root) == {}


def test_unregister(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert persistctl(root, "register", "/srv/a", "/srv/b") == 0
    assert persistctl(root, "unregister", "/srv/a", "/srv/c") == 1
    assert "'/srv/c' is not registered." in capsys.readouterr().err and len(files(root)) == 2
    assert persistctl(root, "unregister", "/srv/a/", "/srv/a") == 0
    assert list(files(root)) == ["50-srv-b.conf"]
    assert persistctl(root, "unregister", "/var/lib/packaged") == 1
    assert "/usr/lib/persist.d/app.conf:2 declares it" in capsys.readouterr().err


def test_a_file_of_somebody_else_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = root / "usr/lib/persist.d/50-srv-a.conf"
    theirs.write_text("[Path]\nPath=/srv/a\nMethod=tmpfs\n")
    for verb in ("register", "unregister"):
        assert persistctl(root, verb, "/srv/a") == 1
        assert "was not written by 'persistctl register'" in capsys.readouterr().err
    theirs.unlink()
    theirs.symlink_to("app.conf")
    assert persistctl(root, "register", "/srv/a") == 1
    assert "is a symbolic link" in capsys.readouterr().err
    assert (root / "usr/lib/persist.d/app.conf").read_text() == FILES["usr/lib/persist.d/app.conf"]


def test_an_image_without_the_directory_and_with_links_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "usr").symlink_to("/real")
    assert persistctl(tmp_path, "unregister", "/srv/a") == 1
    assert persistctl(tmp_path, "register", "/srv/a") == 0
    assert (tmp_path / "real/lib/persist.d/50-srv-a.conf").exists()


def test_verify_says_the_same_of_files_by_hand(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "usr/lib/persist.d/hand.conf").write_text(
        "[Path]\nPath=/var/lib/app\nMethod=symlink\n"
        "[Path]\nPath=/var/cache/dyn\nMethod=bind\n"
        "[Path]\nPath=/etc/shadow\nMethod=bind\n"
        "[Path]\nPath=/var/lib/private/dyn\nMethod=bind\n"
    )
    assert persistctl(root, "verify") == 1
    out = capsys.readouterr().out
    assert (
        "error: /usr/lib/persist.d/hand.conf:3: /var/lib/app is StateDirectory= of app.service, which does "
        "not start where that is a link. Use Method=bind.\n" in out
    )
    assert (
        "hand.conf:6: /var/cache/dyn is CacheDirectory= of dyn.service, whose DynamicUser= has PID 1" in out
    )
    assert "warning: /usr/lib/persist.d/hand.conf:9: /etc/shadow by itself cannot be kept" in out
    assert "/var/lib/private/dyn is" not in out
