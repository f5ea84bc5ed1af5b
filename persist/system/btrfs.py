# SPDX-License-Identifier: LGPL-2.1-or-later
"""What we ask the kernel about btrfs ourselves, without a process: ioctls of linux/btrfs.h, and sysfs."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator

from persist.record import Record
from persist.system.run import run

SUBVOLUMES = ("@persist-state", "@persist-data", "@persist-state-snapshots")
SYSFS = "/sys/fs/btrfs"
CONTROL = "/dev/btrfs-control"
MOVE_SEC = 900.0  # for move_metadata() in a boot that seals: less than what persist-seal-end.service has
_FS_INFO = 0x8400941F  # two 64-bit numbers, then the UUID
_DEV_INFO = 0xD000941E
_SCAN_DEV, _FORGET_DEV, _ADD_DEV, _RESIZE = (
    0x50009404,
    0x50009405,
    0x5000940A,
    0x50009403,
)  # struct btrfs_ioctl_vol_args
_SYNC = 0x9408
_SUBVOL_CREATE = 0x5000940E
TOP_INODE = 256  # of the top directory of each subvolume
_REPLACE = 0xCA289435  # struct btrfs_ioctl_dev_replace_args, of 2600 bytes
_AVOID_SOURCE = 1  # BTRFS_IOCTL_DEV_REPLACE_CONT_READING_FROM_SRCDEV_MODE_AVOID
_NOT_DONE = {
    1: "no replace was started",
    2: "a replace is going on",
    3: "a scrub is going on",
}  # BTRFS_IOCTL_DEV_REPLACE_RESULT_*
_TREE_SEARCH = 0xD0009411
_CHUNK_TREE, _CHUNK_ITEM = 3, 228
_EXCLUSIVE = 8  # BTRFS_ERROR_DEV_EXCL_RUN_IN_PROGRESS
_MAX = (1 << 64) - 1
_libc = ctypes.CDLL(None, use_errno=True)
_TOLERANCE = (
    (1 << 9, 2),
    (1 << 8, 2),
    (1 << 10, 3),
    (1 << 4, 1),
    (1 << 6, 1),
    (1 << 7, 1),
)  # raid1c3 raid6 raid1c4 raid1 raid10 raid5


def filesystem_uuid(path: str) -> str:
    """The UUID of the btrfs that is mounted at a path. Raises OSError, also for another filesystem."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        text = fcntl.ioctl(fd, _FS_INFO, bytes(1024))[16:32].hex()
    finally:
        os.close(fd)
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def mounted_uuid(path: str) -> str:
    """The UUID of the btrfs that is mounted at a path, '' for another filesystem."""
    try:
        return filesystem_uuid(path)
    except OSError:
        return ""  # not a btrfs: it knows no such ioctl


def move_metadata(path: str, seconds: float) -> None:
    """Write all metadata of a mounted filesystem anew, in other places, and have the old ones free: so none
    of what it said before is left in a block that is set aside. Raises CommandError, OSError; where it has
    taken too long the next mount goes on with it."""
    run("btrfs", "balance", "start", "-m", path, timeout=seconds)
    sync(path)


def named(name: str) -> bytearray:
    """struct btrfs_ioctl_vol_args: a number, which is 0, and a name."""
    return bytearray(struct.pack("<q4088s", 0, os.fsencode(name)))  # fcntl takes no bytes of this length


def _control(request: int, nodes: tuple[str, ...], ignore: tuple[int, ...] = ()) -> None:
    if not nodes:
        return
    if not os.path.exists(CONTROL):
        run("modprobe", "btrfs")  # no static node in devtmpfs: depmod has not seen this kernel
    fd = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for node in nodes:
            try:
                fcntl.ioctl(fd, request, named(node))
            except OSError as e:
                if e.errno not in ignore:
                    raise OSError(e.errno, os.strerror(e.errno or 0), node) from e
    finally:
        os.close(fd)


def scan(*nodes: str) -> None:
    """Tell the kernel about members (``btrfs device scan``). Raises OSError and CommandError."""
    _control(_SCAN_DEV, nodes)


def forget(*nodes: str) -> None:
    """Have the kernel forget members that are not mounted (``btrfs device scan --forget``); it may not know
    them. Raises OSError and CommandError."""
    _control(_FORGET_DEV, nodes, (errno.ENOENT,))


