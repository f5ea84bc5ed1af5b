# SPDX-License-Identifier: LGPL-2.1-or-later
"""A state volume that is sealed with its machine: a real one of persist's own formatter, on loop devices.
What was on it is looked for in the bytes of its disks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persist.boot import facts
from persist.boot.paths import VOLUME
from persist.seal.boot.machine import Work
from persist.seal.boot.tree import Copy
from persist.seal.engine import Result, Seal
from persist.seal.opened import open_tree
from persist.seal.volume import included, remains
from persist.seal.wipe import STEPS
from persist.system import blockdev, newmount
from persist.volume.ondisk import binding, store
from persist.volume.ondisk.binding import Binding
from tests.unit.seal_tree import MadeUp, as_lines, no_way_back
from tests.unit.test_seed_cuts import killed

from .namespace import kept, kept_overlay, own_machine, sh
from .rig import LoopDisk, format_set, only_disks
from .seal_rig import LIST, SEAL_JSON, hook

CONF = "/run/persist/persist.conf"
AT = "/srv/v"  # where a test mounts the volume
UPPER_ID = "fedcba9876543210fedcba9876543210"
SECRET = "secret of the prototype"
DMI = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    """A claimed disk that was made a volume, with swap space."""
    one = LoopDisk(tmp_path, 1024)
    try:
        done = one.format(swap=str(64 << 20))
        assert done.returncode == 0, done.stderr
        yield one
    finally:
        one.unplug()


def nodes(disk: LoopDisk) -> tuple[str, str]:
    """Its swap space and its filesystem."""
    return f"{disk.node}p1", f"{disk.node}p2"


def machine(disk: LoopDisk) -> MadeUp:
    """A machine with that volume: an image, and on the volume what its entries keep. All that goes says
    SECRET."""
    os.environ["SYSTEMD_PROC_CMDLINE"], os.environ["SYSTEMD_FSTAB"] = "", "/dev/null"
    os.makedirs("/run/persist", exist_ok=True)
    Path(CONF).write_text(f"[Volume]\nDevice={disk.node}\n", encoding="ascii")
    made = MadeUp(Path("/srv/image"))
    for path in ("etc/ssh", "etc/app", "var/lib/w", "var/lib/iscsi", "home", "mnt/state", "run"):
        made.at("/" + path).mkdir(parents=True, exist_ok=True)
    made.put("/etc/ssh/ssh_host_a_key", f"{SECRET}, of the image")
    made.put("/etc/app/removed", "of the image")
    made.put("/etc/plain", "of the image")
    made.link("/var/log/w.db", "/var/lib/w/w.db")  # of the image, what it leads to is on the volume
    made.at("/var/lib/iscsi").rmdir()
    made.link("/var/lib/iscsi", "/mnt/state/var/lib/iscsi")
    made.section("/etc/ssh/ssh_host_*_key", "remove", more="Regenerate=ssh-keygen -A")
    made.section("/var/log/w.db", "remove", cls="log", more="")
    made.section("/var/lib/iscsi/name", "write", more="Content=GenerateName=yes\\n\nRegeneratedBy=none")
    made.section("~/.bash_history", "remove", cls="user", more="")
    made.section("/opt/gone/key", "remove", cls="secret")
    made.section("/etc/app/*", "remove", cls="secret")
    _fill(nodes(disk)[1])
    with open(nodes(disk)[0], "r+b") as f:
        f.seek(1 << 20)
        f.write(f"{SECRET}, a page of memory".encode() * 99)
        os.fsync(f.fileno())
    _bind(disk)
    return made


def machine_of(disks: list[LoopDisk]) -> MadeUp:
    """A small machine whose volume may be on these disks, with a secret on it."""
    os.environ["SYSTEMD_PROC_CMDLINE"], os.environ["SYSTEMD_FSTAB"] = "", "/dev/null"
    os.makedirs("/run/persist", exist_ok=True)
    nodes_of = " ".join(one.node for one in disks)
    Path(CONF).write_text(f"[Volume]\nDevice={nodes_of}\nMemberTimeoutSec=1\n", encoding="ascii")
    made = MadeUp(Path("/srv/image"))
    made.section("/opt/key", "remove", cls="secret")
    up(f"{disks[0].node}p1")
    (kept_overlay("/opt", AT) / "key").write_text(SECRET, encoding="ascii")
    made.at("/opt").mkdir()
    sh(f"umount {AT} {AT}-top")
    return made


def up(node: str) -> None:
    """Mount the volume for a look."""
    state, top = f"mount -o subvol=@persist-state {node} {AT}", f"mount -o subvolid=5 {node} {AT}-top"
    sh(f"mkdir -p {AT} {AT}-top; {state}; {top}")


def _fill(node: str) -> None:
    up(node)
    etc = kept_overlay("/etc", AT)
    sh(f"mkdir {etc}/ssh {etc}/app {etc}/persist; mknod {etc}/app/removed c 0 0; echo kept >{etc}/plain")
    (etc / "machine-id").write_text(f"{UPPER_ID}\n", encoding="ascii")
    (etc / "passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\n", encoding="ascii"
    )
    (etc / "ssh/ssh_host_a_key").write_text(f"{SECRET}, of an upper", encoding="ascii")
    (etc / "ssh/ssh_host_b_key").write_text(f"{SECRET}, of an upper alone", encoding="ascii")
    sections = etc / "persist/identity.d/own.conf"
    sections.parent.mkdir()
    own = "[Identity]\nPath=/var/lib/w/token\nAction=remove\nClass=secret\nRegeneratedBy=none\n"
    sections.write_text(own, encoding="ascii")
    kept("/var/lib/w", "kept", AT)
    for name in ("w.db", "token"):
        Path(f"{AT}/var/lib/w/{name}").write_text(f"{SECRET}, of a bind", encoding="ascii")
    kept("/var/lib/iscsi", "kept", AT)
    Path(f"{AT}/var/lib/iscsi/name").write_text(f"{SECRET}, of a symlink entry", encoding="ascii")
    kept("/home", "kept", AT)
    os.mkdir(f"{AT}/home/bob")
    Path(f"{AT}/home/bob/.bash_history").write_text(SECRET, encoding="ascii")
    gone = kept_overlay("/opt/gone", AT)  # nobody has registered it any more
    os.unlink(f"{AT}/.persist/seed/opt-gone.json")
    (gone / "key").write_text(f"{SECRET}, of an entry that is gone", encoding="ascii")
    sh(f"btrfs subvolume snapshot -r {AT} {AT}-top/@persist-state-snapshots/one")
    sh(f"btrfs subvolume snapshot {AT} {AT}-top/@persist-state-snapshots/two")
    sh(f"btrfs subvolume snapshot {AT} {AT}-top/@persist-state-snapshots/two/three")
    sh(f"mkdir -p {AT}/.persist/tmp/etc/tree {AT}/.persist/overlay/etc/work/work")
    for place in ("tmp/etc/tree/key", "overlay/etc/work/work/#1"):
        Path(f"{AT}/.persist/{place}").write_text(f"{SECRET}, half of a copy", encoding="ascii")
    record = store.read_record(AT) | {"serials": {"1": "serial-number-of-a-disk"}}
    store.write_record(AT, record)
    sh(f"umount {AT} {AT}-top")


def _bind(disk: LoopDisk) -> None:
    noted = binding.read(disk.node)
    assert noted is not None
    disk.write(256, binding.encode(Binding(noted.volume, DMI, "a-serial")))


def apart(work: Callable[[], object]) -> dict[str, object]:
    """Run in a process with mounts of its own, as a service of the seal boot does; what it returned."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            newmount.apart()
            os.write(write, json.dumps(work()).encode())
            status = 0
        except BaseException as e:  # noqa: BLE001  # the parent says it
            os.write(write, json.dumps({"raised": f"{e}"}).encode())
        finally:
            os._exit(status)
    os.close(write)
    with open(read, "rb") as f:
        said: dict[str, object] = json.loads(f.read())
    os.waitpid(child, 0)
    return said


