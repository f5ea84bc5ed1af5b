# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the systems of these tests ask persist for: files for Container()."""

from __future__ import annotations

from tests.vm import scene


def wanted(by: str, unit: str) -> dict[str, str]:
    """A shipped unit, enabled."""
    return {f"/etc/systemd/system/{by}.wants/{unit}": f"-> /usr/lib/systemd/system/{unit}"}


ENABLED = wanted("local-fs.target", "persist-setup.target")
# As 'persistctl preset enable whole-system' leaves it.
PRESET = {"/etc/persist.d/zz-preset-whole-system.conf": "-> /usr/share/persist/presets/whole-system.conf"}
NOTES = {
    **{f"/{name}": text for name, text in scene.NOTES.items() if not name.startswith("DEBIAN/")},
    **wanted("multi-user.target", "demo-notes.service"),
}
ODD = {**scene.ODD_REGISTRY, **{f"{path}/.image": "" for path in scene.ODD}}


def named(uuid: str) -> dict[str, str]:
    """The configuration of a machine whose volume has this id. A loop device is used only where it is
    named."""
    return {"/usr/lib/persist/persist.conf.d/50-volume.conf": f"[Volume]\nDevice=UUID={uuid}\n"}


# What is away is waited for one second.
QUICK = {"/usr/lib/persist/persist.conf.d/80-timeout.conf": "[Volume]\nMemberTimeoutSec=1\n"}
# The volume is found by its label, on any disk.
LABEL = {"/usr/lib/persist/persist.conf.d/60-removable.conf": "[Volume]\nAllowRemovable=yes\n"}
OVERLAY = {"/usr/lib/persist.d/over.conf": "[Path]\nPath=/srv/over\n", "/srv/over/f": "image\n"}
