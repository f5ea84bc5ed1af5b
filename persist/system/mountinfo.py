# SPDX-License-Identifier: LGPL-2.1-or-later
"""/proc/self/mountinfo as data (proc_pid_mountinfo(5)). Standard library only: the verdict and the command
read it too."""

from __future__ import annotations

import re
from collections.abc import Callable

from persist.record import Record

_OCTAL = r"\\([0-7]{3})"
MEMORY = ("tmpfs", "ramfs", "rootfs")  # filesystems that are nowhere but in memory


class Mount(Record):
    """One line. ``device`` is major:minor, ``root`` what of the filesystem is mounted; options are
    comma-separated text."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    mount_point: str
    options: str
    fstype: str
    source: str
    super_options: str

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written through this mount: the mount itself or its filesystem is
        read-only."""
        return "ro" in self.options.split(",") or "ro" in self.super_options.split(",")

    @property
    def place(self) -> tuple[str, str]:
        """Device, and what of the filesystem is mounted, without a slash at its end. Of nfs the kernel shows
        ``/`` for the latter and has the path in the source (nfs_show_path(), nfs_show_devname())."""
        root = self.root
        if self.fstype in ("nfs", "nfs4"):
            root = "/" + self.source.partition("]:/" if self.source[:1] == "[" else ":/")[2]
        return self.device, root.rstrip("/")

    @property
    def upper(self) -> str:
        r"""The upperdir of an overlay as a path, '' where there is none.

        mountinfo shows the option as mount(2) or fsconfig(2) got it: with the backslashes that
        overlay_option() wrote and ovl_unescape() takes away.
        """
        found = ""
        for option in self.super_options.split(","):
            if option.startswith("upperdir="):
                found = re.sub(r"\\(.)", r"\1", option[len("upperdir=") :])
        return found if self.fstype == "overlay" else ""

    def lacks(self, wanted: str) -> str:
        """Those of a list of per-mount options that the mount has not, '' for none. mountinfo has words for
        what is forbidden, and none for what is allowed."""
        has = set(self.options.split(","))
        atime = bool(has & {"noatime", "relatime"})
        return ",".join(
            w
            for w in wanted.split(",")
            if (
                f"no{w}" in has
                if w in ("suid", "dev", "exec")
                else atime
                if w == "strictatime"
                else w not in has
            )
        )


def unescape(text: str) -> str:
    r"""Undo the kernel's octal escapes of blank, tab, newline and backslash (``\040``)."""
    return re.sub(_OCTAL, lambda m: chr(int(m.group(1), 8)), text) if "\\" in text else text


def parse(text: str, wanted: Callable[[str], bool] = lambda point: True) -> list[Mount]:
    """All mounts in the order of the kernel: of two on the same place, the later one is on top. Lines it
    cannot read are left out. ``wanted``: of which mount points; the rest costs next to nothing."""
    found = []
    for line in text.split("\n"):  # names may have what else Unicode takes for the end of a line
        fields = line.split(" ")
        try:
            dash = fields.index("-", 6)  # zero or more optional fields come before it
            mount_id, parent_id, device, root, point, options = fields[:6]
            fstype, source, super_options = fields[dash + 1 : dash + 4]
            numbers = int(mount_id), int(parent_id)
        except ValueError:
            continue  # a form that proc_pid_mountinfo(5) does not know yet
        point = unescape(point)
        if not wanted(point):
            continue
        found.append(
            Mount(
                *numbers,
                device,
                unescape(root),
                point,
                options,
                fstype,
                unescape(source),
                unescape(super_options),
            )
        )
    return found


def _of_this_process() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n") as f:
        return f.read()


def mounts(root: str = "/") -> list[Mount]:
    """The mounts of this process below a directory, with their full paths. Raises OSError where /proc is not
    mounted."""
    top = root.rstrip("/") + "/"
    return parse(_of_this_process(), lambda point: (point.rstrip("/") + "/").startswith(top))


def at(path: str) -> Mount | None:
    """The uppermost mount on exactly this path, or None. Raises OSError where /proc is not mounted."""
    found = parse(_of_this_process(), lambda point: point == path)
    return found[-1] if found else None
