# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks that must not be formatted, and that stay as they are to the last byte; and the writing of claims."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from persist.boot.config import Config
from persist.errors import PersistError, Refusal
from persist.volume.format import may_format
from persist.volume.format.under_lock import format_disks
from persist.volume.format.write_claim import write_claim, write_claims
from persist.volume.ondisk import header
from persist.volume.ondisk.partition_table import MIB

from .conftest import Make
from .rig import HEADER, LoopDisk, tool


def test_no_byte_goes_unnoticed(make_disk: Make) -> None:
    """What the tests here ask: also of bytes that are zero again, and of the last one."""
    disk = make_disk(300)
    before = disk.digest()
    seen = {before}
    for offset in (0, 4095, 4096, 70 * MIB + 1, 300 * MIB - 1):
        kept = disk.read(offset, 1)
        disk.write(offset, b"\x01")
        seen.add(disk.digest())
        disk.write(offset, kept)
        assert disk.digest() == before, "zeroes that were written are as those that never were"
    assert len(seen) == 6


def refused(disk: LoopDisk, config: Config | None = None) -> str:
    """The code with which a disk is refused; nothing on it may have changed."""
    before = disk.digest()
    steps: list[str] = []
    with pytest.raises(Refusal) as caught:
        format_disks([disk.disk], config or disk.config(), lambda step, nodes, text: steps.append(step))
    assert steps == []
    assert disk.digest() == before
    assert caught.value.message and caught.value.hint
    assert caught.value.fields["PERSIST_REASON"] == caught.value.code
    code: str = caught.value.code
    return code


def with_header(disk: LoopDisk) -> None:
    disk.write(0, HEADER)


def _table(disk: LoopDisk) -> None:
    tool("sfdisk", "--quiet", disk.node, stdin="label: gpt\nsize=100M\n")


def _mbr(disk: LoopDisk) -> None:
    tool("sfdisk", "--quiet", disk.node, stdin="label: dos\nsize=100M\n")


def _backup_gpt_only(disk: LoopDisk) -> None:
    _table(disk)
    disk.write(0, bytes(34 * 512))


def _ext4(disk: LoopDisk) -> None:
    tool("mkfs.ext4", "-q", disk.node)


def _btrfs(disk: LoopDisk) -> None:
    tool("mkfs.btrfs", "-q", disk.node)


def _swap(disk: LoopDisk) -> None:
    tool("mkswap", disk.node)


def _lvm(disk: LoopDisk) -> None:
    # A physical volume's label, in the second sector; lvm2 itself is not needed to write one.
    disk.write(
        512,
        b"LABELONE"
        + (1).to_bytes(8, "little")
        + bytes(4)
        + (32).to_bytes(4, "little")
        + b"LVM2 001"
        + b"a" * 32,
    )


def _md_at_the_end(disk: LoopDisk) -> None:
    # Version 1.0 of md's superblock lies 8 KiB before the end and has nothing at the start.
    disk.write(disk.disk.size - 8192, b"\xfc\x4e\x2b\xa9" + (1).to_bytes(4, "little") + b"\x07" * 200)


def _old_filesystem(disk: LoopDisk) -> None:
    # A filesystem where our partition would begin, its table long gone.
    disk.write(MIB, bytes(MIB))
    tool("mkfs.ext4", "-q", "-E", f"offset={MIB}", disk.node, "100M")


def _old_second_header_of_luks(disk: LoopDisk) -> None:
    # LUKS2 (its on-disk format, section 2.1): the first header is gone, the second one is 4 MiB into our
    # partition.
    header = bytearray(4096)
    header[:8] = b"SKUL\xba\xbe\0\2"
    header[8:16] = header[256:264] = (4 * MIB).to_bytes(8, "big")
    header[168:204] = b"6a1e0b54-9a3a-4f0e-8a51-2f8f2d6f6b10"
    disk.write(5 * MIB, bytes(header))


@pytest.mark.parametrize(
    "make",
    [_table, _mbr, _backup_gpt_only, _ext4, _btrfs, _swap, _lvm, _old_filesystem, _old_second_header_of_luks],
)
def test_signatures(make_disk: Make, make: Callable[[LoopDisk], None]) -> None:
    disk = make_disk(300)
    make(disk)
    with_header(disk)
    assert refused(disk) == "signature"
    write_claim(disk.node, disk.config(), force=True)
    assert disk.format().returncode == 0, "what is erased by force is blank"


def test_metadata_at_the_end(make_disk: Make) -> None:
    disk = make_disk(300)
    _md_at_the_end(disk)
    assert refused(disk) in ("signature", "not-blank")


def test_partitions(make_disk: Make) -> None:
    disk = make_disk(300)
    _table(disk)
    tool("partx", "--update", disk.node)
    with_header(disk)
    assert refused(disk) == "partitions"
    with pytest.raises(Refusal, match="is a partition"):
        may_format.check_usable(type(disk.disk)(**(vars(disk.disk) | {"is_partition": True})), disk.config())


