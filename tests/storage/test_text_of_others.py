# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mounts whose names hold what ends a line elsewhere."""

from __future__ import annotations

import os

from persist.system import mountinfo
from tests.unit.test_text_of_others import ENDS

from .namespace import own_machine, sh


@own_machine
def test_a_mount_with_the_end_of_a_line_in_its_name() -> None:
    """It must not stop the search, nor be taken for a line of its own."""
    sh("mkdir -p /run/r /run/some; mount -t tmpfs none /run/some; touch /run/some/file /run/r/file")
    for c in ENDS:
        os.mkdir(f"/run/a{c}b")
        sh(f"mount -t tmpfs none '/run/a{c}b'; mount --bind /run/some/file /run/r/file")
        found = mountinfo.at("/run/r/file")
        assert found is not None and found.root == "/file", ascii(c)
        assert mountinfo.at(f"/run/a{c}b") is not None, ascii(c)
        sh("umount /run/r/file")
        assert mountinfo.at("/run/r/file") is None, ascii(c)
