# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict of entries: judge() where all is well, and each way in which one can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from persist.boot.paths import IMAGE, STALE, STORE, VOLUME
from persist.record import replace
from persist.system.mountinfo import Mount
from persist.verdict import judge as v
from persist.volume.outcome import Outcome

from .verdict_scene import (
    BTRFS,
    IMAGE_MOUNT,
    ROOT,
    VOLUME_MOUNT,
    FakeLook,
    Scene,
    bind,
    codes,
    hole,
    overlay,
    states,
)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_online(scene: Scene) -> None:
    scene.registry(
        "/var|overlay\n/var/lib/app|bind\n/var/lib/dpkg|image\n/opt/link|symlink\n/tmp|tmpfs\n"
        "/srv/my-data|overlay\n/srv/a:b|overlay\n/srv/a\\b|overlay"
    )
    found = scene.judge(
        FakeLook(
            [
                ROOT,
                VOLUME_MOUNT,
                IMAGE_MOUNT,
                overlay("/var", 30),
                bind("/var/lib/app", 31, parent=30),
                hole("/var/lib/dpkg", 32, parent=30),
                Mount(33, 1, "0:33", "/", "/tmp", "rw,nosuid", "tmpfs", "tmpfs", "rw"),
                overlay("/srv/my-data", 34),
                overlay("/srv/a:b", 35),
                overlay("/srv/a\\b", 36),
            ],
            links={"/opt/link": VOLUME + "/opt/link"},
            there=("/var/lib/dpkg", IMAGE + "/var/lib/dpkg"),
        )
    )
    assert (found.verdict, found.reasons) == (v.ONLINE, [])
    assert states(found) == {
        "/opt/link": "linked",
        "/srv/a:b": "mounted",
        "/srv/a\\b": "mounted",
        "/srv/my-data": "mounted",
        "/tmp": "tmpfs",
        "/var": "mounted",
        "/var/lib/app": "mounted",
        "/var/lib/dpkg": "image",
    }
    document = found.as_dict()
    assert document["device"] == "/dev/vda2" and document["version"] == 1
    assert document["entries"][0] == {
        "path": "/opt/link",
        "method": "symlink",
        "state": "linked",
        "source": "/usr/lib/persist.d/app.conf:11",
        "unit": "",
        "reason": "",
        "hint": "",
    }
    json.dumps(document)


def test_early(scene: Scene) -> None:
    scene.registry("/etc|overlay\n/srv|overlay")
    mounts = [ROOT, VOLUME_MOUNT, overlay("/etc", 30), overlay("/srv", 31)]
    scene.mountinfo(*mounts)
    found = scene.judge(FakeLook(mounts))
    assert found.verdict == v.ONLINE and states(found) == {"/etc": "early", "/srv": "mounted"}
    gone = scene.judge(FakeLook([m for m in mounts if m.mount_point != "/etc"]))
    assert gone.verdict == v.DEGRADED and states(gone)["/etc"] == "failed"
    assert "journalctl -b -k" in gone.reasons[0].hint, "there is no unit whose journal could tell"


@pytest.mark.parametrize(
    "target", [VOLUME + "/opt/l", "/mnt/state/opt/l", "../run/persist/volume/opt/l", VOLUME + "/opt/./l"]
)
def test_links_that_count(scene: Scene, target: str) -> None:
    scene.registry("/opt/l|symlink")
    assert scene.judge(FakeLook([ROOT, VOLUME_MOUNT], links={"/opt/l": target})).verdict == v.ONLINE


def test_public_name_is_the_configured_one(scene: Scene) -> None:
    scene.conf("Mount=/data")
    scene.registry("/opt/l|symlink")
    assert scene.judge(FakeLook([ROOT, VOLUME_MOUNT], links={"/opt/l": "/data/opt/l"})).verdict == v.ONLINE
    assert (
        scene.judge(FakeLook([ROOT, VOLUME_MOUNT], links={"/opt/l": "/mnt/state/opt/l"})).verdict
        == v.DEGRADED
    )


