# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict: judge() against scratch registries and made-up mounts; what mountinfo really shows of an
overlay's upper."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from persist.boot.load import load
from persist.boot.paths import IMAGE, MOUNT_ENTRIES, STALE, STORE, VOLUME, escape, overlay_option
from persist.entries.stores import NOT_SEEDED
from persist.record import as_dict, replace
from persist.system.mountinfo import MEMORY, Mount, parse
from persist.verdict import judge as v
from persist.verdict.look import Fragment
from persist.volume.mount.writable import Obstacle, of_mount
from persist.volume.outcome import Outcome

VOLUME_MOUNT = Mount(
    20,
    1,
    "0:30",
    "/@persist-state",
    VOLUME,
    "rw,nosuid,nodev,noatime",
    "btrfs",
    "/dev/vda2",
    "rw,subvol=/@persist-state",
)
ROOT = Mount(1, 0, "254:0", "/", "/", "ro,relatime", "ext4", "/dev/vdb", "ro")
IMAGE_MOUNT = Mount(21, 1, "254:0", "/", IMAGE, "rw,relatime", "ext4", "/dev/vdb", "ro")
BTRFS = Outcome(kind="btrfs", device="/dev/vda2", uuid="a-b-c")


def overlay(
    path: str,
    number: int,
    *,
    parent: int = 1,
    upper: str | None = None,
    options: str = "rw,nosuid,nodev,relatime",
    more: str = "rw",
) -> Mount:
    """The overlay of an entry as mountinfo shows it, undone of its octal escapes."""
    upper = overlay_option(f"{STORE}/overlay/{escape(path)}/upper") if upper is None else upper
    more += f",lowerdir=/run/persist/private/lower{path},upperdir={upper},workdir=/w"
    return Mount(number, parent, f"0:{number}", "/", path, options, "overlay", "overlay", more)


def bind(
    path: str,
    number: int,
    *,
    parent: int = 1,
    device: str = "0:30",
    root: str | None = None,
    options: str = "rw,nosuid,nodev,noatime",
    more: str = "rw",
) -> Mount:
    root = f"/@persist-state{path}" if root is None else root
    return Mount(number, parent, device, root, path, options, "btrfs", "/dev/vda2", more)


def hole(path: str, number: int, *, parent: int, root: str | None = None) -> Mount:
    return Mount(
        number, parent, "254:0", path if root is None else root, path, "rw", "ext4", "/dev/vdb", "ro"
    )


class FakeLook(v.Look):
    """A machine of given mounts; ``there`` are the paths that it shows."""

    def __init__(
        self,
        every: Iterable[Mount],
        *,
        seeded: Iterable[str] | None = None,
        links: dict[str, str] | None = None,
        there: Iterable[str] = (),
        writable: bool = False,
    ) -> None:
        super().__init__("", every)
        self.markers = None if seeded is None else set(seeded)
        self.links = links or {}
        self.there = set(there)
        self.takes_writes = writable
        self.mount_entries = True
        self.obstacle: Obstacle | None = None
        self.fragments: dict[str, Fragment] = {}
        self.was_asked = True
        self.forget: dict[str, str] = {}
        self.told: dict[str, str] | None = None

    def left(self) -> dict[str, str] | None:
        return self.told

    def fragment(self, path: str) -> Fragment | None:
        return self.fragments.get(path)

    def lost(self, at: Mount) -> str:
        return self.forget.get(at.mount_point) or (f"a {at.fstype}" if at.fstype in MEMORY else "")

    def asked(self, unit: str) -> bool:
        return self.was_asked

    def wrong_place(self, path: str, name: str, method: str) -> tuple[str, str]:
        return ("", "") if self.markers is None or name in self.markers else (NOT_SEEDED, "")

    def exists(self, path: str) -> bool:
        return path in self.there or path in self.links or (path == MOUNT_ENTRIES and self.mount_entries)

    def link(self, path: str) -> str:
        return self.links.get(path, "")

    def read_only(self, at: Mount) -> Obstacle | None:
        return of_mount(at) or self.obstacle

    def writable(self, path: str) -> bool:
        return self.takes_writes


