# SPDX-License-Identifier: LGPL-2.1-or-later
"""Soft reboots (systemd 254 and later): PID 1 starts anew, and finds what it reads as after an initrd. What
only the boot before may believe is not believed by the next one."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from persist.boot import paths
from tests.storage.rig import tool
from tests.vm import scene
from tests.vm.checks import codes, entries, failed_units, healthy_boot, mounted, records, state
from tests.vm.recipe import UNITS
from tests.vm.steady import identity, steady

from . import tree as trees
from .conftest import Boot
from .container import Container
from .disk import Disk
from .registry import ENABLED, NOTES, PRESET, QUICK, named, wanted

# Two places besides /etc that PID 1 reads, and that have no mount unit.
READ = {
    "/usr/lib/persist.d/read.conf": "[Path]\nPath=/usr/local\n[Path]\nPath=/etc/systemd/system\n",
    **QUICK,
}
# Told without the console, of which a login prompt that begins discards what nobody has read yet.
UP = "/run/is-up"
TELL = {
    f"/{UNITS}/is-up.service": "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\n"
    f"ExecStart=touch {UP}\n",
    **wanted("multi-user.target", "is-up.service"),
}
FILES = {**ENABLED, **PRESET, **NOTES, **READ, **TELL}
EARLY = ("/etc", "/etc/systemd/system", "/usr/local")
WRITTEN = (
    "/etc/written",
    "/etc/systemd/system/written",
    "/usr/local/written",
    "/home/written",
    "/var/written",
)
# Left by hand, as a boot leaves them to which each of these happened.
OF_ONE_BOOT = (
    paths.STALE,
    paths.WAITED,
    paths.FORMATTED,
    paths.HEAL_FAILED,
    f"{paths.REFUSED}/77",
    f"{paths.STORES}/srv-other",
    paths.RECORD + ".before",
)


@pytest.fixture(scope="module")
def tree() -> Path:
    """Debian 12's systemd has no soft reboot."""
    return trees.build("trixie", scene.packages())


def write(one: Container) -> None:
    """A file in each of the entries, and what a boot may have left."""
    for path in WRITTEN:
        one.succeed(f"echo text >{path}")
    for path in OF_ONE_BOOT:
        one.succeed(f"mkdir -p {Path(path).parent}; echo before >{path}")


def kept(one: Container) -> list[str]:
    """Which of the files are there, and take writes."""
    return [path for path in WRITTEN if one.execute(f"grep -qx text {path} && echo more >>{path}")[0] == 0]


def unseen(one: Container, path: str) -> str:
    """What mounts again what is mounted at PATH, unseen by PID 1: it looks at mounts five times in a second,
    and then not until that is over."""
    is_up = f"systemctl -q is-active {path[1:]}.mount"
    one.succeed(f"umount {path}")
    one.wait_until_succeeds(f"! {is_up}")
    return (
        "sleep 2; for n in 1 2 3 4 5 6 7 8 9; do mount -t tmpfs none /mnt; umount /mnt; done; "
        f"mount --bind /run/persist/volume{path} {path}; ! {is_up} || exit 1; "
    )


def begin_anew(one: Container, first: str = "") -> dict[str, Any]:
    """Reboot softly, FIRST having been done right before; returns the verdict, in which nothing of the boot
    before is believed."""
    one.succeed(f"rm {UP}; {first}systemctl --no-block soft-reboot")
    # No command meanwhile: PID 1 stops all processes before it ends them, and nsenter(1) then stops itself,
    # where nobody lets it go on.
    one.wait_until("all is up again", lambda: one.has(UP), 60)
    one.wait_for_boot()
    assert int(one.succeed("systemctl show -p SoftRebootsCount --value")) > 0
    there = mounted(one, "overlay", "btrfs", "tmpfs")
    tops = ("/run/persist/", "/etc", "/usr", "/var", "/home", "/mnt")
    ours = [path for path in there if path.startswith(tops)]
    assert len(ours) == len(set(ours)), ours
    assert one.execute(f"grep -slx before {' '.join(OF_ONE_BOOT)}")[1].split() == []
    return state(one)


def soft_reboot(one: Container, first: str = "") -> dict[str, Any]:
    """begin_anew(), after which no unit has failed, and the machine has one id."""
    found = begin_anew(one, first)
    assert failed_units(one) == []
    assert len(set(identity(one))) == 1, identity(one)
    return found


def renewed(one: Container) -> set[str]:
    """The overlays that a soft reboot has found on another volume, and mounted anew."""
    return {r["PERSIST_PATH"] for r in records(one, "EARLY") if "PERSIST_PATH" in r}


def in_upper(one: Container) -> bool:
    """Whether what is written to the entries that PID 1 reads gets to what is the volume now."""
    one.succeed("; ".join(f"echo >{path}/probe" for path in EARLY))
    names = ("etc", "etc-systemd-system", "usr-local")
    return one.execute(" && ".join(f"[ -e {paths.STORE}/overlay/{n}/upper/probe ]" for n in names))[0] == 0


