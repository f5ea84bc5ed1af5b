# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nothing is mounted over a system that runs, whatever others do to our units."""

from __future__ import annotations

import uuid

from tests.vm.checks import failed_units, mounted, state

from .conftest import Boot
from .disk import Disk
from .registry import ENABLED, LABEL, NOTES, OVERLAY


def test_nothing_is_mounted_over_a_running_system(disk: Disk, container: Boot) -> None:
    """A volume comes after the boot: what was held back stays so over 'systemctl isolate', 'stop' and
    'restart'."""
    one = container(files={**ENABLED, **NOTES, **OVERLAY, **LABEL})
    assert one.boot(devices=disk.nodes()) == "running", failed_units(one)

    disk.make_volume(str(uuid.uuid4()))
    booted = one.succeed("stat -c %i /run/persist/booted")
    one.succeed("systemctl isolate rescue.target")
    assert one.execute("systemctl is-active persist-verify.service cron.service")[0] != 0
    one.succeed("systemctl isolate multi-user.target")
    one.wait_until_succeeds("systemctl is-active cron.service persist-verify.service")
    one.succeed("systemctl stop persist-verify.service persist-volume.service persist-setup.target")
    one.succeed("systemctl start persist-setup.target persist-volume.service srv-over.mount")
    one.succeed("systemctl start 'persist-bind@var-lib-demo\\x2dnotes.service' persist-verify.service")
    one.succeed("systemd-run --wait -p PrivateTmp=yes -p StateDirectory=demo-notes true")
    assert mounted(one, "overlay", "btrfs") == ["/"]
    # By that file alone: without it the volume would be found now, and mounted.
    one.succeed("rm /run/persist/booted; systemctl restart persist-volume.service")
    assert "/run/persist/volume" in mounted(one, "btrfs"), booted
    one.shutdown()


def test_enabling_changes_nothing(container: Boot) -> None:
    """A writable root, no disk, a preset: nothing is in force, and all is where it was."""
    one = container(files=NOTES)
    assert one.boot() == "running", failed_units(one)
    one.succeed("echo mine >>/var/lib/demo-notes/notes.txt; echo mine >/home/mine")
    one.succeed("systemctl enable persist-setup.target && persistctl preset enable whole-system 2>&1")
    one.shutdown()
    assert one.boot() == "running", failed_units(one)
    found = state(one)
    assert (found["verdict"], found["volume"]["kind"]) == ("off", "none"), found["reasons"]
    assert mounted(one, "overlay", "btrfs") == ["/"]
    assert one.succeed("cat /home/mine") == "mine\n"
    assert "mine" in one.succeed("cat /var/lib/demo-notes/notes.txt")
    one.shutdown()
