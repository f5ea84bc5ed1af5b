# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which volume: one of two of one label, a copy, one that is no btrfs, one that is away. tests/nspawn has one
that is full or damaged, two that nothing tells apart, and one that must not be written."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import image, scene
from .checks import clean_shutdown, codes, entries, failed_units, healthy_boot, records, state
from .conftest import MachineFactory
from .disks import Disk
from .machine import Machine
from .test_mirror import VOLUME, node

BINDING = 256


def volatile(machine: Machine, code: str) -> None:
    """A boot without its volume: it ends, writes go to memory, and it says why."""
    machine.expect("FALLBACK", "VERDICT_VOLATILE", code)
    machine.wait_for_boot()
    found = state(machine)
    assert (found["verdict"], found["volume"]["kind"]) == ("volatile", "tmpfs"), json.dumps(found, indent=2)
    assert code in codes(found), found["reasons"]
    assert failed_units(machine) == []
    machine.succeed("touch /etc/x /var/x /home/x")


def test_which_volume(after_first_boot: Machine, tmp_path: Path) -> None:
    """Of two filesystems with our label the machine's own one wins by what formatting bound to it; a copy
    stops both. One on a stick never counts."""
    one = after_first_boot
    own = one.disk("state")
    one.attach_disk(scene.stick(tmp_path / "stick.raw"), bus="usb")
    uuid = state(one)["volume"]["uuid"]
    disk = node(one, "state")
    assert (
        one.succeed(f"dd if={disk} bs=1 skip={BINDING} count=184 status=none | tr -d '\\0'").strip()
        == f"persist-bound 1 {uuid} dmi={scene.DMI[1]} serial=state"
    )
    one.succeed("echo mine >/home/mine")
    stranger = one.add_disk("stranger", "1G")
    other = node(one, "stranger")
    one.succeed(
        f"echo 'label: gpt\nname=persist-data' | sfdisk -q {other}; udevadm settle; mkfs.btrfs -q -L "
        f"persist-data {other}1; "
        f"mount --mkdir {other}1 /run/o; btrfs subvolume create /run/o/@persist-state; umount /run/o; "
        "udevadm settle"
    )
    clean_shutdown(one)
    one.start()
    found = healthy_boot(one)
    assert found["volume"]["uuid"] == uuid and entries(found)["/etc"] == "early"
    assert one.succeed("cat /home/mine") == "mine\n"
    clean_shutdown(one)
    one.detach_disk(stranger)
    copy = replace(own, name="copy", path=own.path.with_name("copy.qcow2"))
    shutil.copyfile(own.path, copy.path)
    one.attach_disk(copy)
    one.start()
    volatile(one, "cloned-disk")
    one.crash()


EPHEMERAL = {
    "/usr/lib/persist/persist.conf.d/50-ephemeral.conf": "[Volume]\nDevice=LABEL=ephemeral0 "
    "auto\nOptions=noatime\n"
}
# The same disk from the network: the kernel's own NVMe target over TCP, and units in the order that iSCSI
# has. When the network has gone, a filesystem on it can no longer be unmounted.
NVME_ID = "0f3c6b1e-7a52-4d0c-9a55-3b8f2d6c1e77"
NVME = {
    "/usr/lib/persist-test/nvme": f"""#!/bin/sh
set -e
target=/sys/kernel/config/nvmet name=nqn.2014-08.org.example:state
disk=/dev/disk/by-id/usb-QEMU_QEMU_HARDDISK_ephemeral-0:0
[ -e "$disk" ] || exit 0
modprobe -a nvmet-tcp nvme-tcp
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
mkdir "$target/subsystems/$name" "$target/subsystems/$name/namespaces/1" "$target/ports/1"
echo 1 >"$target/subsystems/$name/attr_allow_any_host"
echo {NVME_ID} >"$target/subsystems/$name/namespaces/1/device_uuid"
printf %s "$disk" >"$target/subsystems/$name/namespaces/1/device_path"
echo 1 >"$target/subsystems/$name/namespaces/1/enable"
cd "$target/ports/1"
echo tcp >addr_trtype
echo ipv4 >addr_adrfam
echo 127.0.0.1 >addr_traddr
echo 4420 >addr_trsvcid
ln -s "$target/subsystems/$name" subsystems/
printf %s "transport=tcp,traddr=127.0.0.1,trsvcid=4420,nqn=$name" >/dev/nvme-fabrics
""",
    "/usr/lib/systemd/system/test-network.service": """[Unit]
Before=network.target network-online.target
Wants=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sleep 3
ExecStart=/bin/ip link set lo up
ExecStop=/bin/ip link set lo down

[Install]
WantedBy=network-online.target
""",
    "/usr/lib/systemd/system/test-nvme.service": """[Unit]
DefaultDependencies=no
Wants=network-online.target remote-fs-pre.target
After=network.target network-online.target
Before=remote-fs-pre.target
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/lib/persist-test/nvme
ExecStop=/bin/sh -c 'for c in /sys/class/nvme/nvme*; do echo 1 >"$c/delete_controller"; done'

[Install]
WantedBy=remote-fs.target
""",
}
NETWORK = f"""[Volume]
Device=/dev/disk/by-id/nvme-uuid.{NVME_ID}
Options=noatime,_netdev
"""
ON_NETWORK = """[Path]
Path=/srv/over
Services=demo-notes.service
[Path]
Path=/etc
Services=demo-notes.service
[Path]
Path=/srv/nobody
"""


