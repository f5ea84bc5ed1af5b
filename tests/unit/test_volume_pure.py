# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pure parts of persist/volume: header, layout, table, trust, mountinfo."""

from __future__ import annotations

from typing import Any

import pytest

from persist.boot.config import DEFAULT_HEADER
from persist.errors import Refusal
from persist.system import mountinfo
from persist.system import uuids as ids
from persist.volume.find import trust
from persist.volume.format import may_format
from persist.volume.ondisk import header, partition_table, store
from persist.volume.ondisk.header import Claim, FormatMark

ID = "6a1e0b54-9a3a-4f0e-8a51-2f8f2d6f6b10"
WORDS = [DEFAULT_HEADER, "lightwhale-please-format-me"]


def code(data: bytes, words: list[str] | None = None) -> str:
    with pytest.raises(Refusal) as caught:
        header.parse(data.ljust(header.LENGTH, b"\0"), words or WORDS)
    assert caught.value.message_id == "CLAIM_REFUSED"
    assert caught.value.hint
    return caught.value.code


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("end", [b"", b"\n", b"\0\0"])
def test_header(word: str, end: bytes) -> None:
    assert header.parse((word.encode() + end).ljust(512, b"\0"), WORDS) == Claim(word)
    assert header.parse(header.encode(word), WORDS) == Claim(word)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 440,
        b"persist-please-format-m",
        b" persist-please-format-me",
        b"Persist-please-format-me",
        b"other-please-format-me",
    ],
)
def test_no_header(data: bytes) -> None:
    assert header.parse(data.ljust(440, b"\0"), WORDS) is None


def test_only_accepted_words() -> None:
    assert header.parse(header.encode(WORDS[1]), [DEFAULT_HEADER]) is None


def test_header_with_more() -> None:
    word = DEFAULT_HEADER.encode()
    assert code(word + b"!") == "header-unknown"
    assert code(word + b"\r\n") == "header-unknown"
    assert code(word + b"\n\nmembers=2") == "header-options"
    assert code(word + b"\0members=2") == "header-options"
    assert code(word + b"\nmembers=2\n\n") == "header-options"
    assert code(word + b"\n" + bytes(100) + b"\xff") == "header-options"
    assert code(word.ljust(256, b"\0") + b"x") == "header-unknown"
    assert code(word.ljust(439, b"\0") + b"x") == "header-unknown"
    assert (
        code(word.ljust(256, b"\0") + b"persist-format-begun 3 " + str(ID).encode() + b" 0\n")
        == "header-version"
    )
    assert (
        code(word.ljust(256, b"\0") + b"persist-format-begun 2 " + str(ID).encode() + b" 0\n")
        == "header-unknown"
    )
    assert code(word.ljust(256, b"\0") + b"persist-format-begun 1 nonsense 0\n") == "header-unknown"


def test_bytes_behind_boot_code_are_not_ours() -> None:
    assert header.parse(header.encode(DEFAULT_HEADER) + b"\xff" * 72, WORDS) == Claim(DEFAULT_HEADER)


@pytest.mark.parametrize("swap", [0, 192, 8192])
def test_mark(swap: int) -> None:
    mark = FormatMark(ID, swap)
    data = header.encode(DEFAULT_HEADER)[: header.MARK_OFFSET] + mark.encode()
    assert len(data) == header.LENGTH
    assert header.parse(data, WORDS) == Claim(DEFAULT_HEADER, mark)
    assert len({ID, mark.swap_id, mark.data_id}) == 3 and mark.data_id == FormatMark(ID, 0).data_id


@pytest.mark.parametrize(
    ("disk", "memory", "configured", "size"),
    [
        (256, 1024, None, 0),
        (2047, 65536, None, 0),
        (2048, 65536, None, 192),
        (4096, 1024, None, 384),
        (4096, 256, None, 256),
        (4096, 100, None, 0),
        (1 << 20, 1 << 17, None, 8192),
        (1 << 20, 1000, None, 960),
        (1 << 20, 1 << 17, 0, 0),
        (4096, 1024, 512 << 20, 512),
        (4096, 1024, 1, 1),
    ],
)
def test_swap_size(disk: int, memory: int, configured: int | None, size: int) -> None:
    assert partition_table.swap_size(disk, memory, configured) == size


def test_swap_size_that_does_not_fit() -> None:
    with pytest.raises(Refusal, match="leaves no room"):
        partition_table.swap_size(300, 1024, 128 << 20)


