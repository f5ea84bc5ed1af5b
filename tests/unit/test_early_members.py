# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-early with volumes of several members: waiting, degraded mounts, bindings, persist=ro, a full
volume. See early_rig.py."""

from __future__ import annotations

import os

import pytest

from persist.boot.paths import escape
from persist.volume.ondisk import binding, degraded_mark
from persist.volume.ondisk.binding import Binding
from persist.volume.ondisk.degraded_mark import DegradedMark
from persist.volume.ondisk.header import LENGTH, MARK_OFFSET

from .early_rig import USAGE, Disk, Initrd, needs_root

pytestmark = needs_root

FSID = "d4a78f8d-0060-41ae-b69d-b3998ea7fb19"
OTHER = "11111111-2222-3333-4444-555555555555"
PLAIN = "noatime,subvol=@persist-state"
MACHINE = "0a0b0c0d-1111-2222-3333-444444444444"
OLD = DegradedMark(FSID, 1, "a" * 16)


def tried(node: str) -> list[list[str]]:
    """The mounts where a member is missing: first without a byte written."""
    return [
        [options + PLAIN, node, "/run/persist/volume"]
        for options in ("ro,rescue=nologreplay,degraded,", "degraded,")
    ]


def text(mark: DegradedMark) -> str:
    return mark.encode().rstrip(b"\0").decode()


def pair(
    initrd: Initrd,
    *,
    here: str = "ab",
    a: dict[str, object] | None = None,
    b: dict[str, object] | None = None,
) -> Initrd:
    """A machine whose volume has two members."""
    for name, devid, changes in (("vda2", 1, a), ("vdb2", 2, b)):
        if name[2] in here:
            wish = {
                "uuid": FSID,
                "devid": devid,
                "devices": 2,
                "sys": f"pci0/virtio{devid}",
                **(changes or {}),
            }
            initrd.disk(Disk(name, **wish))  # type: ignore[arg-type]
    initrd.seeded("/etc")
    initrd.table += "timeout\t3\n"
    initrd.registry("/etc overlay")
    return initrd


# -- members


def test_member_missing(initrd: Initrd) -> None:
    found = pair(initrd, here="a").run()
    assert found.early == {"etc"} and len(found.ran("sleep")) == 3, "as long as the table says"
    assert found.btrfs_mounts == tried("/dev/vda2")
    mark = degraded_mark.parse(found.marks["vda2"].encode())
    assert mark is not None and (mark.uuid, mark.counter, mark.earlier) == (FSID, 1, ())
    assert found.noted == ["degraded", "/dev/vda2"] and found.heal
    assert (
        "<3>persist-early: state volume mounted degraded from /dev/vda2, 1 of its disks missing" in found.log
    )
    order = [
        c[0] for c in found.calls if c[0] in ("sleep", "udevadm", "mount") or "conv=notrunc,sync,fsync" in c
    ]
    assert order == ["sleep", "sleep", "sleep", "udevadm", "mount", "dd", "mount", "mount"], (
        "the mark is on the disk before the mount"
    )


def test_waiting_has_its_bound_where_disks_are_slow(initrd: Initrd) -> None:
    """A disk that fails makes each look take long, which counts too."""
    machine = pair(initrd, here="a")
    (machine.base / "uptime").write_text("7.41 3.1\n")
    (machine.base / "bin/sleep").write_text(
        '#!/bin/sh\necho sleep >>"$FAKE/calls"\nread -r now _ <"$FAKE/uptime"\n'
        'echo "$((${now%%.*} + 2)).90 3.1" >"$FAKE/uptime"\n'
    )
    found = machine.run()
    assert len(found.ran("sleep")) == 2 and found.noted == ["degraded", "/dev/vda2"]


def test_member_that_comes_late(initrd: Initrd) -> None:
    machine = pair(initrd, here="a")
    (machine.base / "late").touch()
    (machine.base / "bin/sleep").write_text(
        '#!/bin/sh\necho sleep >>"$FAKE/calls"\n'
        '[ -e "$FAKE/come" ] || { : >"$FAKE/come"; exit; }\n'
        "for f in LABEL=persist-data UUID=" + FSID + '; do echo /dev/vdb2 >>"$FAKE/blkid/$f"; done\n'
    )
    machine.disk(Disk("vdb2", FSID, devid=2, devices=2, sys="pci0/virtio2", label="not-yet"))
    (machine.base / f"blkid/UUID={FSID}").write_text("/dev/vda2\n")
    found = machine.run()
    assert (
        len(found.ran("sleep")) == 2 and found.noted == ["plain", "/dev/vda2", "/dev/vdb2"] and not found.heal
    )
    assert found.btrfs_mounts == [[PLAIN, "/dev/vda2", "/run/persist/volume"]] and found.marks["vda2"] == ""


def test_stale_member(initrd: Initrd) -> None:
    found = pair(initrd, a={"mark": text(OLD), "generation": 20}, b={"generation": 19}).run()
    assert found.ran("btrfs")[:2] == [
        ["device", "scan", "--forget", "/dev/vdb2"],
        ["device", "scan", "/dev/vda2"],
    ]
    assert found.btrfs_mounts == tried("/dev/vda2")
    mark = degraded_mark.parse(found.marks["vda2"].encode())
    assert (
        mark is not None and (mark.counter, mark.earlier) == (2, (OLD.id,)) and found.marks["vdb2"] == ""
    ), "a stale member is not touched"
    assert "/dev/vdb2 did not see what was written last" in found.log and found.heal


@pytest.mark.parametrize(
    "a, b",
    [
        (
            {"mark": text(OLD), "generation": 20},
            {"generation": 99, "mark": text(DegradedMark(FSID, 3, "b" * 16))},
        ),
        ({"mark": text(OLD), "generation": 20}, {"generation": 99}),
        ({"generation": 20}, {"generation": 99}),
        ({"devices": 1, "generation": 20}, {"generation": 99}),
        ({"devices": 1, "generation": 20}, {"generation": 99, "mark": text(OLD)}),
    ],
)
def test_what_nothing_proves_an_ancestor(initrd: Initrd, a: dict[str, object], b: dict[str, object]) -> None:
    """It is not mounted, and nothing is marked, here: that would make it a stale one."""
    found = pair(initrd, a=a, b=b).run()
    assert not found.volume and not found.noted and "leaving it to persist-volume.service" in found.log
    assert found.marks == {"vda2": a.get("mark", ""), "vdb2": b.get("mark", "")}


def test_marked_and_whole(initrd: Initrd) -> None:
    """Healing goes on in the real root; the marks stay."""
    found = pair(initrd, a={"mark": text(OLD)}, b={"mark": text(OLD)}).run()
    assert found.noted == ["plain", "/dev/vda2", "/dev/vdb2"] and found.heal and not found.ran("sleep")
    assert found.btrfs_mounts == [[PLAIN, "/dev/vda2", "/run/persist/volume"]] and found.marks == {
        "vda2": text(OLD),
        "vdb2": text(OLD),
    }


def test_healed_marks(initrd: Initrd) -> None:
    found = pair(initrd, a={"mark": text(OLD.healed())}, b={"mark": text(OLD.healed())}).run()
    assert found.noted[0] == "plain" and not found.heal


def test_unfinished_replace(initrd: Initrd) -> None:
    machine = pair(initrd, here="a", a={"mark": text(OLD)})
    machine.disk(Disk("vdc2", FSID, devid=0, devices=2, sys="pci0/virtio3"))
    found = machine.run()
    assert found.noted == ["degraded", "/dev/vda2", "/dev/vdc2"] and found.ran("btrfs")[0] == [
        "device",
        "scan",
        "/dev/vda2",
        "/dev/vdc2",
    ]
    assert found.marks["vda2"] == found.marks["vdc2"] != text(OLD) and found.btrfs_mounts[0][1] == "/dev/vda2"


def test_unfinished_replace_of_a_member_that_is_here(initrd: Initrd) -> None:
    machine = pair(initrd)
    machine.disk(Disk("vdc2", FSID, devid=0, devices=2, sys="pci0/virtio3"))
    found = machine.run()
    assert (
        found.noted == ["plain", "/dev/vda2", "/dev/vdb2", "/dev/vdc2"]
        and found.heal
        and found.marks["vdc2"] == ""
    )


def test_unusable_mark(initrd: Initrd) -> None:
    found = pair(
        initrd,
        a={"mark": "persist-degraded 9 whatever\n"},
        b={"mark": text(DegradedMark(OTHER, 1, "c" * 16))},
    ).run()
    assert found.noted[0] == "plain"
    assert (
        "the degraded mark of /dev/vda2 cannot be understood" in found.log
        and "the degraded mark of /dev/vdb2 is of another filesystem" in found.log
    )


def test_mark_that_cannot_be_written(initrd: Initrd) -> None:
    machine = pair(initrd, here="a")
    (machine.base / "unwritable/vda2").touch()
    found = machine.run()
    assert (
        not found.volume
        and found.noted == []
        and not found.heal
        and "/dev/vda2 takes no degraded mark" in found.log
    )


@pytest.mark.parametrize("mark", ["", text(OLD)])
def test_mark_of_a_mount_that_fails(initrd: Initrd, mark: str) -> None:
    """It would make the other member stale, which nobody wrote without."""
    machine = pair(initrd, here="a", a={"mark": mark})
    (machine.base / "broken").write_text("rw")
    found = machine.run()
    assert (
        found.btrfs_mounts == tried("/dev/vda2")
        and not found.volume
        and found.marks["vda2"] == mark
        and not found.heal
    )


@pytest.mark.parametrize(
    "data, number, enough",
    [
        ("RAID1", 1, True),
        ("single", 1, False),
        ("DUP", 1, False),
        ("RAID0", 1, False),
        ("RAID1", 2, False),
        ("RAID1C3", 2, False),
        ("RAID10/4", 1, True),
        ("RAID5", 1, True),
        ("something-new", 1, False),
    ],
)
def test_what_the_volume_can_do_without(initrd: Initrd, data: str, number: int, enough: bool) -> None:
    """The metadata is a mirror of two: with two missing it may be gone."""
    machine = pair(initrd, here="a", a={"devices": 1 + number})
    first, missing = USAGE.format(data=data).split("missing,")
    (machine.base / "usage").write_text(first + ("missing," + missing) * number)
    found = machine.run()
    assert found.volume == enough and bool(found.marks["vda2"]) == enough
    assert enough or (len(found.btrfs_mounts) == 1 and "may need the disks that are missing" in found.log)


@pytest.mark.parametrize("usage", ["", USAGE.format(data="RAID1").split("missing,")[0]])
def test_nobody_says_what_is_missing(initrd: Initrd, usage: str) -> None:
    machine = pair(initrd, here="a")
    (machine.base / "usage").write_text(usage)
    assert not machine.run().volume


@pytest.mark.parametrize(
    "damage",
    [
        "csum\t\t\t0xf166e7b2 [match]",
        "magic\t\t\t_BHRfS_M [match]",
        "[match]\ndev_item.devid",
        "generation\t\t8",
        "num_devices\t\t2",
    ],
)
def test_damaged_superblock(initrd: Initrd, damage: str) -> None:
    """Such a member is as good as absent."""
    machine = pair(initrd)
    at = machine.base / "super/vdb2"
    assert damage in at.read_text()
    at.write_text(
        at.read_text().replace(
            damage, damage.replace("[match]", "[DON'T MATCH]").replace("\t8", "\tx").replace("\t2", "\t")
        )
    )
    found = machine.run()
    assert (
        found.noted == ["degraded", "/dev/vda2"]
        and "/dev/vdb2 cannot be read as a member of a btrfs" in found.log
    )


def test_member_on_an_untrusted_bus(initrd: Initrd) -> None:
    """It is absent, and the kernel must not find it by itself."""
    found = pair(initrd, b={"sys": "pci0/usb3/3-1/host4"}).run()
    assert found.noted == ["degraded", "/dev/vda2"] and [
        "device",
        "scan",
        "--forget",
        "/dev/vdb2",
    ] in found.ran("btrfs")
    assert (
        "/dev/vdb2 belongs to the state volume, but its bus is not trusted" in found.log
        and found.marks["vdb2"] == ""
    )


@pytest.mark.parametrize("spec", ["/dev/vda2", "/dev/vda", "PARTUUID=C-D"])
def test_member_on_an_untrusted_bus_that_is_not_named(initrd: Initrd, spec: str) -> None:
    initrd.disk(Disk("vda2", FSID, devid=1, devices=2, match=("PARTUUID=c-d",)))
    initrd.disk(Disk("sdb1", FSID, devid=2, devices=2, sys="pci0/usb3/3-1/host4"))
    if spec == "/dev/vda":
        block = initrd.base / "sys/class/block"
        (block / "vda").symlink_to(os.path.relpath((block / "vda2").resolve().parent, block))
        initrd.nodes.append("vda")
    initrd.seeded("/etc")
    initrd.table = f"device\t{spec}\ntimeout\t1\n"
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert found.noted == ["degraded", "/dev/vda2"] and [
        "device",
        "scan",
        "--forget",
        "/dev/sdb1",
    ] in found.ran("btrfs")
    assert "/dev/sdb1 belongs to the state volume, but its bus is not trusted" in found.log


@pytest.mark.parametrize(
    "specs", [["/dev/vda2", "/dev/sdb"], ["/dev/vda2", "PARTUUID=C-D"], [f"UUID={FSID}"]]
)
def test_member_on_an_untrusted_bus_that_is_named(initrd: Initrd, specs: list[str]) -> None:
    """One spec leads to the volume, and any may name a member: as persist/volume/find/choose.py has it, or
    each boot would make a stale member of it."""
    initrd.disk(Disk("vda2", FSID, devid=1, devices=2))
    initrd.disk(Disk("sdb1", FSID, devid=2, devices=2, sys="pci0/usb3/3-1/host4", match=("PARTUUID=c-d",)))
    initrd.whole("sdb")
    initrd.seeded("/etc")
    initrd.table = "".join(f"device\t{s}\n" for s in specs)
    initrd.registry("/etc overlay")
    found = initrd.run()
    assert found.noted == ["plain", "/dev/vda2", "/dev/sdb1"] and not found.heal and found.early == {"etc"}


def test_members_with_another_label(initrd: Initrd) -> None:
    """Of a volume that got its label when the power failed: the service finishes it."""
    found = pair(initrd, b={"label": "persist-unfinished", "generation": 7}).run()
    assert not found.noted and "leaving it to persist-volume.service" in found.log


def test_member_that_was_replaced_while_it_was_away(initrd: Initrd) -> None:
    machine = pair(initrd)
    machine.disk(Disk("vdc2", FSID, sub="sub-2", devid=2, devices=2, generation=7, sys="pci0/virtio3"))
    found = machine.run()
    assert found.noted == ["plain", "/dev/vda2", "/dev/vdb2"] and found.ran("btrfs")[0] == [
        "device",
        "scan",
        "--forget",
        "/dev/vdc2",
    ]


def test_cloned_member(initrd: Initrd) -> None:
    machine = pair(initrd)
    machine.disk(Disk("vdc2", FSID, devid=2, devices=2, sys="pci0/virtio3"))
    found = machine.run()
    assert not found.btrfs_mounts and "one of several copies of the same device" in found.log


@pytest.mark.parametrize("how, tries", [("udev-shows", 3), ("udev-shows-always", 2)])
def test_udev_shows_a_stale_member_again(initrd: Initrd, how: str, tries: int) -> None:
    machine = pair(initrd, a={"mark": text(OLD), "generation": 20})
    (machine.base / "udev-shows").write_text(f"fs/btrfs/{FSID}/devices/vdb2\n")
    (machine.base / how).touch()
    found = machine.run()
    assert len(found.btrfs_mounts) == tries
    if how == "udev-shows":
        assert (
            found.early == {"etc"}
            and found.ran("btrfs").count(["device", "scan", "--forget", "/dev/vdb2"]) == tries
        )
    else:
        assert (
            not found.volume
            and not found.heal
            and "the kernel takes a device of the state volume that must not be used" in found.log
        )


# -- which volume


def bind(volume: str, dmi: str = "-", serial: str = "-") -> str:
    return binding.encode(Binding(volume, dmi, serial)).rstrip(b"\0").decode()


@pytest.fixture
def two(initrd: Initrd) -> Initrd:
    """Two volumes on two disks of a machine."""
    (initrd.base / "sys/class/dmi/id").mkdir(parents=True)
    (initrd.base / "sys/class/dmi/id/product_uuid").write_text(MACHINE.upper() + "\n")
    initrd.seeded("/etc")
    return initrd


def serial(machine: Initrd, disk: str, value: str, name: str = "serial") -> None:
    at = (machine.base / f"sys/class/block/{disk}2").resolve().parent / name
    at.parent.mkdir(exist_ok=True)
    at.write_text(value + "\n")


@pytest.mark.parametrize(
    "a, b, taken",
    [
        (bind(FSID, MACHINE, "S1"), "", "/dev/vda2"),
        ("", bind(OTHER, MACHINE), "/dev/vdb2"),
        (bind(FSID, "-", "S1"), bind(OTHER, "-", "S1"), "/dev/vda2"),
        (bind(FSID, MACHINE, "S1"), bind(OTHER, MACHINE, "S1"), "/dev/vda2"),
        (bind(FSID, MACHINE), bind(OTHER, MACHINE), ""),
        ("", "", ""),
        (bind(FSID), "", ""),
        (bind(OTHER, MACHINE), "", ""),
        (bind(FSID, MACHINE[:-1] + "5"), "", ""),
        (bind(FSID, MACHINE, "S2"), "", ""),
        (bind(FSID, MACHINE, "S1").replace("bound 1", "bound 2"), "", ""),
        (bind(FSID, MACHINE, "S1") + "more", "", ""),
        ("garbage", "", ""),
        (bind(FSID, "-", "S1%20x"), bind(OTHER, "-", "A%20B"), "/dev/vdb2"),
    ],
)
def test_bindings(two: Initrd, a: str, b: str, taken: str) -> None:
    two.disk(Disk("vda2", FSID, bound=a, sys="pci0/virtio1"))
    two.disk(Disk("vdb2", OTHER, bound=b, sys="pci0/virtio2"))
    serial(two, "vda", "S1")
    serial(two, "vdb", " A B ", "device/serial")
    two.registry("/etc overlay")
    found = two.run()
    assert [m[1] for m in found.btrfs_mounts] == ([taken] if taken else [])
    assert taken or "more than one filesystem could be the state volume: /dev/vda2 /dev/vdb2" in found.log


def test_bindings_lie_where_they_are_looked_for(two: Initrd) -> None:
    two.disk(Disk("vda2", FSID, sys="pci0/virtio1"))
    two.disk(Disk("vdb2", OTHER, sys="pci0/virtio2"))
    two.registry("/etc overlay")
    read = [c for c in two.run().ran("dd") if c[0] == "if=/dev/vda"]
    assert read == [["if=/dev/vda", "bs=8", "skip=32", "count=23"]] and (MARK_OFFSET, LENGTH) == (
        32 * 8,
        55 * 8,
    )


@pytest.mark.parametrize("named", [False, True])
def test_volume_that_the_machine_had(initrd: Initrd, named: bool) -> None:
    """Another one is taken only where somebody names it."""
    machine = pair(initrd)
    if named:
        machine.cmdline(f"persist.volume={FSID}")
    note = machine.base / "root/var/lib/persist/known-volume"
    note.parent.mkdir(parents=True)
    note.write_text(OTHER + "\n")
    found = machine.run()
    assert bool(found.btrfs_mounts) == named and ("this machine had another one" in found.log) != named


def test_known_volume(initrd: Initrd) -> None:
    machine = pair(initrd)
    machine.disk(Disk("vdc2", OTHER, sys="pci0/virtio3"))
    note = machine.base / "root/var/lib/persist/known-volume"
    note.parent.mkdir(parents=True)
    note.write_text(FSID + "\n")
    assert machine.run().noted == ["plain", "/dev/vda2", "/dev/vdb2"]


def test_volume_of_another_kind(initrd: Initrd) -> None:
    """Device= leads to an ext4 first: that one is mounted in the real root, and no btrfs in its place."""
    initrd.disk(Disk("vdc2", "e-4", fstype="ext4", label="data", sys="pci0/virtio3"))
    initrd.table = "device\tLABEL=data\n" + initrd.table
    found = pair(initrd).run()
    assert not found.btrfs_mounts and "LABEL=data leads to /dev/vdc2 (ext4), not a btrfs" in found.log


# -- persist=ro


def test_read_only(initrd: Initrd) -> None:
    machine = pair(initrd)
    machine.seeded("/srv/a", "bind")
    (machine.base / "volume/.persist/overlay/etc/upper").chmod(0o751)
    (machine.base / "volume/srv/a").chmod(0o700)
    os.chown(machine.base / "volume/srv/a", 12, 34)
    (machine.base / "root/etc/image").touch()
    (machine.base / "root/opt").mkdir(mode=0o711)
    machine.registry("/srv/a bind\n/opt overlay")
    machine.cmdline("persist=ro")
    found = machine.run()
    assert found.btrfs_mounts == [
        ["ro,rescue=nologreplay," + PLAIN, "/dev/vda2", "/run/persist/private/readonly"]
    ]
    assert found.mounts["/run/persist/volume"].fstype == "tmpfs" and found.early == {"etc", "srv-a", "opt"}
    etc = found.mounts["/run/image/etc"]
    assert (
        "lowerdir=/run/persist/private/readonly/.persist/overlay/etc/upper:/run/image/etc"
        in etc.super_options
        and "rw" in etc.super_options.split(",")
    )
    assert (
        "upperdir=/run/persist/volume/.persist/overlay/etc/upper" in etc.super_options
        and "redirect_dir=nofollow" in etc.super_options
    )
    assert "lowerdir=/run/persist/private/readonly/srv/a," in found.mounts["/run/image/srv/a"].super_options
    assert "lowerdir=/run/image/opt," in found.mounts["/run/image/opt"].super_options, (
        "what was not seeded shows the image"
    )
    memory = machine.base / "mounted/.persist"
    assert sorted(p.name for p in (memory / "seed").iterdir()) == ["etc.json", "srv-a.json"]
    assert all(
        (memory / name).stat().st_mode & 0o7777 == 0o700
        for name in ("", "overlay", "seed", "tmp", "migrations", "overlay/etc")
    )
    modes = {
        name: (memory / "overlay" / escape(name) / "upper").stat() for name in ("/etc", "/srv/a", "/opt")
    }
    assert [(s.st_mode & 0o7777, s.st_uid, s.st_gid) for s in modes.values()] == [
        (0o751, 0, 0),
        (0o700, 12, 34),
        (0o711, 0, 0),
    ]
    assert not found.heal


def test_read_only_without_a_member(initrd: Initrd) -> None:
    machine = pair(initrd, here="a", a={"mark": text(OLD)})
    machine.cmdline("persist=ro")
    found = machine.run()
    assert found.btrfs_mounts == [
        ["ro,rescue=nologreplay,degraded," + PLAIN, "/dev/vda2", "/run/persist/private/readonly"]
    ]
    assert (
        found.marks["vda2"] == text(OLD)
        and found.early == {"etc"}
        and found.noted == ["degraded", "/dev/vda2"]
        and not found.heal
    )


@pytest.mark.parametrize("link", [".persist/seed", ".persist/overlay/etc", ".persist/overlay/etc/upper"])
def test_read_only_follows_no_links(initrd: Initrd, link: str) -> None:
    machine = pair(initrd)
    at = machine.base / "volume" / link
    at.rename(machine.base / "volume/moved")
    at.symlink_to("/run/disk/moved")
    machine.cmdline("persist=ro")
    found = machine.run()
    etc = found.mounts.get("/run/image/etc")
    assert etc is None if link != ".persist/seed" else etc is not None and "readonly" not in etc.super_options


def test_read_only_without_a_volume(initrd: Initrd) -> None:
    initrd.registry("/etc overlay")
    initrd.cmdline("persist=ro")
    found = initrd.run()
    assert not found.volume and "/run/persist/private/readonly" not in found.mounts and found.early == set()


# -- a full volume


def test_full_volume(initrd: Initrd) -> None:
    machine = pair(initrd)
    (machine.base / "full").touch()
    found = machine.run()
    assert (
        found.early == {"etc"}
        and "<4>persist-early: /etc came up read-only: the state volume is full; growing it into its reserve"
        in found.log
    )
    assert [c for c in found.ran("btrfs") if c[0] == "filesystem"] == [
        ["filesystem", "resize", f"{n}:max", "/run/persist/volume"] for n in (1, 2)
    ]
    assert (
        len([c for c in found.ran("mount") if c[1] == "overlay"]) == 2 and "still read-only" not in found.log
    )
    assert "rw" in found.mounts["/run/image/etc"].super_options.split(",")


@pytest.mark.parametrize("path", ["/srv/a b", "/srv/a\\b#", "/srv/a\\040b"])
def test_really_full_volume(initrd: Initrd, path: str) -> None:
    """Names are escaped in /proc/mounts."""
    machine = pair(initrd)
    machine.table = "device\tauto\n"
    machine.seeded(path)
    machine.registry(f"{path} overlay")
    (machine.base / "full").touch()
    (machine.base / "really-full").touch()
    found = machine.run()
    assert found.early == {escape(path)} and f"<3>persist-early: {path} is still read-only\n" in found.log
