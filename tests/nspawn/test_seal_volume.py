# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that seal themselves and their state volume: what is on the disk afterwards, and that the next
boot is that of a clone which has its volume. tests/storage/test_seal_volume.py has what else may be there."""

from __future__ import annotations

import uuid

from tests.storage.rig import tool
from tests.vm.checks import failed_units, healthy_boot, state

from .conftest import Boot
from .container import Container
from .disk import Disk
from .registry import ENABLED, PRESET, named
from .test_seal_boot import PROTOTYPE, REBOOT, report

SECRET = "a secret of the prototype"
ENTRIES = {
    "/usr/lib/persist.d/kept.conf": "[Path]\nPath=/var/lib/systemd\n[Path]\nPath=/root\nMethod=bind\n",
    "/root/.profile": "",
}
_LOOK = """
mount -o subvolid=5 "$1" /mnt
cd /mnt
grep -rl "$2" . || true
for place in root/.bash_history .persist/overlay/etc/upper/machine-id .persist/seed/root.json; do
    [ ! -e "@persist-state/$place" ] || echo "there $place $(wc -c <"@persist-state/$place")"
done
cd /
umount /mnt
"""


def look(disk: Disk) -> list[str]:
    """What is on the volume: files with a secret, and some that are there, with what they say."""
    disk.replug()
    script = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", _LOOK, "sh")
    return tool(*script, disk.node, SECRET).splitlines()


def ask(one: Container) -> None:
    """Have it seal itself, and its volume."""
    one.succeed("systemd-run persistctl seal --yes --include-volume")
    assert one.wait_for_off() == REBOOT, one.tail()


def seal(one: Container, disk: Disk) -> None:
    one.start(devices=disk.nodes())
    assert one.wait_for_off() == 0, one.tail()
    assert "This machine is sealed." in one.console_text(), one.tail()


def test_a_writable_root(disk: Disk, container: Boot) -> None:
    """Its entries are wiped on the volume; the clone takes the volume for its own, and has what no pattern
    names."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**PROTOTYPE, **ENABLED, **ENTRIES, **named(name)})
    one.start(devices=disk.nodes())
    assert healthy_boot(one)["volume"]["uuid"] == name
    one.succeed(f"echo '{SECRET}' >/root/.bash_history; echo kept >/root/kept; sync")
    one.succeed(f"echo '{SECRET}' >/var/lib/systemd/random-seed; echo '{SECRET}' >>/var/log/wtmp")
    ask(one)
    assert any(line.endswith("root/.bash_history") for line in look(disk)), "the test can fail"
    seal(one, disk)
    assert report(one)["sealed"] is True
    found = look(disk)
    assert [line for line in found if not line.startswith("there ")] == []
    assert [line.split()[1] for line in found] == [".persist/seed/root.json"]
    one.start(devices=disk.nodes())
    assert healthy_boot(one)["volume"]["uuid"] == name
    assert one.succeed("cat /root/kept").strip() == "kept"
    one.shutdown()


def test_an_etc_that_is_kept(disk: Disk, container: Boot) -> None:
    """The request lies on the volume, which the stage has mounted for it. What /etc has there is wiped there,
    and the clone gets an id of its own."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    image = {key: text for key, text in PROTOTYPE.items() if not key.startswith("/root")}
    one = container(files={**image, **ENABLED, **PRESET, **named(name)}, read_only=True)
    one.start(devices=disk.nodes())
    healthy_boot(one)
    before = one.succeed("cat /etc/machine-id").strip()
    one.succeed(f"echo '{SECRET}' >/etc/ssh/ssh_host_rsa_key; echo {before} >/etc/machine-id; sync")
    ask(one)
    assert any("/etc/upper/ssh/ssh_host_rsa_key" in line for line in look(disk)), "the test can fail"
    seal(one, disk)
    assert "from the free blocks of the state volume" not in one.console_text()
    found = look(disk)
    assert [line for line in found if not line.startswith("there ")] == []
    assert "there .persist/overlay/etc/upper/machine-id 0" in found
    one.start(devices=disk.nodes())
    one.wait_for_boot()
    assert state(one)["volume"]["uuid"] == name, failed_units(one)
    assert one.succeed("cat /etc/machine-id").strip() not in ("", before)
    one.shutdown()
