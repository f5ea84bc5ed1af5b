# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine that seals itself: what tests/nspawn cannot show. A request and a script as credentials of the
firmware, udev, which starts what devices ask for, a root on a disk, the hypervisor's port, power cuts, and
clones."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.verdict import sealing

from . import cache, image, offline, scene
from .checks import failed_units, records
from .machine import Machine

UUIDS = [f"4b1d7a52-9f5e-4c55-8d3a-5d9a3c1e7f1{number}" for number in range(4)]
UNITS = "/etc/systemd/system"
# What makes itself a name at its first start, as Consul, dhcpcd and iscsid do.
FIRST_START = """#!/bin/sh
random=/proc/sys/kernel/random/uuid
test -e /var/lib/node-id || cat $random >/var/lib/node-id
test -e /var/lib/dhcpcd/duid || cat $random >/var/lib/dhcpcd/duid
cd /etc/iscsi
if grep -q ^GenerateName=yes initiatorname.iscsi; then
    echo "InitiatorName=iqn.1993-08.org.debian:01:$(cat $random)" >initiatorname.iscsi
fi
"""
NODE = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/lib/first-start
[Install]
WantedBy=multi-user.target
"""
# As qemu-guest-agent's: udev starts it with its port, and its default dependencies pull in sysinit.target.
TRIGGERED = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/touch /var/lib/triggered\n"
RULE = (
    'SUBSYSTEM=="virtio-ports", ATTR{name}=="org.persist.seal", TAG+="systemd", '
    'ENV{SYSTEMD_WANTS}+="triggered.service"\n'
)
FILES = {
    "/usr/local/lib/first-start": FIRST_START,
    # In the place of nvme-cli's.
    "/usr/sbin/nvme": "#!/bin/sh\necho nqn.2014-08.org.nvmexpress:uuid:$(cat /proc/sys/kernel/random/uuid)\n",
    f"{UNITS}/node.service": NODE,
    f"{UNITS}/triggered.service": TRIGGERED,
    "/etc/udev/rules.d/99-triggered.rules": RULE,
    "/etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn.1993-08.org.debian:01:prototype\n",
    "/etc/nvme/hostnqn": "nqn.2014-08.org.nvmexpress:uuid:prototype\n",
    "/etc/nvme/hostid": "prototype\n",
    "/var/lib/dhcpcd/duid": "prototype\n",
    "/var/lib/dhcp/dhclient.ens3.leases": "lease\n",
    "/root/.bash_history": "passwd\n",
    "/var/log/journal/README": "kept\n",
}
# The tests' own would make keys whoever is asked to.
CUSTOMIZE = ("systemctl enable node.service; systemctl mask persist-test-hostkeys.service",)
ID = "0123456789abcdef0123456789abcdef"
KEYS = ("ecdsa", "ed25519", "rsa")
# An image has none of these; the machine whose disk it is has.
OWN = {
    "/etc/machine-id": f"{ID}\n",
    "/var/lib/systemd/random-seed": "seed",
    **{f"/etc/ssh/ssh_host_{kind}_key{end}": "prototype\n" for kind in KEYS for end in ("", ".pub")},
}
NAMES = (
    "/etc/machine-id",
    "/var/lib/node-id",
    "/var/lib/dhcpcd/duid",
    "/etc/iscsi/initiatorname.iscsi",
    "/etc/nvme/hostnqn",
    "/etc/nvme/hostid",
    *(f"/etc/ssh/ssh_host_{kind}_key.pub" for kind in KEYS),
)
GONE = (
    *OWN,
    "/var/lib/dhcpcd/duid",
    "/var/lib/dhcp/dhclient.ens3.leases",
    "/root/.bash_history",
    "/etc/nvme/hostid",
)
SCRIPT = """#!/bin/sh
ls /sys/class/net
"""


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory for large files."""
    directory = cache.WorkDir("seal-boot")
    try:
        yield directory.path
    finally:
        directory.close()


def prototype(suite: str, work: Path) -> image.Image:
    """The disk of a machine whose services have never run."""
    made = image.build(suite, scene.packages(), "rw", customize=CUSTOMIZE, files=FILES)
    offline.prepare(made.root, work / "prototype.raw", OWN)
    return dataclasses.replace(made, root=work / "prototype.raw", key="prototype")


def machine(made: image.Image, name: str, number: int, port: Path) -> Machine:
    """One of its own SMBIOS UUID, with the hypervisor's port."""
    device = "virtserialport,bus=ports.0,chardev=seal,name=org.persist.seal"
    chardev = f"file,id=seal,path={port}"
    return Machine(made, name, extra=("-uuid", UUIDS[number], "-chardev", chardev, "-device", device))


def left_to_wipe(root: Path) -> list[str]:
    """What the image's own catalogue finds in a tree."""
    argv = [str(scene.checkout() / "bin/persistctl"), "seal", f"--root={root}", "--dry-run", "--json"]
    environment = os.environ | {"PERSIST_LIBRARY": str(scene.checkout())}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    return [name for item in json.loads(done.stdout)["items"] if not item["kept"] for name in item["to_wipe"]]


