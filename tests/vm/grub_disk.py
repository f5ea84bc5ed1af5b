# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk that UEFI starts by itself: GPT, an ESP with GRUB, and the root filesystem of an image. Made of
files, without root, loop devices or mounts."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .image import Image

_MIB = 1 << 20
_ESP_MIB = 64
ROOT_AT = 1 + _ESP_MIB  # MiB
_MODULES = ("part_gpt", "fat", "linux", "normal")
_FSTAB = "/dev/vda2 / ext4 defaults 0 1\n/dev/vda1 /boot/efi vfat umask=0077 0 0\n"


def _call(*argv: str | Path, stdin: str = "") -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def _into(part: Path, disk: Path, at_mib: int) -> None:
    _call("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={at_mib}", "conv=notrunc,sparse", "status=none")


def make(image: Image, command_line: str, disk: Path) -> None:
    """Make the disk; its kernel gets that command line."""
    work = disk.parent
    root, esp, kernel = work / "root", work / "esp", work / "vmlinuz"
    _call("cp", "--sparse=always", image.root, root)
    names = _call("debugfs", "-R", "ls -p /boot", root).split("/")
    _call("debugfs", "-R", f"dump /boot/{next(n for n in names if n.startswith('vmlinuz'))} {kernel}", root)
    (work / "fstab").write_text(_FSTAB, encoding="utf-8")
    commands = f"rm /etc/fstab\nwrite {work / 'fstab'} /etc/fstab\nmkdir /boot/efi\n"
    _call("debugfs", "-w", "-f", "-", root, stdin=commands)
    _call("truncate", "-s", f"{_ESP_MIB}M", esp)
    _call("mkfs.vfat", esp)
    (work / "grub.cfg").write_text(
        f"linux (hd0,gpt1)/vmlinuz root=/dev/vda2 {command_line}\ninitrd (hd0,gpt1)/initrd\nboot\n",
        encoding="utf-8",
    )
    grub = work / "BOOTX64.EFI"
    _call("grub-mkimage", "-O", "x86_64-efi", "-p", "/", "-c", work / "grub.cfg", "-o", grub, *_MODULES)
    _call("mmd", "-i", esp, "::/EFI", "::/EFI/BOOT")
    for file, name in ((grub, "EFI/BOOT/BOOTX64.EFI"), (kernel, "vmlinuz"), (image.initrd, "initrd")):
        _call("mcopy", "-i", esp, file, f"::/{name}")
    size = ROOT_AT + -(-root.stat().st_size // _MIB) + 1
    _call("truncate", "-s", f"{size}M", disk)
    table = f"label: gpt\nstart=1MiB, size={_ESP_MIB}MiB, type=uefi\nstart={ROOT_AT}MiB, type=linux\n"
    _call("sfdisk", "--quiet", disk, stdin=table)
    _into(esp, disk, 1)
    _into(root, disk, ROOT_AT)
    for file in (root, esp, kernel, grub, work / "fstab", work / "grub.cfg"):
        file.unlink()