@pytest.mark.parametrize("disk", [256, 300, 4096, 1 << 24])
@pytest.mark.parametrize("swap", [0, 40])
def test_parts_fill_the_disk(disk: int, swap: int) -> None:
    parts = partition_table.parts(FormatMark(ID, swap), disk)
    assert [p.name for p in parts] == (["persist-swap"] if swap else []) + ["persist-data"]
    at = 1
    for part in parts:
        assert part.start == at
        at += part.size
    assert at == disk - 1


def test_script() -> None:
    mark = FormatMark(ID, 128)
    assert partition_table.script(mark, 4096) == (
        f"label: gpt\nlabel-id: {ID}\n"
        f"start=1MiB, size=128MiB, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F, uuid={mark.swap_id}, "
        "name=persist-swap\n"
        f"start=129MiB, size=3966MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid={mark.data_id}, "
        "name=persist-data\n"
    )


@pytest.mark.parametrize(("size", "reserve"), [(254, 16), (1023, 64), (1024, 64), (1 << 20, 64)])
def test_reserve(size: int, reserve: int) -> None:
    assert size - partition_table.filesystem_bytes(size << 20) // partition_table.MIB == reserve


def table(mark: FormatMark, **change: Any) -> dict[str, Any]:
    parts = [
        {"type": p.type, "uuid": p.id.upper(), "name": p.name} for p in partition_table.parts(mark, 4096)
    ]
    return {"label": "gpt", "id": str(mark.disk_id).upper(), "partitions": parts} | change


@pytest.mark.parametrize("swap", [0, 128])
def test_table_is_ours(swap: int) -> None:
    mark = FormatMark(ID, swap)
    assert may_format.judge_table(table(mark), mark, "/dev/x")


def test_torn_table() -> None:
    mark = FormatMark(ID, 128)
    assert not may_format.judge_table(None, mark, "/dev/x")
    assert not may_format.judge_table(
        {"label": "dos", "id": "0x00000000", "partitions": [{"type": "ee"}]}, mark, "/dev/x"
    )
    assert not may_format.judge_table(table(mark, partitions=[]), mark, "/dev/x")
    assert not may_format.judge_table(table(mark, partitions=table(mark)["partitions"][:1]), mark, "/dev/x")


def foreign() -> list[dict[str, Any]]:
    mark = FormatMark(ID, 128)
    tables = [
        table(mark, id=ids.new()),
        table(mark, label="dos"),
        table(mark, id=None),
        {"label": "dos", "partitions": [{"type": "83"}]},
        table(
            mark,
            partitions=table(mark)["partitions"]
            + [{"name": "mine", "uuid": str(ID), "type": partition_table.DATA_TYPE}],
        ),
    ]
    for key in ("type", "uuid", "name"):
        other = table(mark)
        other["partitions"][1][key] = str(ID)
        tables.append(other)
    swapped = table(mark)
    swapped["partitions"][0]["name"], swapped["partitions"][1]["name"] = "persist-data", "persist-swap"
    return [*tables, swapped]


