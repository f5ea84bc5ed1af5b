# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies, backups and disks that went apart, on real btrfs: what nothing proves an ancestor is neither
mounted with the others nor wiped."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from persist.record import replace
from persist.system import blockdev
from persist.volume.heal import health, wipe
from persist.volume.members import in_kernel
from persist.volume.members.oddity import CLONED, UNDECIDED
from persist.volume.ondisk import binding

from .conftest import Make
from .healing import MIB, check_whole, joiner, run_heal, single
from .rig import LoopDisk, tool
from .services import services, write_note
from .volumes import Volume

MACHINE = "0a0b0c0d-1111-2222-3333-444444444444"


def copy(make: Make, disk: LoopDisk) -> LoopDisk:
    """A raw copy on another disk; the original is unplugged."""
    other = make(MIB, b"")
    other.unplug()
    disk.unplug()
    subprocess.run(["cp", "--sparse=always", disk.file, other.file], check=True)
    other.replug()
    return other


def bind(v: Volume, disk: LoopDisk) -> None:
    """As formatting binds a disk to this machine."""
    here = binding.of_machine(blockdev.by_node(disk.node), v.uuid)
    disk.write(256, binding.encode(replace(here, dmi=v.dmi) if v.dmi else here))


def contents(disk: LoopDisk) -> str:
    return disk.digest()


def boot() -> None:
    """The kernel knows no device of a volume that is not mounted."""
    tool("btrfs", "device", "scan", "--forget")


def mirrored_elsewhere(place: Path, make: Make, *, alone: bool) -> tuple[Volume, LoopDisk, LoopDisk]:
    """B1: this machine's disk R, and a disk B that a raw copy of R was mirrored to. Both are plugged;
    ``alone``: B was then used without the copy."""
    v = single(place, make)
    v.down()
    (r,) = v.disks
    twin = copy(make, r)
    v.marks[str(twin.file)] = v.marks[str(r.file)]
    v.disks = [twin]
    v.up()
    b = make(MIB, b"")
    joiner(v, b)
    run_heal(v)
    v.write("elsewhere", "written on the mirror")
    check_whole(v, 2, "mine")
    v.down()
    v.pull(twin)
    if alone:
        v.disks = [b]
        v.up()
        v.write("elsewhere", "written on b alone")
        v.down()
    v.pull(b)
    boot()
    r.replug()
    v.disks = [r]
    v.up()
    v.write("text", "mine, and nobody else's")
    v.down()
    b.replug()
    boot()
    v.disks = [r, b]
    return v, r, b


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("ours", [False, True])
def test_a_copy_of_a_single_disk_that_was_mirrored_elsewhere(
    place: Path, make_disk: Make, alone: bool, ours: bool
) -> None:
    """It was copied over R, and nobody was asked."""
    v, r, b = mirrored_elsewhere(place, make_disk, alone=alone)
    v.dmi = MACHINE
    b.write(256, bytes(440 - 256))
    if ours:
        bind(v, r)
    root = place / "root"
    write_note(root, v.uuid)
    before = contents(b)
    seen = services(
        "volume",
        device=v.config.device,
        root=root,
        dmi=MACHINE,
    )
    assert contents(b) == before
    if not ours:
        assert (
            seen.last["kind"] == "none"
            and seen.last["reason"] == "broken"
            and "neither is known to be only an older state" in seen.last["message"]
        )
        assert (
            "detach what this machine is not to use" in seen.last["hint"]
            and v.look().odd[0].code == UNDECIDED
        )
        v.pull(b)
        boot()
        v.up()
        b.replug()
    else:
        assert (seen.last["kind"], seen.last["device"], seen.last["degraded"]) == ("btrfs", v.data(r), False)
        v.up()
    assert v.read("text") == "mine, and nobody else's"
    assert run_heal(v) == (0, []) and contents(b) == before
    reasons = [reason.code for reason in health.examine(v.uuid, v.at)]
    assert not reasons or reasons == ["member-split"]
    devices = in_kernel.members(v.at)
    with pytest.raises(Exception, match="it was written alone since"):
        wipe.erase(v.data(b), v.uuid, lambda member: in_kernel.split(member, devices))
    assert contents(b) == before


def test_r_comes_while_b_is_mounted(place: Path, make_disk: Make) -> None:
    v, r, b = mirrored_elsewhere(place, make_disk, alone=True)
    before = contents(r)
    v.pull(r)
    boot()
    v.up()
    r.replug()
    assert "replace" not in run_heal(v)[1] and contents(r) == before


def test_a_copy_of_one_of_a_mirror(place: Path, make_disk: Make) -> None:
    """The same device twice, and both are as new: none is used. Once the original went on with the other, the
    copy is left out."""
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    v.write("text", "one")
    v.down()
    a, b = v.disks
    twin = copy(make_disk, a)
    a.replug()
    assert [n.code for n in v.look(a, b, twin).odd] == [CLONED]
    v.up()
    v.write("text", "two")
    v.down()
    found = v.look(a, b, twin)
    assert found.nodes == (v.data(a), v.data(b)) and not found.degraded
    before = contents(twin)
    # The copy is used by itself, elsewhere, and comes back in the place of the original.
    v.pull(a)
    v.pull(b)
    v.disks = [twin]
    v.up()
    v.write("text", "three")
    v.down()
    assert contents(twin) != before
    b.replug()
    found = v.look(b, twin)
    assert len(found.use) == 1 and len(found.split) == 1 and not found.stale


def test_pulled_and_back_still_heals_by_itself(place: Path, make_disk: Make) -> None:
    """The ordinary case, after some boots."""
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    for n in range(3):
        v.up()
        v.write("text", str(n))
        v.down()
    v.pull(v.disks[1])
    for n in range(3):
        v.up()
        v.write("text", f"alone {n}")
        v.down()
    v.back(v.disks[1])
    assembly = v.up()
    assert [m.node for m in assembly.stale] == [v.data(v.disks[1])]
    run_heal(v)
    check_whole(v, 2, "alone 2")
    tool("btrfs", "filesystem", "sync", v.at)