def test_a_disk_of_the_cloud(machine: MachineFactory, tmp_path: Path) -> None:
    """A named filesystem that is no btrfs, on a stick, on a writable root: waited for, checked, mounted by
    PID 1 and grown into its device.

    Then it comes with the network, and last it is away, and nothing is forked."""
    one = machine(
        image.build(
            "bookworm",
            [*scene.packages(), scene.notes_package()],
            "rw",
            files={**EPHEMERAL, **NVME, **scene.QUICK},
            customize=("mkdir -p /mnt/state && systemctl enable persist-setup.target demo-notes.service",),
        ),
        buses=("usb",),
    )
    raw = tmp_path / "ephemeral.raw"
    with raw.open("wb") as f:
        f.truncate(1 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-L", "ephemeral0", str(raw), "400M"], check=True)
    # A disk that is named is used on whatever bus it is.
    one.attach_disk(Disk("ephemeral", raw, "raw"), bus="usb")
    one.start()
    found = healthy_boot(one)
    native(one, found, 1)
    assert entries(found) == {"/var/lib/demo-notes": "mounted"}
    one.succeed("mkdir -p /srv/over && systemctl enable test-network.service test-nvme.service")
    one.write_file("/usr/lib/persist/persist.conf.d/60-network.conf", NETWORK.encode())
    one.write_file("/usr/lib/persist.d/network.conf", ON_NETWORK.encode())
    one.shutdown()
    one.start()
    network(one)
    one.detach_disk("ephemeral")
    one.expect("VOLUME_MISSING", "ENTRY_STALE", "VERDICT_VOLATILE", "known-volume-missing")
    one.start()
    one.wait_for_boot()
    found = state(one)
    assert found["verdict"] == "volatile" and "known-volume-missing" in codes(found), found["reasons"]
    assert entries(found)["/var/lib/demo-notes"] == "stale"
    assert "Read-only file system" in one.fail("touch /var/lib/demo-notes/fork")
    one.shutdown()


def native(machine: Machine, found: dict[str, Any], starts: int) -> None:
    """The volume is the ext4 that was named, checked and grown, with what was kept in so many boots."""
    assert found["volume"]["kind"] == "native"
    assert machine.succeed("cat /var/lib/demo-notes/starts").split() == ["started"] * starts
    assert int(machine.succeed(f"stat -f -c %b {VOLUME}")) * 4096 > 800 << 20, "grown into its device"
    assert "ext4" in machine.succeed(f"findmnt -no FSTYPE,OPTIONS {VOLUME}")
    assert machine.succeed("systemctl list-units --all --plain --no-legend 'systemd-fsck@*'").strip()


def network(one: Machine) -> None:
    """The volume comes with the network: entries after local-fs.target and before who waits for them, no
    cycle, and what cannot wait is refused."""
    one.expect("Will not keep", "ENTRY_REFUSED", "VERDICT_DEGRADED")
    one.wait_for_boot()
    found = state(one)
    native(one, found, 2)
    assert found["volume"]["device"].startswith("/dev/nvme")
    assert failed_units(one) == []
    assert entries(found) == {
        "/var/lib/demo-notes": "mounted",
        "/srv/over": "mounted",
        "/etc": "refused",
        "/srv/nobody": "refused",
    }
    assert (found["verdict"], codes(found)) == ("degraded", {"registry"}), json.dumps(found, indent=2)
    refused = {r["PERSIST_PATH"]: r["MESSAGE"] for r in records(one, "ENTRY_REFUSED")}
    assert set(refused) == {"/etc", "/srv/nobody"} and all("_netdev" in why for why in refused.values()), (
        refused
    )
    assert "ordering cycle" not in one.succeed("journalctl -b --no-pager -q")
    order = [
        int(one.succeed(f"systemctl show -p ActiveEnterTimestampMonotonic --value {unit}"))
        for unit in (
            "local-fs.target",
            "network-online.target",
            "test-nvme.service",
            "persist-volume-net.service",
            "srv-over.mount",
            "remote-fs.target",
            "persist-verify.service",
        )
    ]
    assert order == sorted(order) and order[0], order
    # Whatever has the volume mounted must be gone before the network is; much to write makes that take its
    # time.
    for unit in (
        "run-persist-volume.mount",
        "mnt-state.mount",
        r"var-lib-demo\x2dnotes.mount",
        "srv-over.mount",
    ):
        shown = one.succeed(f"systemctl show -p After -p Before '{unit}'")
        assert {"network.target", "remote-fs-pre.target"} <= set(
            shown.replace("=", " ").split()
        ) or "persist-volume-net.service" in shown, (unit, shown)
        assert "local-fs.target" not in shown, (unit, shown)
    one.succeed("head -c 20M /dev/urandom >/var/lib/demo-notes/much; echo kept >/srv/over/kept")
    begin = len(one.console_text())
    one.shutdown()
    end = one.console_text()[begin:]
    assert "EXT4-fs (nvme0n1): unmounting filesystem" in end, end[-4000:]
    bad = [
        line
        for line in end.splitlines()
        if "[FAILED]" in line
        or "Failed to unmount" in line
        or "Failed unmounting" in line
        or "error" in line.lower()
        or "ordering cycle" in line
    ]
    assert not bad, bad
