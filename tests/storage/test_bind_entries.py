# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bind entries as persist-volume.service and persist-bind@.service mount them, with real mounts in a
namespace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persist.boot import paths
from persist.entries.bind import mount_seeded
from persist.entries.hold import hold_stale
from persist.errors import PersistError
from persist.record import replace
from persist.services import bind as bind_service
from persist.system import mountinfo
from persist.verdict import judge
from persist.verdict.entry_state import WELL, wrong_mount

from .namespace import disk, kept, kept_overlay, marker, own_machine, registry, sh

BIND = "[Path]\nPath=/srv/data\nMethod=bind\n"


def text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def entry_mounts() -> list[str]:
    return [m.mount_point for m in mountinfo.mounts() if m.mount_point.startswith(("/srv/", "/opt/"))]


def said(problems: list[PersistError]) -> list[str]:
    return [str(p) for p in problems]


@own_machine
def test_seeded_binds_are_mounted_once() -> None:
    disk()
    os.makedirs("/srv/data")
    kept("/srv/data", "kept")
    loaded = registry(
        BIND + "[Path]\nPath=/srv/new\nMethod=bind\n[Path]\nPath=/srv/file\nMethod=bind\nType=file\n"
    )
    Path("/srv/file").touch()
    Path("/run/persist/volume/srv/file").write_text("of the volume")
    marker("/srv/file")
    os.makedirs("/srv/new")
    for _ in range(2):
        assert mount_seeded(loaded) == []
        assert entry_mounts() == ["/srv/data", "/srv/file"], "what was not seeded is left to its unit"
    assert (text("/srv/data/f"), text("/srv/file")) == ("kept", "of the volume")
    Path("/srv/data/new").write_text("x")
    assert text("/run/persist/volume/srv/data/new") == "x"


@own_machine
def test_a_mount_point_that_is_missing_is_made() -> None:
    disk()
    kept("/srv/deep/er/data", "kept")
    assert mount_seeded(registry("[Path]\nPath=/srv/deep/er/data\nMethod=bind\n")) == []
    assert text("/srv/deep/er/data/f") == "kept"


@own_machine
def test_overlays_above_are_mounted_first_and_alike() -> None:
    disk()
    os.makedirs("/srv/top/data")
    Path("/srv/top/image").write_text("image")
    (kept_overlay("/srv/top") / "changed").write_text("changed")
    kept_overlay("/opt")
    kept("/srv/top/data", "kept")
    loaded = registry("[Path]\nPath=/srv/top\n[Path]\nPath=/srv/top/data\nMethod=bind\n[Path]\nPath=/opt\n")
    # /srv is a mount of its own here.
    sh("umount /run/persist/private/lower; mount --rbind / /run/persist/private/lower")
    for _ in range(2):
        assert mount_seeded(loaded) == []
        assert entry_mounts() == ["/srv/top", "/srv/top/data"], "an overlay with no bind in it has a unit"
    assert (text("/srv/top/image"), text("/srv/top/changed"), text("/srv/top/data/f")) == (
        "image",
        "changed",
        "kept",
    )
    look = judge.Look()
    volume = look.mount(paths.VOLUME)
    assert volume is not None
    for planned in loaded.plan.entries:
        if planned.path == "/opt":
            continue
        assert wrong_mount(planned, look.mount(planned.path), volume, look) == WELL
    unit = loaded.plan.files["srv-top.mount"]
    at = look.mount("/srv/top")
    assert at is not None and "ConditionPathIsMountPoint=!/srv/top\n" in unit
    options = next(line for line in unit.splitlines() if line.startswith("Options=")).removeprefix("Options=")
    wanted = set(options.split(",")) - {"index=off", "metacopy=off", "xino=off"}
    assert wanted <= set(at.super_options.split(",")) | set(at.options.split(",")), "the same as the unit's"


