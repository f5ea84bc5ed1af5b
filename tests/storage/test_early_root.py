# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the root is going to be, told before PID 1 has looked at fstab."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persist.boot.facts import Facts
from persist.boot.fstab import Line
from persist.early.root import will_be
from persist.volume import root_kept
from persist.volume.root_kept import Root

from .namespace import own_machine, sh

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


def _facts(*options: str) -> Facts:
    facts = Facts()
    facts.lines = [Line("/dev/vda1", "/", "ext4", text, "/etc/fstab:1") for text in options]
    facts.lines.append(Line("/dev/vda2", "/srv", "ext4", "rw", "/etc/fstab:9"))
    return facts


def _root(*options: str, sys: str = "/sys") -> Root:
    return will_be(_facts(*options), root_kept.look("/srv"), "/srv", sys)


@own_machine
def test_fstab_has_the_last_word_on_a_root_that_the_loader_mounts_ro() -> None:
    sh("mount -t tmpfs -o remount,ro none /srv")
    assert root_kept.look("/srv").read_only
    for options in ("defaults", "", "errors=remount-ro", "rw,noatime", "ro,rw"):
        assert not _root(options).read_only, options
    for options in ("ro", "defaults,ro", "rw,ro"):
        assert _root(options).read_only, options
    assert _root().read_only, "without a line PID 1 leaves it as it is"
    assert _root("rw", "ro").read_only is False, "the first line counts, as for findmnt(8)"


@own_machine
def test_a_root_that_is_writable_already() -> None:
    assert not _root("ro").read_only


@own_machine
def test_what_no_option_makes_writable(tmp_path: Path) -> None:
    sh("mount -t tmpfs -o remount,ro none /srv")
    device = os.stat("/srv").st_dev
    flag = tmp_path / f"dev/block/{os.major(device)}:{os.minor(device)}/ro"
    flag.parent.mkdir(parents=True)
    for text, read_only in (("1\n", True), ("0\n", False)):
        flag.write_text(text)
        assert _root("rw", sys=str(tmp_path)).read_only is read_only
