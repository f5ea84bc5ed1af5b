# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl claim on real disks: several at once, options, joining."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from persist.boot.config import Config
from persist.errors import PersistError, Refusal
from persist.system import superblock
from persist.system.blockdev import partitions
from persist.system.btrfs import filesystem_uuid
from persist.system.files import held
from persist.volume.format import format_lock, may_format
from persist.volume.format.write_claim import write_claims
from persist.volume.ondisk.header import Options
from persist.volume.ondisk.partition_table import MIB

from .conftest import Make
from .rig import HEADER, PYTHON, TOP, LoopDisk, format_set, only_disks, serial_number, tool

VOLUME = "11111111-2222-4333-8444-555555555555"
_CTL = "import sys; from persist.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(autouse=True)
def _loop_devices_are_trusted(own_run: Path) -> None:
    """By the configuration of this test's /run."""
    (own_run / "persist.conf.d").mkdir()
    (own_run / "persist.conf.d/test.conf").write_text("[Volume]\nAllowRemovable=yes\n")


def persistctl(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [PYTHON, "-c", _CTL, *argv],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(TOP), "PYTHONDONTWRITEBYTECODE": "1"},
    )


def on_a_terminal(answer: str, *argv: str) -> tuple[int, str]:
    """Run the command as somebody at a terminal, who answers; returns its exit status and what was shown."""
    ours, theirs = os.openpty()
    try:
        with subprocess.Popen(
            [PYTHON, "-c", _CTL, *argv],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONPATH": str(TOP),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        ) as process:
            os.write(ours, answer.encode())
            out, _ = process.communicate(timeout=60)
        os.write(theirs, b"\0")  # so that there is something to read
        return process.returncode, out + os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def options(disk: LoopDisk) -> Options | None:
    claim = may_format.read_claim(disk.disk, [HEADER.decode()])
    return claim.options if claim else None


def test_several_become_one_volume(make_disk: Make) -> None:
    disks = [make_disk(300, b"") for _ in range(2)]
    done = persistctl("claim", "--json", "--layout=raid1", *(d.node for d in disks))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found == {
        "devices": [d.node for d in disks],
        "claimed": True,
        "join": None,
        "layout": "raid1",
        "members": 2,
    }
    assert [options(d) for d in disks] == [Options("raid1", 2)] * 2
    assert format_set(disks[:1]).returncode == 1, "one waits for the other"
    assert format_set(disks).returncode == 0
    assert len({s.fsid for s in (superblock.read(partitions(d.disk)[-1].node) for d in disks) if s}) == 1


def test_none_is_claimed_where_one_is_refused(make_disk: Make) -> None:
    good, bad = make_disk(300, b""), make_disk(300, b"")
    bad.write(8192, b"x")
    for force, small in ((False, bad), (True, make_disk(200, b""))):
        config = Config()
        config.allow_removable = True
        with pytest.raises(Refusal):
            write_claims([good.node, small.node], config, force=force)
        assert good.read(0, MIB) == bytes(MIB)
    with pytest.raises(Refusal, match="named twice"):
        write_claims([good.node, good.node], config)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--join=" + VOLUME.upper(), "DISK"], True),
        (["--join", VOLUME, "DISK"], True),
        (["--join", "DISK"], False),
        (["DISK", "--join"], False),
    ],
)
def test_join(make_disk: Make, volume: LoopDisk, own_run: Path, argv: list[str], named: bool) -> None:
    """The volume that is named, or else the one that is mounted."""
    (own_run / "volume").mkdir()
    tool("mount", "-o", "subvol=@persist-state", f"{volume.node}p1", own_run / "volume")
    join = VOLUME if named else filesystem_uuid(str(own_run / "volume"))
    disk = make_disk(300, b"")
    done = persistctl("claim", *(disk.node if a == "DISK" else a for a in argv))
    assert done.returncode == 0, done.stderr
    assert options(disk) == Options(join=join)
    assert join in done.stdout


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["--join", "DISK"], 1, "no state volume to join"),
        (["--join=nonsense", "DISK"], 1, "is not the UUID"),
        ([], 2, "DEVICE"),
        (["--layout=raid0", "DISK"], 2, "raid0"),
        (["--join=" + VOLUME, "--layout=single", "DISK"], 2, "--layout is not for"),
        (["--bind-serial", "DISK"], 1, "has no serial number"),
    ],
)
def test_wrong_calls(make_disk: Make, argv: list[str], status: int, said: str) -> None:
    disk = make_disk(300, b"")
    done = persistctl("claim", *(disk.node if a == "DISK" else a for a in argv))
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert disk.read(0, MIB) == bytes(MIB)


def test_the_formatter_sees_all_claims_or_none(make_disk: Make) -> None:
    """It began with the first of two, while the second was still to be written or refused."""
    disks = [make_disk(300, b"") for _ in range(2)]
    config = disks[0].config()
    config.device = [d.node for d in disks]
    # How many claims are seen, with and without the lock.
    written: dict[bool, set[int]] = {False: set(), True: set()}
    claiming = threading.Thread(target=write_claims, args=(config.device, config), kwargs={"force": True})
    claiming.start()
    while claiming.is_alive():
        with held(format_lock.LOCK, wait=False) as ours:
            heads = [superblock.read_at(d.node, 0, len(HEADER)) for d in disks]
            written[ours].add(heads.count(HEADER))
        time.sleep(0.001)
    claiming.join()
    assert 1 in written[False] and written[True] <= {0, 2}
    with held(format_lock.LOCK, wait=False) as ours:
        assert ours and all(options(d) == Options(members=2) for d in disks)


