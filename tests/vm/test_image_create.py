# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl image create from end to end: a machine that has secrets, its image, and a clone of that.
What needs no system in the machine is in tests/storage/test_image_create.py."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import cache, grub_disk, image, scene
from .checks import failed_units
from .conftest import MachineFactory
from .qemu import COMMAND_LINE

SECRET = "a secret of the prototype, and no other machine's"
# Written when the image is built: the prototype as it would be after its first boot.
PROTOTYPE = (
    f"yes {SECRET!r} | head -c 262144 >/var/lib/systemd/random-seed",
    "yes stays | head -c 4096 >/var/lib/stays",
)
SCRIPT = """#!/bin/sh
set -e
echo "hello from $(id -un) in $(pwd)"
rm /var/lib/by-installer
test -d /run/credentials/@system
"""


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(path: Path, text: str) -> bool:
    """Whether a disk has these bytes anywhere, also where no file is."""
    with path.open("rb") as file:
        rest = b""
        while block := file.read(1 << 20):
            if text.encode() in rest + block:
                return True
            rest = block[-len(text) :]
    return False


def inside(disk: Path, name: str) -> str:
    """A file of the root filesystem, read from the disk."""
    done = subprocess.run(["debugfs", "-R", f"cat {name}", disk], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def prototype() -> image.Image:
    """The disk of a machine that is shut down, and its kernel."""
    return image.build(
        "bookworm",
        scene.packages(),
        "rw",
        customize=PROTOTYPE,
        files={"/var/lib/by-installer": "x\n"},
    )


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory for large files."""
    directory = cache.WorkDir("image-create")
    try:
        yield directory.path
    finally:
        directory.close()


def create(source: Path, work: Path, script: str, *options: str | Path) -> tuple[str, Path]:
    """What was said, and the image as a raw disk; SOURCE is as it was, and nothing is left."""
    output, script_file, raw = work / "image.qcow2", work / "script", work / "image.raw"
    script_file.write_text(script, encoding="utf-8")
    before, there = digest(source), {*work.iterdir(), output}
    line: list[str | Path] = [scene.checkout() / "bin/persistctl", "image", "create", source, output]
    line += ["--operator-script", script_file, "--timeout", "600", *options]
    environment = os.environ | {"PERSIST_LIBRARY": str(scene.checkout())}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    assert set(work.iterdir()) == there
    assert digest(source) == before
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", output, raw], check=True)
    return done.stderr, raw


def sealed(root: Path) -> dict[str, Any]:
    """The report of a root filesystem that is sealed."""
    found: dict[str, Any] = json.loads(inside(root, "/var/lib/persist/seal.json"))
    assert re.fullmatch("[0-9a-f]{32}", found["request"]), found
    assert inside(root, "/etc/persist/seal.done").split() == [found["request"]]
    assert inside(root, "/etc/machine-id") == ""
    assert inside(root, "/var/lib/stays").startswith("stays\n")
    return found


def test_an_image_and_its_clone(prototype: image.Image, work: Path, machine: MachineFactory) -> None:
    """A disk without a boot loader."""
    assert holds(prototype.root, SECRET)
    start = ("--kernel", prototype.kernel, "--initrd", prototype.initrd, "--append", COMMAND_LINE)
    said, raw = create(prototype.root, work, SCRIPT, *start)
    assert "\nhello from root in /\n" in said and "\npowered off\n" in said
    assert sealed(raw)["operator_script"]["output"] == "hello from root in /"
    assert inside(raw, "/var/lib/by-installer") == "", "the operator's script has taken it away"
    assert not holds(raw, SECRET), "deleted, and still in the image"
    one = machine(dataclasses.replace(prototype, root=raw, key="sealed"))
    one.start()
    one.wait_for_boot()
    assert failed_units(one) == []
    assert re.fullmatch("[0-9a-f]{32}\n", one.succeed("cat /etc/machine-id"))


def test_a_disk_with_uefi_and_grub_and_a_large_script(prototype: image.Image, work: Path) -> None:
    """More than the SMBIOS tables hold goes by fw_cfg."""
    source, root = work / "disk.raw", work / "root"
    grub_disk.make(prototype, COMMAND_LINE.removeprefix("root=/dev/vda "), source)
    said, raw = create(source, work, f"{SCRIPT}# {'x' * (40 << 10)}\n", "--firmware=uefi")
    assert "\nhello from root in /\n" in said
    assert not holds(raw, SECRET)
    at = grub_disk.ROOT_AT << 20
    with raw.open("rb") as disk, root.open("wb") as out:
        disk.seek(at)
        shutil.copyfileobj(disk, out, 1 << 20)
    sealed(root)
