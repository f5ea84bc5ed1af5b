# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two services on real disks, each run in a mount namespace of its own with a /run and a /mnt of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from persist.volume import header
from persist.volume.layout import MIB

from .conftest import Make
from .rig import HEADER, PYTHON, TOP, LoopDisk, tool

# argv: a JSON object with what a test wants. Prints one JSON object for each run of the volume service.
_SCRIPT = """
import json, os, subprocess, sys
wish = json.loads(sys.argv[1])
def sh(text):
    subprocess.run(["sh", "-ec", text], check=True)
sh("mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /mnt; mkdir /mnt/state; " + wish.get("before", ""))
from persist.boot.config import Config
from persist.boot import load as loading
from persist.volume import blockdev, fallback, format_service, known, mount, mountinfo, outcome, search, service, swap, volume_service
known.ROOT = wish.get("root", "/run/root")
os.makedirs(known.ROOT, exist_ok=True)
config = Config()
for key, value in wish["config"].items():
    setattr(config, key, value)
format_service.load = lambda root, problems: config
def load(root, environ):
    loaded = loading.load(root, environ)
    loaded.config = config
    return loaded
volume_service.load = load
fallback._has_symlinks = lambda: wish.get("symlinks", False)
swap.enable = lambda members: []  # the machine's own swap space is none of a test's business
mount.ROOT_STORE = wish.get("root_store", mount.ROOT_STORE)
disks = [blockdev.by_node(n) for n in wish.get("disks", [])]
if wish.get("unexpected"):
    mount.mount_assembly = volume_service.search = None
exec(wish.get("python", ""))
report = []
for what in wish["do"]:
    if what == "format":
        report.append({"failed": format_service.format_claimed(disks, config, wish.get("wanted"))})
    elif what == "more":
        disks.append(blockdev.by_node(wish["more"]))
    elif what == "format_main":
        report.append({"status": service.format_main()})
    elif what == "volume":
        status = service.volume_main()
        found = json.load(open("/run/persist/volume.json"))
        at = {m.mount_point: [m.fstype, m.root, m.read_only] for m in mountinfo.mounts() if m.mount_point.startswith(("/run/persist", "/mnt/"))}
        flags = [n for n in ("mount-entries", "persistent", "formatted") if os.path.exists("/run/persist/" + n)]
        report.append({"status": status, "at": at, "flags": flags} | found)
    else:
        sh(what)
print(json.dumps({"report": report, "refused": [json.load(open("/run/persist/refused/" + n)) for n in sorted(os.listdir("/run/persist/refused"))]
                  if os.path.isdir("/run/persist/refused") else []}))
"""


