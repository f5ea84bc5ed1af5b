# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist=ro: the volume is shown, changes go to memory, and not a byte of the volume changes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from persist.boot import paths
from persist.boot.load import Loaded
from persist.entries.bind import mount_seeded
from persist.entries.read_only_boot import prepare
from persist.record import replace
from persist.services import seed as seed_service
from persist.system import mountinfo
from persist.verdict import judge
from persist.volume.ondisk import store

from .namespace import disk, kept, kept_overlay, marker, own_machine, registry, sh

REAL = paths.READONLY
ENTRIES = """
[Path]
Path=/srv/over
[Path]
Path=/srv/over/bound
Method=bind
[Path]
Path=/srv/a,b "c"
Method=bind
[Path]
Path=/srv/file
Method=bind
Type=file
[Path]
Path=/srv/link
Method=symlink
[Path]
Path=/opt/new
"""


def text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def machine(real: bool = True) -> Loaded:
    """A machine with a volume of all kinds of entries, booted with persist=ro."""
    os.makedirs("/srv/over/bound")
    os.makedirs('/srv/a,b "c"')
    os.makedirs("/opt/new")
    Path("/opt/new/image").write_text("image")
    Path("/srv/file").touch()
    for name in ("image", "deleted", "changed"):
        Path(f"/srv/over/{name}").write_text("image")
    os.makedirs("/srv/over/opaque")
    Path("/srv/over/opaque/image").touch()
    if real:
        disk(REAL)
        upper = kept_overlay("/srv/over", REAL)
        upper.chmod(0o751)
        os.chown(upper, 7, 8)
        (upper / "changed").write_text("volume")
        os.mknod(upper / "deleted", stat.S_IFCHR, 0)
        (upper / "opaque").mkdir()
        os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
        for path in ("/srv/over/bound", '/srv/a,b "c"', "/srv/link"):
            kept(path, "volume", REAL)
        os.chown(f"{REAL}/srv/over", 5, 6)
        os.chmod(f"{REAL}/srv/link", 0o710)
        Path(f"{REAL}/srv/file").write_text("volume")
        os.chmod(f"{REAL}/srv/file", 0o640)
        marker("/srv/file", REAL)
        sh(f"mount -o remount,ro {REAL}")
    # /srv and /opt are mounts of their own here.
    sh("umount /run/persist/private/lower; mount --rbind / /run/persist/private/lower")
    sh("mkdir -p /run/persist/volume; mount -t tmpfs -o mode=0755 none /run/persist/volume")
    store.make(paths.VOLUME)
    os.symlink(f"{paths.VOLUME}/srv/link", "/srv/link")
    return registry(ENTRIES, cmdline="quiet persist=ro")


def mount_unit(loaded: Loaded, unit: str) -> None:
    """What PID 1 does with a mount unit whose conditions hold."""
    lines = loaded.plan.files[unit].splitlines()
    for line in lines:
        if line.startswith("ConditionPathIsDirectory="):
            assert os.path.isdir(line.partition("=")[2]), line
    get = {line.partition("=")[0]: line.partition("=")[2] for line in lines}
    options = get["Options"].replace("\\\\", "\\").replace("%%", "%")
    assert get["Environment"] == "LIBMOUNT_FORCE_MOUNT2=always"
    sh(f"LIBMOUNT_FORCE_MOUNT2=always mount -t overlay -o '{options}' overlay {get['Where']}")


@own_machine
def test_all_of_it_is_shown_and_nothing_is_written() -> None:
    loaded = machine()
    before = sh(f"find {REAL} -printf '%p %m %U %G %T@ %C@ %s\\n' | sort")
    for _ in range(2):
        assert prepare(loaded, print) == []
        assert mount_seeded(loaded) == []
    Path(paths.MOUNT_ENTRIES).touch()
    assert seed_service.main("opt-new") == 0  # the volume does not know it
    mount_unit(loaded, "opt-new.mount")

    st = os.stat("/srv/over")
    assert (st.st_mode & 0o7777, st.st_uid, st.st_gid) == (0o751, 7, 8)
    assert (text("/srv/over/image"), text("/srv/over/changed")) == ("image", "volume")
    assert not os.path.lexists("/srv/over/deleted") and os.listdir("/srv/over/opaque") == []
    assert (
        text("/srv/over/bound/f")
        == text('/srv/a,b "c"/f')
        == text("/srv/link/f")
        == text("/srv/file")
        == "volume"
    )
    assert os.stat("/srv/link/.").st_mode & 0o7777 == 0o710 and os.stat("/srv/file").st_mode & 0o7777 == 0o640
    assert os.stat(f"{paths.VOLUME}/srv/over").st_uid == 5, "parents look as they do on the volume"
    assert text("/opt/new/image") == "image"

    for path in (
        "/srv/over/changed",
        "/srv/over/bound/f",
        '/srv/a,b "c"/f',
        "/srv/link/f",
        "/srv/file",
        "/opt/new/image",
    ):
        Path(path).write_text("memory")
        assert text(path) == "memory"
    os.unlink("/srv/over/bound/f")
    assert sh(f"find {REAL} -printf '%p %m %U %G %T@ %C@ %s\\n' | sort") == before
    assert text(f"{REAL}/srv/file") == text(f"{REAL}/srv/over/bound/f") == "volume"

    found = judge.judge(loaded, replace(judge.read_volume(), kind="tmpfs"), judge.Look())
    assert {e.path: (e.state, e.reason) for e in found.entries} == {
        "/srv/over": ("mounted", ""),
        "/srv/over/bound": ("mounted", ""),
        '/srv/a,b "c"': ("mounted", ""),
        "/srv/file": ("mounted", ""),
        "/srv/link": ("linked", ""),
        "/opt/new": ("mounted", ""),
    }