def test_who_claims_does_not_wait_for_a_long_formatting(make_disk: Make) -> None:
    disk = make_disk(300, b"")
    with format_lock.alone(), pytest.raises(PersistError, match="is formatting disks"):
        write_claims([disk.node], disk.config(), patience=0.3)
    assert disk.read(0, 512) == bytes(512)
    write_claims([disk.node], disk.config())
    assert disk.read(0, len(HEADER)) == HEADER


def test_bind_serial(make_disk: Make) -> None:
    disk = make_disk(300, b"")
    with serial_number(disk, "A B"):
        write_claims([disk.node], disk.config(), bind_serial=True)
        assert options(disk) == Options(serial="A%20B")
        claim = may_format.read_claim(disk.disk, [HEADER.decode()])
        assert claim is not None
        may_format.check_serial(disk.disk, claim)
    with serial_number(disk, "A-B"), pytest.raises(Refusal) as caught:
        may_format.check_serial(disk.disk, claim)
    assert caught.value.code == "wrong-serial"


def test_a_member_that_was_left_out_is_claimed_by_force(make_disk: Make) -> None:
    one, two = make_disk(300), make_disk(300)
    assert format_set([one, two]).returncode == 0
    with pytest.raises(Refusal):
        write_claims([two.node], two.config(), Options(join=VOLUME))
    write_claims([two.node], two.config(), Options(join=VOLUME), force=True)
    assert options(two) == Options(join=VOLUME)
    assert superblock.read(f"{two.node}p1") is None and not partitions(two.disk)


@pytest.mark.parametrize(
    ("answer", "argv", "claimed"),
    [
        ("\n", (), False),
        ("n\n", (), False),
        ("y\n", (), True),
        ("yes\n", ("--layout=single",), True),
        ("", ("--yes",), True),
        ("no\n", ("--force",), False),
    ],
)
def test_a_terminal_is_asked(make_disk: Make, answer: str, argv: tuple[str, ...], claimed: bool) -> None:
    """What is formatted at once is shown first: how large, what it is called, what is on it. A script is not
    asked (all other tests here)."""
    disk = make_disk(300, b"")
    if "--force" in argv:
        tool("mkfs.ext4", "-q", disk.node)
    before = disk.read(0, MIB)
    status, shown = on_a_terminal(answer, "claim", *argv, disk.node)
    assert (status == 0, disk.read(0, MIB) != before) == (claimed, claimed), shown
    assert ("[y/N]" in shown) == ("--yes" not in argv) and ("Nothing was done." in shown) == (not claimed)
    if "--yes" not in argv:
        assert f"{disk.node}: 0.3 GiB" in shown and "at once" in shown
        assert ("carries ext4; WHAT IS ON IT IS LOST" in shown) == ("--force" in argv)


def test_nobody_is_asked_about_a_disk_that_is_refused(make_disk: Make) -> None:
    disk = make_disk(300, b"x")
    status, shown = on_a_terminal("y\n", "claim", disk.node)
    assert status == 1 and "[y/N]" not in shown and "has data at byte 0" in shown


def _partition(disk: LoopDisk, script: str) -> str:
    tool("sfdisk", "--quiet", disk.node, stdin=f"label: gpt\n{script}")
    disk.replug()
    return partitions(disk.disk)[0].node


@pytest.mark.parametrize("what", ["one of two", "named", "the only one", "in use", "another disk"])
def test_a_partition(make_disk: Make, what: str) -> None:
    """On a machine with one disk nobody is told to claim the whole of it, while other partitions of it are in
    use."""
    disk, other = make_disk(300, b""), make_disk(300, b"")
    size = "size=100MiB" + (", name=state" if what == "named" else "")
    node = _partition(disk, size + ("\n" if what in ("the only one", "in use") else "\nsize=100MiB\n"))
    if what == "in use":
        tool("mkswap", node)
        tool("swapon", node)
    config = disk.config()
    config.device.append(other.node)
    with only_disks(disk, *([other] if what == "another disk" else [])), pytest.raises(Refusal) as caught:
        write_claims([node], config)
    hint = caught.value.hint
    assert caught.value.code == "partition" and node in caught.value.message
    wanted = {
        "one of two": f"mkfs.ext4 {node}",
        "named": "Device=PARTLABEL=state",
        "the only one": f"claim --force {disk.node}'",
        "in use": "nothing uses",
        "another disk": other.node,
    }[what]
    assert wanted in hint
    assert ("mkfs" in hint) == (what in ("one of two", "named")) and ("--force" in hint) == (
        what == "the only one"
    )
    if what == "one of two":
        assert (
            f"Device=PARTUUID={tool('blkid', '-p', '-o', 'value', '-s', 'PART_ENTRY_UUID', node).strip()}"
            in hint
        )
