# SPDX-License-Identifier: LGPL-2.1-or-later
"""A bind mount that is private and has its flags before anybody can see it: open_tree(2), mount_setattr(2),
move_mount(2).

mount(8) makes a bind first and changes it afterwards. In between, a bind of ``/`` is in the peer group of
``/``, and what PID 1 mounts in parallel would appear in it for good. And what is mounted for our own work
only is mounted nowhere at all: fsopen(2), fsmount(2).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = (
    428,
    429,
    430,
    431,
    432,
    442,
)  # the same on every architecture
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CMD_CREATE = 0, 1, 6  # enum fsconfig_command
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
_ATIME = 0x70  # MOUNT_ATTR__ATIME: one value of several bits, of which relatime is 0
_MS_PRIVATE, _MS_SHARED = 1 << 18, 1 << 20
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_CLONE_NEWNS = 0x20000
# Options of a mount: what mount_setattr(2) sets and clears for it, and the flag of mount(2) (linux/mount.h).
_OPTIONS = {
    "nosuid": (_MOUNT_ATTR_NOSUID, 0, 2),
    "suid": (0, _MOUNT_ATTR_NOSUID, 0),
    "nodev": (_MOUNT_ATTR_NODEV, 0, 4),
    "dev": (0, _MOUNT_ATTR_NODEV, 0),
    "noexec": (8, 0, 8),
    "exec": (0, 8, 0),
    "nodiratime": (0x80, 0, 1 << 11),
    "noatime": (0x10, _ATIME, 1 << 10),
    "relatime": (0, _ATIME, 1 << 21),
    "strictatime": (0x20, _ATIME, 1 << 24),
}
DATA = "nosuid,nodev"  # for what is a volume's or stands in for one, unless an entry asks otherwise


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def known(options: str) -> str:
    """Those of a list of options, such as mountinfo has it, that this module sets."""
    return ",".join(o for o in options.split(",") if o in _OPTIONS)


def _attributes(options: str, *, read_only: bool | None = None, propagation: int = 0) -> _Attributes:
    """A bind has the flags of the mount that it was made from, so what an option says the opposite of is
    cleared. ``read_only``: None leaves it as it is. Raises KeyError on other options."""
    words = [_OPTIONS[o] for o in options.split(",") if o]
    attr_set = _MOUNT_ATTR_RDONLY if read_only else 0
    attr_clr = _MOUNT_ATTR_RDONLY if read_only is False else 0
    for yes, no, _ in words:
        attr_set, attr_clr = attr_set | yes, attr_clr | no
    return _Attributes(attr_set, attr_clr, propagation, 0)


_libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def clone(source: str) -> int:
    """A descriptor of ``source`` in a copy of its mount that is mounted nowhere, without what is mounted
    below it. Raises OSError."""
    return _call(
        source, _OPEN_TREE, _AT_FDCWD, os.fsencode(source), ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC)
    )


def _set(fd: int, attributes: _Attributes, what: str, *, recursive: bool = False) -> None:
    _call(
        what,
        _MOUNT_SETATTR,
        fd,
        b"",
        ctypes.c_uint(_AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def change(fd: int, options: str) -> None:
    """Give the mount whose top a descriptor is (O_PATH will do) these options; its others stay. Raises
    OSError (EINVAL where it is the top of none)."""
    _set(fd, _attributes(options), "mount_setattr")


def bind(source: str, target: str, *, read_only: bool | None = None, options: str = "") -> None:
    """Mount ``source``, without what is mounted below it, on ``target``, with its options and these. Raises
    OSError.

    ``read_only``: whether the bind itself is, whatever the source's own mount is; None: as that mount. Where
    it is not, the filesystem decides, now and after 'mount -o remount,rw'.
    """
    fd = clone(source)
    try:
        _set(fd, _attributes(options, read_only=read_only, propagation=_MS_PRIVATE), source)
        _call(
            target,
            _MOVE_MOUNT,
            fd,
            b"",
            _AT_FDCWD,
            os.fsencode(target),
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
        )
    finally:
        os.close(fd)


def attach(
    source: int, target: int, *, read_only: bool | None = None, recursive: bool = False, options: str = ""
) -> None:
    """``bind()`` between descriptors (O_PATH will do), so that nobody can put a link in the way. Raises
    OSError.

    Below a shared mount it becomes shared itself, with peers of its own and not those of the source.
    ``recursive`` takes along what is mounted below the source; ``read_only`` and ``options`` are for the
    source's own mount alone.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    fd = _call("open_tree", _OPEN_TREE, source, b"", ctypes.c_uint(flags))
    try:
        _set(fd, _attributes(options, read_only=read_only, propagation=_MS_PRIVATE), "mount_setattr")
        _call(
            "move_mount",
            _MOVE_MOUNT,
            fd,
            b"",
            target,
            b"",
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH),
        )
    finally:
        os.close(fd)


