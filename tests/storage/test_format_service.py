# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-format.service on real disks: what it takes, what it refuses and remembers, disks that join."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from persist.system import blockdev, superblock
from persist.volume.format import may_format
from persist.volume.ondisk import binding, header
from persist.volume.ondisk.header import Options
from persist.volume.ondisk.partition_table import MIB

from .conftest import Make
from .rig import HEADER, PYTHON, TOP, LoopDisk, format_set, tool, udev_sees, udev_tags

SMALL = 300
OTHER = "11111111-2222-4333-8444-555555555555"

_SCRIPT = """
import json, os, subprocess, sys
wish = json.loads(sys.argv[1])
from tests.storage.own_root import own_root
own_root(wish["root"], keep=["/run"])
from persist import log
from persist.boot.config import Config
from persist.system import blockdev
from persist.volume.format import claims, joining
from persist.volume.find import remembered
if wish["known"]:
    remembered.note(wish["known"])
config = Config()
for key, value in wish["config"].items():
    setattr(config, key, value)
if wish["mount"]:
    os.makedirs("/run/persist/volume", exist_ok=True)
    subprocess.run(["mount", "-o", "subvol=@persist-state", wish["mount"], "/run/persist/volume"], check=True)
def status(text, wait=0):
    if wait:
        print(text, file=sys.stderr)
failed = []
for _ in range(wish["times"]):
    disks = [blockdev.by_node(n) for n in wish["disks"]]
    failed.append(claims.format_claimed(disks, config, wish["wanted"], log.say, status))
found = {u: joining.joiners(u, config, log.say) for u in wish["joiners"]}
joiners = {u: [[j.disk.node, j.node, j.member] for j in of] for u, of in found.items()}
for j in sum(found.values(), []) if wish["finish"] else []:
    joining.finish(j, config)
notes = "/run/persist/refused"
found = [json.load(open(f"{notes}/{f}")) for f in os.listdir(notes)] if os.path.isdir(notes) else []
refused = {n["device"]: n["code"] for n in found}
flags = sorted(n for n in ("formatted", "heal") if os.path.exists(f"/run/persist/{n}"))
print(json.dumps({"failed": failed, "refused": refused, "flags": flags, "joiners": joiners}))
"""


class Seen:
    """What one run of the service did."""

    def __init__(self, found: dict[str, Any], log: str) -> None:
        self.failed: list[int] = found["failed"]
        self.refused: dict[str, str] = found["refused"]
        self.flags: list[str] = found["flags"]
        self.joiners: dict[str, list[list[Any]]] = found["joiners"]
        self.log = log


def start(
    disks: list[LoopDisk],
    *,
    trusted: list[LoopDisk] | None = None,
    known: str = "",
    wanted: str = "",
    mount: str = "",
    times: int = 1,
    joiners: tuple[str, ...] = (),
    finish: bool = False,
    kill_after: str = "",
    **config: Any,
) -> subprocess.Popen[str]:
    """The service at work on these disks, with mounts and a root of its own, which keeps what is written
    until it ends. ``trusted``: the disks that Device= names."""
    wish = {
        "root": tempfile.mkdtemp(dir="/run"),
        "disks": [d.node for d in disks],
        "known": known,
        "wanted": wanted or None,
        "mount": mount,
        "times": times,
        "joiners": joiners,
        "finish": finish,
        "config": {"device": [d.node for d in (disks if trusted is None else trusted)]} | config,
    }
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(TOP), "PYTHONDONTWRITEBYTECODE": "1"}
    if kill_after:
        env["PERSIST_TEST_KILL_AFTER"] = kill_after
    return subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", PYTHON, "-c", _SCRIPT, json.dumps(wish)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def service(disks: list[LoopDisk], **wish: Any) -> Seen:
    """Run the service over these disks, in a boot in which it has not run before."""
    shutil.rmtree("/run/persist")
    os.mkdir("/run/persist")
    with start(disks, **wish) as process:
        out, log = process.communicate()
    assert process.returncode == 0, log
    return Seen(json.loads(out.splitlines()[-1]), log)