WRONG: dict[str, tuple[str, list[Mount], dict[str, Any], str]] = {
    "overlay-absent": ("/srv|overlay", [], {}, "is not mounted"),
    "overlay-not-seeded": ("/srv|overlay", [overlay("/srv", 30)], {"seeded": ()}, "was not seeded"),
    "overlay-of-another": (
        "/srv|overlay",
        [overlay("/srv", 30, upper=f"{STORE}/overlay/srv2/upper")],
        {},
        "has another overlay mounted on it",
    ),
    "overlay-below-another": (
        "/srv|overlay",
        [overlay("/srv", 30, upper=f"{STORE}/overlay/srv/upper/x")],
        {},
        "has another overlay mounted on it",
    ),
    "overlay-elsewhere": (
        "/srv|overlay",
        [overlay("/srv", 30, upper="/mnt/evil/.persist/overlay/srv/upper")],
        {},
        "has another overlay mounted on it",
    ),
    "overlay-lower-only": (
        "/srv|overlay",
        [replace(overlay("/srv", 30, upper="/x"), super_options=f"ro,lowerdir={STORE}/overlay/srv/upper")],
        {},
        "has another overlay mounted on it",
    ),
    "overlay-name-not-escaped": (
        "/srv/a-b|overlay",
        [overlay("/srv/a-b", 30, upper=f"{STORE}/overlay/srv-a\\x2db/upper")],
        {},
        "has another overlay mounted on it",
    ),
    "overlay-other-fs": (
        "/srv|overlay",
        [Mount(30, 1, "8:1", "/", "/srv", "rw", "xfs", "/dev/sda1", "rw")],
        {},
        "has a xfs mounted on it",
    ),
    "overlay-read-only": (
        "/srv|overlay",
        [overlay("/srv", 30, options="ro,relatime")],
        {},
        "is mounted read-only",
    ),
    "overlay-read-only-fs": ("/srv|overlay", [overlay("/srv", 30, more="ro")], {}, "is mounted read-only"),
    "overlay-covered": (
        "/srv|overlay",
        [overlay("/srv", 30), Mount(31, 30, "0:31", "/", "/srv", "rw", "tmpfs", "tmpfs", "rw")],
        {},
        "has a tmpfs mounted on it",
    ),
    "overlay-covered-out-of-order": (
        "/srv|overlay",
        [Mount(31, 32, "0:31", "/", "/srv", "rw", "tmpfs", "tmpfs", "rw"), overlay("/srv", 32)],
        {},
        "has a tmpfs mounted on it",
    ),
    "bind-absent": ("/srv|bind", [], {}, "is not mounted"),
    "bind-not-seeded": ("/srv|bind", [bind("/srv", 30)], {"seeded": ("srv2",)}, "was not seeded"),
    "bind-other-device": (
        "/srv|bind",
        [bind("/srv", 30, device="8:1", root="/x")],
        {},
        "has /dev/vda2/x mounted on it",
    ),
    "bind-other-directory": (
        "/srv|bind",
        [bind("/srv", 30, root="/@persist-state/srv2")],
        {},
        "has /dev/vda2/@persist-state/srv2 mounted on it",
    ),
    "bind-other-subvolume": (
        "/srv|bind",
        [bind("/srv", 30, root="/@persist-data/srv")],
        {},
        "has /dev/vda2/@persist-data/srv mounted on it",
    ),
    "bind-deleted": (
        "/srv|bind",
        [bind("/srv", 30, root="/@persist-state/srv//deleted")],
        {},
        "has /dev/vda2/@persist-state/srv//deleted mounted on it",
    ),
    "bind-read-only": ("/srv|bind", [bind("/srv", 30, options="ro")], {}, "is mounted read-only"),
    "overlay-suid": (
        "/srv|overlay",
        [overlay("/srv", 30, options="rw,relatime")],
        {},
        "is mounted without nosuid,nodev",
    ),
    "bind-dev": (
        "/srv|bind",
        [bind("/srv", 30, options="rw,nosuid,noatime")],
        {},
        "is mounted without nodev",
    ),
    "bind-of-a-nosuid-volume": ("/srv|bind|Options=suid", [bind("/srv", 30)], {}, "is mounted without suid"),
    "overlay-exec": (
        "/srv|overlay|Options=noexec,dev",
        [overlay("/srv", 30, options="rw,nosuid,nodev")],
        {},
        "is mounted without dev,noexec",
    ),
    "overlay-atime": (
        "/srv|overlay|Options=noatime",
        [overlay("/srv", 30)],
        {},
        "is mounted without noatime",
    ),
    "overlay-strictatime": (
        "/srv|overlay|Options=strictatime",
        [overlay("/srv", 30)],
        {},
        "is mounted without strictatime",
    ),
    "symlink-absent": ("/opt/l|symlink", [], {}, "does not exist"),
    "symlink-real": ("/opt/l|symlink", [], {"there": ("/opt/l",)}, f"is not a link to {VOLUME}/opt/l"),
    "symlink-elsewhere": (
        "/opt/l|symlink",
        [],
        {"links": {"/opt/l": "/opt/m"}},
        f"is not a link to {VOLUME}/opt/l",
    ),
    "symlink-not-seeded": (
        "/opt/l|symlink",
        [],
        {"links": {"/opt/l": VOLUME + "/opt/l"}, "seeded": ()},
        "was not seeded",
    ),
    "tmpfs-not-writable": ("/tmp|tmpfs", [], {}, "is not writable"),
    "tmpfs-read-only": (
        "/tmp|tmpfs",
        [Mount(30, 1, "0:30", "/", "/tmp", "ro", "tmpfs", "tmpfs", "rw")],
        {},
        "is not writable",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong(scene: Scene, case: str) -> None:
    entry, mounts, facts, expected = WRONG[case]
    scene.registry(entry)
    found = scene.judge(FakeLook([ROOT, VOLUME_MOUNT, IMAGE_MOUNT, *mounts], **facts))
    path = entry.partition("|")[0]
    assert found.verdict == v.DEGRADED
    assert [(e.path, e.state, e.reason) for e in found.entries] == [(path, "failed", expected)]
    assert [(r.code, r.path, r.message) for r in found.reasons] == [
        ("entry-failed", path, f"{path} {expected}.")
    ]
    assert found.reasons[0].hint.startswith(found.entries[0].hint) and found.entries[0].hint.endswith(".")
    assert found.reasons[0].hint.endswith("Declared in /usr/lib/persist.d/app.conf:2.")


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ("suid", "rw,nodev,relatime"),
        ("dev", "rw,nosuid"),
        ("suid,dev,exec", "rw"),
        ("noexec", "rw,nosuid,nodev,noexec"),
        ("exec", "rw,nosuid,nodev"),
        ("noatime,nodiratime", "rw,nosuid,nodev,noatime,nodiratime"),
        ("relatime", "rw,nosuid,nodev,relatime"),
        ("strictatime", "rw,nosuid,nodev"),
        ("nosuid", "rw,nosuid,nodev,noexec,noatime"),  # what nobody asked for and does no harm
    ],
)
def test_options_as_asked_for(scene: Scene, wanted: str, shown: str) -> None:
    scene.registry(f"/srv|overlay|Options={wanted}\n/opt|bind|Options={wanted}")
    found = scene.judge(
        FakeLook([ROOT, VOLUME_MOUNT, overlay("/srv", 30, options=shown), bind("/opt", 31, options=shown)])
    )
    assert (found.verdict, found.reasons) == (v.ONLINE, [])


