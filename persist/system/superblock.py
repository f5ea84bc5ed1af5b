# SPDX-License-Identifier: LGPL-2.1-or-later
"""The superblock of a btrfs member, read without a process: who it is, how many there are, and how new it is.

``btrfs filesystem show`` calls a stale member healthy; generations and log roots do not. The layout is that
of struct btrfs_super_block and btrfs_dev_item in the kernel's include/uapi/linux/btrfs_tree.h.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable

from persist.record import Record

OFFSET = 64 << 10
COPIES = (
    64 << 20,
    256 << 30,
)  # where the device is large enough (btrfs(5)); the kernel mounts by the first one only
SIZE = 4096
MAGIC = b"_BHRfS_M"
MAGIC_AT = 0x40
_CRC32C = 0
_METADATA_UUID = (
    1 << 10
)  # incompatible feature: dev_item.fsid is metadata_uuid, and fsid may be changed alone
_POLYNOMIAL = 0x82F63B78
_table: list[int] = []
_LOOKS, _TORN = 3, 0.02  # so often a superblock is read that makes no sense, and seconds in between


class Superblock(Record):
    """``fsid`` and ``device_uuid`` are UUIDs in text; ``devid`` is 0 for the target of an unfinished replace;
    sizes are in bytes.

    ``log_root``: where writes that were synced after the last commit are, 0 where there are none. ``empty``:
    no chunk lies on the device, so that it holds nothing. ``root``: where the tree of roots is, 0 where
    nobody looked.
    """

    fsid: str
    devid: int
    device_uuid: str
    device_bytes: int
    num_devices: int
    generation: int
    log_root: int
    label: str
    empty: bool = False
    root: int = 0

    @property
    def newness(self) -> tuple[int, int]:
        """What orders members by how much they have seen of what was written: commits, then the log."""
        return self.generation, self.log_root


def crc32c(data: bytes) -> int:
    """The checksum of btrfs (Castagnoli's polynomial, reflected)."""
    if not _table:
        for n in range(256):
            for _ in range(8):
                n = (n >> 1) ^ _POLYNOMIAL if n & 1 else n >> 1
            _table.append(n)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _uuid(raw: bytes) -> str:
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def fsid(data: bytes) -> str:
    """The UUID of the filesystem in these bytes, whole or not."""
    return _uuid(data[0x20:0x30])


def parse(data: bytes, offset: int = OFFSET) -> Superblock | None:
    """What a superblock that lies at ``offset`` says, None where these bytes are none, or a damaged one, or
    another device's."""
    if len(data) < SIZE or data[MAGIC_AT:0x48] != MAGIC or struct.unpack_from("<Q", data, 0x30)[0] != offset:
        return None
    # Other checksums (xxhash, sha256, blake2b) are for volumes that somebody else made; the kernel checks
    # them at the mount.
    if struct.unpack_from("<H", data, 0xC4)[0] == _CRC32C and struct.unpack_from("<I", data, 0)[0] != crc32c(
        data[0x20:SIZE]
    ):
        return None
    own = data[0x20:0x30]
    changed = struct.unpack_from("<Q", data, 0xBC)[0] & _METADATA_UUID
    if data[0x11B:0x12B] != (data[0x23B:0x24B] if changed else own):
        return None  # the kernel does not take it either (btrfs_validate_super)
    generation, root, log_root, devices = (
        struct.unpack_from("<Q", data, at)[0] for at in (0x48, 0x50, 0x60, 0x88)
    )
    devid, device_bytes, used = struct.unpack_from("<QQQ", data, 0xC9)
    label = data[0x12B:0x22B].split(b"\0")[0].decode("utf-8", "surrogateescape")
    return Superblock(
        _uuid(own),
        devid,
        _uuid(data[0x10B:0x11B]),
        device_bytes,
        devices,
        generation,
        log_root,
        label,
        not used,
        root,
    )


def read_at(node: str, offset: int, length: int) -> bytes:
    """Bytes of a device, fewer at its end. Raises OSError."""
    fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def read(node: str) -> Superblock | None:
    """The superblock of a device, None where there is none, or the device cannot be read: a member that does
    not answer is absent."""
    try:
        return parse(read_at(node, OFFSET, SIZE))
    except OSError:
        return None


def read_in_use(node: str, sleep: Callable[[float], None] = time.sleep) -> Superblock | None:
    """As read(), of a device in use: the kernel writes without minding who reads, and one look may see
    half of the old and half of the new one. ``sleep``, in seconds, comes before the next look."""
    for _ in range(_LOOKS - 1):
        found = read(node)
        if found is not None or not os.path.exists(node):
            return found
        sleep(_TORN)
    return read(node)


def copies(node: str) -> dict[int, Superblock]:
    """The whole copies of a device's superblock by their number, which btrfs-select-super(8) takes. Raises
    OSError."""
    found = {number: parse(read_at(node, at, SIZE), at) for number, at in enumerate(COPIES, 1)}
    return {number: copy for number, copy in found.items() if copy is not None}