def with_options(options: Options) -> bytes:
    return header.encode(HEADER.decode(), options)


def uuid_of(disk: LoopDisk) -> str:
    """The filesystem on the data partition."""
    found = superblock.read(blockdev.partitions(disk.disk)[-1].node)
    assert found is not None
    return found.fsid


def untouched(disk: LoopDisk, head: bytes = HEADER) -> bool:
    return disk.read(0, MIB) == head.ljust(MIB, b"\0") and not blockdev.partitions(disk.disk)


@pytest.fixture
def volume(make_disk: Make) -> LoopDisk:
    """A formatted disk."""
    disk = make_disk(SMALL)
    assert disk.format().returncode == 0
    return disk


def test_all_claims_become_one_volume_but_those_that_may_not(make_disk: Make) -> None:
    good, dirty, other = make_disk(SMALL), make_disk(SMALL), make_disk(SMALL)
    bound = make_disk(SMALL, with_options(Options(serial="NOT-MINE")))
    dirty.write(4096, b"x")
    seen = service([good, dirty, other, bound])
    assert seen.failed == [0]
    assert seen.refused == {dirty.node: "not-blank", bound.node: "wrong-serial"}
    assert uuid_of(good) == uuid_of(other)
    assert seen.flags == ["formatted"]
    assert f"{good.node}, {other.node} are the state volume now" in seen.log
    assert untouched(bound, with_options(Options(serial="NOT-MINE")))


def test_claim_beside_a_healthy_volume(make_disk: Make, volume: LoopDisk) -> None:
    foreign = make_disk(SMALL)
    seen = service([foreign], trusted=[volume, foreign], times=2)
    assert (seen.failed, seen.refused, seen.flags) == ([0, 0], {foreign.node: "volume-exists"}, [])
    assert untouched(foreign)
    assert seen.log.count("is left alone") == 1, "a refusal is remembered"
    assert "--join" in seen.log


def test_two_begun_sets(make_disk: Make) -> None:
    """Disks of two machines, each cut: one set is finished with what is here, and takes the other one's empty
    disks."""
    one, two = make_disk(SMALL), make_disk(SMALL)
    for disk in (one, two):
        assert disk.format(kill_after="mkfs").returncode == -9
    seen = service([one, two])
    assert seen.failed == [0]
    assert sorted(seen.refused.values()) == ["volume-exists"]


def test_a_disk_of_a_set_that_went_on_without_it(make_disk: Make) -> None:
    one, two = make_disk(SMALL), make_disk(SMALL)
    format_set([one, two], "mkfs")
    assert service([one]).failed == [0]
    before = two.read(0, SMALL * MIB)
    seen = service([two], trusted=[one, two])
    assert seen.refused == {two.node: "volume-exists"}
    assert two.read(0, SMALL * MIB) == before


def test_members_are_asked_for_again_and_again(make_disk: Make) -> None:
    one = make_disk(SMALL, with_options(Options(members=2)))
    seen = service([one], times=2, member_timeout=0)
    assert (seen.refused, seen.log.count("at least 2 disks")) == ({}, 2)
    two = make_disk(SMALL, with_options(Options(members=2)))
    assert service([one, two]).failed == [0]
    assert uuid_of(one) == uuid_of(two)


@pytest.fixture
def udev(own_run: Path) -> Path:
    """A udev that runs, as far as it is asked."""
    control = own_run.parent / "udev/control"
    control.parent.mkdir()
    control.touch()
    return control


def test_members_are_waited_for(make_disk: Make, udev: Path) -> None:
    head = with_options(Options(members=3))
    disks = [make_disk(SMALL, head) for _ in range(3)]
    udev_tags(disks[:1])
    comes = threading.Timer(0.5, udev_tags, [disks])
    comes.start()
    seen = service(disks[:1], trusted=disks, member_timeout=3)
    comes.join()
    assert seen.failed == [0] and "Waiting up to 3 s for 2 more" in seen.log
    assert len({uuid_of(d) for d in disks}) == 1


