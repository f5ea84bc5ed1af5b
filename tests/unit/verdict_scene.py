# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scratch registries and made-up mounts, of which the tests of the verdict ask judge()."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from persist.boot.load import load
from persist.boot.paths import IMAGE, MOUNT_ENTRIES, STORE, VOLUME, escape, overlay_option
from persist.entries.stores import NOT_SEEDED
from persist.system.mountinfo import MEMORY, Mount
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


SOMETHING = [ROOT, VOLUME_MOUNT]
NOTHING = [ROOT]


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


def states(found: v.Verdict) -> dict[str, str]:
    return {e.path: e.state for e in found.entries}


def codes(found: v.Verdict) -> list[str]:
    return [r.code for r in found.reasons]