@pytest.mark.parametrize("kind", ["btrfs", "native", "tmpfs", "root"])
def test_volume_that_makes_users_root(scene: Scene, kind: str) -> None:
    scene.registry("/opt/l|symlink")
    look = FakeLook(
        [
            ROOT,
            replace(
                VOLUME_MOUNT, options="rw,nosuid,noatime", fstype="tmpfs" if kind == "tmpfs" else "btrfs"
            ),
        ],
        links={"/opt/l": VOLUME + "/opt/l"},
    )
    found = scene.judge(look, replace(BTRFS, kind=kind))
    assert found.verdict == (v.VOLATILE if kind == "tmpfs" else v.DEGRADED)
    assert "volume-options" in codes(found) and "is mounted without nodev" in found.reasons[-1].message


HOLES: dict[str, tuple[list[Mount], tuple[str, ...], str]] = {
    "mounted": ([hole("/var/x", 32, parent=30)], ("/var/x", IMAGE + "/var/x"), ""),
    "not-mounted": ([], ("/var/x", IMAGE + "/var/x"), "is not mounted"),
    "nothing-there": ([], (), ""),
    "removed-above": ([], (IMAGE + "/var/x",), ""),
    "not-in-the-image": ([], ("/var/x",), ""),
    "other-directory": (
        [hole("/var/x", 32, parent=30, root="/var/y")],
        ("/var/x", IMAGE + "/var/x"),
        "has /dev/vdb/var/y mounted on it",
    ),
    "other-device": (
        [bind("/var/x", 32, parent=30)],
        ("/var/x", IMAGE + "/var/x"),
        "has /dev/vda2/@persist-state/var/x mounted on it",
    ),
    "hidden": (
        [hole("/var/x", 32, parent=1)],
        ("/var/x", IMAGE + "/var/x"),
        "is hidden by a later mount on /var",
    ),
}


