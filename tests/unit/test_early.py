# SPDX-License-Identifier: LGPL-2.1-or-later
"""packaging/initramfs-tools/persist-early: the command line, finding the volume, entries. See early_rig.py;
test_early_members.py has the members."""

from __future__ import annotations

import shutil

import pytest

from persist.boot.paths import escape, overlay_option

from .early_rig import Disk, Initrd, needs_root

pytestmark = needs_root


# -- all is well


def test_second_boot(ready: Initrd) -> None:
    found = ready.run()
    assert found.volume and found.early == {"etc"}
    at = found.mounts["/run/image/etc"]
    assert at.fstype == "overlay"
    options = at.super_options.split(",")
    assert (
        "upperdir=/run/persist/volume/.persist/overlay/etc/upper" in options
        and "lowerdir=/run/image/etc" in options
    )
    assert [
        "-t",
        "btrfs",
        "-o",
        "noatime,subvol=@persist-state",
        "/dev/vdb2",
        "/run/persist/volume",
    ] in found.ran("mount")
    assert not found.ran("btrfs") and found.noted == ["plain", "/dev/vdb2"] and not found.heal
    assert found.ran("mount")[-1][3].endswith(",index=off,metacopy=off,redirect_dir=nofollow,xino=off")
    assert not found.ran("udevadm") and not found.ran("sleep"), "nothing is waited for"
    assert (
        "<6>persist-early: state volume mounted from /dev/vdb2\n<6>persist-early: /etc mounted\n" in found.log
    )


