# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict of what was refused, of files that cannot be read, and of what is switched off."""

from __future__ import annotations

from pathlib import Path

import pytest

from persist.boot.paths import VOLUME
from persist.record import as_dict
from persist.verdict import judge as v
from persist.volume.outcome import Outcome

from .verdict_scene import NOTHING, SOMETHING, FakeLook, Scene, bind, codes, overlay, states


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_refused_entries(scene: Scene) -> None:
    scene.registry("/srv|bind\n/usr/share/x|bind")
    found = scene.judge(FakeLook([*SOMETHING, bind("/srv", 30)]))
    assert found.verdict == v.DEGRADED and states(found) == {"/srv": "mounted", "/usr/share/x": "refused"}
    assert codes(found) == ["registry"] and found.reasons[0].path == "/usr/share/x"
    assert "/usr belongs to the image" in found.entries[1].reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/usr/x|overlay\n/home/a|overlay", {"/usr/x": "refused", "/home/a": "mounted"}),
        (
            "/home/b|symlink\n/home/b/c|overlay\n/home/b/c/d|image",
            {"/home/b": "linked", "/home/b/c": "refused", "/home/b/c/d": "ignored"},
        ),
        (
            "/srv|overlay\n/srv/a/b|image\n/home/x|image",
            {"/srv": "mounted", "/srv/a/b": "image", "/home/x": "refused"},
        ),
        ("/opt/l|symlink\n/opt/l/a|overlay", {"/opt/l": "linked", "/opt/l/a": "refused"}),
        (
            "/srv|overlay\n/srv/a|image\n/srv/a/b|overlay",
            {"/srv": "mounted", "/srv/a": "image", "/srv/a/b": "refused"},
        ),
    ],
)
def test_refusals_among_relatives(scene: Scene, text: str, expected: dict[str, str]) -> None:
    scene.registry(text)
    found = scene.judge(
        FakeLook(
            [*SOMETHING, overlay("/srv", 30), overlay("/home/a", 31)],
            links={p: VOLUME + p for p in ("/opt/l", "/home/b")},
        )
    )
    assert states(found) == expected and found.verdict == v.DEGRADED
    assert "entry-failed" not in codes(found)


def test_what_is_kept_already_costs_nothing(scene: Scene) -> None:
    scene.registry("/srv|bind\n/srv/a|bind")
    found = scene.judge(FakeLook([*SOMETHING, bind("/srv", 30)]))
    assert found.verdict == v.ONLINE and states(found) == {"/srv": "mounted", "/srv/a": "ignored"}
    scene.registry("/opt/l|symlink\n/opt/l/a|bind\n/opt/l/b|symlink", "links")
    look = FakeLook([*SOMETHING, bind("/srv", 30)], links={"/opt/l": VOLUME + "/opt/l"})
    found = scene.judge(look)
    assert found.verdict == v.ONLINE
    assert {p: s for p, s in states(found).items() if p.startswith("/opt/l/")} == {
        "/opt/l/a": "ignored",
        "/opt/l/b": "ignored",
    }


def test_bad_files(scene: Scene) -> None:
    scene.registry("/srv|bind")
    scene.registry("[Path]\nPath=relative\n", "bad")
    found = scene.judge(FakeLook([*SOMETHING, bind("/srv", 30)]))
    assert (found.verdict, codes(found)) == (v.DEGRADED, ["registry"])
    assert "/usr/lib/persist.d/bad.conf:2" in found.reasons[0].message
    off = scene.judge(FakeLook(NOTHING), Outcome(reason="missing"))
    assert (off.verdict, codes(off)) == (v.OFF, ["missing", "registry"])


def test_nothing_but_bad_files(scene: Scene) -> None:
    (scene.root / "usr/lib/persist.d/bad.conf").write_bytes(b"\xff\xfe garbage")
    found = scene.judge(FakeLook(SOMETHING))
    assert (found.verdict, codes(found), found.entries) == (v.DEGRADED, ["registry"], [])


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("cmdline", "persist=off on the kernel command line"),
        ("container", "in a container (docker)"),
        ("disabled", "persist-setup.target is not enabled"),
        ("empty", "the registry has no entries"),
    ],
)
def test_off(scene: Scene, how: str, why: str) -> None:
    if how != "empty":
        scene.registry("/srv|bind")
    if how == "cmdline":
        scene.environ["SYSTEMD_PROC_CMDLINE"] = "persist=off"
    elif how == "container":
        scene.environ["SYSTEMD_VIRTUALIZATION"] = "container:docker"
    elif how == "disabled":
        scene.enabled.unlink()
    found = scene.judge(FakeLook([*SOMETHING, bind("/srv", 30)]))
    assert (found.verdict, codes(found)) == (v.OFF, ["off"])
    assert why in found.reasons[0].message
    assert [(e.path, e.state) for e in found.entries] == ([] if how == "empty" else [("/srv", "off")])
    assert all(why in e.reason for e in found.entries)
    assert found.as_dict()["volume"] == as_dict(Outcome())
