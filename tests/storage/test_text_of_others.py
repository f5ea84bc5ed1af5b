# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mounts whose names hold what ends a line elsewhere."""

from __future__ import annotations

import os

from persist.seed import machine_id
from tests.unit.test_text_of_others import ENDS

from .namespace import own_machine, sh


@own_machine
def test_a_bind_that_looks_like_pid_1s() -> None:
    """A name on the line of another mount must not stop the search, nor be taken for a line."""
    sh("mkdir -p /run/r/etc /run/systemd; mount -t tmpfs none /run/systemd; touch /run/r/etc/machine-id")
    for c in ENDS:
        os.mkdir(f"/run/a{c}b")
        sh(f"mount -t tmpfs none '/run/a{c}b'; echo pid1 >/run/systemd/machine-id")
        sh("mount --bind /run/systemd/machine-id /run/r/etc/machine-id")
        assert machine_id.take_bind_away("/run/r") is not None
        assert os.stat("/run/r/etc/machine-id").st_size == 0, ascii(c)