def text(root: Path, name: str) -> str:
    """A file of an unpacked disk, '' where there is none."""
    path = root / name.lstrip("/")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def names(one: Machine) -> list[str]:
    """Who a machine is, once it is up and sshd answers."""
    one.start()
    assert one.wait_for_boot() == "running", failed_units(one)
    assert one.succeed("systemctl is-active ssh.service").strip() == "active"
    assert "SSH-2.0" in one.succeed("exec 3<>/dev/tcp/127.0.0.1/22; head -n1 <&3")
    one.succeed("test -e /var/lib/triggered")
    found = one.succeed(f"cat {' '.join(NAMES)}").splitlines()
    one.shutdown()
    assert len(found) == len(NAMES)
    return found


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_two_clones(suite: str, work: Path) -> None:
    """Sealed by the firmware's request, straight from a disk that was never booted: nothing but seal has run,
    nothing came back, and two clones share nothing. What shares one disk unsealed shares all of it."""
    made = prototype(suite, work)
    before = offline.unpack(made.root, work)
    assert set(GONE) <= set(left_to_wipe(before))
    port = work / "port"
    with machine(made, "prototype", 0, port) as one:
        asked = {"persist.seal": f"{UUIDS[0]}:vm-1", "persist.operator-script": SCRIPT}
        one.start(wait=False, credentials=asked)
        one.wait_for_poweroff()
        said = one.console_text()
        assert "This machine is sealed." in said
        assert "node.service" not in said and "triggered.service" not in said and "ssh.service" not in said
        assert port.read_text(encoding="utf-8").splitlines() == ["running", "output: lo", "success"]
        sealed = work / "sealed.qcow2"
        shutil.copyfile(one.disk("root").path, sealed)
    root = offline.unpack(sealed, work)
    assert left_to_wipe(root) == []
    assert [name for name in GONE if text(root, name)] == []
    assert not (root / "var/lib/node-id").exists() and not (root / "var/lib/triggered").exists()
    assert json.loads(text(root, "/var/lib/persist/seal.json"))["request"] == "vm-1"
    assert ID not in text(root, "/var/lib/persist/seal.json")
    found = []
    for number in (1, 2):
        with machine(made, f"clone-{number}", number, port) as clone:
            shutil.copyfile(sealed, clone.disk("root").path)
            found.append(names(clone))
            if number == 1:
                shutil.copyfile(clone.disk("root").path, work / "unsealed.qcow2")
    assert len({*found[0], *found[1]}) == 2 * len(NAMES), found
    if suite == "bookworm":  # what is looked at is the same
        with machine(made, "unsealed", 3, port) as copy:
            shutil.copyfile(work / "unsealed.qcow2", copy.disk("root").path)
            assert names(copy) == found[0]


WIPING = "Wiping what must not be cloned"
# When the power goes: after which line and how much of the wipe's time; and what may have come of it by then.
# Of those in the midst the load decides how far they have come. The last one is booted.
CUTS = (
    ("This machine is sealed.", 0.0, ("sealed",)),
    ("Starting persist-seal-begin.service", 0.0, ("asked", "begun")),
    ("as the credential persist.seal asks", 0.0, ("begun",)),
    (WIPING, 0.7, ("begun", "sealed")),
    (WIPING, 0.3, ("begun", "sealed")),
    (WIPING, 0.0, ("begun",)),
)


def outcome(disk: Path, work: Path, request: str) -> str:
    """What a disk says on which a seal boot was cut: whatever it is, the next boot says so."""
    root = offline.unpack(disk, work, "/etc", "/var", "/root")
    if request not in text(root, "/etc/persist/seal.done").split():
        assert [name for name in GONE if not text(root, name)] == [], "nothing was wiped"
        return "asked"
    reason = sealing.begun(str(root))
    if reason is None:
        assert left_to_wipe(offline.unpack(disk, work)) == []
        return "sealed"
    assert reason.code == "seal-begun" and f"(ID {request})" in reason.message
    return "begun"


def test_power_cuts(work: Path) -> None:
    """Whenever it is cut: nothing was touched, or it is sealed, or the next boot says that it is not."""
    made = prototype("bookworm", work)
    asked = {"persist.seal": f"{UUIDS[0]}:cut"}
    with machine(made, "cut", 0, work / "port") as one:
        one.expect("This boot seals the machine, and nothing else")
        one.start(wait=False, credentials=asked)
        one.wait_for_console("This boot seals the machine, and nothing else")
        one.snapshot("asked", look=False)
        one.wait_for_console(WIPING)
        begin = time.monotonic()
        one.wait_for_console("Finished persist-seal.service")
        wipe = time.monotonic() - begin
        for number, (said, part, allowed) in enumerate(CUTS):
            if number:
                one.restore("asked")
            one.wait_for_console(said)
            one.kill_after(1000 * part * wipe)
            assert outcome(one.disk("root").path, work, "cut") in allowed, said
        one.start(credentials=asked)
        one.wait_for_boot()
        [record] = records(one, "SEAL_BEGUN")
        assert "(ID cut), and is not: It was cut" in record["MESSAGE"]
        one.expect("SEAL_BEGUN", "Not sealing, though the credential persist.seal (ID cut)")