def _work(
    made: MadeUp, done: Callable[[Work], Result], *, looking: bool = False, wiped: bool = False
) -> dict[str, object]:
    known = facts.gather("", os.environ)
    image = str(made.root)
    with (
        open_tree(image, running=True, looking=looking) as tree,
        included.opened(image, known, looking=looking, trim=wiped) as volume,
    ):
        seal = Seal(tree, (), (), no_way_back, as_lines, running=True, beside=volume.beside)
        work = Work(Copy(image, ()), (), seal, known, volume)
        result = done(work)
        return {
            "errors": result.errors,
            "failures": result.failures,
            "notes": result.notes,
            "said": result.said,
            "pending": sorted({name for wish in result.plan.wishes for name in wish.pending}),
        }


def _first(work: Work) -> Result:
    result = work.seal.first_pass()
    assert work.included is not None
    result.errors += work.included.wrong()
    result.notes += work.included.notes
    return result


def _all(work: Work) -> Result:
    result = _first(work)
    if result.errors:
        return result
    work.seal.wipe()
    if not result.failures:
        work.empty_volume()
    return result


def _end(work: Work) -> Result:
    """What persist-seal-end.service does."""
    result = work.seal.look_again(work.seal.old)
    result.failures += work.left()
    result.notes += work.trim()
    work.seal.write_report(b'{"sealed": true}')
    return result


