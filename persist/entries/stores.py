# SPDX-License-Identifier: LGPL-2.1-or-later
"""The places of entries on the volume, looked at before anything is mounted from them.

PID 1, mount(8) and overlayfs take names, and follow links in them: ``.persist/overlay/X/upper -> /var/lib``
on a strange disk would have /var/lib written to, and a work directory emptied. So each place is looked at
through descriptors first. One that is as it should be gets a flag, ``/run/persist/stores/<escaped path>``
with device and inode of what holds the content, and the units have a condition on that alone. Written by
persist-volume.service for what is seeded, by persist-seed@.service for what it has seeded; the verdict looks
again, and compares.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from persist.boot import paths
from persist.errors import PersistError
from persist.seed import marker
from persist.system.btrfs import TOP_INODE
from persist.system.files import write_atomically
from persist.system.safepath import Dir

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Any

NOT_SEEDED = "was not seeded"
NOTHING = "-"  # in a flag: there is but a link, and a place for the file
METHODS = ("overlay", "bind", "symlink")  # those that have a place on the volume


def _overlay(volume: Dir, name: str) -> os.stat_result:
    with (
        volume.inner(f".persist/overlay/{name}") as top,
        top.inner("upper") as upper,
        top.inner("work") as work,
    ):
        top.must_be_ours()
        work.must_be_ours()
        found = os.fstat(upper.fd)  # whose it is, is for the path itself
        if found.st_dev != os.fstat(work.fd).st_dev:
            raise PersistError(
                f"'{upper.name}' is a subvolume, and overlayfs cannot move files there from '{work.name}'.",
                hint="Replace it by a directory with the same content.",
            )
        return found


def _content(volume: Dir, path: str) -> os.stat_result:
    fd = volume.node(path)
    if fd is None:
        raise FileNotFoundError
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "a device or a pipe"
        raise PersistError(
            f"'{volume.path(path[1:])}' is {what}, and neither a directory nor a regular file.",
            hint="Look at where it comes from.",
        )
    return found


def _may_be_missing(volume: Dir, path: str, name: str) -> bool:
    """Whether an entry was seeded with nothing but its link, and the directory that it leads into is there.
    Raises PersistError and OSError."""
    if not marker.only_a_link(_marker(volume, name) or {}):
        return False
    with suppress(FileNotFoundError), volume.sub(os.path.dirname(path)):
        return True
    return False


def look(volume: Dir, path: str, name: str, method: str) -> str:
    """What the flag of an entry says while its place on the volume is as it should be: device and inode, or
    NOTHING.

    Follows no link, opens no device, and writes nothing. Raises PersistError for a place that must not be
    used, OSError.
    """
    try:
        found = _overlay(volume, name) if method == "overlay" else _content(volume, path)
    except FileNotFoundError as e:
        if method == "symlink" and _may_be_missing(volume, path, name):
            return NOTHING
        at = volume.path(f".persist/overlay/{name}" if method == "overlay" else path[1:])
        raise PersistError(
            f"'{at}' is missing or incomplete.",
            hint="Restore it, or remove its marker below .persist/seed to seed the path again.",
        ) from e
    return f"{found.st_dev}:{found.st_ino}"


def in_snapshots(path: str, name: str, method: str, root: str = "") -> bool:
    """Whether a directory of an entry on a btrfs is no subvolume of its own. What cannot be looked at is no
    matter of this: wrong() says it."""
    try:
        with (
            Dir.at(root + paths.VOLUME) as volume,
            volume.inner(f".persist/overlay/{name}" if method == "overlay" else path[1:]) as store,
        ):
            return os.fstat(store.fd).st_ino != TOP_INODE
    except (PersistError, OSError):
        return False


def replaced(path: str) -> bool:
    """Whether a file is at the path of a link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def flag(name: str, root: str = "") -> str:
    """What the flag of an entry says, '' where it has none. Raises OSError."""
    try:
        with open(f"{root}{paths.STORES}/{name}", encoding="ascii") as f:
            return f.read(64).strip()
    except FileNotFoundError:
        return ""


def note(volume: Dir, path: str, name: str, method: str, root: str = "") -> None:
    """Look at the place of one entry and write its flag. Raises PersistError and OSError; there is no flag
    then."""
    check_method(volume, path, name, method)
    write_atomically(f"{root}{paths.STORES}/{name}", look(volume, path, name, method) + "\n")


def clear() -> None:
    """Take all flags away: nothing was looked at yet. Raises OSError."""
    with suppress(FileNotFoundError):
        for name in os.listdir(paths.STORES):
            os.unlink(f"{paths.STORES}/{name}")


def seeded_for(volume: Dir, name: str) -> str:
    """The method that an entry was seeded for, '' where it was not, or no marker says. Raises PersistError
    and OSError as seeded()."""
    return str((_marker(volume, name) or {}).get("method") or "")


def check_method(volume: Dir, path: str, name: str, method: str) -> None:
    """Raise PersistError where an entry was seeded for a method that keeps its content elsewhere: what it
    keeps would be out of sight."""
    found = seeded_for(volume, name) or method
    if (found == "overlay") != (method == "overlay"):
        at = f".persist/overlay/{name}/upper" if found == "overlay" else path[1:]
        raise PersistError(
            f"'{path}' was seeded for Method={found}, and its entry now says Method={method}. Its content "
            f"was not converted and is in '{volume.path(at)}'.",
            hint=f"Put an entry for it with Method={found} into a file of /etc/persist.d that sorts first.",
        )


def seeded(volume: Dir, name: str) -> bool:
    """Whether an entry has its marker. Raises PersistError where something else has its name, OSError."""
    return _marker(volume, name) is not None


def _marker(volume: Dir, name: str) -> dict[str, Any] | None:
    """The marker of an entry, None where it has none. Raises PersistError where something else has its name,
    OSError."""
    try:
        with volume.inner(".persist/seed") as seeds:
            data = seeds.read(f"{name}.json", marker.LIMIT)
    except FileNotFoundError:
        return None
    if data is None:
        return None
    try:
        return marker.parse(data)
    except ValueError as e:
        raise PersistError(
            f"'{volume.path(f'.persist/seed/{name}.json')}' is not a marker of persist: {e}.",
            hint="Remove it to adopt the content of the path as it is.",
        ) from e


def wrong(path: str, name: str, method: str, root: str = "") -> tuple[str, str]:
    """Why the place of an entry is not what its mount was made from (the end of a sentence that begins with
    the path), and what to do.

    '' and '' where it is; NOT_SEEDED where there is no marker.
    """
    try:
        with Dir.at(root + paths.VOLUME) as volume:
            if not seeded(volume, name):
                return NOT_SEEDED, ""
            check_method(volume, path, name, method)
            now = look(volume, path, name, method)
        before = flag(name, root)
    except PersistError as e:
        return f"is not used: {e.message.removesuffix('.')}", e.hint
    except OSError as e:
        return f"cannot be checked on the state volume: {e}", "See 'journalctl -b -k'."
    if method == "symlink" or now == before:
        return "", ""
    if os.path.lexists(root + paths.BOOTED) and not os.path.lexists(root + paths.STORES):
        return (
            "",
            "",
            # the package was upgraded while the machine ran: this boot began without flags, and mountinfo
            # says what there is
        )
    if before:
        return (
            "was replaced on the state volume after it was mounted",
            "Move the original back, or restart the machine.",
        )
    return "was not checked before it was mounted", "See 'journalctl -b -u persist-volume.service'."