class Result:
    """What a run of the script reported; ``log`` is standard error."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        self.report: list[dict[str, Any]] = found["report"]
        self.refused: list[dict[str, Any]] = found["refused"]
        self.log = done.stderr

    @property
    def last(self) -> dict[str, Any]:
        """The last report."""
        return self.report[-1]


def services(*do: str, cmdline: str = "", device: list[str] | None = None, config: dict[str, Any] | None = None, **wish: Any) -> Result:
    """Run services, and shell commands between them, in a namespace that ends with them."""
    wish |= {"do": do, "config": {"device": device or ["auto"]} | (config or {})}
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(TOP), "PYTHONDONTWRITEBYTECODE": "1", "SYSTEMD_PROC_CMDLINE": cmdline}
    return Result(subprocess.run(["unshare", "--mount", "--propagation", "private", PYTHON, "-c", _SCRIPT, json.dumps(wish)],
                                 capture_output=True, text=True, env=env))


KNOWN = "11111111-2222-4333-8444-555555555555"
READ_ONLY = "mount -o remount,bind,ro /"


@pytest.fixture
def volume(make_disk: Make) -> LoopDisk:
    """A formatted disk."""
    disk = make_disk(300)
    done = disk.format()
    assert done.returncode == 0, done.stderr
    return disk


def test_claim_to_mounted_volume(make_disk: Make) -> None:
    disk = make_disk(300)
    seen = services("format", "volume", "volume", disks=[disk.node], device=[disk.node])
    assert seen.report[0] == {"failed": 0}
    first, second = seen.report[1:]
    assert (first["status"], first["kind"], first["device"], first["reason"], first["read_only"]) == (0, "btrfs", f"{disk.node}p1", "", False)
    assert first["version"] == 1 and first["time"].endswith("Z") and not first["from_initrd"]
    assert first["uuid"] == tool("blkid", "-p", "-o", "value", "-s", "UUID", f"{disk.node}p1").strip()
    assert first["flags"] == ["mount-entries", "persistent", "formatted"]
    assert first["at"]["/run/persist/volume"] == ["btrfs", "/@persist-state", False]
    assert first["at"]["/mnt/state"] == ["btrfs", "/@persist-state", False]
    assert first["at"]["/run/persist/image"][2] is False
    assert first["at"]["/run/persist/lower"][2] is True
    assert len([line for line in seen.log.splitlines() if "carries a claim and is formatted" in line]) == 1
    assert {k: v for k, v in second.items() if k != "time"} == {k: v for k, v in first.items() if k != "time"}, "a second run changes nothing"


def test_image_is_not_covered_by_later_mounts(volume: LoopDisk) -> None:
    seen = services("volume", "mount -t tmpfs tmpfs /srv; touch /srv/later; ! test -e /run/persist/image/srv/later; ! test -e /run/persist/lower/srv/later",
                    "! touch /run/persist/lower/tmp/x", device=[volume.node], before="mount --make-shared /")
    assert seen.last["kind"] == "btrfs"


def test_two_claims_are_one_volume_and_a_third_comes_too_late(make_disk: Make) -> None:
    one, two, three = make_disk(300), make_disk(300), make_disk(300)
    nodes = [one.node, two.node]
    seen = services("format", "more", "format", "format", "volume", disks=nodes, device=[*nodes, three.node], config={"member_timeout": 0},
                    more=three.node)
    assert [r.get("failed") for r in seen.report[:3]] == [0, 0, 0]
    assert [(r["device"], r["code"]) for r in seen.refused] == [(three.node, "volume-exists")]
    assert seen.log.count("is left alone") == 1, "said once"
    assert three.read(0, MIB) == HEADER.ljust(MIB, b"\0")
    assert (seen.last["kind"], seen.last["device"], seen.last["degraded"]) == ("btrfs", f"{one.node}p1", False)


def test_disk_that_was_begun_comes_first(make_disk: Make) -> None:
    one, two = make_disk(300), make_disk(300)
    assert two.format(kill_after="mkfs").returncode == -9
    nodes = [one.node, two.node]
    seen = services("format", "volume", disks=nodes, device=nodes)
    assert [(r["device"], r["code"]) for r in seen.refused] == [(one.node, "volume-exists")]
    assert seen.last["device"] == f"{two.node}p1"


def test_claim_beside_a_volume(volume: LoopDisk, make_disk: Make) -> None:
    other = make_disk(300)
    nodes = [volume.node, other.node]
    seen = services("format", "volume", disks=nodes, device=nodes)
    assert [r["code"] for r in seen.refused] == ["volume-exists"]
    assert seen.last["device"] == f"{volume.node}p1"
    assert other.read(0, MIB) == HEADER.ljust(MIB, b"\0")


def test_claim_where_another_volume_is_named(make_disk: Make) -> None:
    disk = make_disk(300)
    seen = services("format", disks=[disk.node], device=[disk.node], wanted="11111111-2222-3333-4444-555555555555")
    assert [r["code"] for r in seen.refused] == ["volume-expected"]


def test_refusal_is_not_a_failure(make_disk: Make) -> None:
    disk = make_disk(200)
    seen = services("format", disks=[disk.node], device=[disk.node])
    assert seen.report == [{"failed": 0}]
    assert [r["code"] for r in seen.refused] == ["too-small"]
    assert "at least 256 MiB" in seen.log


def test_nothing_is_formatted_where_persist_is_not_enabled(make_disk: Make) -> None:
    if Path("/etc/systemd/system/local-fs.target.wants/persist-setup.target").is_symlink():
        pytest.skip("persist is enabled on this machine")
    disk = make_disk(300)
    seen = services("format_main", device=[disk.node])
    assert seen.report == [{"status": 0}]
    assert "persist-setup.target is not enabled" in seen.log
    assert disk.read(0, MIB) == HEADER.ljust(MIB, b"\0")


def test_mounted_by_the_initrd(volume: LoopDisk) -> None:
    seen = services("volume", "volume", device=[volume.node],
                    before=f"mkdir -p /run/persist/volume; mount -o subvol=@persist-state {volume.node}p1 /run/persist/volume")
    assert [(r["kind"], r["from_initrd"], r["device"]) for r in seen.report] == [("btrfs", True, f"{volume.node}p1")] * 2


def initrd(disk: LoopDisk, *databases: LoopDisk, options: str = "subvol=@persist-state") -> str:
    """What an initrd left behind: the volume mounted, and udev's database of some disks."""
    lines = [f"mkdir -p /run/udev/data /run/persist/volume; mount -o {options} {disk.node}p1 /run/persist/volume"]
    for known in databases:
        uuid = uuid_of(known)
        number = Path(f"/sys/class/block/{known.node.removeprefix('/dev/')}p1/dev").read_text().strip()
        words = ("S:disk/by-label/persist-data", "I:1", "E:ID_FS_TYPE=btrfs", "E:ID_FS_USAGE=filesystem", f"E:ID_FS_UUID={uuid}", f"E:ID_FS_UUID_SUB={uuid}",
                 "E:ID_FS_LABEL_ENC=persist-data", "G:systemd")
        lines.append(f"printf '%s\\n' {' '.join(words)} >/run/udev/data/b{number}")
    return "; ".join(lines)


