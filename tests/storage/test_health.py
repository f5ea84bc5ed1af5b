# SPDX-License-Identifier: LGPL-2.1-or-later
"""Health, space and size on real btrfs."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.services import heal as heal_service
from persist.services import scrub as scrub_service
from persist.system import btrfs, files, superblock
from persist.volume import outcome
from persist.volume.heal import health, scrub
from persist.volume.heal.loop import work
from persist.volume.members import in_kernel, lost
from persist.volume.ondisk import degraded_mark, partition_table
from persist.volume.space import follow_disk, reserve

from . import healing
from .conftest import Make
from .rig import PYTHON, TOP, LoopDisk, tool, udev_sees
from .volumes import Volume

MIB = 300


def codes(v: Volume) -> list[str]:
    """What is not well, where udev has seen all that is there."""
    udev_sees(v.disks)
    return [r.code for r in health.examine(v.uuid, v.at)]


def single(place: Path, make: Make) -> Volume:
    v = Volume(place, [make(MIB, b"")])
    v.up()
    return v


def mirror(place: Path, make: Make) -> Volume:
    return Volume(place, [make(MIB, b""), make(MIB, b"")])


def fill(v: Volume) -> None:
    """Fill it so that not even a directory can be made."""
    with open(f"{v.at}/filler", "wb") as f:
        try:
            while True:
                f.write(os.urandom(1 << 20))
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            assert e.errno == errno.ENOSPC
    # What has no data is kept in metadata. After each commit there is a little room again.
    os.makedirs(f"{v.at}/small", exist_ok=True)
    while not reserve.is_full(v.at):
        for make in (lambda name: os.symlink("x" * 3000, name), os.mkdir):
            with contextlib.suppress(OSError):
                while True:
                    make(f"{v.at}/small/{os.urandom(8).hex()}")
        tool("btrfs", "filesystem", "sync", v.at)


def test_well(place: Path, make_disk: Make) -> None:
    v = mirror(place, make_disk)
    v.up()
    assert codes(v) == []


def test_missing_and_stale(place: Path, make_disk: Make) -> None:
    v = mirror(place, make_disk)
    v.pull(v.disks[1])
    v.up()
    assert codes(v) == ["member-missing"]
    v.write("text", "new")
    v.down()
    v.back(v.disks[1])
    v.up()
    assert codes(v) == ["member-missing", "member-stale"]


def test_split(place: Path, make_disk: Make) -> None:
    v = mirror(place, make_disk)
    for n in (0, 1):
        v.pull(v.disks[n])
        v.up()
        v.write("text", str(n))
        v.down()
        v.back(v.disks[n])
    left = v.up().split[0].node
    assert codes(v) == ["member-missing", "member-split"]
    # udev tells the kernel about it after the mount, and the kernel takes it for the device that is missing.
    btrfs.scan(left)
    assert codes(v) == ["member-split"]
    assert any(left in r.message for r in health.examine(v.uuid, v.at))


def test_back_while_it_is_mounted_is_marked_once(place: Path, make_disk: Make) -> None:
    v = mirror(place, make_disk)
    v.pull(v.disks[1])
    v.up()
    v.back(v.disks[1])
    before = degraded_mark.read(v.data(v.disks[0]), v.uuid)
    devices = in_kernel.members(v.at)
    gone = lost.mark_lost(v.uuid, devices)
    assert [m.devid for m in gone] == [2], devices
    assert lost.were_in_use(gone, devices) == [], "it was away before"
    after = degraded_mark.read(v.data(v.disks[0]), v.uuid)
    assert before is not None and after is not None and after.earlier[0] == before.id
    assert lost.mark_lost(v.uuid, in_kernel.members(v.at)) == []
    assert degraded_mark.read(v.data(v.disks[0]), v.uuid) == after
    assert codes(v) == ["member-stale"]
    degraded_mark.clear([v.data(v.disks[0])], v.uuid)
    assert [m.devid for m in lost.mark_lost(v.uuid, in_kernel.members(v.at))] == [2], (
        "a mark that was healed is not for the next one that goes"
    )


class Service:
    """Runs of persist-heal.service on a volume."""

    def __init__(self, v: Volume) -> None:
        self.v = v
        self.verdicts: list[list[str]] = []

    def verdict(self) -> int:
        """What it would have said."""
        self.verdicts.append(codes(self.v))
        return 0

    def run(self, *, ours: bool = True, patient: bool = False) -> int:
        """One run; how many steps it did."""
        this = heal_service.Round(self.v.at, self.v.config, self.verdict, ours=ours, patient=patient)
        return work(outcome.take_heal, outcome.heal_noted, this.look, this.verdict)


def test_room_is_left_to_whoever_works_by_hand(place: Path, make_disk: Make) -> None:
    """The kernel does one of resize, balance, replace at a time, and a healing that finds it busy would have
    failed."""
    v = mirror(place, make_disk)
    v.up()
    before = in_kernel.members(v.at)[0].size
    bigger(v.disks[0], 400)
    service = Service(v)
    assert service.run(ours=False) == 0 and in_kernel.members(v.at)[0].size == before
    assert service.run() == 0 and in_kernel.members(v.at)[0].size > before


def test_stale_member_is_healed_and_the_verdict_is_made_on_the_way(
    place: Path, make_disk: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the copy, which may take hours, and when all is done; nobody else need look for that."""
    v = healing.stale(place, make_disk)
    service = Service(v)
    assert service.run() >= 3
    assert service.verdicts[0] == ["member-missing", "member-stale"] and service.verdicts[-1] == []
    assert "whole again" in capsys.readouterr().err and not outcome.heal_noted()
    healing.check_whole(v, 2, "new")