@pytest.mark.parametrize("offset", [440, 446, 512, 4096, MIB - 1, -MIB, -1])
def test_data(make_disk: Make, offset: int) -> None:
    disk = make_disk(300)
    disk.write(offset if offset >= 0 else disk.disk.size + offset, b"\x01")
    assert refused(disk) == "not-blank"


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (HEADER + b"-too", "header-unknown"),
        (HEADER + b"\nlayout=raid0\n", "header-options"),
        (HEADER + b"\n\n" + b"\0" * 9 + b"x", "header-options"),
        (HEADER.ljust(256, b"\0") + b"rubbish", "header-unknown"),
        (
            HEADER.ljust(256, b"\0") + b"persist-format-begun 9 00000000-0000-0000-0000-000000000000 0\n",
            "header-version",
        ),
    ],
)
def test_headers(make_disk: Make, head: bytes, code: str) -> None:
    assert refused(make_disk(300, head)) == code


def test_newline_is_fine(make_disk: Make) -> None:
    disk = make_disk(300, HEADER + b"\n")
    assert disk.format().returncode == 0


def test_no_header(make_disk: Make) -> None:
    for head in (b"", HEADER[:-1], b" " + HEADER):
        disk = make_disk(300, head)
        before = disk.digest()
        assert format_disks([disk.disk], disk.config(), lambda step, nodes, text: None) is None
        assert disk.digest() == before


def test_too_small(make_disk: Make) -> None:
    assert refused(make_disk(255)) == "too-small"


def test_read_only(make_disk: Make) -> None:
    disk = make_disk(300)
    disk.replug("--read-only")
    assert refused(disk) == "read-only"


def test_mounted(make_disk: Make, tmp_path: Path) -> None:
    disk = make_disk(300)
    _ext4(disk)
    with_header(disk)
    place = tmp_path / "mounted"
    place.mkdir()
    tool("mount", "-o", "ro", disk.node, place)
    assert refused(disk) == "mounted"
    for force in (False, True):
        with pytest.raises(Refusal, match="is mounted at"):
            write_claim(disk.node, disk.config(), force=force)
    tool("umount", place)


def test_partition_mounted_as_btrfs(make_disk: Make, tmp_path: Path) -> None:
    """btrfs shows another device number in mountinfo."""
    disk = make_disk(600)
    _table(disk)
    tool("partx", "--update", disk.node)
    tool("mkfs.btrfs", "-q", "-d", "single", "--mixed", f"{disk.node}p1")
    with_header(disk)
    place = tmp_path / "mounted"
    place.mkdir()
    # Read-only, else the kernel itself writes to it within half a minute.
    tool("mount", "-o", "ro", f"{disk.node}p1", place)
    assert refused(disk) == "mounted"
    with pytest.raises(Refusal, match="mounted btrfs"):
        write_claim(disk.node, disk.config(), force=True)
    tool("umount", place)


def test_swap_in_use(make_disk: Make) -> None:
    disk = make_disk(300)
    _swap(disk)
    with_header(disk)
    tool("swapon", disk.node)
    assert refused(disk) == "swap"
    tool("swapoff", disk.node)


def test_used_by_the_kernel(make_disk: Make) -> None:
    """A user that nothing in /proc or /sys names, such as ZFS."""
    disk = make_disk(300)
    fd = os.open(disk.node, os.O_RDONLY | os.O_EXCL)
    try:
        assert refused(disk) == "busy"
    finally:
        os.close(fd)


def test_trust(make_disk: Make) -> None:
    disk = make_disk(300)
    assert refused(disk, Config()) == "untrusted"
    other = Config()
    other.device = ["/dev/does-not-exist"]
    assert refused(disk, other) == "not-named"
    yes = Config()
    yes.allow_removable = True
    assert format_disks([disk.disk], yes, lambda step, nodes, text: None) is not None


def test_swap_too_large(make_disk: Make) -> None:
    disk = make_disk(300)
    config = disk.config()
    config.swap_size = 200 * MIB
    assert refused(disk, config) == "swap-too-large"


def _begun(make_disk: Make, step: str) -> LoopDisk:
    disk = make_disk(300)
    assert disk.format(kill_after=step).returncode == -9
    return disk


def test_begun_and_then_a_strangers_table(make_disk: Make) -> None:
    disk = _begun(make_disk, "mark")
    _table(disk)
    assert refused(disk) == "foreign-table"


def test_begun_and_then_a_strangers_filesystem(make_disk: Make) -> None:
    disk = _begun(make_disk, "mkfs")
    tool("mkfs.ext4", "-q", "-F", f"{disk.node}p1")
    tool("blockdev", "--flushbufs", f"{disk.node}p1")
    assert refused(disk) == "signature"


def test_begun_and_then_data_in_the_gap(make_disk: Make) -> None:
    disk = _begun(make_disk, "partition")
    disk.write(40 * 512, b"boot loader")
    assert refused(disk) == "not-blank"


