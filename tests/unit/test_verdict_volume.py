# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict of the volume: its own word in volume.json, memory, read-only, away, odd boots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persist.boot.paths import VOLUME
from persist.record import as_dict, replace
from persist.system.mountinfo import Mount
from persist.verdict import judge as v
from persist.verdict.look import Fragment
from persist.volume.mount.writable import Obstacle
from persist.volume.outcome import Outcome

from .verdict_scene import (
    BTRFS,
    NOTHING,
    ROOT,
    SOMETHING,
    VOLUME_MOUNT,
    FakeLook,
    Scene,
    bind,
    codes,
    overlay,
    states,
)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


VOLUMES: list[tuple[str, bool, bool, list[Mount], str, list[str], str]] = [
    # kind, root read-only, a volume expected, mounts, verdict, reasons, state of a bind entry
    ("btrfs", True, False, SOMETHING, v.ONLINE, [], "mounted"),
    ("btrfs", False, True, SOMETHING, v.ONLINE, [], "mounted"),
    ("btrfs", True, False, NOTHING, v.VOLATILE, ["volume-gone"], "waiting"),
    ("tmpfs", True, False, SOMETHING, v.VOLATILE, ["missing"], "mounted"),
    ("tmpfs", False, True, SOMETHING, v.VOLATILE, ["missing"], "mounted"),
    ("root", False, False, SOMETHING, v.ONLINE, [], "root"),
    ("root", False, True, SOMETHING, v.DEGRADED, ["missing"], "root"),
    ("root", True, False, SOMETHING, v.ONLINE, [], "root"),
    ("root", False, False, NOTHING, v.VOLATILE, ["volume-gone"], "waiting"),
    ("none", True, False, NOTHING, v.VOLATILE, ["missing"], "waiting"),
    ("none", True, True, NOTHING, v.VOLATILE, ["missing"], "waiting"),
    ("none", False, False, NOTHING, v.OFF, ["missing"], "waiting"),
    ("none", False, True, NOTHING, v.DEGRADED, ["missing"], "waiting"),
]


@pytest.mark.parametrize(("kind", "read_only", "expected", "mounts", "word", "reasons", "state"), VOLUMES)
def test_volumes(
    scene: Scene,
    kind: str,
    read_only: bool,
    expected: bool,
    mounts: list[Mount],
    word: str,
    reasons: list[str],
    state: str,
) -> None:
    scene.registry("/srv|bind")
    if expected:
        scene.conf("Device=LABEL=mine")
    volume = replace(
        BTRFS,
        kind=kind,
        root_read_only=read_only,
        reason="" if kind == "btrfs" else "missing",
        message="",
        hint="",
    )
    found = scene.judge(FakeLook(mounts + ([bind("/srv", 30)] if VOLUME_MOUNT in mounts else [])), volume)
    assert (found.verdict, codes(found), states(found)) == (word, reasons, {"/srv": state})


@pytest.mark.parametrize(
    ("kind", "word", "reasons"),
    [
        ("none", v.VOLATILE, ["missing", "root-in-memory"]),
        ("root", v.VOLATILE, ["missing", "root-in-memory"]),
        ("tmpfs", v.VOLATILE, ["missing"]),
        ("btrfs", v.ONLINE, []),
    ],
)
def test_a_root_in_memory_keeps_nothing(scene: Scene, kind: str, word: str, reasons: list[str]) -> None:
    """It takes writes, and forgets them."""
    scene.registry("/srv|bind")
    volume = replace(
        BTRFS,
        kind=kind,
        root_memory="a tmpfs",
        reason="" if kind == "btrfs" else "missing",
        message="No disk.",
    )
    found = scene.judge(FakeLook([*SOMETHING, bind("/srv", 30)]), volume)
    assert (found.verdict, codes(found)) == (word, reasons)
    if len(reasons) > 1:
        assert (
            found.reasons[1].message
            == "The root filesystem is a tmpfs, and what is written to it is lost at power-off."
        )


def test_a_volume_in_memory_is_not_online(scene: Scene) -> None:
    scene.registry("/srv|bind")
    found = scene.judge(
        FakeLook([*SOMETHING, bind("/srv", 30)]), replace(BTRFS, memory="on zram0, which is memory")
    )
    assert (found.verdict, codes(found)) == (v.VOLATILE, ["volume-in-memory"]) and "zram0" in found.reasons[
        0
    ].message


def test_off_says_what_was_looked_at(scene: Scene) -> None:
    scene.registry("/srv|bind")
    found = scene.judge(
        FakeLook(NOTHING), Outcome(reason="missing", message="No disk.", root="ext4 on /dev/vda1")
    )
    assert found.verdict == v.OFF
    assert (
        found.reasons[0].message
        == "No disk. The root filesystem (ext4 on /dev/vda1) is writable and keeps what is written."
    )