def uuid_of(disk: LoopDisk) -> str:
    return tool("blkid", "-p", "-o", "value", "-s", "UUID", f"{disk.node}p1").strip()


@pytest.mark.parametrize("spec", ["{node}", "{node}p1", "UUID={uuid}", "LABEL=persist-data"])
def test_the_initrd_was_right(volume: LoopDisk, spec: str) -> None:
    seen = services("volume", device=[spec.format(node=volume.node, uuid=uuid_of(volume).upper())], before=initrd(volume, volume))
    assert (seen.last["kind"], seen.last["from_initrd"], seen.last["reason"]) == ("btrfs", True, "")


def test_no_second_opinion_before_udev_has_seen_the_disk(volume: LoopDisk, make_disk: Make) -> None:
    other = make_disk(300)
    assert other.format().returncode == 0
    for before in (initrd(volume), initrd(volume, other), initrd(volume) + "; rm -r /run/udev"):
        seen = services("volume", device=["UUID=elsewhere"], before=before)
        assert (seen.last["kind"], seen.last["reason"]) == ("btrfs", "")


@pytest.mark.parametrize(("device", "cmdline", "said"), [
    ("LABEL=persist-data", "", "More than one filesystem could be the state volume"),
    ("auto", "", "a loop device, which is not trusted unasked"),
    ("{other}", "", "but by persist.conf it is {other}p1"),
    ("/dev/nothing", "", "No state volume (/dev/nothing) was found"),
    ("LABEL=persist-data", "persist.volume={uuid}", "but by persist.conf it is {other}p1"),
    ("{node}", "persist=ro", "although persist=ro is on the kernel command line"),
])
def test_the_initrd_disagrees(volume: LoopDisk, make_disk: Make, tmp_path: Path, device: str, cmdline: str, said: str) -> None:
    """What it mounted is kept, for entries may lie on it, and said."""
    other = make_disk(300)
    assert other.format().returncode == 0
    names = {"node": volume.node, "other": other.node, "uuid": uuid_of(other)}
    seen = services("volume", "volume", device=[device.format(**names)], cmdline=cmdline.format(**names), before=initrd(volume, volume, other),
                    root=str(tmp_path))
    for last in seen.report:
        assert (last["kind"], last["device"], last["reason"], last["status"]) == ("btrfs", f"{volume.node}p1", "initrd-disagrees", 0)
        assert said.format(**names) in last["message"] and "update-initramfs -u" in last["hint"]
        assert last["flags"] == ["mount-entries", "persistent"]
    assert seen.log.count(said.format(**names)) == 1, "said once"
    assert not (tmp_path / "var").exists(), "it is not noted as the volume of this machine"


