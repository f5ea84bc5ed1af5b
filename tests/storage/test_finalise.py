# SPDX-License-Identifier: LGPL-2.1-or-later
"""register --finalise where rename(2) does not reach: the factory on another filesystem, a directory of a
lower layer, something mounted in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.foresee.image import Image
from persist.register.check import judge
from persist.register.files import write
from persist.register.finalise import STEPS, finalise
from persist.register.wish import Wish
from tests.unit.test_seed_cuts import killed

from .namespace import own_machine, sh

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
LINK = "/mnt/state/var/lib/app"


def image(top: str) -> Image:
    """An image with a registered link below a directory of the machine of this test."""
    sh(
        f"mkdir -p {top}/usr/lib/systemd/system {top}/etc/systemd/system/local-fs.target.wants "
        f"{top}/var/lib/app/db {top}/usr/share; "
        f"touch {top}/usr/lib/systemd/system/persist-setup.target; "
        f"ln -s /usr/lib/systemd/system/persist-setup.target {top}/etc/systemd/system/local-fs.target.wants; "
        f"echo content >{top}/var/lib/app/db/one; chown -R 1234:1234 {top}/var/lib/app; "
        f"chmod 2750 {top}/var/lib/app; "
        f"setfattr -n user.mark -v here {top}/var/lib/app/db/one"
    )
    found = Image(top)
    write(judge([Wish("/var/lib/app", "symlink")], found), found)
    return found


def whole(top: str) -> None:
    """The content is moved, with all that belongs to it, and nothing is left beside it."""
    moved = Path(top, "usr/share/factory/var/lib/app")
    assert (moved / "db/one").read_text() == "content\n"
    assert os.getxattr(moved / "db/one", "user.mark") == b"here"
    there = moved.stat()
    assert (there.st_uid, there.st_gid, there.st_mode & 0o7777) == (1234, 1234, 0o2750)
    assert os.readlink(f"{top}/var/lib/app") == LINK
    assert os.listdir(moved.parent) == ["app"] and os.listdir(f"{top}/var/lib") == ["app"]


@own_machine
def test_a_factory_on_another_filesystem() -> None:
    for number, step in enumerate(("", *STEPS)):
        top = f"/srv/{number}"
        found = image(top)
        sh(f"mkdir {top}/usr/share/factory; mount -t tmpfs none {top}/usr/share/factory")
        if step:
            assert killed(lambda found=found: finalise(found), step), step  # type: ignore[misc]
        finalise(found)
        whole(top)
        assert finalise(found) == ([], [])


@own_machine
def test_a_directory_of_a_lower_layer() -> None:
    sh("mount -t tmpfs none /srv; mkdir /srv/lower /srv/upper /srv/work /srv/top")
    image("/srv/lower")
    sh("mount -t overlay none -o lowerdir=/srv/lower,upperdir=/srv/upper,workdir=/srv/work /srv/top")
    with pytest.raises(OSError, match="cross-device"):
        os.rename("/srv/top/var/lib/app", "/srv/top/usr/share/app")  # so this is a test of it
    finalise(Image("/srv/top"))
    whole("/srv/top")


@own_machine
@pytest.mark.parametrize("at", ["var/lib/app", "var/lib/app/db"])
def test_what_is_mounted_in_the_way_is_said_before_anything_moves(at: str) -> None:
    found = image("/srv")
    sh(f"mount -t tmpfs none /srv/{at}")
    with pytest.raises(PersistError, match=f"something is mounted on '/srv/{at}'"):
        finalise(found)
    sh(f"umount /srv/{at}")
    assert not os.path.exists("/srv/usr/share/factory")
    assert "SeedFrom" not in Path("/srv/usr/lib/persist.d/50-var-lib-app.conf").read_text()
    finalise(found)
    whole("/srv")