def test_first_boot_and_steady(disk: Disk, container: Boot) -> None:
    """Out of the boot that seeds, and out of what came of that: /etc stays mounted, all else comes again."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**FILES, **named(name)}, read_only=True)
    one.start(devices=disk.nodes())
    healthy_boot(one)
    who = identity(one)
    for _ in (1, 2):
        write(one)
        found = soft_reboot(one)
        assert found["verdict"] == "online" and found["reasons"] == []
        assert {entries(found)[path] for path in EARLY} == {"early"}
        assert kept(one) == list(WRITTEN) and in_upper(one)
        assert renewed(one) == set() and identity(one) == who
        steady(one, counted=False)
    one.shutdown()


@pytest.mark.parametrize("word", ["ro", "volatile"])
def test_memory(disk: Disk, container: Boot, word: str) -> None:
    """What is written to memory is lost with it, /etc's as the rest; what the volume has is there again with
    persist=ro."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**FILES, **named(name)}, read_only=True)
    one.start(devices=disk.nodes())
    healthy_boot(one)
    write(one)
    one.shutdown()
    one.boot(f"persist={word}", devices=disk.nodes())
    before = state(one)
    one.succeed("; ".join(f"echo >{path}.memory" for path in WRITTEN))
    found = soft_reboot(one)
    assert (found["verdict"], codes(found)) == (before["verdict"], codes(before)) and codes(found)
    assert entries(found) == entries(before)
    assert one.execute(f"ls -d {' '.join(f'{path}.memory' for path in WRITTEN)}")[1].split() == []
    assert kept(one) == (list(WRITTEN) if word == "ro" else [])
    assert renewed(one) == {"/etc"} and in_upper(one)
    steady(one, counted=False)
    assert (paths.READONLY in mounted(one, "btrfs")) == (word == "ro")
    one.shutdown()


def test_the_volume_comes(disk: Disk, container: Boot) -> None:
    """Memory, and the disk is attached: after a soft reboot that is the volume, and /etc is on it, too. So is
    what PID 1 did not unmount, for it had not seen that it was mounted."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    nodes = disk.nodes()
    one = container(files={**FILES, **named(name)}, read_only=True)
    tool("losetup", "--detach", nodes[0])
    one.boot(devices=nodes)
    assert (state(one)["verdict"], codes(state(one))) == ("volatile", {"missing"})
    write(one)
    tool("losetup", nodes[0], disk.file)
    found = soft_reboot(one, unseen(one, "/home"))
    assert found["verdict"] == "online", found["reasons"]
    assert renewed(one) == {"/etc"} and in_upper(one) and kept(one) == []
    who = identity(one)
    soft_reboot(one)
    assert identity(one) == who and in_upper(one)
    one.shutdown()


def test_the_volume_comes_after_the_stage(disk: Disk, container: Boot) -> None:
    """As above, but persist-volume.service is the one that finds it: PID 1 has read the /etc in memory by
    then, with the machine-id in it. It stays, and the verdict says that what is written to it is lost."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    nodes = disk.nodes()
    one = container(files={**FILES, **named(name)}, read_only=True)
    tool("losetup", "--detach", nodes[0])
    one.boot(devices=nodes)
    write(one)
    tool("losetup", nodes[0], disk.file)
    one.succeed("systemctl mask --runtime persist-soft-reboot-stage.service")
    found = soft_reboot(one)
    assert (found["verdict"], entries(found)["/etc"]) == ("degraded", "failed"), found["reasons"]
    assert renewed(one) == {"/etc"}
    assert entries(found)["/var"] == entries(found)["/home"] == "mounted"
    assert one.execute(f"echo >/etc/probe && [ -e {paths.STORE}/overlay/etc/upper/probe ]")[0] == 1
    one.shutdown()


def test_degraded(disk: Disk, second: Disk, container: Boot) -> None:
    """One disk of two is away, before and after."""
    name = str(uuid.uuid4())
    make = """
    mkfs.btrfs -q -L persist-data -d raid1 -m raid1 -U "$1" "$2" "$3"
    mount "$2" /mnt
    btrfs subvolume create /mnt/@persist-state
    umount /mnt
    """
    tool("unshare", "--mount", "sh", "-ec", make, "sh", name, disk.node, second.node)
    one = container(files={**FILES, **named(name)}, read_only=True)
    one.boot(devices=disk.nodes())
    assert (state(one)["verdict"], codes(state(one))) == ("degraded", {"member-missing"}), state(one)
    who = identity(one)
    write(one)
    found = soft_reboot(one)
    assert (found["verdict"], codes(found)) == ("degraded", {"member-missing"}), found["reasons"]
    assert kept(one) == list(WRITTEN) and in_upper(one)
    assert renewed(one) == set() and identity(one) == who
    steady(one, counted=False)
    one.shutdown()


def test_another_root(disk: Disk, container: Boot) -> None:
    """The root in /run/nextroot gets the volume as a machine without the stage, and is told so."""
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**FILES, **named(name)}, read_only=True)
    one.start(devices=disk.nodes())
    healthy_boot(one)
    write(one)
    one.succeed("mkdir /run/nextroot && mount --bind / /run/nextroot")
    found = begin_anew(one)
    assert set(failed_units(one)) <= {"ssh.service"}, "it has no host keys in an /etc that takes no writes"
    assert (found["verdict"], codes(found)) == ("degraded", {"not-before-pid1"}), found["reasons"]
    assert "/run/nextroot" in next(r["message"] for r in found["reasons"] if r["path"] == "/etc")
    assert [r for r in records(one, "EARLY") if r.get("PERSIST_REASON") == "next-root"]
    assert entries(found)["/var"] == entries(found)["/home"] == "mounted"
    assert kept(one) == ["/home/written", "/var/written"]
    one.shutdown()