@pytest.mark.parametrize("early", [False, True])
def test_read_only_volume(volume: LoopDisk, early: bool) -> None:
    """On a writable root the entries stay there: an overlay with such an upper would not be mounted."""
    volume.replug("--read-only")
    before = initrd(volume, volume) if early else ""
    seen = services("volume", "volume", device=[volume.node], before=before)
    for last in seen.report:
        assert (last["kind"], last["read_only"], last["status"], last["reason"]) == ("btrfs", True, 0, "volume-read-only")
        assert last["flags"] == [] and last["at"]["/mnt/state"][2] is True
    assert "can only be mounted read-only" in seen.log and "Entries are left to the root filesystem" in seen.log


@pytest.mark.parametrize(("before", "config", "kind", "status"), [
    ("", {}, "tmpfs", 0), ("initrd", {}, "tmpfs", 0), ("", {"fallback": "root"}, "tmpfs", 0),
    ("", {"fallback": "none"}, "none", 0), ("", {"fallback": "fail"}, "none", 1),
])
def test_read_only_volume_and_root(volume: LoopDisk, before: str, config: dict[str, Any], kind: str, status: int) -> None:
    volume.replug("--read-only")
    script = f"{initrd(volume, volume)}; {READ_ONLY}" if before else READ_ONLY
    seen = services("volume", *(["volume"] if kind == "tmpfs" else []), device=[volume.node], before=script, config=config)
    for last in seen.report:
        assert (last["kind"], last["read_only"], last["status"], last["reason"]) == (kind, False, status, "volume-read-only")
        assert last["device"] == f"{volume.node}p1" or last is not seen.report[0]
        assert last["flags"] == (["mount-entries"] if kind == "tmpfs" else [])
        assert last["at"].get("/run/persist/volume", ["none"])[0] == kind
    assert "can only be mounted read-only. It is not used." in seen.log


def test_read_only_volume_with_early_entries_is_kept(volume: LoopDisk) -> None:
    """It turned read-only while the initrd's mounts lay on it."""
    before = f"{initrd(volume, volume)}; mkdir -p /run/persist/early; touch /run/persist/early/etc; mount -o remount,ro /run/persist/volume; {READ_ONLY}"
    last = services("volume", device=[volume.node], before=before).last
    assert (last["kind"], last["read_only"], last["flags"], last["reason"]) == ("btrfs", True, [], "volume-read-only")


def note_of(root: Path) -> Path:
    return root / "var/lib/persist/known-volume"


def test_volume_is_noted_on_a_writable_root(volume: LoopDisk, tmp_path: Path) -> None:
    assert services("volume", device=[volume.node], before=READ_ONLY, root=str(tmp_path)).last["kind"] == "btrfs"
    assert not note_of(tmp_path).exists()
    # Not what is mounted over it, but what is below.
    seen = services("volume", device=[volume.node], root=str(tmp_path), before=f"mkdir -p {tmp_path}/var/lib; mount -t tmpfs tmpfs {tmp_path}/var")
    assert (seen.last["kind"], seen.last["expected"]) == ("btrfs", False)
    assert note_of(tmp_path).read_text() == f"{uuid_of(volume)}\n"
    assert services("volume", device=["/dev/nothing"], config={"member_timeout": 0}, root=str(tmp_path),
                    before=f"mount -t tmpfs tmpfs {tmp_path}/var").last["reason"] == "known-volume-missing"