def ioctl(path: str, request: int, argument: bytearray | int) -> None:
    """One ioctl on a mounted filesystem; the answer is in the argument. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Not fcntl.ioctl(): with an argument of more than 1024 bytes that lets no other thread run, and no
        # signal be seen, for the hours that a replace takes.
        if isinstance(argument, bytearray):
            refused = _libc.ioctl(
                fd, ctypes.c_ulong(request), (ctypes.c_char * len(argument)).from_buffer(argument)
            )
        else:
            refused = _libc.ioctl(fd, ctypes.c_ulong(request), ctypes.c_long(argument))
        number = ctypes.get_errno()
    finally:
        os.close(fd)
    if refused < 0:
        raise OSError(number, os.strerror(number), path)
    if refused:
        # enum btrfs_err_code of linux/btrfs.h: no error to the C library, and yet nothing was done.
        why = (
            "The kernel is busy with another operation"
            if refused == _EXCLUSIVE
            else f"The kernel refuses it (btrfs error {refused})"
        )
        raise OSError(errno.EBUSY, why, path)


def sync(path: str) -> None:
    """Commit what is open, so that superblocks on the disks say the same. Raises OSError."""
    ioctl(path, _SYNC, 0)


def add_device(path: str, node: str) -> None:
    """Make a device, which is blank, a member of a mounted filesystem. Unlike ``btrfs device add`` it leaves
    the first MiB alone, where the degraded mark is. Raises OSError."""
    ioctl(path, _ADD_DEV, named(node))


def replace_device(path: str, devid: int, node: str) -> None:
    """Copy what a device has to another one, which is blank, and put it in its place; returns when that is
    done, which may take hours. What is gone may still have a name, and nothing is read from it. Unlike
    ``btrfs replace start`` it leaves the first MiB alone, where the degraded mark is. Raises OSError."""
    argument = bytearray(
        struct.pack("<QQQQ1025s1025s518x", 0, 0, devid, _AVOID_SOURCE, b"", os.fsencode(node))
    )
    ioctl(path, _REPLACE, argument)
    result = struct.unpack_from("<Q", argument, 8)[0]
    if result:
        raise OSError(
            errno.EBUSY, f"The kernel refuses it ({_NOT_DONE.get(result, f'result {result}')})", path
        )


def resize(path: str, devid: int, size: int) -> None:
    """Let one device of a mounted filesystem use so many bytes of its partition. Raises OSError."""
    ioctl(path, _RESIZE, named(f"{devid}:{size}"))


class Device(Record):
    """A device of a mounted filesystem as the kernel has it; sizes in bytes, ``node`` '' where it never saw
    it. ``missing`` is the kernel's opinion, which a device that was pulled out while it was in use does not
    change."""

    devid: int
    uuid: str
    used: int
    size: int
    node: str
    missing: bool


def devids(uuid: str) -> list[int]:
    """The devices of a mounted filesystem, 0 being the target of a replace that goes on. Raises OSError where
    it is not mounted."""
    return sorted(int(n) for n in os.listdir(f"{SYSFS}/{uuid}/devinfo") if n.isascii() and n.isdigit())


def attribute(uuid: str, name: str) -> str:
    """One attribute of a mounted filesystem in sysfs, '' where this kernel has none of the name, or none that
    it can tell."""
    try:
        with open(f"{SYSFS}/{uuid}/{name}", encoding="utf-8", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return ""


def names(uuid: str, directory: str) -> list[str]:
    """What a directory in sysfs of a mounted filesystem has, nothing where it is not there."""
    try:
        return os.listdir(f"{SYSFS}/{uuid}/{directory}")
    except OSError:
        return []


def devices(path: str) -> list[Device]:
    """The devices of the btrfs that is mounted at a path, missing ones too, by devid. Raises OSError."""
    uuid = filesystem_uuid(path)
    found = []
    for devid in devids(uuid):
        raw = bytearray(struct.pack("<Q4088x", devid))
        try:
            ioctl(path, _DEV_INFO, raw)
        except OSError as e:
            if e.errno == errno.ENODEV:
                continue  # it was removed in between
            raise
        used, size = struct.unpack_from("<QQ", raw, 24)
        text = raw[8:24].hex()
        node = raw[3072:].split(b"\0")[0].decode("utf-8", "surrogateescape")
        found.append(
            Device(
                devid,
                "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])),
                used,
                size,
                node,
                attribute(uuid, f"devinfo/{devid}/missing") == "1",
            )
        )
    return found


def _chunks(path: str) -> Iterator[tuple[int, list[int]]]:
    """The type and the devids of each chunk. Raises OSError."""
    start = 0
    while True:
        raw = bytearray(
            struct.pack(
                "<QQQQQQQIIII32x",
                _CHUNK_TREE,
                256,
                256,
                start,
                _MAX,
                0,
                _MAX,
                _CHUNK_ITEM,
                _CHUNK_ITEM,
                4096,
                0,
            ).ljust(4096, b"\0")
        )
        ioctl(path, _TREE_SEARCH, raw)
        count = struct.unpack_from("<I", raw, 64)[0]
        if not count:
            return
        at = 104
        for _ in range(count):
            _, _, offset, kind, length = struct.unpack_from("<QQQII", raw, at)
            at += 32
            if kind == _CHUNK_ITEM:
                stripes = struct.unpack_from("<H", raw, at + 44)[0]
                yield (
                    struct.unpack_from("<Q", raw, at + 24)[0],
                    [struct.unpack_from("<Q", raw, at + 48 + 32 * i)[0] for i in range(stripes)],
                )
            at += length
            start = offset + 1


def stands(path: str) -> bool:
    """Whether a filesystem, mounted read-only, may be written without what is missing: the kernel's own rule
    (btrfs_check_rw_degradable), which it applies to a mount for writing only. Raises OSError."""
    missing = {d.devid for d in devices(path) if d.missing}
    return all(
        sum(devid in missing for devid in ids) <= next((n for bit, n in _TOLERANCE if kind & bit), 0)
        for kind, ids in _chunks(path)
    )


def make_subvolume(parent: str, name: str) -> bool:
    """Make a subvolume, root's and 0755; False where the filesystem knows none. Raises OSError."""
    try:
        ioctl(parent, _SUBVOL_CREATE, named(name))
    except OSError as e:
        if e.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
            return False
        raise
    os.chmod(f"{parent}/{name}", 0o755)
    return True