def test_begun_and_mounted(make_disk: Make, tmp_path: Path) -> None:
    disk = _begun(make_disk, "mkfs")
    place = tmp_path / "mounted"
    place.mkdir()
    # Read-only, else the kernel itself writes to it within half a minute.
    tool("mount", "-o", "ro", f"{disk.node}p1", place)
    assert refused(disk) == "mounted"
    tool("umount", place)


def test_device_mapper_holder(make_disk: Make) -> None:
    if subprocess.run(["dmsetup", "version"], capture_output=True).returncode != 0:
        pytest.skip("no device-mapper in this kernel")
    disk = make_disk(300)
    tool("dmsetup", "create", "persist-test-holder", stdin=f"0 2048 linear {disk.node} 0\n")
    try:
        assert refused(disk) == "holder"
    finally:
        tool("dmsetup", "remove", "--retry", "persist-test-holder")


# Writing claims.


def test_claim_a_blank_disk(make_disk: Make) -> None:
    disk = make_disk(300, b"")
    write_claim(disk.node, disk.config())
    assert disk.read(0, MIB) == header.encode("persist-please-format-me").ljust(MIB, b"\0")
    write_claim(disk.node, disk.config(), options=header.Options(members=1))
    assert disk.read(0, MIB) == header.encode("persist-please-format-me", header.Options(members=1)).ljust(
        MIB, b"\0"
    ), "claimed again"
    disk.write(1000, b"x")
    with pytest.raises(Refusal) as more:
        write_claim(disk.node, disk.config())
    assert more.value.code == "not-blank"
    disk.write(1000, b"\0")
    assert disk.format().returncode == 0


@pytest.mark.parametrize(
    "make", [_table, _mbr, _backup_gpt_only, _ext4, _btrfs, _swap, _lvm, _md_at_the_end, _old_filesystem]
)
def test_claim_by_force(make_disk: Make, make: Callable[[LoopDisk], None]) -> None:
    disk = make_disk(300, b"")
    make(disk)
    before = disk.digest()
    with pytest.raises(Refusal):
        write_claim(disk.node, disk.config())
    assert disk.digest() == before
    write_claim(disk.node, disk.config(), force=True)
    done = disk.format()
    assert done.returncode == 0, done.stderr


def test_claim_a_former_volume(make_disk: Make) -> None:
    """The partitions are where they were: nothing of the old life may show between two steps of the new
    one."""
    disk = make_disk(300)
    assert disk.format().returncode == 0
    with pytest.raises(Refusal):
        write_claim(disk.node, disk.config())
    write_claim(disk.node, disk.config(), force=True)
    disk.format(kill_after="partition")
    assert (
        tool("blkid", "-p", "-o", "value", "-s", "PART_ENTRY_NAME", f"{disk.node}p1").strip()
        == "persist-data"
    )
    assert (
        subprocess.run(["wipefs", "--no-act", f"{disk.node}p1"], capture_output=True, text=True).stdout == ""
    )
    assert disk.format().returncode == 0


def test_claim_what_is_no_disk(make_disk: Make, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    disk = make_disk(300, b"")
    _table(disk)
    tool("partx", "--update", disk.node)
    for node, code in (
        (str(file), "not-a-disk"),
        ("/dev/null", "not-a-disk"),
        ("/dev/nothing", "not-a-disk"),
        (f"{disk.node}p1", "partition"),
    ):
        for force in (False, True):
            with pytest.raises(Refusal) as caught:
                write_claim(node, disk.config(), force=force)
            assert caught.value.code == code


def test_claim_a_locked_disk(make_disk: Make) -> None:
    disk = make_disk(300, b"")
    with open(disk.node, "rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with pytest.raises(PersistError, match="locked"):
            write_claims([disk.node], disk.config(), patience=0.2)
    assert disk.read(0, 512) == bytes(512)


@pytest.mark.parametrize("what", ["its headers", "all of it"])
def test_volume_with_a_damaged_table(make_disk: Make, what: str) -> None:
    """It has its label, so it may have been used since, whatever became of its table."""
    disk = make_disk(300)
    disk.format(kill_after="label")
    blocks = 33 if what == "all of it" else 1
    disk.write(512, bytes(blocks * 512))
    disk.write(disk.disk.size - blocks * 512, bytes(blocks * 512))
    disk.replug()
    assert refused(disk) == "table-damaged"


def test_volume_whose_table_sfdisk_cannot_read(make_disk: Make, own_run: Path) -> None:
    disk = make_disk(300)
    disk.format(kill_after="label")
    program = shutil.which("sfdisk")
    assert program is not None
    (own_run / "sfdisk").write_text("#!/bin/sh\nexit 1\n")
    (own_run / "sfdisk").chmod(0o755)
    tool("mount", "--bind", own_run / "sfdisk", program)
    try:
        assert refused(disk) == "table-damaged"
    finally:
        tool("umount", program)