@pytest.mark.parametrize(("before", "config", "symlinks", "kind", "hidden"), [
    ("", {}, False, "none", True), ("", {}, True, "root", True), (READ_ONLY, {}, False, "tmpfs", False), ("", {"fallback": "tmpfs"}, False, "tmpfs", False),
])
def test_known_volume_is_missing(make_disk: Make, tmp_path: Path, before: str, config: dict[str, Any], symlinks: bool, kind: str, hidden: bool) -> None:
    note_of(tmp_path).parent.mkdir(parents=True)
    note_of(tmp_path).write_text(f"{KNOWN}\n")
    again = ["volume"] if kind != "none" else []
    seen = services("volume", *again, config=config | {"member_timeout": 0}, before=before, symlinks=symlinks, root=str(tmp_path),
                    root_store=str(tmp_path / "store"))
    for last in seen.report:
        assert (last["kind"], last["reason"], last["expected"], last["status"]) == (kind, "known-volume-missing", True, 0)
        assert KNOWN in last["message"] and "/var/lib/persist/known-volume" in last["hint"]
        assert ("is hidden when the volume is back" in last["message"]) == hidden
    assert note_of(tmp_path).read_text() == f"{KNOWN}\n"


def test_known_volume_is_waited_for(make_disk: Make, tmp_path: Path) -> None:
    note_of(tmp_path).parent.mkdir(parents=True)
    note_of(tmp_path).write_text(f"{KNOWN}\n")
    script = "volume_service.search = lambda config, told, timeout: print('timeout', timeout, file=sys.stderr) or search._once(config, told)"
    assert "timeout 7.0\n" in services("volume", config={"member_timeout": 7}, root=str(tmp_path), python=script).log
    note_of(tmp_path).unlink()
    assert "timeout 0.0\n" in services("volume", config={"member_timeout": 7}, root=str(tmp_path), python=script).log


def test_another_reason_stands_beside_a_known_volume(volume: LoopDisk, tmp_path: Path) -> None:
    note_of(tmp_path).parent.mkdir(parents=True)
    note_of(tmp_path).write_text(f"{KNOWN}\n")
    last = services("volume", config={"member_timeout": 0}, root=str(tmp_path)).last
    assert (last["kind"], last["reason"], last["expected"]) == ("none", "untrusted", True)
    last = services("volume", config={"member_timeout": 0}, root=str(tmp_path), cmdline=f"persist.volume={uuid_of(volume)[::-1]}").last
    assert (last["kind"], last["reason"], last["expected"]) == ("none", "missing", True)
    last = services("volume", device=[volume.node], config={"member_timeout": 0}, root=str(tmp_path)).last
    assert (last["kind"], last["reason"], last["expected"]) == ("none", "known-volume-missing", True), "no other one in its place"
    assert f"Device=UUID={uuid_of(volume)}" in last["hint"]
    last = services("volume", device=[f"UUID={uuid_of(volume)}"], root=str(tmp_path)).last
    assert (last["kind"], last["reason"], last["expected"]) == ("btrfs", "", False)
    assert note_of(tmp_path).read_text() == f"{uuid_of(volume)}\n", "the volume of this machine is the one that it has now"


def test_claim_where_a_volume_is_known(make_disk: Make, tmp_path: Path) -> None:
    disk = make_disk(300)
    note_of(tmp_path).parent.mkdir(parents=True)
    note_of(tmp_path).write_text(f"{KNOWN}\n")
    seen = services("format", disks=[disk.node], device=[disk.node], root=str(tmp_path))
    assert [r["code"] for r in seen.refused] == ["volume-expected"]
    assert "/var/lib/persist/known-volume" in seen.refused[0]["hint"] and KNOWN in seen.refused[0]["message"]
    assert disk.read(0, MIB) == HEADER.ljust(MIB, b"\0")
    note_of(tmp_path).unlink()
    assert services("format", "volume", disks=[disk.node], device=[disk.node], root=str(tmp_path)).last["kind"] == "btrfs"


