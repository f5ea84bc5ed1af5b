# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is bound of the image beside the volume, on a root that is read-only until somebody upgrades it."""

from __future__ import annotations

import errno
import os

import pytest

from persist.boot.paths import IMAGE, LOWER
from persist.system import mountinfo, newmount

from .namespace import own_machine, sh

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


def _write(path: str) -> int:
    try:
        with open(path, "w", encoding="ascii"):
            return 0
    except OSError as e:
        return e.errno or -1


@own_machine
def test_a_hole_is_writable_once_the_root_is() -> None:
    sh("mount -t tmpfs -o ro none /srv; mkdir /opt/image /opt/hole /opt/lower")
    newmount.bind("/srv", "/opt/image", read_only=False)
    newmount.bind("/opt/image", "/opt/lower", read_only=True)
    sh("mount --bind /opt/image /opt/hole")  # as PID 1 does it
    assert [_write(f"/opt/{name}/f") for name in ("image", "hole", "lower")] == [errno.EROFS] * 3
    sh("mount -o remount,rw /srv")
    assert [_write(f"/opt/{name}/f") for name in ("image", "hole", "lower")] == [0, 0, errno.EROFS]


@own_machine
def test_image_has_no_flag_of_its_own_and_lower_has() -> None:
    at = {m.mount_point: m for m in mountinfo.mounts()}
    assert "ro" not in at[IMAGE].options.split(",")
    assert "ro" in at[LOWER].options.split(",")


@own_machine
def test_a_bind_keeps_the_flag_where_nobody_says_otherwise() -> None:
    sh("mount -t tmpfs -o ro none /srv; mkdir /opt/bind")
    newmount.bind("/srv", "/opt/bind")
    sh("mount -o remount,rw /srv")
    assert _write("/opt/bind/f") == errno.EROFS