@pytest.mark.parametrize("found", foreign())
def test_strangers_table(found: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        may_format.judge_table(found, FormatMark(ID, 128), "/dev/x")
    assert caught.value.code == "foreign-table"


PCI = "/sys/devices/pci0000:00/0000:00:04.0"


@pytest.mark.parametrize(
    ("path", "attributes", "why"),
    [
        (f"{PCI}/virtio1/block/vda", {}, ""),
        (f"{PCI}/nvme/nvme0/nvme0n1", {}, ""),
        (
            f"{PCI}/ata1/host0/target0:0:0/0:0:0:0/block/sda",
            {f"{PCI}/ata1/host0/target0:0:0/0:0:0:0/block/sda/removable": "0"},
            "",
        ),
        ("/sys/devices/vbd-768/block/xvda", {}, ""),
        ("/sys/devices/platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0", {}, ""),
        (f"{PCI}/host2/port-2:0/end_device-2:0/target2:0:0/2:0:0:0/block/sdb", {}, ""),
        (f"{PCI}/usb1/1-1/1-1:1.0/host3/target3:0:0/3:0:0:0/block/sdb", {}, "on USB"),
        (
            f"{PCI}/ata1/host0/target0:0:0/0:0:0:0/block/sda",
            {f"{PCI}/ata1/host0/target0:0:0/0:0:0:0/block/sda/removable": "1"},
            "removable",
        ),
        (
            f"{PCI}/0000:3a:00.0/nvme/nvme1/nvme1n1",
            {f"{PCI}/0000:3a:00.0/removable": "removable"},
            "behind a removable port",
        ),
        (f"{PCI}/0000:3a:00.0/ata3/host6/target6:0:0/6:0:0:0/block/sde", {f"{PCI}/removable": "fixed"}, ""),
        (
            f"{PCI}/0000:3a:00.0/ata3/host6/target6:0:0/6:0:0:0/block/sde",
            {f"{PCI}/removable": "removable"},
            "behind a removable port",
        ),
        (f"{PCI}/fw1/fw1.0/host4/target4:0:0/4:0:0:0/block/sdf", {}, "on FireWire"),
        ("/sys/devices/platform/host3/session1/target3:0:0/3:0:0:1/block/sdc", {}, "on a network (iSCSI)"),
        (f"{PCI}/host5/rport-5:0-1/target5:0:0/5:0:0:0/block/sdd", {}, "on a network (Fibre Channel)"),
        ("/sys/devices/virtual/nvme-fabrics/ctl/nvme2/nvme2n1", {}, "on a network (NVMe over fabrics)"),
        ("/sys/devices/virtual/block/dm-0", {}, "a device-mapper device"),
        ("/sys/devices/virtual/block/md127", {}, "a software RAID"),
        ("/sys/devices/virtual/block/md_d0", {}, "a software RAID"),
        ("/sys/devices/virtual/block/nbd0", {}, "a network block device"),
        ("/sys/devices/virtual/block/drbd1000", {}, "a network block device"),
        ("/sys/devices/rbd/0/block/rbd0", {}, "a network block device"),
        ("/sys/devices/virtual/block/loop7", {}, "a loop device"),
        ("/sys/devices/virtual/block/zram0", {}, "a disk in memory"),
        ("/sys/devices/virtual/block/ublkb0", {}, "a virtual device"),
        (f"{PCI}/ata2/host1/target1:0:0/1:0:0:0/block/sr0", {}, "an optical drive"),
    ],
)
def test_trust(path: str, attributes: dict[str, str], why: str) -> None:
    assert trust.why_untrusted(path, lambda p, n: attributes.get(f"{p}/{n}", "")) == why


@pytest.mark.parametrize(
    ("transports", "why"),
    [
        (["pcie", "pcie"], ""),
        (["pcie", "tcp"], "on a network (NVMe over fabrics)"),
        ([], "on a network (NVMe over fabrics)"),
    ],
)
def test_multipath_nvme(transports: list[str], why: str) -> None:
    base = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    attributes = {f"{base}/nvme{i}/transport": t for i, t in enumerate(transports)}
    names = [f"nvme{i}" for i in range(len(transports))] + ["nvme0n1", "power"]
    assert (
        trust.why_untrusted(f"{base}/nvme0n1", lambda p, n: attributes.get(f"{p}/{n}", ""), lambda p: names)
        == why
    )


MOUNTINFO = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
36 22 0:31 /@persist-state /run/persist/volume rw,noatime shared:5 master:2 - btrfs /dev/vdb2 rw,ssd
37 22 0:31 /@persist-state/a\040b /mnt/a\040b\134c ro,noatime - btrfs /dev/vdb2 rw
38 22 0:32 / /x rw - tmpfs tmpfs ro,size=5k
39 22 0:33 / /x rw unbindable - overlay over\011lay rw,lowerdir=/a\134:b
garbage
40 22 0:34 / /short rw - tmpfs
"""


def test_mountinfo() -> None:
    root, volume, bind, ro, top = mountinfo.parse(MOUNTINFO)
    assert root == mountinfo.Mount(22, 1, "254:0", "/", "/", "rw,relatime", "ext4", "/dev/vda", "rw")
    assert (volume.device, volume.root, volume.fstype, volume.source) == (
        "0:31",
        "/@persist-state",
        "btrfs",
        "/dev/vdb2",
    )
    assert (bind.root, bind.mount_point) == ("/@persist-state/a b", "/mnt/a b\\c")
    assert [m.read_only for m in (root, volume, bind, ro, top)] == [False, False, True, True, False]
    assert (top.source, top.super_options) == ("over\tlay", r"rw,lowerdir=/a\:b")


def test_mounts_of_this_machine() -> None:
    root = mountinfo.at("/")
    assert root is not None
    assert root.mount_point == "/"
    assert {m.mount_point for m in mountinfo.mounts("/proc")} >= {"/proc"}
    assert all(
        m.mount_point == "/proc" or m.mount_point.startswith("/proc/") for m in mountinfo.mounts("/proc/")
    )
    assert mountinfo.at("/proc/self") is None


@pytest.mark.parametrize(
    ("record", "ids"),
    [
        ({"swap": ["AB-1", "c"]}, ["ab-1", "c"]),
        ({}, []),
        ({"swap": "x"}, []),
        ({"swap": [1, None, "y"]}, ["y"]),
    ],
)
def test_swap_ids(record: dict[str, Any], ids: list[str]) -> None:
    assert store.swap_ids(record) == ids
