# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the volume can be written, and if not, why. The options of a mount are one cause of many: the
filesystem itself is asked."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from persist.boot.paths import VOLUME
from persist.note import WARNING, Note, Say
from persist.record import Record
from persist.system import mountinfo
from persist.system.btrfs import SUBVOLUMES
from persist.system.mountinfo import Mount
from persist.system.run import run
from persist.volume.outcome import Outcome

# linux/btrfs.h and linux/fs.h
_SUBVOL_GETFLAGS, _SUBVOL_RDONLY = 0x80089419, 1 << 1
_GETFLAGS, _IMMUTABLE, _APPEND = 0x80086601, 0x10, 0x20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STORE = (".persist", "tmp")  # where everything that is made on a volume begins
READ_ONLY = ("volume-read-only", "subvolume-read-only")  # nothing at all can be written


class Obstacle(Record):
    """Why nothing can be made on the volume: a stable code (of READ_ONLY, or full, quota, immutable,
    unwritable), a sentence, and what to do."""

    code: str
    message: str
    hint: str


def set_writable(path: str) -> str:
    """The command that makes a subvolume writable again; -f also where 'btrfs receive' made it."""
    return f"btrfs property set -f -ts {path} ro false"


def unmounted_hint(device: str) -> str:
    """What to do about a read-only subvolume that is not mounted."""
    return (
        f"Run 'mount -o subvol={SUBVOLUMES[0]} {device} /mnt && {set_writable('/mnt')} && umount /mnt' "
        "and restart the machine."
    )


def of_mount(at: Mount) -> Obstacle | None:
    """Why nothing can be written through a mount, by its options alone."""
    if not at.read_only:
        return None
    return Obstacle(
        "volume-read-only",
        f"The state volume on {at.source} can only be mounted read-only.",
        "Remove the write protection of its disk. See 'journalctl -b -k'.",
    )


def read_only(at: Mount) -> Obstacle | None:
    """Why nothing at all can be written to what is mounted. Looks only. Raises OSError."""
    found = of_mount(at)
    if found is not None or at.fstype != "btrfs":
        return found
    fd = os.open(at.mount_point, _DIRECTORY)
    try:
        flags = struct.unpack("<Q", fcntl.ioctl(fd, _SUBVOL_GETFLAGS, bytes(8)))[0]
    except OSError as e:
        if e.errno != errno.EINVAL:  # not the top of a subvolume
            raise
        flags = 0
    finally:
        os.close(fd)
    if not flags & _SUBVOL_RDONLY:
        return None
    return Obstacle(
        "subvolume-read-only",
        f"The subvolume {SUBVOLUMES[0]} of the state volume on {at.source} is set read-only, as 'btrfs "
        "receive' leaves one.",
        f"Run '{set_writable(at.mount_point)}' and restart the machine.",
    )


def obstacle(path: str = VOLUME) -> Obstacle | None:
    """Why nothing can be made on the volume that is mounted at a path: tried with a directory in its store.
    Raises OSError where it cannot be looked at."""
    at = mountinfo.at(path)
    found = read_only(at) if at is not None else None
    if found is not None:
        return found
    here, shown = os.open(path, _DIRECTORY), path
    try:
        for part in _STORE:
            if _fixed(here):
                return Obstacle(
                    "immutable",
                    f"{shown} is immutable, and nothing can be made in it.",
                    f"Run 'chattr -ia {shown}' and restart the machine.",
                )
            try:
                deeper = os.open(part, _DIRECTORY, dir_fd=here)
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                break  # no store: whoever makes it says what is wrong with it
            os.close(here)
            here, shown = deeper, f"{shown}/{part}"
        return _try(here, shown, path)
    finally:
        os.close(here)


def _fixed(fd: int) -> bool:
    """Whether a directory is immutable or append-only (chattr(1))."""
    try:
        return bool(struct.unpack("<q", fcntl.ioctl(fd, _GETFLAGS, bytes(8)))[0] & (_IMMUTABLE | _APPEND))
    except OSError as e:
        if e.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return False  # a filesystem without such flags


def _try(fd: int, shown: str, path: str) -> Obstacle | None:
    name = f"room.{os.getpid()}"
    try:
        os.mkdir(name, 0o700, dir_fd=fd)
        os.rmdir(name, dir_fd=fd)
        return None
    except OSError as e:
        if e.errno == errno.ENOSPC:
            return Obstacle(
                "full",
                "The state volume is full.",
                "Remove what is not needed, or give it another disk with 'persistctl claim --join DEVICE'.",
            )
        if e.errno == errno.EDQUOT:
            return Obstacle(
                "quota",
                "The quota of the state volume is used up, and nothing can be made on it.",
                f"Raise it: 'btrfs qgroup show -re {path}' and 'btrfs qgroup limit' on btrfs, quota(1) "
                "elsewhere; then restart the machine.",
            )
        if e.errno in (errno.EPERM, errno.EACCES) and _fixed(fd):
            return Obstacle(
                "immutable",
                f"{shown} is immutable, and nothing can be made in it.",
                f"Run 'chattr -ia {shown}' and restart the machine.",
            )
        if e.errno == errno.EROFS:
            return Obstacle(
                "volume-read-only",
                "The state volume takes no writes, although it is mounted read-write.",
                "See 'journalctl -b -k'.",
            )
        return Obstacle(
            "unwritable", f"Nothing can be made on the state volume: {e.strerror}.", "See 'journalctl -b -k'."
        )


def _fields(result: Outcome, why: Obstacle) -> dict[str, str]:
    return {"PERSIST_DEVICE": result.device, "PERSIST_UUID": result.uuid, "PERSIST_REASON": why.code}


def _write_protected(result: Outcome, why: Obstacle, say: Say, *, fresh: bool) -> None:
    """A volume that takes no writes: put down again where the root keeps none either, for then memory is of
    more use."""
    message, hint = why.message, why.hint
    result.read_only = True
    if not result.root_kept and fresh:
        run("umount", VOLUME)
        result.kind, result.read_only = "none", False
        message += " It is not used."
        if why.code == "subvolume-read-only":
            hint = unmounted_hint(result.device)
    elif result.root_kept:
        message += (
            " Entries are left to the root filesystem, binds read-only there unless they say Stale=allow; "
            "what is written is hidden when the volume "
            "is back."
        )
    if not result.reason or result.kind == "none":
        result.because(why.code, why.message, hint)
    say(Note(WARNING, f"{message} {hint}", "VOLUME_READ_ONLY", _fields(result, why)))


def takes_writes(result: Outcome, say: Say, *, fresh: bool) -> bool:
    """Ask the volume whether it takes writes; what stands against it is in the result, but for a full one.
    Raises PersistError and OSError."""
    why = obstacle(VOLUME)
    if why is None or why.code == "full":
        return True
    if why.code in READ_ONLY:
        _write_protected(result, why, say, fresh=fresh)
    else:
        if not result.reason:
            result.because(why.code, why.message, why.hint)
        say(Note(WARNING, f"{why.message} {why.hint}", "VOLUME_UNWRITABLE", _fields(result, why)))
    return False