def test_nested_and_binds(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2"))
    for path, method in (("/etc", "overlay"), ("/etc/app", "bind"), ("/srv", "overlay")):
        initrd.seeded(path, method)
    initrd.registry("/etc overlay\n/etc/app bind\n/srv overlay")
    found = initrd.run()
    assert found.early == {"etc", "etc-app", "srv"}
    assert found.mounts["/run/image/etc/app"].parent_id == found.mounts["/run/image/etc"].mount_id
    assert found.mounts["/run/image/etc/app"].root.endswith("/etc/app")


@pytest.mark.parametrize(
    "path",
    [
        "/srv/my-data",
        "/srv/a:b",
        "/srv/a\\tb\\c",
        "/srv/a\\x2db",
        "/srv/a'b#",
        "/srv/*",
        "/srv/100%s",
        "/srv/\u00fcn\u00ef",
    ],
)
@pytest.mark.parametrize("method", ["overlay", "bind"])
def test_names(initrd: Initrd, path: str, method: str) -> None:
    initrd.disk(Disk("vdb2"))
    initrd.seeded(path, method)
    initrd.registry(f"{path} {method}")
    found = initrd.run()
    assert found.early == {escape(path)}
    at = found.mounts["/run/image" + path]
    if method == "overlay":
        assert at.fstype == "overlay" and f"/{overlay_option(escape(path))}/upper," in at.super_options
    else:
        assert at.root.endswith(path)
    assert f"<6>persist-early: {path} mounted\n" in found.log, "what echo would obey is only said"


# -- the command line


@pytest.mark.parametrize("word", ["off", "volatile", "OFF", "of", "no", "x y", "*"])
def test_switched_off(ready: Initrd, word: str) -> None:
    ready.cmdline(f"quiet persist={word}")
    found = ready.run()
    assert found.calls == [] and not found.volume and found.early == set()


@pytest.mark.parametrize(
    "cmdline",
    [
        "persist=off persist=on",
        "persist=on",
        "persist=",
        "xpersist=off",
        "persist",
        "persist=off persist",
        "persist.overlay=off",
        "* persist ?",
        "",
        "persist.volume=id-1",
    ],
)
def test_not_switched_off(ready: Initrd, cmdline: str) -> None:
    ready.cmdline(cmdline)
    assert ready.run().early == {"etc"}


def test_volume_of_the_command_line(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2", "id-1"))
    initrd.disk(Disk("vdc2", "id-2", sys="pci0/virtio3"))
    initrd.seeded("/etc")
    initrd.registry("/etc overlay")
    initrd.cmdline("persist.volume=id-1 persist.volume=id-2")
    found = initrd.run()
    assert found.early == {"etc"} and found.ran("mount")[0][4] == "/dev/vdc2"


def test_volume_of_the_command_line_in_capitals(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2", "0a1b2c3d-4e5f"))
    initrd.disk(Disk("vdc2", "9-0", sys="pci0/virtio3"))
    initrd.seeded("/etc")
    initrd.registry("/etc overlay")
    initrd.cmdline("persist.volume=0A1B2C3D-4E5F")
    found = initrd.run()
    assert found.early == {"etc"} and found.ran("mount")[0][4] == "/dev/vdb2"


def test_waits_for_the_volume_of_the_command_line(ready: Initrd) -> None:
    ready.cmdline("persist.volume=another")
    found = ready.run()
    assert not found.volume and len(found.ran("sleep")) == 30, "a bound, also there"


# -- finding the volume


def test_nothing_to_do_without_entries(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2"))
    assert initrd.run().calls == []


def test_no_volume(initrd: Initrd) -> None:
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert (
        found.ran("udevadm") == [["settle", "--timeout=10"]] and not found.ran("sleep") and not found.volume
    )


def test_not_a_btrfs(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2", fstype="ext4"))
    initrd.registry("/etc overlay")
    assert not initrd.run().volume


def test_two_volumes(ready: Initrd) -> None:
    ready.disk(Disk("vdc2", "id-2", sys="pci0/virtio3"))
    found = ready.run()
    assert (
        not found.volume
        and not found.ran("mount")
        and "more than one filesystem could be the state volume: /dev/vdb2 /dev/vdc2" in found.log
    )


def test_cloned_disk(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2", sub="same"))
    initrd.disk(Disk("vdc2", sub="same", sys="pci0/virtio3"))
    initrd.registry("/etc overlay")
    assert not initrd.run().ran("mount")


def test_two_members(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2", devices=2))
    initrd.disk(Disk("vdc2", devid=2, devices=2, sys="pci0/virtio3"))
    initrd.seeded("/etc")
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert found.ran("btrfs") == [["device", "scan", "/dev/vdb2", "/dev/vdc2"]] and found.early == {"etc"}
    assert found.noted == ["plain", "/dev/vdb2", "/dev/vdc2"] and not found.heal and not found.ran("sleep")


UNTRUSTED = {
    "usb": Disk("sdb1", sys="pci0/usb3/3-1/host4/target4:0:0/4:0:0:0"),
    "firewire": Disk("sdb1", sys="pci0/fw1/fw1.0/host4"),
    "iscsi": Disk("sdb1", sys="platform/host5/session1/target5:0:0"),
    "fibre-channel": Disk("sdb1", sys="pci0/host5/rport-5:0-1/target5:0:0"),
    "removable": Disk("sdb1", sys="pci0/ata1", removable={"pci0/ata1/block/sdb": "1"}),
    "thunderbolt": Disk("sdb1", sys="pci0/0000:05:00.0/ata1", removable={"pci0/0000:05:00.0": "removable"}),
    "loop": Disk("loop7", sys="virtual"),
    "dm": Disk("dm-3", sys="virtual"),
    "nbd": Disk("nbd0", sys="virtual"),
    "unknown": Disk("vdx9", sys="elsewhere"),
}


@pytest.mark.parametrize("case", UNTRUSTED)
def test_untrusted(initrd: Initrd, case: str) -> None:
    initrd.disk(UNTRUSTED[case])
    if case == "unknown":
        (initrd.base / "sys/class/block/vdx9").unlink()
    initrd.seeded("/etc")
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert not found.volume and "its bus is not trusted" in found.log


@pytest.mark.parametrize(
    "allowed", ["removable\n", "device\tUUID=id-1\n", "device\t/dev/sdb1\n", "device\tPARTLABEL=mine\n"]
)
def test_untrusted_but_named(initrd: Initrd, allowed: str) -> None:
    initrd.disk(Disk("sdb1", sys=UNTRUSTED["usb"].sys, match=("PARTLABEL=mine",)))
    initrd.seeded("/etc")
    initrd.table = allowed if allowed != "removable\n" else "device\tauto\nremovable\n"
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert found.early == {"etc"} and "not trusted" not in found.log


def test_stick_beside_the_volume(ready: Initrd) -> None:
    """Another volume on a stick changes nothing; a copy of ours does, for the kernel might take that one."""
    ready.disk(Disk("sdb1", "id-2", sys=UNTRUSTED["usb"].sys))
    assert ready.run().early == {"etc"}


def test_copy_on_a_stick(ready: Initrd) -> None:
    ready.disk(Disk("sdb1", sub="sub-1", sys=UNTRUSTED["usb"].sys))
    found = ready.run()
    assert not found.ran("mount") and "has a copy on a bus that is not trusted" in found.log


def test_first_device_decides(ready: Initrd) -> None:
    ready.disk(Disk("vdc2", "id-2", label="other", sys="pci0/virtio3"))
    ready.table = "device\tUUID=id-9\ndevice\tUUID=id-2\ndevice\t/dev/vdb2\n" + ready.table
    found = ready.run()
    assert found.ran("mount")[0][4] == "/dev/vdc2"


@pytest.mark.parametrize("spec", ["/dev/sdb", "/dev/disk/by-id/stick", "UUID=0A-B", "PARTUUID=C-D"])
def test_named_as_in_the_configuration(initrd: Initrd, spec: str) -> None:
    """As persist/volume/find/choose.py has it: a whole disk stands for the volume on it, ids are not
    case-sensitive."""
    initrd.disk(Disk("sdc1", "id-3", label="other", sys=UNTRUSTED["usb"].sys + "1"))
    initrd.disk(Disk("sdb1", "0a-b", sys=UNTRUSTED["usb"].sys, match=("PARTUUID=c-d",)))
    initrd.disk(Disk("vdc2", "id-2", sys="pci0/virtio3"))
    initrd.whole("sdb")
    initrd.seeded("/etc")
    initrd.table = f"device\t{spec}\n"
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert found.early == {"etc"} and found.ran("mount")[0][4] == "/dev/sdb1"


def test_another_partition_of_a_named_disk(initrd: Initrd) -> None:
    initrd.disk(Disk("sdb1", label="other", sys=UNTRUSTED["usb"].sys))
    initrd.whole("sdb")
    initrd.seeded("/etc")
    initrd.table = "device\t/dev/sdb\n"
    initrd.registry("/etc overlay")
    assert not initrd.run().ran("mount")


def test_name_that_device_mapper_gave(initrd: Initrd) -> None:
    """/dev/mapper/vdb2 is not vdb2."""
    initrd.disk(Disk("vdb2", label="other"))
    (initrd.base / "blkid/LABEL=persist-data").write_text("/dev/mapper/vdb2\n")
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert (
        not found.ran("mount")
        and "/dev/mapper/vdb2 has the label persist-data, but its bus is not trusted" in found.log
    )


def test_write_protection(ready: Initrd) -> None:
    (ready.base / "protected").touch()
    found = ready.run()
    assert len(found.ran("mount")) == 1 and not found.volume and found.early == set()
    assert (
        "<3>persist-early: /dev/vdb2 can only be mounted read-only" in found.log
        and "state volume mounted" not in found.log
    )


def test_volume_does_not_mount(ready: Initrd) -> None:
    (ready.base / "broken").touch()
    found = ready.run()
    assert (
        not found.volume
        and found.early == set()
        and "<3>persist-early: /dev/vdb2 does not mount" in found.log
    )


# -- entries that come late


def test_no_marker(ready: Initrd) -> None:
    ready.marker("/etc").unlink()
    found = ready.run()
    assert found.volume and found.early == set() and "/run/image/etc" not in found.mounts


def test_not_in_the_image(ready: Initrd) -> None:
    ready.seeded("/srv/x")
    (ready.base / "root/srv/x").rmdir()
    ready.table += "overlay\tsrv-x\t/srv/x\t/srv/x\tsrv-x\n"
    found = ready.run()
    assert found.early == {"etc"} and "/srv/x is not in the image" in found.log


@pytest.mark.parametrize(
    "link",
    [
        ".persist",
        ".persist/seed",
        ".persist/overlay",
        ".persist/overlay/etc",
        ".persist/overlay/etc/upper",
        ".persist/overlay/etc/work",
    ],
)
def test_links_on_the_volume_are_not_followed(ready: Initrd, link: str) -> None:
    at = ready.base / "volume" / link
    at.rename(ready.base / "moved")
    shutil.copytree(ready.base / "moved", ready.base / "volume/elsewhere")
    at.symlink_to("/run/disk/elsewhere")
    found = ready.run()
    assert found.volume and found.early == set() and "/run/image/etc" not in found.mounts


def test_bind_through_a_link(initrd: Initrd) -> None:
    initrd.disk(Disk("vdb2"))
    initrd.seeded("/srv/a", "bind")
    initrd.registry("/srv/a bind")
    shutil.rmtree(initrd.base / "volume/srv")
    (initrd.base / "volume/srv").symlink_to("/etc")
    found = initrd.run()
    assert found.early == set() and "/srv/a is not a directory on the volume" in found.log


def test_nothing_is_mounted_below_what_comes_late(initrd: Initrd) -> None:
    """PID 1 would mount the parent over it."""
    initrd.disk(Disk("vdb2"))
    for path in ("/etc", "/etc/app", "/etc/app/x", "/etc2"):
        initrd.seeded(path)
    initrd.registry("/etc overlay\n/etc/app overlay\n/etc/app/x overlay\n/etc2 overlay")
    initrd.marker("/etc").unlink()
    assert initrd.run().early == {"etc2"}


def test_entry_does_not_mount(ready: Initrd) -> None:
    ready.table = ready.table.replace("/etc\tetc\n", "/none\tetc\n")
    found = ready.run()
    assert found.early == set() and "<3>persist-early: /etc does not mount" in found.log