@own_machine
def test_no_bind_below_an_overlay_that_is_not_there() -> None:
    disk()
    os.makedirs("/srv/top/data")
    kept("/srv/top/data", "kept")
    loaded = registry("[Path]\nPath=/srv/top\n[Path]\nPath=/srv/top/data\nMethod=bind\n")
    assert mount_seeded(loaded) == []
    assert entry_mounts() == []


@own_machine
def test_no_link_is_followed() -> None:
    disk()
    for path in ("/srv/outer/data", "/srv/inner", "/srv/fine"):
        os.makedirs(path)
        kept(path, "kept")
    sh("cd /run/persist/volume/srv; mv outer real; ln -s real outer; rm -r inner; ln -s /etc inner")
    loaded = registry(
        "".join(f"[Path]\nPath={p}\nMethod=bind\n" for p in ("/srv/outer/data", "/srv/inner", "/srv/fine"))
    )
    problems = mount_seeded(loaded)
    assert entry_mounts() == ["/srv/fine"]
    assert len(problems) == 2 and all(p.message_id == "ENTRY_FAILED" for p in problems)
    assert "Refused to use '/srv/inner'" in said(problems)[0] and "symbolic link" in said(problems)[0]
    assert "'/run/persist/volume/srv/outer' is a symbolic link to 'real'" in said(problems)[1]
    assert problems[0].fields["PERSIST_PATH"] == "/srv/inner" and problems[0].fields[
        "PERSIST_SOURCE"
    ].startswith("/run/persist.d/t.conf:")


@own_machine
def test_a_link_that_appeared_at_the_path_is_not_mounted_through() -> None:
    disk()
    kept("/srv/top/data", "kept")
    loaded = registry("[Path]\nPath=/srv/top/data\nMethod=bind\n")
    sh("mkdir /srv/elsewhere; ln -s elsewhere /srv/top")
    assert "symbolic link" in said(mount_seeded(loaded))[0]
    assert entry_mounts() == []


@own_machine
def test_what_the_volume_has_lost_is_said() -> None:
    disk()
    os.makedirs("/srv/data")
    marker("/srv/data")
    assert "is missing or incomplete" in said(mount_seeded(registry(BIND)))[0]
    Path("/run/persist/volume/srv").mkdir()
    Path("/run/persist/volume/srv/data").touch()
    assert "The path is a directory, and on the volume it is a file" in said(mount_seeded(registry(BIND)))[0]


@own_machine
def test_what_comes_later_is_left_to_its_unit() -> None:
    disk()
    os.makedirs("/srv/disk/data")
    os.makedirs("/opt/part/data")
    kept("/srv/disk/data", "kept")
    kept("/opt/part/data", "kept")
    loaded = registry(
        "[Path]\nPath=/srv/disk/data\nMethod=bind\n[Path]\nPath=/opt/part/data\nMethod=bind\n",
        fstab="UUID=1 /srv/disk ext4 defaults\n",
    )
    Path("/run/systemd/generator.late").mkdir()
    Path("/run/systemd/generator.late/opt-part.mount").touch()  # as systemd-gpt-auto-generator would
    assert mount_seeded(loaded) == [] and entry_mounts() == []
    sh("mount -t tmpfs none /opt/part; mkdir /opt/part/data")
    assert mount_seeded(loaded) == [] and entry_mounts() == ["/opt/part", "/opt/part/data"]
    Path(paths.MOUNT_ENTRIES).touch()
    sh("mount -t tmpfs none /srv/disk; mkdir /srv/disk/data")
    assert bind_service.main("srv-disk-data") == 0 and text("/srv/disk/data/f") == "kept"
    assert bind_service.main("srv-disk-data") == 0 and entry_mounts().count("/srv/disk/data") == 1


