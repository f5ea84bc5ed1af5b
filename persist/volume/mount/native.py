# SPDX-License-Identifier: LGPL-2.1-or-later
"""A volume that is not a btrfs: a device that Device= names, such as a cloud's ephemeral disk. Checked,
mounted and grown as fstab would have it.

PID 1 makes the mount (systemd-mount(1)), so that systemd-fsck@.service and the device's own unit are part of
it.
"""

from __future__ import annotations

import os

from persist.boot.config import Config
from persist.boot.paths import VOLUME
from persist.errors import CommandError, PersistError
from persist.note import NOTICE, Note, Say, Status
from persist.system import mountinfo, newmount
from persist.system.mountinfo import Mount
from persist.system.run import run
from persist.volume.find.decision import NATIVE, Found
from persist.volume.mount import netdev

_GROWING = (
    "ext4",
    "ext3",
    "xfs",
)  # what systemd-growfs(8) and the tools of these can grow while they are mounted
# A mount with ro alone writes: it plays back the journal of a filesystem that was not unmounted.
_UNTOUCHED = {
    "ext4": "ro,noload",
    "ext3": "ro,noload",
    "xfs": "ro,norecovery",
    "f2fs": "ro,norecovery",
    "bcachefs": "ro,nochanges",
}
_CHECK = 24 * 3600  # seconds
_GROWFS = "/usr/lib/systemd/systemd-growfs"


def options(config: Config, fstype: str, *, read_only: bool = False) -> str:
    """The options for mount(8): Options= without what only fstab-generator understands. ``read_only``:
    nothing at all is written.

    The last words count: it is nosuid and nodev whatever Options= says, which is for entries to change.
    """
    words = [
        w
        for w in config.options.split(",")
        if w
        and not w.startswith("x-")
        and w not in ("_netdev", "nofail", "noauto", "auto", "defaults", "rw", "ro")
    ]
    return ",".join([*words, _UNTOUCHED[fstype] if read_only else "rw", newmount.DATA])


def mount_native(
    found: Found, config: Config, say: Say, status: Status, *, read_only: bool = False, at: str = VOLUME
) -> Mount:
    """Check and mount the filesystem, grow it into its device. Raises PersistError and OSError."""
    fields = {"PERSIST_DEVICE": found.node, "PERSIST_UUID": found.uuid, "PERSIST_REASON": "broken"}
    if found.fstype not in NATIVE:
        raise PersistError(
            f"The state volume on {found.node} is {found.fstype}, which cannot keep state.",
            hint=f"Use btrfs, {', '.join(NATIVE)}.",
            message_id="VOLUME_BROKEN",
            **fields,
        )
    os.makedirs(at, 0o755, exist_ok=True)
    order = [f"--property=After={' '.join(netdev.ORDER)}"] if config.netdev else []
    try:
        # As systemd-fsck@.service has no time-out either: killed within the check of a large filesystem, this
        # boot would have neither it nor a fallback.
        status(f"Checking and mounting {found.node}", _CHECK)
        run(
            "systemd-mount",
            "--quiet",
            "--no-ask-password",
            f"--fsck={'no' if read_only else 'yes'}",
            f"--type={found.fstype}",
            f"--options={options(config, found.fstype, read_only=read_only)}",
            "--property=DefaultDependencies=no",
            "--property=Conflicts=umount.target",
            "--property=Before=umount.target",
            *order,
            found.node,
            at,
            timeout=None,
        )
    except CommandError as e:
        raise PersistError(
            f"The state volume on {found.node} does not mount: {e.message}",
            message_id="VOLUME_BROKEN",
            hint="It is left as it is. See 'journalctl -b -k' and its fsck.",
            **fields,
        ) from e
    mount = mountinfo.at(at)
    if mount is None:
        raise PersistError(
            f"The state volume on {found.node} does not mount: nothing is mounted.",
            message_id="VOLUME_BROKEN",
            **fields,
        )
    if not mount.read_only:
        _grow(found, at, say)
    return mount


def _grow(found: Found, at: str, say: Say) -> None:
    if found.fstype in _GROWING and os.path.exists(_GROWFS):
        try:
            run(_GROWFS, at)
        except CommandError as e:
            say(
                Note(
                    NOTICE,
                    f"Failed to grow the state volume on {found.node} to the size of its device: {e.message}",
                    "FAILED",
                    {"PERSIST_DEVICE": found.node},
                )
            )
