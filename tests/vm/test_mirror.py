# SPDX-License-Identifier: LGPL-2.1-or-later
"""A state volume on two disks: made at one boot, degraded, stale, split, healed, and never with old data
mixed in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from . import scene
from .checks import clean_shutdown, codes, entries, healthy_boot, records, state
from .conftest import MachineFactory
from .disks import Disk
from .errors import CommandFailed
from .machine import Machine
from .steady import identity, steady

KEPT = ("early", "mounted", "image", "tmpfs", "elsewhere")  # Debian 13 mounts /tmp itself
HEAL_SEC = 240.0
VOLUME = "/run/persist/volume"
# Blocks without checksums: btrfs cannot tell an old copy of them from the new one, so only we can.
NOCOW = "/home/nocow"


def node(machine: Machine, serial: str) -> str:
    """The name of the whole disk with this serial number; one that was just plugged in takes a moment."""
    found: list[str] = []

    def look() -> bool:
        rows = [line.split() for line in machine.succeed("lsblk -rdno NAME,SERIAL").splitlines()]
        found.extend(f"/dev/{row[0]}" for row in rows if len(row) == 2 and row[1] == serial)
        return bool(found)

    machine.wait_until(f"there is a disk {serial}", look, 20)
    return found[0]


def devids(machine: Machine) -> dict[str, str]:
    """The devices of the mounted volume as the kernel has them: devid to node."""
    out = machine.succeed(f"btrfs filesystem show {VOLUME}")
    return {words[1]: words[7] for line in out.splitlines() if (words := line.split())[:1] == ["devid"]}


def wait_for_verdict(machine: Machine, verdict: str, timeout: float = HEAL_SEC) -> dict[str, Any]:
    """The verdict is made anew after the boot when something happens to the volume."""
    if verdict == "degraded":
        machine.expect("VERDICT_DEGRADED")
    try:
        machine.wait_until(f"the verdict is {verdict}", lambda: state(machine)["verdict"] == verdict, timeout)
    except CommandFailed as error:
        said = machine.succeed("journalctl -b --no-pager -q -o short-monotonic -u 'persist-*' | tail -n 80")
        raise CommandFailed(f"{error}\n{json.dumps(state(machine), indent=2)}\n{said}") from error
    return state(machine)


def degraded_boot(machine: Machine, code: str) -> dict[str, Any]:
    """A boot without a member: everything is there, and it is said wherever somebody may look."""
    machine.expect("VERDICT_DEGRADED", code)
    machine.wait_for_boot()
    found = state(machine)
    assert found["verdict"] == "degraded", json.dumps(found, indent=2)
    assert code in codes(found), found["reasons"]
    assert set(entries(found).values()) <= set(KEPT), found["entries"]
    assert "DEGRADED" in machine.succeed("cat /run/issue.d/persist.issue /run/motd.d/persist")
    assert "DEGRADED" in machine.console_text()
    assert records(machine, "VERDICT_DEGRADED")
    status, text = machine.execute("persistctl status")
    assert status == 1 and "persistctl" in text
    return found


def written(machine: Machine, word: str) -> None:
    """Leave something on the volume that a stale copy does not have, with checksums and without."""
    machine.succeed(f"echo {word} >>/home/words; test -e {NOCOW} || {{ touch {NOCOW}; chattr +C {NOCOW}; }}")
    machine.succeed(
        f"yes {word} | head -c 1048576 >{NOCOW}.new; dd if={NOCOW}.new of={NOCOW} bs=64k conv=notrunc,fsync "
        "status=none; sync"
    )


def is_written(machine: Machine, *words: str) -> None:
    """The words that were written, in order, and the last one in the file without checksums."""
    machine.succeed("echo 3 >/proc/sys/vm/drop_caches")
    assert machine.succeed("cat /home/words").split() == list(words)
    assert set(machine.succeed(f"cat {NOCOW}").split()) <= {
        words[-1],
        *(words[-1][:n] for n in range(1, len(words[-1]))),
    }


def mirrored(machine: Machine) -> None:
    """Both disks have everything: the profiles, no single chunks, no mark that counts, a scrub without
    errors."""
    usage = machine.succeed(f"btrfs filesystem df {VOLUME}")
    assert "Data, RAID1:" in usage and "Metadata, RAID1:" in usage, usage
    assert "single" not in usage.replace("GlobalReserve, single", "") and "DUP" not in usage, usage
    for name in devids(machine).values():
        mark = machine.succeed(f"dd if={name} bs=512 skip=96 count=1 status=none | tr -d '\\0'").split()
        assert mark == [] or mark[3] == "0", "the degraded mark is cleared last"
    machine.succeed("systemctl start persist-scrub.service", 120)
    said = machine.succeed("persistctl volume scrub --status")
    assert said.startswith("finished, no errors found"), said


# Its own boots for each test: one release is enough where systemd has no say.
on_bookworm = pytest.mark.parametrize("pair", ["bookworm"], indirect=True)
on_trixie = pytest.mark.parametrize("pair", ["trixie"], indirect=True)


@pytest.fixture(scope="module")
def pairs() -> Iterator[Callable[[str], Machine]]:
    """For each release a machine that has booted with a volume over two disks, kept as "healthy"; made when
    it is first asked for. That of Debian 12 has booted twice, and once more without a disk: "without two"."""
    made: dict[str, Machine] = {}
    with ExitStack() as stack:

        def get(release: str) -> Machine:
            if release not in made:
                machine = made[release] = stack.enter_context(
                    Machine(scene.story_image(release), f"pair-{release}")
                )
                try:
                    if release == "bookworm":
                        twice_booted(machine)
                        machine.snapshot("healthy")
                        kept(without_two(machine)[0])
                        machine.snapshot("without two")
                        machine.judge()
                    else:  # what a second boot does there is in test_story.py
                        once_booted(machine)
                        machine.snapshot("healthy")
                except Exception:
                    machine.save_artifacts(machine.name)
                    raise
            return made[release]

        yield get


@pytest.fixture
def pair(request: pytest.FixtureRequest, pairs: Callable[[str], Machine]) -> Machine:
    """One of them; whoever takes it goes back to one of its snapshots."""
    # Not a parameter of a fixture of the module: pytest would make the same machine anew for each list of
    # parameters.
    return pairs(request.param)


def once_booted(machine: Machine) -> None:
    """Two claims, one volume, and something written."""
    machine.add_disk("one", "2200M", header=scene.HEADER)
    machine.add_disk("two", "2200M", header=scene.HEADER)
    machine.start()
    first_boot(machine)
    written(machine, "first")


def twice_booted(machine: Machine) -> None:
    """And a second boot, to which all is there that a person has changed."""
    once_booted(machine)
    ids = identity(machine)
    assert len(set(ids)) == 1, ids
    scene.change_as_a_person_would(machine)
    before = scene.look(machine)
    clean_shutdown(machine)
    machine.start()
    steady_boot(machine)
    steady(machine)
    assert identity(machine) == ids
    rows = scene.compare(before, scene.look(machine))
    assert all(good for _, _, good in rows), rows
    # The user's manager, which would end by itself ten seconds later.
    machine.succeed("systemctl stop 'user@*.service'")
    machine.wait_until_succeeds("! findmnt -rno TARGET | grep /run/user/")


def first_boot(machine: Machine) -> None:
    """Two claims, one volume: the layout that the issue asks for."""
    found = healthy_boot(machine)
    assert found["volume"]["kind"] == "btrfs"
    assert {n for r in records(machine, "CLAIM_FOUND") for n in r["PERSIST_DEVICE"].split()} == {
        node(machine, "one"),
        node(machine, "two"),
    }
    for serial in ("one", "two"):
        disk = node(machine, serial)
        rows = [
            line.split()
            for line in machine.succeed(f"lsblk -rno NAME,FSTYPE,LABEL,PARTLABEL {disk}").splitlines()
        ][1:]
        assert [row[1:] for row in rows] == [
            ["swap", "persist-swap", "persist-swap"],
            ["btrfs", "persist-data", "persist-data"],
        ], rows
        assert f"{disk}1" in machine.succeed("cat /proc/swaps")
        assert machine.succeed(f"head -c 24 {disk} | tr -d '\\0' | wc -c").strip() == "0", (
            "the claim is erased"
        )
        assert machine.succeed(f"dd if={disk} bs=1 skip=256 count=15 status=none") == "persist-bound 1"
        types = machine.succeed(f"sfdisk --json {disk}")
        assert (
            "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F" in types
            and "0FC63DAF-8483-4772-8E79-3D69D8477DE4" in types
        )
    mirrored(machine)
    assert machine.succeed(f"btrfs subvolume list {VOLUME} | sed 's/.* path //' | sort").split() == [
        "@persist-data",
        "@persist-state",
        "@persist-state-snapshots",
    ]
    # The healer looks at the end of the boot that made the volume, and notes which disks it has.
    machine.wait_until(
        "the disks are noted",
        lambda: "serials" in json.loads(machine.read_file(f"{VOLUME}/.persist/volume.json")),
        60,
    )
    record = json.loads(machine.read_file(f"{VOLUME}/.persist/volume.json"))
    assert len(record["members"]) == len(record["swap"]) == 2 and sorted(record["serials"].values()) == [
        "one",
        "two",
    ]


def steady_boot(machine: Machine) -> None:
    """Nothing to do: of all our units only the verdict has started a process."""
    found = healthy_boot(machine)
    assert entries(found)["/etc"] == "early"
    assert entries(found)["/var/lib/demo-notes"] == "mounted"
    shown = machine.succeed("systemctl show -p Id -p ExecMainStartTimestampMonotonic 'persist-*.service'")
    units = [dict(line.split("=", 1) for line in unit.splitlines()) for unit in shown.strip().split("\n\n")]
    ran = {
        unit["Id"]
        for unit in units
        if "persist-test" not in unit["Id"] and unit.get("ExecMainStartTimestampMonotonic", "0") != "0"
    }
    assert ran == {"persist-verify.service"}, ran


# On both releases the one that mountinfo names, on which systemd has a say.
@pytest.mark.parametrize(
    ("pair", "pulled"), [("bookworm", "one"), ("bookworm", "two"), ("trixie", "one")], indirect=["pair"]
)
def test_pulled_while_running(pair: Machine, pulled: str) -> None:
    """Nothing is unmounted, no service is stopped, nothing is lost; back again, it is made a mirror again,
    and the verdict is online."""
    pair.restore("healthy")
    before = pair.succeed("findmnt -rno TARGET,FSTYPE | sort")
    active = pair.succeed(
        "systemctl list-units --plain --no-legend --state=active --type=service,mount | awk '{print $1}' | "
        "sort"
    )
    pair.expect("MEMBER_LOST", "MEMBER_STALE")
    disk = pair.detach_disk(pulled)
    found = wait_for_verdict(pair, "degraded", 60)
    assert "member-lost" in codes(found), found["reasons"]
    assert pair.succeed("findmnt -rno TARGET,FSTYPE | sort") == before
    now = pair.succeed(
        "systemctl list-units --plain --no-legend --state=active --type=service,mount | awk '{print $1}' | "
        "sort"
    ).split()
    assert {u for u in active.split() if not u.startswith(("persist-heal", "systemd-"))} <= set(now)
    assert set(entries(found).values()) <= set(KEPT)
    written(pair, "alone")
    is_written(pair, "first", "alone")
    pair.attach_disk(disk)
    found = wait_for_verdict(pair, "online")
    assert not found["reasons"]
    is_written(pair, "first", "alone")
    mirrored(pair)
    assert records(pair, "HEAL_DONE")
    pair.crash()


def without_two(machine: Machine) -> tuple[Disk, dict[str, Any]]:
    """Off, and on again without one disk. That disk, and the verdict."""
    clean_shutdown(machine)
    two = machine.detach_disk("two")
    machine.expect("MEMBER_MISSING")
    machine.start()
    return two, degraded_boot(machine, "member-missing")


def kept(disk: Disk, *, back: bool = False) -> Disk:
    """Keep what is on a disk that is plugged in nowhere, for no snapshot does; or go BACK to that."""
    paths = [disk.path, disk.path.with_suffix(".kept")]
    shutil.copyfile(*(reversed(paths) if back else paths))
    return disk


def again_without_two(pair: Machine) -> Disk:
    """Go back to the boot without one disk. That disk."""
    two = pair.disk_of("healthy", "two")
    pair.restore("without two")
    return kept(two, back=True)


@on_bookworm
def test_away_and_back(pair: Machine) -> None:
    """A boot without a member keeps everything that is written; the member comes back stale, is not mixed in,
    and is healed: as good as the other."""
    two = again_without_two(pair)
    assert len(devids(pair)) <= 2 and f"{node(pair, 'one')}2" in devids(pair).values()
    status, text = pair.execute("persistctl volume show")
    assert status == 1 and "serial number two" in text, text
    is_written(pair, "first")
    written(pair, "alone")
    clean_shutdown(pair)
    pair.attach_disk(two)
    pair.expect("did not see what was written last", "member-stale", "MEMBER_MISSING")
    pair.start()
    pair.wait_for_boot()
    is_written(pair, "first", "alone")
    wait_for_verdict(pair, "online")
    mirrored(pair)
    is_written(pair, "first", "alone")
    clean_shutdown(pair)
    # And now the other one is away: what was healed must stand alone.
    pair.detach_disk("one")
    pair.start()
    degraded_boot(pair, "member-missing")
    is_written(pair, "first", "alone")
    pair.crash()


@on_trixie
def test_away_and_plugged_in(pair: Machine) -> None:
    """A boot without a member keeps what is written; the member is plugged in while the machine runs, stale,
    and is healed."""
    pair.restore("healthy")
    two, found = without_two(pair)
    assert entries(found)["/etc"] == "early"
    is_written(pair, "first")
    written(pair, "alone")
    pair.attach_disk(two)
    found = wait_for_verdict(pair, "online")
    assert not found["reasons"] and records(pair, "HEAL_DONE")
    mirrored(pair)
    is_written(pair, "first", "alone")
    clean_shutdown(pair)


@on_bookworm
def test_each_written_alone(pair: Machine) -> None:
    """The newer side is used, the other is left as it is, and both is said; given back by hand, it becomes a
    mirror again."""
    two = again_without_two(pair)
    written(pair, "one")
    clean_shutdown(pair)
    one = pair.detach_disk("one")
    pair.attach_disk(two)
    pair.start()
    degraded_boot(pair, "member-missing")
    is_written(pair, "first")
    for word in ("two", "more", "most"):
        written(pair, word)
    pair.succeed("for n in 1 2 3 4 5 6 7 8 9; do touch /home/$n; sync; done")
    clean_shutdown(pair)
    pair.attach_disk(one)
    pair.expect("MEMBER_MISSING")
    pair.start()
    found = degraded_boot(pair, "member-split")
    assert entries(found)["/etc"] == "early"
    assert "Linux version" in pair.succeed("journalctl -b -k -q --no-pager | head -n 3")
    is_written(pair, "first", "two", "more", "most")
    left = f"{node(pair, 'one')}2"
    # Not 'btrfs filesystem show': udev tells the kernel about the disk, and it shows the name in the place of
    # the missing one.
    assert (
        left.removeprefix("/dev/")
        not in pair.succeed(f"ls /sys/fs/btrfs/{found['volume']['uuid']}/devices").split()
    )
    assert any(left in r["message"] for r in found["reasons"])
    untouched = pair.succeed(f"btrfs inspect-internal dump-super {left} | awk '$1 == \"generation\"'")
    pair.succeed("systemctl start persist-heal.service")
    assert pair.succeed(f"btrfs inspect-internal dump-super {left} | awk '$1 == \"generation\"'") == untouched
    assert state(pair)["verdict"] == "degraded"
    pair.succeed(f"persistctl claim --force --join {node(pair, 'one')}")
    pair.wait_until("it is a mirror again", lambda: state(pair)["verdict"] == "online", HEAL_SEC)
    mirrored(pair)
    is_written(pair, "first", "two", "more", "most")
    clean_shutdown(pair)


def test_single_disk_becomes_a_mirror(after_first_boot: Machine) -> None:
    """A foreign claim beside a healthy volume is left alone and said; one with the volume's id joins it,
    live; a larger disk is grown into."""
    one = after_first_boot
    written(one, "first")
    one.expect("volume-exists", "join-other", "MEMBER_LOST", "MEMBER_MISSING")
    one.add_disk("foreign", "2G", header=scene.HEADER)
    one.wait_until(
        "the foreign claim is refused",
        lambda: any(r["PERSIST_REASON"] == "volume-exists" for r in records(one, "CLAIM_REFUSED")),
    )
    assert one.succeed(f"head -c 24 {node(one, 'foreign')}").encode() == scene.HEADER
    uuid = state(one)["volume"]["uuid"]
    one.add_disk("other", "2G", header=scene.HEADER + b"\njoin=11111111-2222-4333-8444-555555555555\n")
    one.wait_until(
        "a claim for another volume is refused",
        lambda: any(r["PERSIST_REASON"] == "join-other" for r in records(one, "CLAIM_REFUSED")),
    )
    one.add_disk("mirror", "2G", header=scene.HEADER + f"\njoin={uuid}\n".encode())
    one.wait_until("the disk has joined", lambda: bool(records(one, "HEAL_DONE")), HEAL_SEC)
    wait_for_verdict(one, "online")
    assert sorted(devids(one).values()) == sorted(f"{node(one, n)}2" for n in ("state", "mirror"))
    mirrored(one)
    is_written(one, "first")
    assert len(json.loads(one.read_file(f"{VOLUME}/.persist/volume.json"))["members"]) == 2
    for name in ("foreign", "other"):
        one.detach_disk(name)
    assert "raid1" in one.succeed("persistctl volume show").lower()
    one.detach_disk("state")
    wait_for_verdict(one, "degraded", 60)
    is_written(one, "first")
    one.crash()
    one.start()
    degraded_boot(one, "member-missing")
    is_written(one, "first")


def test_three_disks(machine: MachineFactory) -> None:
    """Three claims: data on two of them, metadata on all three; without one of them nothing is lost, and a
    blank disk in its place is taken by its header."""
    one = machine(scene.story_image("bookworm"))
    for name in ("one", "two", "three"):
        one.add_disk(name, "2G", header=scene.HEADER)
    one.start()
    healthy_boot(one)
    usage = one.succeed(f"btrfs filesystem df {VOLUME}")
    assert "Data, RAID1:" in usage and "Metadata, RAID1C3:" in usage, usage
    written(one, "first")
    uuid = state(one)["volume"]["uuid"]
    one.expect("MEMBER_LOST")
    one.detach_disk("two")
    wait_for_verdict(one, "degraded", 60)
    written(one, "alone")
    one.add_disk("fresh", "2G", header=scene.HEADER + f"\nversion=1 join={uuid}\n".encode())
    wait_for_verdict(one, "online")
    assert f"{node(one, 'fresh')}2" in devids(one).values() and len(devids(one)) == 3
    usage = one.succeed(f"btrfs filesystem df {VOLUME}")
    assert "Metadata, RAID1C3:" in usage and "single" not in usage.replace("GlobalReserve, single", ""), usage
    is_written(one, "first", "alone")