def test_known_volume_whose_claim_was_not_erased(make_disk: Make, tmp_path: Path) -> None:
    disk = make_disk(300)
    assert disk.format(kill_after="label").returncode == -9
    note_of(tmp_path).parent.mkdir(parents=True)
    note_of(tmp_path).write_text(f"{uuid_of(disk)}\n")
    seen = services("format", "volume", disks=[disk.node], device=[disk.node], root=str(tmp_path))
    assert seen.refused == [] and seen.last["kind"] == "btrfs"
    assert disk.read(0, header.MARK_OFFSET) == bytes(header.MARK_OFFSET)
    assert disk.read(header.MARK_OFFSET, 15) == b"persist-bound 1"


@pytest.mark.parametrize(("config", "before", "symlinks", "kind", "status"), [
    ({}, "", False, "none", 0),
    ({}, "", True, "root", 0),
    ({}, READ_ONLY, True, "tmpfs", 0),
    ({"fallback": "tmpfs"}, "", False, "tmpfs", 0),
    ({"fallback": "none"}, READ_ONLY, False, "none", 0),
    ({"fallback": "root"}, "", False, "root", 0),
    ({"fallback": "root"}, READ_ONLY, False, "tmpfs", 0),
    ({"fallback": "fail"}, "", False, "none", 1),
])
def test_fallback(make_disk: Make, tmp_path: Path, config: dict[str, Any], before: str, symlinks: bool, kind: str, status: int) -> None:
    store = tmp_path / "root"
    seen = services("volume", "volume", config=config | {"device": ["/dev/nothing"], "member_timeout": 0}, before=before, symlinks=symlinks,
                    root_store=str(store))
    for last in seen.report:
        assert (last["kind"], last["status"], last["reason"]) == (kind, status, "missing")
        assert last["root_read_only"] == bool(before)
        assert ("mount-entries" in last["flags"]) == (kind == "tmpfs")
        assert ("persistent" in last["flags"]) == (kind == "root")
        assert ("/run/persist/volume" in last["at"]) == (kind != "none")
        assert last["message"] and last["hint"]
    if kind == "root":
        assert {p.name for p in (store / ".persist").iterdir()} == {"overlay", "seed", "tmp", "migrations"}


@pytest.mark.parametrize("word", ["volatile", "of"])
def test_volatile_for_one_boot(volume: LoopDisk, word: str) -> None:
    seen = services("volume", cmdline=f"quiet persist={word}", device=[volume.node])
    assert (seen.last["kind"], seen.last["reason"]) == ("tmpfs", "volatile")
    assert f"persist={word} is on the kernel command line" in seen.last["message"]
    assert ("treats as persist=volatile" in seen.last["message"]) == (word != "volatile")


def test_nothing_is_formatted_for_an_unknown_word(make_disk: Make) -> None:
    disk = make_disk(300)
    script = "format_service.facts.enabled = lambda root: True; format_service._tagged = lambda: disks"
    seen = services("format_main", cmdline="persist=of", disks=[disk.node], device=[disk.node], python=script)
    assert seen.report == [{"status": 0}] and "nothing is formatted: persist=of is on the kernel command line" in seen.log
    assert disk.read(0, MIB) == HEADER.ljust(MIB, b"\0")
    assert services("format_main", cmdline="persist=on", disks=[disk.node], device=[disk.node], python=script).report == [{"status": 0}]
    assert disk.read(0, MIB) != HEADER.ljust(MIB, b"\0")


def test_named_on_the_command_line(volume: LoopDisk, make_disk: Make) -> None:
    other = make_disk(300)
    assert other.format().returncode == 0
    nodes = [volume.node, other.node]
    both = "PARTLABEL=persist-data"
    assert services("volume", device=[both]).last["reason"] == "duplicate-label"
    uuid = tool("blkid", "-p", "-o", "value", "-s", "UUID", f"{other.node}p1").strip()
    assert services("volume", device=[both], cmdline=f"persist.volume={uuid}").last["device"] == f"{nodes[1]}p1"