def first_pass(made: MadeUp, *, looking: bool = False) -> dict[str, object]:
    return apart(lambda: _work(made, _first, looking=looking))


def seal(made: MadeUp) -> dict[str, object]:
    return apart(lambda: _work(made, _all))


def end(made: MadeUp) -> dict[str, object]:
    return apart(lambda: _work(made, _end, wiped=True))


def is_sealed(made: MadeUp, disk: LoopDisk, *, kept_list: bool = True) -> None:
    """Nothing is left of what had to go, in a file or in a block, and all else is there."""
    swap, node = nodes(disk)
    up(node)
    found = sh(f"grep -rl '{SECRET}' {AT}-top {made.root} || true")
    assert found == ""
    etc = Path(f"{AT}/.persist/overlay/etc/upper")
    assert (etc / "machine-id").read_text(encoding="ascii") == ""
    assert made.text("/etc/machine-id") == ""
    assert (etc / "plain").read_text(encoding="ascii") == "kept\n"
    assert (etc / "app/removed").lstat().st_rdev == 0, "a whiteout stays"
    assert not made.has("/etc/app/removed"), "it is of the image, and is wiped there"
    assert Path(f"{AT}/var/lib/iscsi/name").read_text(encoding="ascii") == "GenerateName=yes\n"
    assert sorted(os.listdir(f"{AT}/var/lib/w")) == ["f"] and os.listdir(f"{AT}/home/bob") == []
    assert made.at("/var/log/w.db").is_symlink()
    assert os.listdir(f"{AT}-top/@persist-state-snapshots") == []
    assert os.listdir(f"{AT}/.persist/tmp") == [] and os.listdir(f"{AT}/.persist/overlay/etc/work/work") == []
    assert "serials" not in store.read_record(AT) and store.read_record(AT)["uuid"]
    sh(f"umount {AT} {AT}-top")
    noted = binding.read(disk.node)
    assert noted is not None and (noted.dmi, noted.serial) == ("-", "-")
    now = blockdev.probe(swap)
    assert (now["TYPE"], now["LABEL"]) == ("swap", "persist-swap")
    if kept_list:
        assert set(made.text(LIST).split()) == {
            "ssh-keygen",
            "-A:",
            "/etc/ssh/ssh_host_a_key",
            "/etc/ssh/ssh_host_b_key",
        }


