# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the storage tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.seal_tree import MadeUp

from .rig import HEADER, LoopDisk, tool
from .seal_rig import sh
from .volumes import unmounted

Make = Callable[..., LoopDisk]


@pytest.fixture(autouse=True)
def _no_run_of_this_machine(request: pytest.FixtureRequest) -> None:
    """What is called here, and not in a namespace of its own, leaves /run alone."""
    if os.geteuid() == 0:
        request.getfixturevalue("own_run")


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Make]:
    """Makes loop disks; afterwards none of them may be left attached, mounted or in use as swap."""
    if os.geteuid() != 0 or not all(shutil.which(t) for t in ("losetup", "sfdisk", "mkfs.btrfs")):
        pytest.skip("root, losetup, sfdisk and mkfs.btrfs")
    made: list[LoopDisk] = []

    def make(mib: int = 300, header: bytes = HEADER) -> LoopDisk:
        disk = LoopDisk(tmp_path, mib, header, f"disk{len(made)}")
        made.append(disk)
        return disk

    yield make
    for disk in made:
        disk.unplug()
    left = [
        line
        for line in tool("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").splitlines()
        if str(tmp_path) in line
    ]
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        left += [line for line in f if str(tmp_path) in line]
    for disk in made:
        disk.file.unlink(missing_ok=True)
    assert not left, "left behind by the test"


@pytest.fixture
def volume(make_disk: Make) -> LoopDisk:
    """A formatted disk."""
    disk = make_disk(300)
    done = disk.format()
    assert done.returncode == 0, done.stderr
    return disk


@pytest.fixture
def place(own_run: Path) -> Iterator[Path]:
    """The directory in which a volume is mounted, at the very place that the product knows; not any more when
    the test ends."""
    with unmounted(str(own_run / "volume")):
        yield own_run


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    """A root that is made up, to be sealed."""
    return MadeUp(tmp_path / "t")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts things below the test's directory; afterwards nothing is left."""
    points: list[Path] = []

    def mount(point: Path, *words: object) -> Path:
        point.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *map(str, words), point], check=True, capture_output=True)
        points.append(point)
        return point

    yield mount
    for point in reversed(points):
        subprocess.run(["umount", "-l", point], check=True)


@pytest.fixture
def on_disk(tmp_path: Path, mounted: Callable[..., Path]) -> MadeUp:
    """A tree on an ext4 of its own, small enough to be filled."""
    image = tmp_path / "disk"
    sh('truncate -s 16M "$1"; mkfs.ext4 -q -m 0 -O ^has_journal "$1"', image)
    return MadeUp(mounted(tmp_path / "t", "-o", "loop", image))