def test_member_that_goes_while_another_one_is_healed_is_marked_at_once(place: Path, make_disk: Make) -> None:
    """The copy goes on for hours; who went must not come back as if nothing had been."""
    v = Volume(place, [make_disk(MIB, b"") for _ in range(3)])
    v.up()
    service = Service(v)
    this = heal_service.Round(v.at, v.config, service.verdict, ours=True, patient=False)
    assert this.look() is None
    before = degraded_mark.read(v.data(v.disks[0]), v.uuid)
    with open(v.data(v.disks[2]), "r+b") as f:  # it does not answer as itself any more
        os.pwrite(f.fileno(), bytes(superblock.SIZE), superblock.OFFSET)
    this.healer.work.tick()  # each second of a step
    after = degraded_mark.read(v.data(v.disks[0]), v.uuid)
    assert (
        after is not None
        and after.counter
        and after != before
        and degraded_mark.read(v.data(v.disks[1]), v.uuid) == after
    )
    assert degraded_mark.read(v.data(v.disks[2]), v.uuid) == before, "what is gone gets no mark"
    this.healer.work.tick()
    assert degraded_mark.read(v.data(v.disks[0]), v.uuid) == after, "once"
    assert len(service.verdicts) == 1


def test_step_that_failed_is_not_tried_again_by_each_event(place: Path, make_disk: Make) -> None:
    v = healing.stale(place, make_disk)
    service = Service(v)
    this = heal_service.Round(v.at, v.config, service.verdict, ours=True, patient=False)
    assert this.look() is not None
    heal_service._note_failure(OSError("no"), this.healer.picture())
    outcome.note_heal()
    assert service.run(patient=True) == 0 and "heal-failed" in service.verdicts[-1]
    assert service.run() >= 3 and service.verdicts[-1] == [], "by hand, and hourly"


