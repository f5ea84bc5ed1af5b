# SPDX-License-Identifier: LGPL-2.1-or-later
"""The root filesystem of a machine that is off, read and prepared without mounting it: no loop device, for
the storage tests look at all of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def _call(*argv: str | Path, stdin: str = "", good: Sequence[int] = (0,)) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode not in good:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def prepare(image: Path, disk: Path, files: Mapping[str, str]) -> None:
    """Make a raw disk that is that one with these files; their directories are there."""
    _call("cp", "--sparse=always", "--reflink=auto", image, disk)
    commands = []
    for number, (name, text) in enumerate(files.items()):
        file = disk.with_name(f"{disk.name}.{number}")
        file.write_text(text, encoding="utf-8")
        commands += [f"rm {name}", f"write {file} {name}", f"set_inode_field {name} mode 0100600"]
    _call("debugfs", "-w", "-f", "-", disk, stdin="\n".join([*commands, ""]))
    for number in range(len(files)):
        disk.with_name(f"{disk.name}.{number}").unlink()


def unpack(disk: Path, work: Path, *directories: str) -> Path:
    """What these directories hold (the root, where none is named), of a disk that may have been cut off from
    its power. The disk is as it was."""
    raw, target = work / "unpacked.raw", work / "unpacked"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    _call("qemu-img", "convert", "-U", "-O", "raw", disk, raw)
    # The journal, which debugfs does not read. It is 1 where something was put right.
    _call("e2fsck", "-p", raw, good=(0, 1))
    said = _call("debugfs", "-R", f"rdump {' '.join(directories or '/')} {target}", raw)
    raw.unlink()
    assert not [line for line in said.split("\n")[1:] if line], said
    return target