@pytest.mark.parametrize("how", ["Fallback=fail", "Device=UUID=x", "cmdline"])
def test_who_expects_a_volume(scene: Scene, how: str) -> None:
    scene.registry("/srv|bind")
    if how == "cmdline":
        scene.environ["SYSTEMD_PROC_CMDLINE"] = "quiet persist.volume=x"
    else:
        scene.conf(how)
    assert scene.judge(FakeLook(NOTHING), Outcome(reason="missing")).verdict == v.DEGRADED


@pytest.mark.parametrize(
    "code",
    ["duplicate-label", "cloned-disk", "untrusted", "broken", "failed", "volume-service", "volume-json"],
)
def test_a_volume_that_could_be_there(scene: Scene, code: str) -> None:
    scene.registry("/srv|bind")
    found = scene.judge(FakeLook(NOTHING), Outcome(reason=code, message="It is so.", hint="Do this."))
    assert (found.verdict, codes(found)) == (v.DEGRADED, [code])


def test_links_on_the_root(scene: Scene) -> None:
    scene.registry("/opt/l|symlink\n/srv|overlay")
    found = scene.judge(FakeLook(SOMETHING, links={"/opt/l": VOLUME + "/opt/l"}), replace(BTRFS, kind="root"))
    assert found.verdict == v.ONLINE and states(found) == {"/opt/l": "linked", "/srv": "root"}


def test_a_volume_whose_entries_were_not_mounted_is_not_online(scene: Scene) -> None:
    """The flag without which no entry is mounted was not written: what volume.json says is not enough."""
    scene.registry("/srv|bind\n/var|overlay\n/opt/hole|symlink")
    look = FakeLook(SOMETHING, links={"/opt/hole": VOLUME + "/opt/hole"})
    look.mount_entries = False
    found = scene.judge(look)
    assert found.verdict == v.DEGRADED and codes(found) == ["entry-failed", "entry-failed"]
    assert states(found) == {"/srv": "failed", "/var": "failed", "/opt/hole": "linked"}


@pytest.mark.parametrize("kind", ["btrfs", "native"])
def test_memory_where_a_volume_was(scene: Scene, kind: str) -> None:
    scene.registry("/opt/link|symlink")
    memory = Mount(20, 1, "0:30", "/", VOLUME, "rw,nosuid,nodev", "tmpfs", "tmpfs", "rw")
    found = scene.judge(
        FakeLook([ROOT, memory], links={"/opt/link": VOLUME + "/opt/link"}), replace(BTRFS, kind=kind)
    )
    assert (found.verdict, codes(found)) == (v.VOLATILE, ["volume-gone"])


def test_read_only_volume(scene: Scene) -> None:
    scene.registry("/srv|bind")
    stuck = replace(VOLUME_MOUNT, super_options="ro,subvol=/@persist-state")
    look = FakeLook([ROOT, stuck, bind("/srv", 30, more="ro")])
    for volume in (replace(BTRFS, read_only=True), BTRFS):
        found = scene.judge(look, volume)
        assert (found.verdict, codes(found), states(found)) == (
            v.DEGRADED,
            ["volume-read-only"],
            {"/srv": "mounted"},
        )
        assert found.volume.read_only, "also where it turned read-only after it was mounted"
    assert not BTRFS.read_only


def test_a_volume_whose_mount_says_rw_and_that_takes_no_writes(scene: Scene) -> None:
    """btrfs property set … ro true, at any time: mountinfo has rw, and nothing can be written."""
    scene.registry("/srv|bind")
    look = FakeLook([*SOMETHING, bind("/srv", 30)])
    look.obstacle = Obstacle("subvolume-read-only", "It is set read-only.", "Do this.")
    found = scene.judge(look)
    assert (found.verdict, codes(found)) == (v.DEGRADED, ["subvolume-read-only"]) and found.volume.read_only
    assert found.reasons[0].hint == "Do this."


def test_a_root_that_turned_read_only_below_what_stands_in_for_the_volume(scene: Scene) -> None:
    scene.registry("/opt/l|symlink")
    stuck = Mount(
        20, 1, "254:0", "/var/lib/persist/root", VOLUME, "rw,nosuid,nodev", "ext4", "/dev/vdb", "ro"
    )
    found = scene.judge(
        FakeLook([ROOT, stuck], links={"/opt/l": VOLUME + "/opt/l"}),
        replace(BTRFS, kind="root", reason="missing"),
    )
    assert (found.verdict, codes(found)) == (v.DEGRADED, ["volume-read-only"])