def test_a_disk_that_is_gone_is_waited_for_and_then_done_without(make_disk: Make, udev: Path) -> None:
    one, two = make_disk(SMALL), make_disk(SMALL)
    format_set([one, two], "mkfs")
    udev_tags([one])
    seen = service([one], trusted=[one, two], member_timeout=1)
    assert seen.failed == [0] and "Waiting up to 1 s for 1 more" in seen.log
    found = superblock.read(blockdev.partitions(one.disk)[-1].node)
    assert found is not None and found.num_devices == 1


def test_nobody_waits_for_members_of_a_volume_that_is_there(make_disk: Make, udev: Path) -> None:
    one, two = make_disk(SMALL), make_disk(SMALL)
    format_set([one, two], "label")
    for disks, codes in (([one], []), ([make_disk(SMALL, HEADER + b"\nmembers=2")], ["volume-exists"])):
        udev_tags(disks)
        udev_sees([one, two, *disks])
        seen = service(disks, trusted=[one, two, *disks], member_timeout=7)
        assert "Waiting" not in seen.log
        assert list(seen.refused.values()) == codes


def test_volume_that_is_expected(make_disk: Make) -> None:
    disks = [make_disk(SMALL), make_disk(SMALL)]
    assert set(service(disks, known=OTHER).refused.values()) == {"volume-expected"}
    assert set(service(disks, wanted=OTHER).refused.values()) == {"volume-expected"}
    assert all(untouched(d) for d in disks)


@pytest.mark.parametrize("kill", ["label", "erase:0"])
def test_a_set_that_became_a_volume_is_never_formatted_again(make_disk: Make, kill: str) -> None:
    """Also where the one disk that still has its claim does not say so, because it stopped before: the other
    one has the label."""
    one, two = make_disk(SMALL), make_disk(SMALL)
    format_set([one, two], kill)
    uuid = uuid_of(one)
    node = blockdev.partitions(two.disk)[-1].node
    tool("btrfs", "device", "scan", "--forget", node)
    with open(node, "r+b") as f:
        f.seek(64 << 10)
        f.write(bytes(4096))
    seen = service([d for d in (one, two) if kill == "label" or d is two], trusted=[one, two], known=uuid)
    assert (seen.failed, seen.refused) == ([0], {})
    assert uuid_of(one) == uuid
    assert superblock.read(node) is None, "nothing is made on it"
    for disk in (one, two):
        assert may_format.read_claim(disk.disk, [HEADER.decode()]) is None
        assert binding.read(disk.node) == binding.of_machine(disk.disk, uuid)


def test_the_volume_was_mounted_and_noted_before_the_claims_were_erased(make_disk: Make) -> None:
    one, two = make_disk(SMALL), make_disk(SMALL)
    format_set([one, two], "label")
    node = blockdev.partitions(one.disk)[-1].node
    seen = service([one, two], mount=node, known=uuid_of(one))
    assert (seen.failed, seen.refused, seen.flags) == ([0], {}, ["formatted"])
    assert (
        may_format.read_claim(one.disk, [HEADER.decode()])
        is may_format.read_claim(two.disk, [HEADER.decode()])
        is None
    )


# Joining.


def test_join(make_disk: Make, volume: LoopDisk) -> None:
    uuid = uuid_of(volume)
    disk = make_disk(2560, with_options(Options(join=uuid)))
    seen = service([disk], trusted=[volume, disk], joiners=(uuid, OTHER), swap_size=64 * MIB, times=2)
    assert (seen.failed, seen.refused, seen.flags) == ([0, 0], {}, ["heal"])
    assert seen.joiners == {uuid: [[disk.node, f"{disk.node}p2", False]], OTHER: []}
    claim = may_format.read_claim(disk.disk, [HEADER.decode()])
    assert claim is not None and claim.mark is not None and claim.options.join == uuid
    assert (str(claim.mark.volume), claim.mark.join, claim.mark.swap) == (uuid, True, 64)
    probed = [blockdev.probe(p.node) for p in blockdev.partitions(disk.disk)]
    assert [(p.get("TYPE"), p["PART_ENTRY_NAME"]) for p in probed] == [
        ("swap", "persist-swap"),
        (None, "persist-data"),
    ]
    assert seen.log.count("writing the partition table") == 1, "what is ready is not done again"