@own_machine
def test_image_and_volume(disk: LoopDisk) -> None:
    """All layers, what lies beside them, and swap space; a second process finds it so, and nothing of it is
    in the bytes of the disk."""
    with only_disks(disk):
        made = machine(disk)
        before = blockdev.probe(nodes(disk)[0])["UUID"]
        assert disk.holds(SECRET) > 0
        said = seal(made)
        assert (said.get("errors", said), said.get("failures")) == ([], [])
        assert said["notes"] == [f"The state volume on {nodes(disk)[1]} is sealed, too."]
        is_sealed(made, disk)
        assert blockdev.probe(nodes(disk)[0])["UUID"] == before
        said = end(made)
        assert (said["failures"], said["notes"]) == ([], [])
        assert made.has(SEAL_JSON)
        again = first_pass(made)
        assert (again["errors"], again["pending"]) == ([], [])
        assert disk.holds(SECRET) == 0


def apart_for_good(made: MadeUp) -> None:
    newmount.apart()
    _work(made, _all)


CUTS = ("unsealed", "cleared", "listed", "remove", "write", "wiped", "ran", "hooks", "looked", *remains.STEPS)


@own_machine
def test_cut_after_each_step(disk: LoopDisk) -> None:
    """One run after the other, each cut one step later: the last one finds what is left to do, and the list
    for the clone has what the first ones have wiped."""
    with only_disks(disk):
        made = machine(disk)
        made.put(SEAL_JSON, "{}")
        for step in CUTS:
            assert step in (*STEPS, *remains.STEPS)
            assert killed(lambda: apart_for_good(made), step), step
            assert not made.has(SEAL_JSON)
        said = seal(made)
        assert (said.get("errors", said), said.get("failures"), said["pending"]) == ([], [], [])
        is_sealed(made, disk)


@own_machine
def test_programs_see_the_machine(disk: LoopDisk) -> None:
    """Hooks are run in the image, and once more in what the machine shows: what they remove goes from both.
    One that lies on the volume is run there."""
    with only_disks(disk):
        made = machine(disk)
        up(nodes(disk)[1])
        own = Path(f"{AT}/.persist/overlay/etc/upper/persist/seal.d/60-own")
        own.parent.mkdir()
        own.write_text("#!/bin/sh\necho of the volume >>/ran\n", encoding="ascii")
        own.chmod(0o755)
        Path(f"{AT}/var/lib/w/id").write_text(SECRET, encoding="ascii")
        sh(f"umount {AT} {AT}-top")
        made.put("/var/lib/w/id", SECRET)
        hook(made, "50-both", "echo run >>/ran; : >/var/lib/w/id; test ! -s /etc/machine-id")
        said = seal(made)
        assert (said.get("errors", said), said.get("failures")) == ([], [])
        assert made.text("/ran") == "run\nrun\nof the volume\n"
        assert made.text("/var/lib/w/id") == ""
        up(nodes(disk)[1])
        assert Path(f"{AT}/var/lib/w/id").read_text(encoding="ascii") == ""
        sh(f"umount {AT} {AT}-top")


@own_machine
def test_a_look_changes_nothing(disk: LoopDisk) -> None:
    """As 'persistctl seal' looks while the machine runs: at the volume where it is mounted, only there."""
    with only_disks(disk):
        made = machine(disk)
        before = disk.digest()
        said = first_pass(made, looking=True)
        assert str(said["raised"]).startswith(f"The state volume on {nodes(disk)[1]} is not mounted")
        assert disk.digest() == before
        sh(f"mkdir -p {VOLUME}; mount -o subvol=@persist-state {nodes(disk)[1]} {VOLUME}")
        listing = rf"find {VOLUME} {made.root} -printf '%p %i %s %m %T@ %C@\n' | sort"
        seen = sh(listing)
        said = first_pass(made, looking=True)
        assert said.get("errors", said) == []
        pending = said["pending"]
        assert isinstance(pending, list) and {
            "/etc/machine-id",
            "/etc/ssh/ssh_host_a_key",
            "/etc/ssh/ssh_host_b_key",
            "/home/bob/.bash_history",
            "/opt/gone/key",
            "/var/lib/iscsi/name",
            "/var/lib/w/token",
            "/var/lib/w/w.db",
        } <= set(pending)
        assert sh(listing) == seen