def share(fd: int) -> None:
    """Make the mount whose top a descriptor is a shared one. Raises OSError."""
    _set(fd, _attributes("", propagation=_MS_SHARED), "mount_setattr")


def attach_peer(source: int, target: str) -> None:
    """Mount a copy of ``source`` and of all that is mounted below it on ``target``. The copy of a shared
    mount is its peer: what is mounted below the one is mounted below the other. Raises OSError."""
    copy = ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH | _AT_RECURSIVE)
    fd = _call("open_tree", _OPEN_TREE, source, b"", copy)
    try:
        from_fd = ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
        _call(target, _MOVE_MOUNT, fd, b"", _AT_FDCWD, os.fsencode(target), from_fd)
    finally:
        os.close(fd)


def take_away(path: str) -> None:
    """Unmount a copy and all below it, in use or not, and leave its peers as they are. Raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _set(fd, _attributes("", propagation=_MS_PRIVATE), path, recursive=True)
    finally:
        os.close(fd)
    if _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)


def overlay(target: int, options: str, of_mount: str = DATA) -> None:
    """Mount an overlay on a descriptor with mount(2), which takes options of a page; ``of_mount`` are those
    that are not overlayfs's. Raises OSError.

    What counts is the overlay's own flags, whatever those of the mount that its upper lies on are.
    """
    flags = 0
    for option in filter(None, of_mount.split(",")):
        flags |= _OPTIONS[option][2]
    if (
        _libc.mount(
            b"overlay",
            f"/proc/self/fd/{target}".encode(),
            b"overlay",
            ctypes.c_ulong(flags),
            os.fsencode(options),
        )
        != 0
    ):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "overlay")


def apart() -> None:
    """Give this process mounts of its own, for good: what it mounts nobody else sees, and what others mount
    it does not. Raises OSError."""
    if _libc.unshare(_CLONE_NEWNS) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "unshare")
    top = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        _set(top, _attributes("", propagation=_MS_PRIVATE), "/", recursive=True)
    finally:
        os.close(top)


@contextmanager
def nowhere(fstype: str, source: str, options: str, *, read_only: bool) -> Iterator[str]:
    """A path to the top of a filesystem that is mounted in no namespace, as long as the context lasts, or
    this process.

    A mount at a path would be copied into each mount namespace that is made meanwhile, and would live on
    there: the filesystem would stay in use, and after a look refuse to be mounted for writing. ``options``
    are those of the filesystem, with commas between. Raises OSError.
    """
    context = _call(fstype, _FSOPEN, fstype.encode("ascii"), ctypes.c_uint(_FSOPEN_CLOEXEC))
    try:
        for option in [f"source={source}", *(["ro"] if read_only else []), *options.split(",")]:
            key, equals, value = option.partition("=")
            how, text = (_SET_STRING, os.fsencode(value)) if equals else (_SET_FLAG, None)
            _call(f"{source}: {option}", _FSCONFIG, context, ctypes.c_uint(how), key.encode("ascii"), text, 0)
        _call(source, _FSCONFIG, context, ctypes.c_uint(_CMD_CREATE), None, None, 0)
        fd = _call(
            source,
            _FSMOUNT,
            context,
            ctypes.c_uint(_FSMOUNT_CLOEXEC),
            ctypes.c_uint(_attributes(DATA, read_only=read_only).attr_set),
        )
    finally:
        os.close(context)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)  # and with it the mount