@pytest.mark.parametrize("step", ["mark", "partition", "mkswap"])
def test_join_killed_after(make_disk: Make, volume: LoopDisk, step: str) -> None:
    uuid = uuid_of(volume)
    disk = make_disk(SMALL, with_options(Options(join=uuid)))
    with start([disk], trusted=[volume, disk], kill_after=step) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert may_format.read_claim(disk.disk, [HEADER.decode()]) is not None
    disk.replug()
    seen = service([disk], trusted=[volume, disk], joiners=(uuid,))
    assert (seen.failed, seen.flags, len(seen.joiners[uuid])) == ([0], ["heal"], 1)


def test_join_after_the_boot_leaves_word(make_disk: Make, volume: LoopDisk) -> None:
    disk = make_disk(SMALL, with_options(Options(join=uuid_of(volume))))
    seen = service(
        [disk],
        trusted=[volume, disk],
        mount=blockdev.partitions(volume.disk)[-1].node,
    )
    assert seen.flags == ["heal"], "persist-heal.path starts the healer"


def test_joined_disk_is_finished(make_disk: Make, volume: LoopDisk, tmp_path: Path) -> None:
    """It is a member by now, and the cut came before its claim was erased: nothing is done to it but that."""
    uuid = uuid_of(volume)
    disk = make_disk(SMALL, with_options(Options(join=uuid)))
    service([disk], trusted=[volume, disk])
    node = blockdev.partitions(disk.disk)[-1].node
    place = tmp_path / "volume"
    place.mkdir()
    tool("mount", blockdev.partitions(volume.disk)[-1].node, place)
    tool("btrfs", "device", "add", node, place)
    for mounted in (True, False):
        if not mounted:
            tool("umount", place)
        seen = service([disk], trusted=[volume, disk], joiners=(uuid,), finish=not mounted)
        assert (seen.failed, seen.refused, seen.flags, seen.joiners) == (
            [0],
            {},
            ["heal"],
            {uuid: [[disk.node, node, True]]},
        )
        assert "partition table" not in seen.log
    assert may_format.read_claim(disk.disk, [HEADER.decode()]) is None
    assert binding.read(disk.node) == binding.of_machine(disk.disk, uuid)
    assert superblock.read(node) is not None


@pytest.mark.parametrize(
    ("join", "policy", "code", "remembered"),
    [
        (OTHER, "by-id", "join-other", True),
        (OTHER, "auto", "join-other", True),
        ("mine", "no", "volume-exists", True),
        ("", "by-id", "volume-exists", True),
    ],
)
def test_join_refused(
    make_disk: Make, volume: LoopDisk, join: str, policy: str, code: str, remembered: bool
) -> None:
    head = with_options(Options(join=uuid_of(volume) if join == "mine" else join))
    disk = make_disk(SMALL, head)
    seen = service([disk], trusted=[volume, disk], join=policy)
    assert seen.refused == {disk.node: code}
    assert seen.flags == [] and untouched(disk, head)


def test_join_of_a_volume_that_is_not_here(make_disk: Make) -> None:
    head = with_options(Options(join=OTHER))
    disk, other = make_disk(SMALL, head), make_disk(SMALL)
    seen = service([disk], times=2)
    assert (seen.refused, seen.log.count("which is not here")) == ({}, 2)
    assert untouched(disk, head)
    assert service([disk, other]).failed == [0], "it keeps nobody from a volume of his own"
    assert untouched(disk, head)