@own_machine
def test_what_nothing_is_wiped_on(disk: LoopDisk) -> None:
    """Copies of the state that are not where persist has them, what lies beside, and swap space in use."""
    with only_disks(disk):
        made = machine(disk)
        up(nodes(disk)[1])
        sh(f"btrfs subvolume snapshot {AT} {AT}/home/copy; mkdir {AT}-top/mine; umount {AT} {AT}-top")
        sh(f"swapon {nodes(disk)[0]}")
        try:
            said = seal(made)
        finally:
            sh(f"swapoff {nodes(disk)[0]}")
        assert said.get("errors", said) == [
            "'mine' lies beside the subvolumes of the state volume (subvolid=5), where nothing is wiped.",
            "'@persist-state/home/copy' on the state volume is a snapshot, and would keep what is wiped: "
            "'btrfs subvolume delete'.",
            f"The swap space {nodes(disk)[0]} of the state volume is in use: 'swapoff {nodes(disk)[0]}'.",
        ]
        assert made.has("/etc/ssh/ssh_host_a_key")


@own_machine
def test_an_etc_that_is_kept(disk: LoopDisk) -> None:
    """The stage has mounted the volume for the request, and it stays in use: nothing of what was wiped is in
    a block that btrfs has set aside for its next metadata."""
    with only_disks(disk):
        made = machine(disk)
        sh(f"mkdir -p {VOLUME}; mount -o subvol=@persist-state {nodes(disk)[1]} {VOLUME}")
        for number in range(100):
            Path(f"{VOLUME}/home/bob/.bash_history").write_text(f"{SECRET} {number}", encoding="ascii")
            if number % 20 == 0:
                sh(f"sync -f {VOLUME}")
        said = seal(made)
        assert (said.get("errors", said), said.get("failures")) == ([], [])
        said = end(made)
        assert (said["failures"], said["notes"]) == ([], [])
        sh(f"umount {VOLUME}")
        is_sealed(made, disk)
        assert disk.holds(SECRET) == 0


@own_machine
def test_command_lines_that_keep_it_out(disk: LoopDisk) -> None:
    with only_disks(disk):
        made = machine(disk)
        for word in ("ro", "volatile"):
            os.environ["SYSTEMD_PROC_CMDLINE"] = f"persist={word}"
            assert str(seal(made)["raised"]).startswith(f"persist={word} is on the kernel command line")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[LoopDisk]]:
    """Two claimed disks."""
    both = [LoopDisk(tmp_path, 512, name=name) for name in "ab"]
    try:
        yield both
    finally:
        for one in both:
            one.unplug()


@own_machine
def test_a_set_of_two(pair: list[LoopDisk]) -> None:
    """Without one of its disks nothing is wiped, nor a byte written; with both it is sealed."""
    format_set(pair, swap="0")
    with only_disks(*pair):
        made = machine_of(pair)
        pair[1].unplug()
        pair[0].replug()
    with only_disks(pair[0]):
        before = pair[0].digest()
        assert "One disk of the state volume is missing" in str(seal(made)["raised"])
        assert pair[0].digest() == before
        pair[1].replug()
    with only_disks(*pair):
        said = seal(made)
        assert (said.get("errors", said), said.get("failures")) == ([], [])
        assert end(made)["failures"] == []
        assert [one.holds(SECRET) for one in pair] == [0, 0]


@own_machine
def test_two_with_one_label(pair: list[LoopDisk]) -> None:
    for one in pair:
        one.format(swap="0")
    with only_disks(*pair):
        made = machine_of(pair)
        Path(CONF).write_text("[Volume]\nDevice=LABEL=persist-data\n", encoding="ascii")
        assert "More than one filesystem could be the state volume" in str(seal(made)["raised"])
        Path(CONF).write_text(f"[Volume]\nDevice={pair[0].node}\nMemberTimeoutSec=1\n", encoding="ascii")
        assert f"{pair[1].node}p1 could be a state volume, too" in str(seal(made)["raised"])
        Path(CONF).write_text("[Volume]\nDevice=UUID=%s\nMemberTimeoutSec=1\n" % ("0" * 8), encoding="ascii")
        assert "The state volume cannot be sealed" in str(seal(made)["raised"])
        assert made.has("/etc/machine-id") and made.text("/etc/machine-id")
