# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the unit tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .early_rig import SHELLS, Disk, Initrd


@pytest.fixture(params=SHELLS, ids=["dash", "klibc"])
def initrd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Initrd]:
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip("not installed")
    yield Initrd(tmp_path, shell)


@pytest.fixture
def ready(initrd: Initrd) -> Initrd:
    """A machine at its second boot: one trusted disk, /etc seeded."""
    initrd.disk(Disk("vdb2"))
    initrd.seeded("/etc")
    initrd.registry("/etc overlay")
    return initrd


@pytest.fixture(params=SHELLS, ids=["dash", "klibc"])
def any_shell(request: pytest.FixtureRequest) -> str:
    """Each shell that an initrd may have."""
    shell: str | None = shutil.which(request.param)
    if shell is None:
        pytest.skip("not installed")
    return shell