@pytest.mark.parametrize("case", HOLES)
def test_holes(scene: Scene, case: str) -> None:
    mounts, there, expected = HOLES[case]
    scene.registry("/var|overlay\n/var/x|image")
    found = scene.judge(
        FakeLook([ROOT, VOLUME_MOUNT, IMAGE_MOUNT, overlay("/var", 30), *mounts], there=there)
    )
    assert (found.entries[1].state, found.entries[1].reason) == ("failed" if expected else "image", expected)


@pytest.mark.parametrize("server", ["10.9.0.1:/srv/root", "[fe80::1]:/", "host:/a:/b/"])
def test_a_hole_of_an_image_on_nfs(scene: Scene, server: str) -> None:
    """Line for line as Linux 6.1 shows them: the root is always /, and the path is in the source."""
    scene.registry("/var|overlay\n/var/x|image\n/var/y|image")
    nfs = replace(IMAGE_MOUNT, device="0:24", root="/", fstype="nfs", source=server)
    below = server.rstrip("/")
    holes = [
        replace(nfs, mount_id=n, parent_id=30, mount_point=at, source=f"{below}{of}/")
        for n, at, of in ((32, "/var/x", "/var/x"), (33, "/var/y", "/var/z"))
    ]
    look = FakeLook(
        [
            replace(ROOT, device="0:24", fstype="nfs", source=server),
            VOLUME_MOUNT,
            nfs,
            overlay("/var", 30),
            *holes,
        ],
        there=[p + at for p in ("", IMAGE) for at in ("/var/x", "/var/y")],
    )
    assert states(scene.judge(look)) == {"/var": "mounted", "/var/x": "image", "/var/y": "failed"}


def test_hole_without_the_image_at_hand(scene: Scene) -> None:
    scene.registry("/var|overlay\n/var/x|image")
    found = scene.judge(FakeLook([ROOT, VOLUME_MOUNT, overlay("/var", 30)], there=("/var/x",)))
    assert states(found) == {"/var": "mounted", "/var/x": "failed"}


def test_child_hidden_by_a_late_parent(scene: Scene) -> None:
    scene.registry("/var|overlay\n/var/lib/app|bind")
    found = scene.judge(
        FakeLook([ROOT, VOLUME_MOUNT, bind("/var/lib/app", 30, parent=1), overlay("/var", 31)])
    )
    assert [(e.state, e.reason) for e in found.entries] == [
        ("mounted", ""),
        ("failed", "is hidden by a later mount on /var"),
    ]


def test_stacked_mounts_are_not_hidden(scene: Scene) -> None:
    """The unit's mount over one that was there before, below an entry that is itself stacked."""
    scene.registry("/var|overlay\n/var/lib/app|bind")
    below = Mount(30, 1, "8:1", "/", "/var", "rw", "ext4", "/dev/sda1", "rw")
    found = scene.judge(
        FakeLook(
            [
                ROOT,
                VOLUME_MOUNT,
                below,
                overlay("/var", 31, parent=30),
                Mount(32, 31, "8:2", "/", "/var/lib/app", "rw", "xfs", "/dev/sdb", "rw"),
                bind("/var/lib/app", 33, parent=32),
            ]
        )
    )
    assert found.verdict == v.ONLINE


def test_where_a_bind_failed(scene: Scene) -> None:
    """It is mounted by the volume's service, or by a service of its own."""
    scene.registry("/srv/my-data|bind\n/opt/x|bind")
    found = scene.judge(FakeLook([ROOT, VOLUME_MOUNT]))
    assert [e.unit for e in found.entries] == [
        "persist-bind@opt-x.service",
        "persist-bind@srv-my\\x2ddata.service",
    ]
    hints = [r.hint for r in found.reasons]
    assert hints[0].startswith(
        "See 'systemctl status persist-bind@opt-x.service' and 'journalctl -b -u persist-volume.service'. "
    )
    assert hints[1].startswith("See \"systemctl status 'persist-bind@srv-my\\x2ddata.service'\" and ")