class Scene:
    """A scratch image with an enabled target."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {"SYSTEMD_PROC_CMDLINE": ""}
        self.enabled = root / "etc/systemd/system/local-fs.target.wants/persist-setup.target"
        self.enabled.parent.mkdir(parents=True)
        self.enabled.symlink_to("/usr/lib/systemd/system/persist-setup.target")
        (root / "usr/lib/persist.d").mkdir(parents=True)

    def registry(self, text: str, name: str = "app") -> None:
        """``/path method [Key=value]...`` a line, or a whole file where the text begins with a bracket."""
        if not text.startswith("["):
            out = ""
            for line in text.splitlines():
                path, method, *rest = line.split("|")
                out += f"[Path]\nPath={path}\nMethod={method}\n" + "".join(f"{r}\n" for r in rest)
            text = out
        (self.root / f"usr/lib/persist.d/{name}.conf").write_text(text)

    def conf(self, text: str) -> None:
        (self.root / "usr/lib/persist").mkdir(exist_ok=True)
        (self.root / "usr/lib/persist/persist.conf").write_text(f"[Volume]\n{text}\n")

    def mountinfo(self, *mounts: Mount) -> None:
        """What PID 1 sees of these; without, nobody knows."""
        file = self.root / "proc/1/mountinfo"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            "".join(
                f"{m.mount_id} {m.parent_id} {m.device} {m.root} {m.mount_point} {m.options} - {m.fstype} "
                f"{m.source} {m.super_options}\n"
                for m in mounts
            )
        )

    def judge(self, look: v.Look, volume: Outcome = BTRFS) -> v.Verdict:
        return v.judge(load(str(self.root), self.environ), volume, look)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def states(found: v.Verdict) -> dict[str, str]:
    return {e.path: e.state for e in found.entries}


def codes(found: v.Verdict) -> list[str]:
    return [r.code for r in found.reasons]


# -- all is well


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


# -- each way an entry can be wrong

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


# -- the volume's own word

NOTHING = [ROOT]
SOMETHING = [ROOT, VOLUME_MOUNT]
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


# -- refusals


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
        ("/opt/l|symlink\n/opt/l/a|bind", {"/opt/l": "linked", "/opt/l/a": "refused"}),
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


# -- off


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


# -- volume.json


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


# -- the kernel's word

_PROGRAM = r"""
import os, subprocess, sys
base, through = sys.argv[1:3]
from persist.boot.paths import STORE, escape, mount_options, overlay_option
def mount(*argv):
    subprocess.run(["mount", *argv], check=True)
mount("-t", "tmpfs", "tmpfs", "/run")
os.makedirs(STORE)
for number, path in enumerate(sys.argv[3:]):
    point = "%s/%d" % (base, number)
    os.mkdir(point)
    name = escape(path)
    store = STORE + "/overlay/" + name
    os.makedirs(store + "/upper")
    os.makedirs(store + "/work")
    at = overlay_option(store)
    options = f"lowerdir=/etc,upperdir={at}/upper,workdir={at}/work"
    if through == "unit":
        # What PID 1 makes of Options=: specifiers, then fstab_filter_options() takes one of two backslashes.
        options = mount_options(options).replace("%%", "%").replace("\\\\", "\\")
    mount("-t", "overlay", "overlay", point, "-o", options + ",nosuid,nodev")
sys.stdout.buffer.write(open("/proc/self/mountinfo", "rb").read())
"""
HOSTILE = [
    "/srv/my-data",
    "/srv/a:b",
    "/srv/a\\b",
    "/srv/a\\x2db",
    "/srv/two words",
    "/srv/100%",
    "/srv/\u00fcn\u00ef",
    "/srv/a=b",
    "/srv/.hidden/a'b",
    "/srv/#1",
]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.parametrize("through", ["initrd", "unit"])
def test_what_the_kernel_shows_of_an_upper(
    scene: Scene, tmp_path_factory: pytest.TempPathFactory, through: str
) -> None:
    base = tmp_path_factory.mktemp("points")
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "--propagation",
            "private",
            sys.executable,
            "-c",
            _PROGRAM,
            str(base),
            through,
            *HOSTILE,
        ],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        cwd=Path(__file__).parents[2],
        check=False,
    )
    if done.returncode != 0 and "permission denied" in done.stderr.lower():
        pytest.skip("no mounts here")
    assert done.returncode == 0, done.stderr
    shown = {m.mount_point: m for m in parse(done.stdout)}
    scene.registry("".join(f"[Path]\nPath={path}\n" for path in HOSTILE))
    look = FakeLook(
        [
            *SOMETHING,
            *(replace(shown[f"{base}/{n}"], mount_point=path, parent_id=1) for n, path in enumerate(HOSTILE)),
        ]
    )
    found = scene.judge(look)
    assert states(found) == dict.fromkeys(HOSTILE, "mounted"), [r.message for r in found.reasons]
    crossed = FakeLook(
        [
            *SOMETHING,
            *(replace(shown[f"{base}/{n}"], mount_point=path) for n, path in enumerate(reversed(HOSTILE))),
        ]
    )
    assert set(states(scene.judge(crossed)).values()) == {"failed"}, "no two of them look alike"


def test_look_reads_this_machine() -> None:
    look = v.Look()
    root = look.mount("/")
    assert root is not None and look.hidden_by("/") == ""
    assert look.exists("/etc") and look.link("/etc") == "" and look.wrong_place("/no/such", "no-such", "bind")
    assert not look.writable("/no/such/path")


# -- odd boots


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