def test_cloned_disk(volume: LoopDisk, make_disk: Make) -> None:
    other = make_disk(300, b"")
    name = volume.node
    volume.unplug()
    shutil.copyfile(volume.file, other.file)
    volume.plug()
    for disk in (volume, other):
        subprocess.run(["partx", "--update", disk.node], check=True)
    seen = services("volume", device=["LABEL=persist-data"])
    assert (seen.last["kind"], seen.last["reason"]) == ("none", "cloned-disk"), name
    assert "are copies of one filesystem" in seen.log


def test_untrusted(volume: LoopDisk) -> None:
    seen = services("volume")
    assert (seen.last["kind"], seen.last["reason"]) == ("none", "untrusted")
    assert "a loop device, which is not trusted unasked" in seen.log


@pytest.mark.parametrize(("before", "kind"), [("", "none"), (READ_ONLY, "tmpfs")])
def test_broken_volume_is_left_as_it_is(volume: LoopDisk, tmp_path: Path, before: str, kind: str) -> None:
    place = tmp_path / "top"
    place.mkdir()
    tool("mount", "-o", "subvolid=5", f"{volume.node}p1", place)
    tool("btrfs", "subvolume", "delete", "--commit-after", place / "@persist-state")
    tool("umount", place)
    image = volume.file.read_bytes()
    seen = services("volume", device=[volume.node], before=before)
    assert (seen.last["kind"], seen.last["reason"], seen.last["status"]) == (kind, "broken", 0)
    assert seen.last["device"] == (f"{volume.node}p1")
    assert "does not mount" in seen.log
    assert header.parse(image[:512], [HEADER.decode()]) is None
    assert tool("blkid", "-p", "-o", "value", "-s", "LABEL", f"{volume.node}p1").strip() == "persist-data"


@pytest.mark.parametrize(("before", "kind"), [("", "none"), (READ_ONLY, "tmpfs")])
def test_the_unexpected(make_disk: Make, before: str, kind: str) -> None:
    seen = services("volume", before=before, unexpected=True)
    assert (seen.last["status"], seen.last["kind"], seen.last["reason"]) == (1, kind, "failed")
    assert "could not be set up" in seen.log


@pytest.mark.parametrize(("before", "mounted", "said"), [
    ("rmdir /mnt/state", True, ""),
    ("mount -t tmpfs tmpfs /mnt/state", True, "Something else is mounted"),
    ("rmdir /mnt/state; mount -o remount,ro /mnt", False, "cannot be made"),
    ("rmdir /mnt/state; ln -s /run/persist/volume /mnt/state", False, ""),
    ("rmdir /mnt/state; mkdir /run/there; ln -s /run/there /mnt/state", False, ""),
])
def test_public_name(volume: LoopDisk, before: str, mounted: bool, said: str) -> None:
    seen = services("volume", "volume", device=[volume.node], before=before)
    assert seen.last["kind"] == "btrfs"
    assert ("/mnt/state" in seen.last["at"]) == mounted
    assert said in seen.log


@pytest.mark.parametrize(("what", "reason"), [("blank", ""), ("data", "missing")])
def test_blank_disk_that_is_named(make_disk: Make, what: str, reason: str) -> None:
    """Format=blank: the ephemeral disk of a cloud needs no header; whatever is on it is not blank."""
    disk = make_disk(300, b"" if what == "blank" else b"somebody's")
    script = "from persist.boot import facts; facts.enabled = lambda root: True"
    last = services("volume", device=[disk.node], config={"format_blank": True, "member_timeout": 0}, python=script).last
    assert (last["kind"], last["reason"]) == ("none" if reason else "btrfs", reason)
    assert (disk.read(0, 10) == b"somebody's") == bool(reason)
    if not reason:
        again = services("volume", device=[disk.node], config={"format_blank": True, "member_timeout": 0}, python=script).last
        assert (again["kind"], again["uuid"]) == ("btrfs", last["uuid"])