@own_machine
def test_memory_does_not_satisfy_required() -> None:
    sh(
        "mkdir /run/persist/volume; mount -t tmpfs none /run/persist/volume; mkdir -p "
        "/run/persist/volume/.persist/seed"
    )
    for name in ("data", "must"):
        os.makedirs(f"/srv/{name}")
        kept(f"/srv/{name}", "memory")
    loaded = registry(BIND + "[Path]\nPath=/srv/must\nMethod=bind\nRequired=service\nServices=a.service\n")
    assert mount_seeded(loaded) == []
    assert entry_mounts() == ["/srv/data"]
    Path(paths.MOUNT_ENTRIES).touch()
    assert bind_service.main("srv-must") == 1 and entry_mounts() == ["/srv/data"]


@own_machine
def test_a_mount_on_a_bind_is_not_seen_on_the_volume() -> None:
    disk()
    os.makedirs("/srv/data")
    kept("/srv/data", "kept")
    sh(
        "mkdir /run/persist/volume/srv/data/below; mount --make-shared /srv; mount --make-shared "
        "/run/persist/volume"
    )
    assert mount_seeded(registry(BIND)) == []
    sh("mount -t tmpfs none /srv/data/below; touch /srv/data/below/x")
    assert os.listdir("/run/persist/volume/srv/data/below") == []
    line = next(line for line in text("/proc/self/mountinfo").splitlines() if " /srv/data " in line)
    assert "shared:" in line, "services with a namespace of their own see it"


@own_machine
def test_without_a_volume_nothing_is_mounted() -> None:
    os.makedirs("/srv/data")
    assert mount_seeded(registry(BIND)) == [] and bind_service.main("srv-data") == 0
    registry(BIND + "Required=service\nServices=a.service\n")
    assert bind_service.main("srv-data") == 1 and bind_service.main("srv-other") == 1
    assert entry_mounts() == []


@own_machine
def test_stale_entries_are_held_read_only() -> None:
    for path in ("/srv/data", "/srv/allowed", "/opt/over", "/srv/disk/data"):
        os.makedirs(path)
    Path("/srv/data/f").write_text("of the root")
    sh("mkdir /srv/data/below; mount -t tmpfs none /srv/data/below")
    loaded = registry(
        BIND + "[Path]\nPath=/srv/allowed\nMethod=bind\nStale=allow\n[Path]\nPath=/opt/over\n"
        "[Path]\nPath=/srv/none\nMethod=bind\n"
        "[Path]\nPath=/srv/disk/data\nMethod=bind\n",
        fstab="UUID=1 /srv/disk ext4 defaults\n",
    )
    problems = hold_stale(loaded)
    assert [(p.message_id, p.fields["PERSIST_PATH"]) for p in problems] == [("ENTRY_STALE", "/srv/data")]
    assert text("/srv/data/f") == "of the root"
    for path in ("/srv/data/f", "/srv/data/new"):
        with pytest.raises(OSError, match="Read-only"):
            Path(path).write_text("x")
    Path("/srv/data/below/x").touch()  # what is mounted there has a place of its own
    Path("/srv/allowed/x").touch()
    Path("/opt/over/x").touch()
    assert hold_stale(loaded) == [], "once"
    states = {
        e.path: e.state
        for e in judge.judge(loaded, replace(judge.read_volume(), expected=True), judge.Look()).entries
    }
    assert states["/srv/data"] == "stale" and states["/srv/allowed"] == "waiting"
    sh("mount -t tmpfs none /srv/disk; mkdir /srv/disk/data")
    assert bind_service.main("srv-disk-data") == 0
    with pytest.raises(OSError, match="Read-only"):
        Path("/srv/disk/data/x").touch()


@own_machine
def test_an_entry_that_cannot_be_held_costs_itself() -> None:
    os.makedirs("/srv/data")
    loaded = registry(BIND + "[Path]\nPath=/srv/late/x\nMethod=bind\n")
    sh("mkdir /srv/elsewhere; ln -s elsewhere /srv/late; mkdir /srv/elsewhere/x")
    problems = hold_stale(loaded)
    assert [p.message_id for p in problems] == ["ENTRY_STALE", "ENTRY_FAILED"]
    Path("/srv/elsewhere/x/y").touch()