def test_join_auto(make_disk: Make, volume: LoopDisk) -> None:
    uuid = uuid_of(volume)
    disk = make_disk(SMALL)
    seen = service([disk], trusted=[volume, disk], join="auto", joiners=(uuid,))
    assert (seen.refused, seen.flags, len(seen.joiners[uuid])) == ({}, ["heal"], 1)


def test_join_is_for_trusted_and_blank_disks(make_disk: Make, volume: LoopDisk) -> None:
    uuid = uuid_of(volume)
    disk, dirty = (
        make_disk(SMALL, with_options(Options(join=uuid))),
        make_disk(SMALL, with_options(Options(join=uuid))),
    )
    dirty.write(1 << 19, b"x")
    seen = service([disk, dirty], trusted=[volume, dirty])
    assert seen.refused == {disk.node: "not-named", dirty.node: "not-blank"}
    assert seen.flags == []


# Format=blank.


def test_blank_disk_that_is_named(make_disk: Make) -> None:
    disk = make_disk(SMALL, b"")
    assert service([], trusted=[disk]).flags == [], "only where Format=blank says so"
    seen = service([], trusted=[disk], format_blank=True)
    assert (seen.failed, seen.refused, seen.flags) == ([0], {}, ["formatted"])
    assert uuid_of(disk) and "is blank, is named by Device=" in seen.log


def test_blank_disk_killed(make_disk: Make) -> None:
    """From the first write on it carries a claim."""
    disk = make_disk(SMALL, b"")
    with start([], trusted=[disk], format_blank=True, kill_after="mark") as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    claim = may_format.read_claim(disk.disk, [HEADER.decode()])
    assert claim is not None and claim.mark is not None
    assert service([disk]).flags == ["formatted"]


@pytest.mark.parametrize("offset", [0, 4096, SMALL * MIB - 1])
def test_disk_that_is_named_and_not_blank(make_disk: Make, offset: int) -> None:
    disk = make_disk(SMALL, b"")
    disk.write(offset, b"x")
    before = disk.read(0, SMALL * MIB)
    seen = service([], trusted=[disk], format_blank=True)
    assert (seen.failed, seen.refused, seen.flags) == ([0], {}, [])
    assert (
        f"{disk.node} is named by Device= and is not formatted: {disk.node} has data at byte {offset}."
        in seen.log
    )
    assert disk.read(0, SMALL * MIB) == before


def test_blank_disk_beside_a_volume_or_a_claim(make_disk: Make, volume: LoopDisk) -> None:
    blank, claimed = make_disk(SMALL, b""), make_disk(SMALL)
    assert service([], trusted=[blank, volume], format_blank=True).flags == []
    assert service([], trusted=[blank], format_blank=True, known=OTHER).flags == []
    volume.unplug()
    assert service([claimed], trusted=[blank, claimed], format_blank=True).flags == ["formatted"]
    assert blank.read(0, MIB) == bytes(MIB)
    assert uuid_of(claimed)


def test_auto_and_labels_lead_to_no_blank_disk(make_disk: Make) -> None:
    blank = make_disk(SMALL, b"")
    seen = service(
        [],
        trusted=[],
        format_blank=True,
        device=["auto", "LABEL=persist-data", f"{blank.node}-not-here"],
        allow_removable=True,
    )
    assert seen.flags == [] and blank.read(0, MIB) == bytes(MIB)


def test_two_at_once_make_one_volume(make_disk: Make) -> None:
    """Started by hand while udev starts another: each saw claims and no volume."""
    disks = [make_disk(SMALL) for _ in range(4)]
    running = [start(some, trusted=disks) for some in (disks[:2], disks[2:])]
    for process in running:
        _, log = process.communicate()
        assert process.returncode == 0, log
    labelled = {
        tool("blkid", "-p", "-o", "value", "-s", "UUID", f"{d.node}p{n}").strip()
        for d in disks
        for n in (1, 2)
        if Path(f"{d.node}p{n}").exists()
        and "persist-data" in tool("blkid", "-p", "-o", "value", "-s", "LABEL", f"{d.node}p{n}")
    }
    assert len(labelled) == 1
