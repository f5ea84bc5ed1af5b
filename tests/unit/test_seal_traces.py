# SPDX-License-Identifier: LGPL-2.1-or-later
"""Old ids in what seal does not change: initrds, boot entries, command lines."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from persist.seal.look.initrd import small_files
from persist.seal.look.pattern import Finder
from persist.seal.look.traces import Old, find, old_ids
from persist.seal.look.tree import Tree

from .seal_tree import ID, MadeUp


def cpio(*files: tuple[str, bytes], mode: int = 0o100644) -> bytes:
    """An archive as "newc" has it, with its trailer."""
    out = b""
    for name, data in (*files, ("TRAILER!!!", b"")):
        raw = name.encode() + b"\0"
        fields = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        out += b"070701" + b"".join(b"%08X" % f for f in fields) + raw
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return out


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, stdout=subprocess.PIPE, check=True).stdout


def xz(data: bytes) -> bytes:
    return lzma.compress(data)


def plain(data: bytes) -> bytes:
    return data


EARLY = cpio(("kernel/x86/microcode/GenuineIntel.bin", b"\1" * 5000)) + b"\0" * 516
FILES = (("etc/machine-id", ID.encode()), ("etc/big", b"x" * 100000), ("./etc/hostname", b"prototype7\n"))


def read(data: bytes, where: Path) -> dict[str, bytes]:
    where.write_bytes(data)
    fd = os.open(where, os.O_RDONLY)
    try:
        return dict(small_files(fd))
    finally:
        os.close(fd)


@pytest.mark.parametrize("pack", [plain, gzip.compress, xz, zstd], ids=["plain", "gzip", "xz", "zstd"])
@pytest.mark.parametrize("early", [b"", EARLY], ids=["", "microcode"])
def test_small_files(pack: Callable[[bytes], bytes], early: bytes, tmp_path: Path) -> None:
    if pack is zstd and not shutil.which("zstd"):
        pytest.skip("no zstd")
    found = read(early + pack(cpio(*FILES)), tmp_path / "i")
    wanted = {"etc/machine-id": ID.encode(), "etc/hostname": b"prototype7\n"}
    assert {name: data for name, data in found.items() if name.startswith("etc")} == wanted


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"not an archive at all", "compressed in a way that is not known here"),
        (cpio(*FILES)[:-400], "it ends too early"),
        (gzip.compress(cpio(*FILES))[:-20], ""),
        (b"\x1f\x8bgarbage", ""),
        (b"\x28\xb5\x2f\xfdgarbage", ""),
        (zstd(cpio(*FILES))[:-20], ""),
        (b"\xfd7zXZgarbage" * 9, ""),
        (gzip.compress(gzip.compress(cpio(*FILES))), "compressed in what is compressed"),
        (b"070701" + b"G" * 104, "invalid literal"),
        (b"070701" + b"0" * 40 + b"0" * 8 + b"0" * 40 + b"FFFFFFFF" + b"0" * 8, "a name that is too long"),
        (cpio(("a", b"")).replace(b"070701", b"070707"), "no cpio archive"),
    ],
)
def test_damaged_archives(data: bytes, wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=wrong or "."):
        read(data, tmp_path / "i")


def test_what_an_archive_says_of_its_size_is_not_believed(tmp_path: Path) -> None:
    header = b"070701" + b"".join(
        b"%08X" % f for f in (1, 0o100644, 0, 0, 1, 0, 0xFFFFFFF0, 0, 0, 0, 0, 2, 0)
    )
    with pytest.raises(ValueError, match="larger than 2 GiB|ends too early"):
        read(header + b"a\0\0\0", tmp_path / "i")


def test_links_and_devices_have_no_content(tmp_path: Path) -> None:
    assert read(cpio(("etc/x", b"/etc/machine-id"), mode=0o120777), tmp_path / "i") == {}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"root=x id={ID}", ["the machine-id"]),
        (f"{ID.upper()}", ["the machine-id"]),
        (ID[:-1], []),
        ("host=prototype7", ["the host name"]),
        ("prototype7.example.org", ["the host name"]),
        ("Prototype7", ["the host name"]),
        ("my-prototype7 prototype70 prototype7-b xprototype7", []),
        ("ifname=lan:52:54:00:ab:34:56", ["a MAC address"]),
        ("ifname=lan:52:54:00:ab:34:56:dhcp", ["a MAC address"]),
        ("BOOTIF=01-52-54-00-AB-34-56", ["a MAC address"]),
        ("MACAddress=52:54:00:AB:34:56", ["a MAC address"]),
        ("00:00:00:00:00:00 ff:ff:ff:ff:ff:ff", []),
        ("01:02:03:04:05:06:07:08 12:34:56 fe80::52:54", []),
        ("rd.iscsi.initiator=iqn.1993-08.org.debian:01:abc", ["the iSCSI name"]),
    ],
)
def test_what_a_text_carries(text: str, what: list[str]) -> None:
    old = Old(
        {
            "the machine-id": (ID,),
            "the host name": ("prototype7",),
            "the iSCSI name": ("iqn.1993-08.org.debian:01:abc",),
        }
    )
    assert old.within(text.encode()) == what


def test_ids_of_a_tree(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "t")
    made.put("/var/lib/dbus/machine-id", "f" * 32 + "\n")
    made.put("/etc/hostname", "# a comment\nprototype7.example.org\n")
    made.put("/etc/iscsi/initiatorname.iscsi", "## x\nInitiatorName=iqn.1993-08.org.debian:01:abc\n")
    made.put("/etc/nvme/hostnqn", "nqn.2014-08.org.nvmexpress:uuid:1\n")
    made.put("/etc/nvme/hostid", "")
    with Tree(str(made.root)) as tree:
        found = old_ids(tree)
    assert found.words == {
        "the machine-id": (
            ID,
            "f" * 32,
            f"{ID[:8]}-{ID[8:12]}-{ID[12:16]}-{ID[16:20]}-{ID[20:]}",
            "-".join("f" * n for n in (8, 4, 4, 4, 12)),
        ),
        "the host name": ("prototype7.example.org", "prototype7"),
        "the iSCSI name": ("iqn.1993-08.org.debian:01:abc",),
        "the NVMe name": ("nqn.2014-08.org.nvmexpress:uuid:1",),
    }
    made.put("/etc/hostname", "debian\n")
    made.put("/etc/machine-id", "uninitialized\n")
    made.at("/var/lib/dbus/machine-id").unlink()
    with Tree(str(made.root)) as tree:
        assert list(old_ids(tree).words) == ["the iSCSI name", "the NVMe name"]


def test_where_traces_are_found(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "t")
    made.put("/etc/hostname", "prototype7\n")
    made.put("/boot/initrd.img-6.1", "")
    made.at("/boot/initrd.img-6.1").write_bytes(
        EARLY + gzip.compress(cpio(*FILES, ("usr/bin/prototype7", b"prototype7")))
    )
    made.put("/boot/initrd.img-broken", "nonsense")
    made.link("/boot/initrd.img", "initrd.img-6.1")
    made.put("/boot/grub/grub.cfg", "linux /vmlinuz root=UUID=1 prototype7\n")
    made.put("/etc/kernel/cmdline", f"systemd.machine_id={ID}\n")
    made.put(f"/boot/efi/{ID}/6.1/linux")
    made.put("/boot/efi/loader/loader.conf", ID)
    os.mkfifo(made.at("/etc/crypttab"))
    notes: list[str] = []
    with Tree(str(made.root)) as tree:
        found = find(tree, Finder(tree), old_ids(tree), notes)
    assert [(t.path.replace(ID, "I"), t.inside, t.what) for t in found] == [
        ("/boot/efi/I", "", ("the machine-id in its name",)),
        ("/boot/grub/grub.cfg", "", ("the host name",)),
        *[
            (f"/boot/{image}", name, (what,))
            for image in ("initrd.img-6.1",)
            for name, what in (("etc/hostname", "the host name"), ("etc/machine-id", "the machine-id"))
        ],
        ("/etc/kernel/cmdline", "", ("the machine-id",)),
    ]
    assert len(notes) == 1 and "'/boot/initrd.img-broken': compressed in a way" in notes[0]
    assert not list(Path("/tmp").glob("persist-seal-*"))