@pytest.mark.parametrize("what", ["no store", "a look that fails"])
def test_what_comes_beside_costs_nothing_else(volume: LoopDisk, tmp_path: Path, what: str) -> None:
    place = tmp_path / "volume"
    place.mkdir()
    tool("mount", "-o", "subvol=@persist-state", f"{volume.node}p1", place)
    if what == "no store":
        shutil.rmtree(place / ".persist/tmp")
    tool("umount", place)
    python = """
from persist.volume import reserve
def fails(path):
    raise OSError(30, 'Read-only file system')
reserve.is_full = fails
""" if what == "a look that fails" else ""
    seen = services("volume", device=[volume.node], python=python)
    assert (seen.last["status"], seen.last["kind"], seen.last["reason"]) == (0, "btrfs", "") and seen.last["flags"] == ["mount-entries", "persistent"]
    assert ("Nobody knows whether the state volume is full" in seen.log) == bool(python)


def test_disk_that_is_plugged_in_while_another_is_formatted(make_disk: Make) -> None:
    """udev's start of the service is none while it runs: what was tagged meanwhile is looked at before it ends."""
    first, late = make_disk(300), make_disk(300)
    script = f"""
format_service.facts.enabled = lambda root: True
tagged = [blockdev.by_node("{first.node}")]
format_service._tagged = lambda: list(tagged)
make = format_service._make
def plugged(*arguments, **more):
    tagged.append(blockdev.by_node("{late.node}"))
    format_service._make = make
    return make(*arguments, **more)
format_service._make = plugged
"""
    seen = services("format_main", cmdline="persist=on", device=[first.node, late.node], python=script)
    assert seen.report == [{"status": 0}] and [(r["device"], r["code"]) for r in seen.refused] == [(late.node, "volume-exists")]


def test_corrupted_superblock(volume: LoopDisk) -> None:
    """Not even its label is known any more: nothing is found, and nothing is written to the disk."""
    start = int(Path(f"/sys/class/block/{volume.node.removeprefix('/dev/')}p1/start").read_text()) * 512
    volume.write(start + (64 << 10), b"\xa5" * 4096)
    before = volume.file.read_bytes()
    last = services("volume", device=[volume.node], config={"member_timeout": 0}).last
    assert (last["kind"], last["reason"], last["status"]) == ("none", "missing", 0)
    assert volume.file.read_bytes() == before


def test_member_is_away(make_disk: Make) -> None:
    """Mounted degraded after a mark on the one that is left, and the healer is asked for; a read-only mount leaves no mark."""
    one, two = make_disk(300), make_disk(300)
    nodes = [one.node, two.node]
    assert services("format", disks=nodes, device=nodes, config={"member_timeout": 0}).report == [{"failed": 0}]
    two.unplug()
    config = {"member_timeout": 0}
    start = int(Path(f"/sys/class/block/{one.node.removeprefix('/dev/')}p1/start").read_text()) * 512
    look = f"test -e /run/persist/heal; dd if={one.node}p1 bs=512 skip=96 count=1 2>/dev/null | grep -a persist-degraded"
    readonly = services("volume", device=[one.node], config=config, cmdline="persist=ro").last
    assert (readonly["kind"], readonly["reason"], readonly["read_only_below"], readonly["degraded"]) == ("tmpfs", "read-only", True, True)
    assert not one.read(start + 49152, 512).strip(b"\0")
    seen = services("volume", look, device=[one.node], config=config)
    assert (seen.last["kind"], seen.last["degraded"], seen.last["reason"], seen.last["status"]) == ("btrfs", True, "", 0)
    assert one.read(start + 49152, 20) == b"persist-degraded 1 " + seen.last["uuid"][:1].encode()
    assert "missing" in seen.log


def test_read_only_below(volume: LoopDisk) -> None:
    """persist=ro: the volume at its own place, memory above it, and not a byte written."""
    before = volume.file.read_bytes()
    last = services("volume", device=[volume.node], cmdline="quiet persist=ro").last
    assert (last["kind"], last["reason"], last["read_only_below"], last["status"]) == ("tmpfs", "read-only", True, 0)
    assert last["at"]["/run/persist/volume"][0] == "tmpfs" and last["at"]["/run/persist/readonly"] == ["btrfs", "/@persist-state", True]
    assert last["device"] == f"{volume.node}p1" and last["flags"] == ["mount-entries"]
    assert volume.file.read_bytes() == before