@pytest.mark.parametrize(
    ("kind", "options", "flag", "state"),
    [
        ("none", "ro,relatime", True, "stale"),
        ("none", "rw,relatime", True, "waiting"),
        ("none", "ro,relatime", False, "waiting"),
        ("root", "ro,relatime", True, "stale"),
        ("root", "rw,relatime", True, "root"),
    ],
)
def test_stale(scene: Scene, kind: str, options: str, flag: bool, state: str) -> None:
    """A bind entry that is held read-only because the volume that is known is away."""
    scene.registry("/srv/x|bind")
    held = Mount(30, 1, "254:0", "/srv/x", "/srv/x", options, "ext4", "/dev/vdb", "rw")
    store = (
        [Mount(20, 1, "254:0", "/var/lib/persist/root", VOLUME, "rw,nosuid,nodev", "ext4", "/dev/vdb", "rw")]
        if kind == "root"
        else []
    )
    volume = Outcome(kind=kind, reason="known-volume-missing", message="Away.", expected=True)  # type: ignore[arg-type]
    found = scene.judge(FakeLook([ROOT, *store, held], there=(STALE,) if flag else ()), volume)
    assert (found.verdict, [e.state for e in found.entries]) == (v.VOLATILE, [state])


def test_a_volume_that_came_back_read_only_is_not_stale(scene: Scene) -> None:
    scene.registry("/srv/x|bind")
    found = scene.judge(FakeLook([ROOT, VOLUME_MOUNT, bind("/srv/x", 30, options="ro")], there=(STALE,)))
    assert [(e.state, e.reason) for e in found.entries] == [("failed", "is mounted read-only")]


def test_read_only_below_memory(scene: Scene) -> None:
    """With persist=ro what is bound is the overlay at the path's place in the tmpfs."""
    scene.registry("/srv/x|bind\n/srv/y|bind")
    own = Mount(22, 20, "0:50", "/", f"{VOLUME}/srv/x", "rw,nosuid,nodev", "overlay", "overlay", "rw")
    tmpfs = Mount(20, 1, "0:40", "/", VOLUME, "rw,nosuid,nodev", "tmpfs", "tmpfs", "rw")
    right = [
        Mount(30, 1, "0:50", "/", "/srv/x", "rw,nosuid,nodev", "overlay", "overlay", "rw"),
        Mount(31, 1, "0:40", "/srv/y", "/srv/y", "rw,nosuid,nodev", "tmpfs", "tmpfs", "rw"),
    ]
    volume = Outcome(kind="tmpfs", reason="read-only", message="Asked for.")
    assert [e.state for e in scene.judge(FakeLook([ROOT, tmpfs, own, *right]), volume).entries] == [
        "mounted",
        "mounted",
    ]
    wrong = Mount(30, 1, "0:51", "/", "/srv/x", "rw", "overlay", "overlay", "rw")
    assert [e.state for e in scene.judge(FakeLook([ROOT, tmpfs, own, wrong, right[1]]), volume).entries] == [
        "failed",
        "mounted",
    ]


def test_hint_survives_a_shell(scene: Scene) -> None:
    scene.registry("/srv/my-data|overlay\n/opt/my-link|symlink\n/opt/it's|symlink\n/srv/a b|bind")
    look = FakeLook(
        [ROOT, VOLUME_MOUNT, Mount(30, 1, "8:1", "/", "/srv/a b", "rw", "ext4", "/dev/sdb", "rw")],
        seeded=("srv-my\\x2ddata", "srv-a\\x20b"),
        links={"/opt/my-link": f"{VOLUME}/opt/my-link"},
    )
    hints = {r.path: r.hint for r in scene.judge(look).reasons}
    assert hints["/opt/my-link"].startswith(
        "See \"systemctl status 'persist-seed@opt-my\\x2dlink.service'\". "
    )
    assert hints["/srv/my-data"].startswith("See \"systemctl status 'srv-my\\x2ddata.mount'\" and ")
    assert hints["/srv/a b"].startswith("Unmount it with \"umount '/srv/a b'\", ")
    assert "ln -s '/run/persist/volume/opt/it'\"'\"'s' " in hints["/opt/it's"]