def test_what_the_kernel_refuses_without_an_error(place: Path, make_disk: Make) -> None:
    """While it balances, adding a device changes nothing, and the call returns a number that is no errno."""
    v = single(place, make_disk)
    other = make_disk(MIB, b"")
    for n in range(3):
        Path(f"{v.at}/{n}").write_bytes(os.urandom(30 << 20))
        tool("btrfs", "filesystem", "sync", v.at)
    with subprocess.Popen(
        ["btrfs", "balance", "start", "--full-balance", v.at],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as balance:
        while btrfs.attribute(v.uuid, "exclusive_operation") != "balance":
            assert balance.poll() is None
        with pytest.raises(OSError, match="busy"):
            btrfs.add_device(v.at, other.node)
        subprocess.run(["btrfs", "balance", "cancel", v.at], check=False, capture_output=True)
    assert len(btrfs.devices(v.at)) == 1


def test_errors_that_the_kernel_counted(place: Path, make_disk: Make) -> None:
    v = mirror(place, make_disk)
    v.up()
    Path(f"{v.at}/data").write_bytes(os.urandom(20 << 20))
    v.down()
    disk = v.disks[1]
    # Every data block of this copy; metadata lies elsewhere.
    where = tool("btrfs", "inspect-internal", "dump-tree", "-t", "chunk", v.data(disk))
    offsets = _stripes(where, 2, "DATA")
    for start, length in offsets:
        disk.write((1 << 20) + start, bytes(length))
    v.up()
    subprocess.run(["sh", "-c", "echo 3 > /proc/sys/vm/drop_caches"], check=True)
    found = scrub.scrub(v.at)
    assert "csum=" in found.errors and not found.beyond_repair
    assert codes(v) == ["device-errors"]
    assert scrub.scrub(v.at).errors == ""


def _stripes(dump: str, devid: int, kind: str) -> list[tuple[int, int]]:
    found = []
    length = 0
    wanted = False
    for line in dump.splitlines():
        words = line.split()
        if "length" in words and "type" in words:
            length, wanted = (
                int(words[words.index("length") + 1]),
                words[words.index("type") + 1].startswith(kind),
            )
        elif words[:1] == ["stripe"] and wanted and int(words[3]) == devid:
            found.append((int(words[5]), length))
    return found


def test_full_and_room_again(place: Path, make_disk: Make, capsys: pytest.CaptureFixture[str]) -> None:
    v = single(place, make_disk)
    assert not reserve.is_full(v.at)
    fill(v)
    assert reserve.is_full(v.at)
    assert {"space-low"} <= set(codes(v))
    assert "grown by" in reserve.make_room(v.uuid, v.at).message
    assert not reserve.is_full(v.at) and "reserve-used" in codes(v)
    Path(f"{v.at}/etc-change").write_text("kept")
    assert reserve.shrink_back(v.at) == 0, "there is no room yet"
    os.unlink(f"{v.at}/filler")
    subprocess.run(["rm", "-r", f"{v.at}/small"], check=True)
    tool("btrfs", "filesystem", "sync", v.at)
    assert reserve.shrink_back(v.at) > 0
    assert codes(v) == [] and in_kernel.members(v.at)[0].size == partition_table.filesystem_bytes(
        v.disks[0].disk.size - 2 * partition_table.MIB
    )
    assert Path(f"{v.at}/etc-change").read_text() == "kept"


def test_a_volume_that_persist_did_not_make_has_no_reserve(
    place: Path, make_disk: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no record, and is as large as its partition: neither was it full once, nor is it to be made
    smaller."""
    disk = make_disk(MIB, b"")
    whole = (disk.disk.size - 2 * partition_table.MIB) // 4096 * 4096
    v = Volume(place, [disk], whole=whole)
    v.up()
    os.unlink(f"{v.at}/.persist/volume.json")
    assert reserve.in_use(v.at) == 0 and codes(v) == []
    assert reserve.shrink_back(v.at) == 0 and in_kernel.members(v.at)[0].size == whole
    said = reserve.make_room(v.uuid, v.at).message
    assert "is full." in said and "reserve" not in said
    assert "reserve" not in follow_disk.why_not(v.at)


_REOPEN = """
import json, os, subprocess, sys
at, store = sys.argv[1], sys.argv[1] + "/.persist"
from persist.entries import reopen
from persist.system import mountinfo
from persist.volume.space import reserve
def mount(target, upper):
    layers = f"lowerdir={target},upperdir={upper}/upper,workdir={upper}/work"
    options = f"nodev,noexec,noatime,{layers},index=off,metacopy=off,redirect_dir=nofollow,xino=off"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", target], check=True)
image = sys.argv[2]
mount(f"{image}/etc", f"{store}/overlay/etc")
subprocess.run(["mount", "-t", "tmpfs", "below", f"{image}/etc/below"], check=True)
open(f"{image}/etc/below/x", "w").write("below")
def ro():
    return "ro" in mountinfo.at(f"{image}/etc").super_options.split(",")
before = ro()
reserve.make_room("id", at)
done = reopen.reopen_overlays(store)
after = ro()
with open(f"{image}/etc/new", "w") as f:
    f.write("written")
texts = [open(f"{image}/etc/{name}").read() for name in ("below/x", "from-image")]
assert mountinfo.at(f"{image}/etc").options == "rw,nodev,noexec,noatime", "as it was"
print(json.dumps([before, after, done, os.listdir(f"{image}/etc"), *texts, reopen.reopen_overlays(store)]))
"""


def test_overlay_on_a_full_volume(place: Path, make_disk: Make) -> None:
    """It comes up read-only and says nothing; grown into the reserve, it is mounted again over itself."""
    v = single(place, make_disk)
    os.makedirs(f"{v.at}/.persist/overlay/etc/upper")
    os.makedirs(f"{v.at}/.persist/overlay/etc/work")
    fill(v)
    image = place / "image"
    (image / "etc" / "below").mkdir(parents=True)
    (image / "etc" / "from-image").write_text("image")
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", PYTHON, "-c", _REOPEN, v.at, str(image)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(TOP), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    before, after, paths, names, below, lower, again = json.loads(done.stdout)
    assert (
        before and not after and paths == [f"{image}/etc"] and sorted(names) == ["below", "from-image", "new"]
    )
    assert (below, lower, again) == ("below", "image", [])
    assert Path(f"{v.at}/.persist/overlay/etc/upper/new").read_text() == "written"


def bigger(disk: LoopDisk, mib: int) -> None:
    """The disk grows, as a virtual one does."""
    os.truncate(disk.file, mib << 20)
    tool("losetup", "--set-capacity", disk.node)


def test_disk_that_grew(place: Path, make_disk: Make) -> None:
    v = single(place, make_disk)
    v.write("text", "kept")
    assert follow_disk.follow(v.at) == []
    bigger(v.disks[0], 400)
    grown = follow_disk.follow(v.at)
    assert [(g.node, g.after) for g in grown] == [
        (v.data(v.disks[0]), partition_table.filesystem_bytes(398 * partition_table.MIB))
    ]
    assert in_kernel.members(v.at)[0].size == grown[0].after and v.read("text") == "kept"
    assert (
        "The backup GPT"
        not in subprocess.run(["sfdisk", "--verify", v.disks[0].node], capture_output=True, text=True).stderr
    )
    assert follow_disk.follow(v.at) == []


def test_a_partition_that_is_followed_by_another_is_left_alone(place: Path, make_disk: Make) -> None:
    v = single(place, make_disk)
    bigger(v.disks[0], 400)
    tool(
        "sfdisk",
        "--quiet",
        "--no-reread",
        "--no-tell-kernel",
        "--append",
        v.disks[0].node,
        stdin="start=310MiB, size=20MiB\n",
    )
    tool("partx", "--update", v.disks[0].node)
    assert follow_disk.follow(v.at) == []


def test_a_partition_that_was_grown_by_hand(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b"")], whole=260 << 20)
    v.up()
    assert [g.before for g in follow_disk.follow(v.at)] == [260 << 20]


def test_healing_that_failed_is_said(place: Path, make_disk: Make) -> None:
    v = single(place, make_disk)
    files.write_atomically(health.HEAL_FAILED, "Healing of the state volume failed: no.\n")
    assert codes(v) == ["heal-failed"]


def test_low() -> None:
    gib = 1 << 30
    assert not health.low(6 * gib, 100 * gib) and not health.low(2 * gib, 100 * gib)
    assert (
        health.low(gib - 1, 100 * gib) and health.low(gib // 4, 10 * gib) and health.low(15 << 20, 200 << 20)
    )
    assert not health.low(17 << 20, 200 << 20)


@pytest.mark.parametrize("stopped", [False, True])
def test_scrub_that_does_not_end_is_said(
    place: Path, make_disk: Make, capsys: pytest.CaptureFixture[str], stopped: bool
) -> None:
    """A machine that is shut down within it is no failure; that somebody else cancelled it is one."""
    v = single(place, make_disk)
    Path(f"{v.at}/data").write_bytes(os.urandom(40 << 20))
    tool("btrfs", "filesystem", "sync", v.at)
    # So that it is not done soon.
    Path(f"{btrfs.SYSFS}/{v.uuid}/devinfo/1/scrub_speed_max").write_text(f"{1 << 20}", encoding="ascii")

    def end() -> None:
        while "Status:           running" not in tool("btrfs", "scrub", "status", v.at):
            time.sleep(0.05)
        if stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            tool("btrfs", "scrub", "cancel", v.at)

    handler = signal.getsignal(signal.SIGTERM)
    ending = threading.Thread(target=end)
    try:
        ending.start()
        assert scrub_service.scrub_main() == (0 if stopped else 1)
    finally:
        ending.join()
        signal.signal(signal.SIGTERM, handler)
    said = "stopped before its end" if stopped else "Failed to scrub the state volume:"
    assert said in capsys.readouterr().err


def test_scrub_report() -> None:
    assert scrub.parse("UUID: x\nStatus:   finished\nError summary:    no errors found\n").errors == ""
    found = scrub.parse(
        "Status: finished\nError summary:    csum=72\n  Corrected:      2\n  Uncorrectable:  70\n  "
        "Unverified:     0\n"
    )
    assert found.errors == "csum=72" and found.beyond_repair


@pytest.mark.parametrize(
    "text",
    [
        "Status: aborted\nError summary: no errors found\n",
        "Status: interrupted\nError summary: no errors found\n",
        "Error summary: no errors found\n",
        "Status: finished\n",
    ],
)
def test_scrub_that_did_not_read_everything_found_nothing_out(text: str) -> None:
    with pytest.raises(PersistError):
        scrub.parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "UUID: x\n\tno stats available\nTotal to scrub:   288.00KiB\nError summary:    no errors found\n",
            "never, as far as /var/lib/btrfs has it noted",
        ),
        ("", "never, as far as /var/lib/btrfs has it noted"),
        (
            "Scrub started:    Sun Nov 29\nStatus:           finished\nError summary:    no errors found\n",
            "finished, no errors found; it was started Sun Nov 29",
        ),
        (
            "Scrub started:    Sun Nov 29\nStatus:           running\nTime left:        0:01:02\nError "
            "summary:    csum=1\n",
            "running, csum=1 so far; it was started Sun Nov 29, 0:01:02 left",
        ),
        (
            "Scrub resumed:    Sun Nov 29\nStatus:           aborted\nError summary:    no errors found\n",
            "aborted, no errors found so far; it was started Sun Nov 29",
        ),
    ],
)
def test_last_scrub(text: str, said: str) -> None:
    assert scrub.last(text) == said