def test_tmpfs_entries_do_not_need_a_volume(scene: Scene) -> None:
    scene.registry("/tmp|tmpfs")
    assert states(scene.judge(FakeLook(NOTHING, writable=True), Outcome(reason="missing"))) == {
        "/tmp": "tmpfs"
    }
    found = scene.judge(FakeLook(NOTHING), Outcome(reason="missing", root_read_only=True))
    assert (found.verdict, states(found), codes(found)) == (
        v.VOLATILE,
        {"/tmp": "failed"},
        ["missing", "entry-failed"],
    )


def test_read_volume(tmp_path: Path) -> None:
    record = tmp_path / "run/persist/volume.json"
    assert v.read_volume(str(tmp_path)) == replace(
        Outcome(),
        reason="volume-service",
        message="persist-volume.service did not finish.",
        hint="See 'journalctl -b -u persist-volume.service'.",
    )
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"version": 1} | as_dict(BTRFS)))
    assert v.read_volume(str(tmp_path)) == BTRFS
    record.write_text('{"kind": "none"}')
    assert v.read_volume(str(tmp_path)) == Outcome(), "what is left out has its default"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b"garbage",
        b"\xff\xfe",
        b'{"kind": "none"',
        b"[" * 100000,
        b'{"kind": 3}',
        b'{"kind": null}',
        b'{"kind": ["none"]}',
        b'{"kind": "ext4"}',
        b'{"kind": "btrfs", "read_only": "no"}',
        b'{"kind": "btrfs", "device": {}}',
        b'{"kind": "none", "message": 1}',
        b'{"root_read_only": 1}',
        b'{"uuid": NaN}',
    ],
)
def test_bad_volume_json(scene: Scene, content: bytes) -> None:
    record = scene.root / "run/persist/volume.json"
    record.parent.mkdir(parents=True)
    record.write_bytes(content)
    volume = v.read_volume(str(scene.root))
    assert (volume.kind, volume.reason) == ("none", "volume-json")
    scene.registry("/srv|bind")
    found = scene.judge(FakeLook(NOTHING), volume)
    assert found.verdict == v.DEGRADED
    json.dumps(found.as_dict(), allow_nan=False)


def test_volume_json_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "run/persist/volume.json").mkdir(parents=True)
    assert v.read_volume(str(tmp_path)).reason == "volume-json"


def test_known_volume_is_away(scene: Scene) -> None:
    """A writable root that has known a volume: what is written now is out of sight when it is back."""
    scene.registry("/srv|bind")
    away = replace(Outcome(reason="known-volume-missing", message="It is away."), expected=True)
    found = scene.judge(FakeLook(NOTHING), away)
    assert (found.verdict, codes(found)) == (v.VOLATILE, ["known-volume-missing"])


def test_switched_off_but_still_mounted(scene: Scene) -> None:
    scene.registry("/etc|overlay")
    scene.enabled.unlink()
    found = scene.judge(FakeLook([ROOT, VOLUME_MOUNT, overlay("/etc", 30)]))
    assert (found.verdict, codes(found)) == (v.DEGRADED, ["still-mounted"])
    assert scene.judge(FakeLook([ROOT])).verdict == v.OFF


def test_partition_hidden_by_an_entry(scene: Scene) -> None:
    scene.registry("/home|overlay")
    mounts = [ROOT, VOLUME_MOUNT, overlay("/home", 30)]
    look = FakeLook(mounts)
    look.fragments["/home"] = Fragment(
        "/run/systemd/generator.late/home.mount",
        "systemd-gpt-auto-generator",
        "",
        "/dev/gpt-auto-home",
        "ext4",
    )
    found = scene.judge(look)
    assert (found.verdict, codes(found)) == (v.DEGRADED, ["gpt"])
    assert "/dev/gpt-auto-home" in found.reasons[0].message and "systemd.gpt_auto=0" in found.reasons[0].hint


def test_volume_that_takes_no_writes(scene: Scene) -> None:
    """Beside a writable root: nothing is mounted from it, and that is one reason and not one for each
    entry."""
    scene.registry("/srv|bind\n/var|overlay")
    look = FakeLook([ROOT, replace(VOLUME_MOUNT, options="ro,nosuid,nodev")])
    look.mount_entries = False
    found = scene.judge(
        look, replace(BTRFS, read_only=True, reason="volume-read-only", message="It is write-protected.")
    )
    assert (found.verdict, codes(found), states(found)) == (
        v.DEGRADED,
        ["volume-read-only"],
        {"/srv": "root", "/var": "root"},
    )
    assert found.reasons[0].message == "It is write-protected."