@own_machine
def test_the_unit_of_an_overlay_shows_the_same() -> None:
    loaded = machine()
    assert prepare(loaded, print) == []
    mount_unit(loaded, "srv-over.mount")
    assert text("/srv/over/changed") == "volume" and not os.path.lexists("/srv/over/deleted")
    Path("/srv/over/new").touch()
    assert os.path.exists(f"{paths.STORE}/overlay/srv-over/upper/new")


@own_machine
def test_without_the_volume_the_units_have_what_they_need() -> None:
    loaded = machine(real=False)
    assert prepare(loaded, print) == [] and mount_seeded(loaded) == []
    Path(paths.MOUNT_ENTRIES).touch()
    assert seed_service.main("srv-over") == 0
    mount_unit(loaded, "srv-over.mount")
    assert text("/srv/over/image") == "image"
    Path("/srv/over/image").write_text("memory")


@own_machine
def test_no_link_of_the_volume_is_followed() -> None:
    os.makedirs("/opt/secret")
    Path("/opt/secret/f").write_text("secret")
    loaded = machine()
    sh(f"""mount -o remount,rw {REAL}; cd {REAL}
rm -r srv/over; ln -s /opt/secret srv/over; mkdir -p /opt/secret/bound; touch /opt/secret/bound/f
rm -r srv/link; ln -s /opt/secret srv/link
rm srv/file; mkfifo srv/file
rm -r .persist/overlay/srv-over/upper; ln -s /opt/secret .persist/overlay/srv-over/upper
mount -o remount,ro {REAL}""")
    problems = prepare(loaded, print)
    assert [p.fields["PERSIST_PATH"] for p in problems] == [
        "/srv/file",
        "/srv/link",
        "/srv/over",
        "/srv/over/bound",
    ]
    assert mount_seeded(loaded) == []
    assert text('/srv/a,b "c"/f') == "volume"
    assert [m.mount_point for m in mountinfo.mounts("/srv") if m.mount_point != "/srv"] == ['/srv/a,b "c"']
    Path(paths.MOUNT_ENTRIES).touch()
    assert seed_service.main("srv-over") == 0
    # A /var without what the volume has is better than one that takes no writes.
    mount_unit(loaded, "srv-over.mount")
    assert text("/srv/over/image") == "image" and not os.path.exists("/srv/over/f")


@own_machine
def test_a_volume_that_is_no_memory_is_left_alone() -> None:
    """An initrd of old may have mounted it."""
    disk()
    loaded = registry(ENTRIES, cmdline="persist=ro")
    problems = prepare(loaded, print)
    assert len(problems) == 1 and "No tmpfs is mounted" in str(problems[0])
    assert sorted(os.listdir(paths.STORE)) == sorted(store.DIRECTORIES)


@own_machine
def test_a_file_behind_a_link_that_nobody_has_made_yet() -> None:
    machine()
    sh(f"mount -o remount,rw {REAL}; mkdir -p {REAL}/srv/keys; mkdir /srv/keys")
    text_of = '{"version": 1, "method": "symlink", "type": "file", "source": "", "adopted": false}'
    Path(f"{REAL}/.persist/seed/{paths.escape('/srv/keys/key')}.json").write_text(text_of)
    os.symlink(f"{paths.VOLUME}/srv/keys/key", "/srv/keys/key")
    loaded = registry("[Path]\nPath=/srv/keys/key\nMethod=symlink\nType=file\n", cmdline="persist=ro")
    assert prepare(loaded, print) == [] and mount_seeded(loaded) == []
    found = judge.judge(loaded, replace(judge.read_volume(), kind="tmpfs"), judge.Look())
    assert [(e.state, e.reason) for e in found.entries] == [("linked", "")]
    Path("/srv/keys/key").write_text("memory")
    assert not os.path.exists(f"{REAL}/srv/keys/key")


@own_machine
def test_a_new_overlay_below_one_takes_along_what_that_shows() -> None:
    machine()
    loaded = registry(f"{ENTRIES}[Path]\nPath=/srv/over/opaque\n", cmdline="quiet persist=ro")
    assert prepare(loaded, print) == [] and mount_seeded(loaded) == []
    Path(paths.MOUNT_ENTRIES).touch()
    assert seed_service.main("srv-over-opaque") == 0
    mount_unit(loaded, "srv-over-opaque.mount")
    assert os.listdir("/srv/over/opaque") == []
