# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl seal on real filesystems: what is wiped and kept, what stands in the way, and power cuts."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.seal.engine import Seal
from persist.seal.opened import open_tree
from persist.seal.wipe import STEPS
from persist.system.mountinfo import mounts
from tests.unit.seal_tree import ID, MadeUp, as_lines, no_way_back
from tests.unit.test_seed_cuts import killed

pytestmark = [
    pytest.mark.storage,
    pytest.mark.skipif(os.geteuid() != 0, reason="sealing needs root"),
]
SEAL_JSON = "/var/lib/persist/seal.json"
LIST = "/var/lib/persist/regenerate"


def sh(script: str, *words: object) -> str:
    """Run a shell script with arguments; what it printed."""
    return subprocess.run(
        ["sh", "-ec", script, "sh", *map(str, words)], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path / "t")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts things below the test's directory; afterwards nothing is left."""
    points: list[Path] = []

    def mount(point: Path, *words: object) -> Path:
        point.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *map(str, words), point], check=True, capture_output=True)
        points.append(point)
        return point

    yield mount
    for point in reversed(points):
        subprocess.run(["umount", "-l", point], check=True)


@pytest.fixture
def on_disk(tmp_path: Path, mounted: Callable[..., Path]) -> MadeUp:
    """A tree on an ext4 of its own, small enough to be filled."""
    image = tmp_path / "disk"
    sh('truncate -s 16M "$1"; mkfs.ext4 -q -m 0 -O ^has_journal "$1"', image)
    return MadeUp(mounted(tmp_path / "t", "-o", "loop", image))


def snapshot(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory, with times."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        st = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(st.st_mode) else b""
        found[str(path)] = (
            st.st_mode,
            st.st_uid,
            st.st_gid,
            st.st_ino,
            st.st_mtime_ns,
            st.st_ctime_ns,
            content,
        )
    return found


def full(made: MadeUp) -> None:
    """One thing of each action."""
    made.put("/var/lib/dbus/machine-id", f"{ID}\n")
    for kind in ("rsa", "ed25519"):
        made.put(f"/etc/ssh/ssh_host_{kind}_key", "secret", 0o600)
    made.put("/etc/ssh/sshd_config", "config")
    made.put("/var/log/a.log", "log", 0o640)
    made.put(f"/var/log/journal/{ID}/system.journal")
    made.put("/var/lib/iscsi/name", "iqn.old", 0o600)
    made.put("/var/lib/state/x/y")
    made.put("/var/log/w.db")
    made.link("/var/lib/w.db", "/var/log/w.db")
    made.put("/srv/snakeoil", "secret")
    made.link("/etc/hash", "/srv/snakeoil")
    made.put("/home/alice/.bash_history", "user")
    made.section("/var/lib/dbus/machine-id", "remove")
    made.section("/etc/ssh/ssh_host_*_key", "remove", more="Regenerate=ssh-keygen -A")
    made.section("/var/log/*.log", "truncate", cls="log")
    made.section("/var/log/journal/*", "remove", cls="log", more="")
    made.section("/var/lib/iscsi/name", "write", more="Content=GenerateName=yes\\n\nRegeneratedBy=none")
    made.section("/var/lib/state", "empty-dir")
    made.section("/var/lib/w.db", "remove", cls="log")
    made.section("/etc/hash /srv/snakeoil", "remove", cls="secret")
    made.section("~/.bash_history", "remove", cls="user", more="")


SEALED = {
    "/etc/machine-id": "",
    "/var/log/a.log": "",
    "/var/lib/iscsi/name": "GenerateName=yes\n",
    "/etc/ssh/sshd_config": "config",
}
GONE = (
    "/var/lib/dbus/machine-id",
    "/etc/ssh/ssh_host_rsa_key",
    "/etc/ssh/ssh_host_ed25519_key",
    f"/var/log/journal/{ID}",
    "/var/lib/state/x",
    "/var/log/w.db",
    "/etc/hash",
    "/srv/snakeoil",
    "/home/alice/.bash_history",
)


def is_sealed(made: MadeUp) -> None:
    for path, text in SEALED.items():
        assert made.text(path) == text
    assert [path for path in GONE if made.has(path)] == []
    assert made.has("/var/lib/w.db") and made.has("/var/lib/state") and made.has("/var/log/journal")
    assert json.loads(made.text(SEAL_JSON))["sealed"] is True
    assert made.text(LIST) == "ssh-keygen -A: /etc/ssh/ssh_host_ed25519_key /etc/ssh/ssh_host_rsa_key\n"


def test_every_action(made: MadeUp) -> None:
    full(made)
    os.chown(made.at("/var/log/a.log"), 7, 8)
    os.setxattr(made.at("/var/log/a.log"), "user.label", b"l")
    before = {p: made.at(p).stat() for p in SEALED}
    result = made.seal()
    assert (result.errors, result.failures, result.notes, result.sealed) == ([], [], [], True)
    is_sealed(made)
    for path, st in before.items():
        now = made.at(path).stat()
        assert (now.st_mode, now.st_uid, now.st_gid, now.st_ino) == (
            st.st_mode,
            st.st_uid,
            st.st_gid,
            st.st_ino,
        )
    assert os.getxattr(made.at("/var/log/a.log"), "user.label") == b"l"


def test_the_report_has_no_old_ids(made: MadeUp) -> None:
    full(made)
    made.put("/etc/hostname", "prototype7\n")
    made.put(f"/boot/loader/entries/{ID}-6.1.conf", f"options root=x systemd.machine_id={ID}\n")
    made.put("/etc/fstab", "//prototype7/share /x cifs\n")
    made.put("/etc/default/grub", 'GRUB_CMDLINE_LINUX="ifname=lan:52:54:00:12:34:56"\n')
    os.link(made.at("/etc/fstab"), made.at(f"/var/log/{ID}.old"))
    made.section("/var/log/*.old", "remove", cls="log")
    result = made.seal()
    assert result.sealed and len(result.notes) == 1 and ID in result.notes[0]
    assert [(t.path.replace(ID, "I"), t.what) for t in result.traces] == [
        ("/boot/loader/entries/I-6.1.conf", ("the machine-id in its name",)),
        ("/etc/default/grub", ("a MAC address",)),
        ("/etc/fstab", ("the host name",)),
    ]
    text = made.text(SEAL_JSON)
    assert ID not in text and "prototype7" not in text
    said = json.loads(text)
    assert said["traces"][0]["path"] == "/boot/loader/entries/<machine-id>-6.1.conf"
    assert {i["source"].rpartition(":")[0].rpartition("/")[2]: i["wiped"] for i in said["items"][:1]} == {
        "systemd.conf": 1
    }


def test_a_second_run_is_quiet_and_runs_hooks(made: MadeUp) -> None:
    full(made)
    hook(made, "50-count", "echo run >> /count; echo said")
    made.put(f"/boot/{ID}/linux")
    first = made.seal()
    assert first.said == [("/usr/lib/persist/seal.d/50-count", "said\n")]
    report = made.text(SEAL_JSON)
    assert "the machine-id in its name" in report
    second = made.seal()
    assert second.sealed and not any(w.pending for w in second.plan.wishes)
    is_sealed(made)
    assert made.text("/count") == "run\nrun\n"
    assert made.text(SEAL_JSON) == report, "what the first run did is not forgotten"


def hook(made: MadeUp, name: str, script: str, base: str = "/usr/lib") -> None:
    """A hook in a shell that the tree now has."""
    made.put(f"{base}/persist/seal.d/{name}", f"#!/bin/sh -e\n{script}\n", 0o755)
    shell(made)


def shell(made: MadeUp) -> None:
    """The machine's own shell and cat(1) with what they need, as the tree's."""
    for program in ("/bin/sh", "/bin/cat", "/bin/sleep"):
        if made.has(program):
            continue
        libraries = [w for w in sh('ldd "$1"', program).split() if w.startswith("/")]
        for file in (program, *libraries):
            made.at(file).parent.mkdir(parents=True, exist_ok=True)
            sh('cp -L "$1" "$2"', file, made.at(file))


@pytest.mark.parametrize("name", STEPS)
def test_killed_after_a_step(made: MadeUp, name: str) -> None:
    full(made)
    made.put("/etc/last", "secret")
    made.section("/etc/last", "truncate", "z", cls="secret")
    made.section("/etc/passwd", "run", "z", more="Exec=sh -c 'echo ran >> /ran'\nRegeneratedBy=none")
    hook(made, "50-count", "echo run >> /hooked")
    assert killed(made.seal, name)
    assert made.has(SEAL_JSON) == (name == "sealed")
    result = made.seal()
    assert (result.errors, result.failures, result.sealed) == ([], [], True)
    is_sealed(made)
    assert made.text("/etc/last") == "" and made.has("/ran") and made.has("/hooked")
    again = made.seal()
    assert again.sealed and not any(w.pending for w in again.plan.wishes if w.item.action != "run")


def test_killed_on_a_sealed_tree(made: MadeUp) -> None:
    """What was sealed and is being sealed again is not sealed."""
    full(made)
    assert made.seal().sealed
    assert killed(made.seal, "unsealed")
    assert not made.has(SEAL_JSON)
    assert made.seal().sealed
    is_sealed(made)


def test_nothing_is_touched_where_there_is_an_error(made: MadeUp) -> None:
    full(made)
    made.put("/etc/held")
    made.section("/etc/held", "remove", more="")
    before = snapshot(made.root)
    result = made.seal()
    assert result.errors == ["/usr/lib/persist/identity.d/t.conf:47: nobody makes it again."]
    assert not result.touched and snapshot(made.root) == before


def test_the_first_pass_changes_nothing(made: MadeUp) -> None:
    full(made)
    hook(made, "50-x", "echo run >> /count")
    before = snapshot(made.root)
    assert made.first_pass().errors == []
    assert snapshot(made.root) == before


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "persist/identity.d/x.conf",
            "[Identity]\nPath=/etc/x\nAction=explode\n",
            ":3: Action=explode: must be",
        ),
        (
            "persist/identity.d/x.conf",
            "[Identity]\nPath=/etc/x\nActoin=remove\n",
            ":3: Unknown key 'Actoin='",
        ),
        (
            "persist/identity.d/x.conf",
            "[Identty]\nPath=/etc/x\nAction=remove\n",
            ":1: Unknown section [Identty]",
        ),
        ("persist/identity.d/x.conf", "Path=/etc/x\n", ":1: Setting 'Path=' outside of a section"),
        (
            "persist.d/x.conf",
            "[Path]\nPath=/srv\n[Identity]\nPath=/etc/x\n",
            ":3: [Identity] without Action=",
        ),
        ("persist.d/x.conf", "[Identty]\nPath=/etc/x\nAction=remove\n", ":1: Unknown section [Identty]"),
    ],
)
def test_a_mistake_in_a_section_keeps_it_from_being_sealed(
    made: MadeUp, file: str, text: str, said: str
) -> None:
    """What it was for would be in each clone, and nobody reads a notice of a build that went well."""
    made.put("/etc/x", "secret")
    made.put(f"/etc/{file}", text)
    result = made.seal(keep=["identity"])
    assert result.errors and not result.touched and made.text("/etc/machine-id") == f"{ID}\n"
    assert result.errors[0].startswith(f"/etc/{file}{said}")
    assert all(e.endswith(" What it was to take would stay in the image.") for e in result.errors)
    made.put("/etc/persist/identity.d/x.conf", "")
    made.put("/etc/persist.d/x.conf", "")
    assert made.seal().sealed


def test_a_mistake_of_the_registry_that_is_not_seals(made: MadeUp) -> None:
    made.put("/etc/persist.d/x.conf", "Path\n[Path]\nPath=/srv\nnonsense\nColour=red\n[Nonsense]\n")
    result = made.seal()
    assert result.sealed and [note.partition(": ")[0] for note in result.notes] == [
        "/etc/persist.d/x.conf:1",
        "/etc/persist.d/x.conf:4",
    ]


@pytest.mark.parametrize("action", ["remove", "truncate"])
def test_a_link_to_nothing_whose_text_has_an_id(made: MadeUp, action: str) -> None:
    made.link("/etc/lock", f"host-{ID}:1")
    made.link("/etc/plain", "nowhere")
    made.link("/etc/hostid", "00000000-1111-2222-3333-44444444444A")
    made.section("/etc/lock /etc/plain /etc/hostid", action)
    for result in (made.first_pass(), made.seal()):
        assert [(t.path, t.what) for t in result.traces] == [
            ("/etc/hostid", ("something like an id in what it leads to",)),
            ("/etc/lock", ("the machine-id in what it leads to",)),
        ]
    assert result.sealed and ID not in made.text("/var/lib/persist/seal.json")


@pytest.mark.parametrize("word", ["uninitialized", "empty", "other"])
def test_what_the_machine_id_says(made: MadeUp, word: str) -> None:
    made.put("/usr/lib/persist/persist.conf", "[Seal]\nMachineId=uninitialized\n")
    made.put("/etc/persist/persist.conf.d/x.conf", f"[Seal]\nMachineId={word}\n")
    result = made.seal()
    if word == "other":
        assert result.errors == [
            "/etc/persist/persist.conf.d/x.conf:2: MachineId=other: must be one of empty, uninitialized."
        ]
        return
    assert result.sealed
    assert made.text("/etc/machine-id") == ("" if word == "empty" else "uninitialized\n")
    assert stat.S_IMODE(made.at("/etc/machine-id").stat().st_mode) == 0o444


def test_a_machine_id_elsewhere(made: MadeUp) -> None:
    made.at("/etc/machine-id").rename(made.at("/srv-id"))
    made.link("/etc/machine-id", "../srv-id")
    made.put("/usr/lib/persist/persist.conf", "[Seal]\nMachineId=uninitialized\n")
    made.link("/var/lib/dbus/machine-id", "/etc/machine-id")
    made.section("/var/lib/dbus/machine-id", "remove")
    assert made.seal().sealed
    assert made.text("/srv-id") == "uninitialized\n"
    assert made.has("/var/lib/dbus/machine-id") and made.has("/etc/machine-id")
    made.at("/etc/machine-id").unlink()
    assert "/etc/machine-id is not there" in made.seal().notes[0]


def test_an_id_that_no_section_takes(made: MadeUp) -> None:
    made.put("/usr/lib/persist/identity.d/systemd.conf", "")
    assert "No [Identity] section is in the tree" in made.seal().errors[0]
    made.put("/etc/x")
    made.section("/etc/x", "remove")
    assert made.seal().errors == ["/etc/machine-id has an id, and no [Identity] section takes it."]
    assert made.seal(["identity"]).sealed


def test_an_old_id_that_is_left_in_dbuss_copy(made: MadeUp) -> None:
    """PID 1 would take it from there: T2."""
    made.put("/var/lib/dbus/machine-id", f"{ID}\n")
    result = made.seal()
    assert result.failures == ["/var/lib/dbus/machine-id still has the old machine-id."]
    assert result.touched and not result.sealed and not made.has(SEAL_JSON)
    # Killed or failed, the next run knows the id by that copy alone.
    assert made.seal().failures == ["/var/lib/dbus/machine-id still has the old machine-id."]
    made.section("/var/lib/dbus/machine-id", "remove")
    assert made.seal().sealed


def test_trees_that_are_not_sealed(made: MadeUp, tmp_path: Path, mounted: Callable[..., Path]) -> None:
    for root in ("/", "/proc/self/root", mounted(tmp_path / "bound", "--bind", "/")):
        with pytest.raises(PersistError, match="is the root of the running system"):
            open_tree(str(root))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PersistError, match="has no system in it"):
        open_tree(str(tmp_path / "empty"))
    (tmp_path / "empty/etc").symlink_to("/etc")
    with pytest.raises(PersistError, match="has no system in it"):
        open_tree(str(tmp_path / "empty"))
    with open_tree(str(made.root)), pytest.raises(PersistError, match="is being sealed already"):
        open_tree(str(made.root))
    fd = os.open(made.root, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    with pytest.raises(PersistError, match="is being sealed already"):
        open_tree(str(made.root))
    os.close(fd)
    open_tree(str(made.root)).top.close()


def test_a_process_in_the_tree(made: MadeUp) -> None:
    shell(made)
    process = subprocess.Popen(
        ["chroot", made.root, "/bin/sh", "-c", "echo; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline()
    errors = made.seal().errors
    process.communicate(b"\n")
    assert errors == [f"Process {process.pid} (sh) runs in the tree, and may write what is wiped. End it."]
    assert made.seal().sealed


# Hooks


def test_hooks_in_order_and_masks(made: MadeUp) -> None:
    hook(made, "20-b", "echo b >> /count")
    hook(made, "10-a", "echo a >> /count; test ! -s /etc/machine-id; test ! -e /var/lib/persist/seal.json")
    hook(made, "30-masked", "echo masked >> /count")
    hook(made, "40-empty", "echo masked >> /count")
    hook(made, "50-c", "echo of-usr >> /count")
    hook(made, "50-c", "echo c >> /count", "/etc")
    hook(made, "60-old~", "echo old >> /count")
    hook(made, "70-not", "echo not >> /count")
    made.at("/usr/lib/persist/seal.d/70-not").chmod(0o644)
    made.at("/usr/lib/persist/seal.d/80-dir").mkdir()
    made.link("/etc/persist/seal.d/30-masked", "/dev/null")
    made.put("/run/persist/seal.d/40-empty", "", 0o755)
    result = made.seal()
    assert not result.touched and result.errors == [
        "/usr/lib/persist/seal.d/70-not: Is not executable, and would not be run: 'chmod +x' makes it a "
        "hook. An empty file of its name in /etc/persist/seal.d takes it out.",
        "/usr/lib/persist/seal.d/80-dir: Is not a regular file, and would not be run. "
        "An empty file of its name in /etc/persist/seal.d takes it out.",
    ]
    made.put("/etc/persist/seal.d/70-not", "")
    made.put("/etc/persist/seal.d/80-dir", "")
    result = made.seal()
    assert result.failures == result.notes == [] and made.text("/count") == "a\nb\nc\n"


def test_all_that_a_failing_hook_said_is_told(made: MadeUp) -> None:
    hook(made, "50-x", "echo one >&2; echo two >&2; echo three >&2; exit 4")
    result = made.seal()
    name = "/usr/lib/persist/seal.d/50-x"
    assert result.said == [(name, "one\ntwo")]
    assert result.failures == [f"{name} failed: exit status 4: three"]


def test_a_hook_that_fails(made: MadeUp) -> None:
    hook(made, "10-a", "echo no way >&2; exit 3")
    hook(made, "20-b", "echo b >> /count")
    result = made.seal()
    assert result.failures == ["/usr/lib/persist/seal.d/10-a failed: exit status 3: no way"]
    assert result.touched and not result.sealed and not made.has("/count") and not made.has(SEAL_JSON)


def test_a_hook_that_brings_something_back(made: MadeUp) -> None:
    made.put("/etc/key")
    made.section("/etc/key", "remove")
    hook(made, "10-a", "echo new > /etc/key")
    result = made.seal()
    assert not result.sealed and not made.has(SEAL_JSON)
    assert result.failures == [
        "'/etc/key' is there again, after it was wiped (/usr/lib/persist/identity.d/t.conf:1)."
    ]


def test_what_a_hook_leaves_running_ends_with_it(made: MadeUp) -> None:
    for place in ("proc", "dev/x"):
        made.at(place).mkdir(parents=True)
    late = "(sleep 600; echo late > /late) >/dev/null 2>&1 &"
    hook(
        made, "10-a", f"test -e /proc/self/mounts; test -c /dev/null; test ! -e /dev/x; : > /dev/null; {late}"
    )
    result = made.seal()
    assert result.failures == []
    assert made.seal().errors == [], "no process is in the tree"
    assert not [m for m in mounts(str(made.root))]
    assert os.listdir(made.at("/dev")) == ["x"] and os.listdir(made.at("/proc")) == []


@pytest.mark.parametrize("place", ["dev", "proc"])
def test_nothing_is_mounted_behind_a_link(made: MadeUp, place: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    if made.has(place):
        made.at(place).rmdir()
    made.link(place, str(tmp_path / "outside"))
    hook(made, "10-a", f"test ! -e /{place}/null; test ! -e /{place}/self")
    assert made.seal().failures == []
    assert os.listdir(tmp_path / "outside") == []


def test_a_hook_sees_the_tree_and_nothing_else(made: MadeUp) -> None:
    hook(
        made,
        "10-a",
        'cat /etc/machine-id; echo "$SYSTEMD_OFFLINE"; test ! -e /etc/debian_version; echo "$HOME"',
    )
    result = made.seal()
    assert result.failures == [] and result.said == [("/usr/lib/persist/seal.d/10-a", "1\n\n")]


def test_exec(made: MadeUp) -> None:
    shell(made)
    made.put("/etc/conf", "HOST=old\nOTHER=x\n")
    made.section(
        "/etc/conf", "run", more="Exec=/bin/sh -c 'echo OTHER=x > \"$1\"' sh /etc/conf\nRegeneratedBy=none"
    )
    made.section("/etc/absent", "run", more="Exec=/bin/false\nRegeneratedBy=none")
    assert made.seal().failures == []
    assert made.text("/etc/conf") == "OTHER=x\n"
    made.section("/etc/conf", "run", more="Exec=/bin/nothing\nRegeneratedBy=none")
    failures = made.seal().failures
    assert len(failures) == 1 and failures[0].startswith(
        "Exec= of /usr/lib/persist/identity.d/t.conf:13 failed: exit status 127"
    )


# What stands in the way


@pytest.mark.parametrize(
    ("flag", "at"),
    [("i", "/etc/key"), ("a", "/etc/key"), ("i", "/etc/d"), ("i", "/srv/t/u/f"), ("i", "/srv/t/u")],
)
@pytest.mark.parametrize("action", ["remove", "truncate"])
def test_immutable(on_disk: MadeUp, flag: str, at: str, action: str) -> None:
    for path in ("/etc/key", "/etc/d/key", "/srv/t/u/f"):
        on_disk.put(path)
    on_disk.section(
        "/etc/key /etc/d/key /srv/t/u/f" if action == "truncate" else "/etc/key /etc/d/key /srv/t", action
    )
    sh('chattr +"$1" "$2"', flag, on_disk.at(at))
    result = on_disk.seal(mounts=mounts())
    sh('chattr -"$1" "$2"', flag, on_disk.at(at))
    if action == "truncate" and at in ("/etc/d", "/srv/t/u"):
        assert result.sealed, "the directory is not changed"
    else:
        assert len(result.errors) == 1 and not result.touched
        assert f"chattr -{flag}" in result.errors[0]


def test_read_only(on_disk: MadeUp) -> None:
    full(on_disk)
    sh('mount -o remount,ro,bind "$1"', on_disk.root)
    result = on_disk.seal(mounts=mounts())
    assert not result.touched
    assert any(
        "'/etc/machine-id': its filesystem is read-only: mount it with 'rw'." in e for e in result.errors
    )
    assert any("var' is read-only" in e for e in result.errors)
    sh('mount -o remount,rw,bind "$1"', on_disk.root)
    assert on_disk.seal(mounts=mounts()).sealed


def test_a_full_disk(on_disk: MadeUp) -> None:
    """Without room for the list of what the clone makes nothing is wiped that it is for."""
    on_disk.put("/etc/key", "secret")
    on_disk.section("/etc/key", "remove", more="Regenerate=ssh-keygen -A")
    on_disk.section("/var/cache/*", "remove", cls="cache", more="")
    on_disk.at("/var/cache").mkdir()
    fill = on_disk.at("/fill")
    sh('cat /dev/zero > "$1" 2>/dev/null || while echo >> "$1" 2>/dev/null; do :; done', fill)
    result = on_disk.seal(mounts=mounts())
    assert not result.sealed and len(result.failures) == 1 and "No space left" in result.failures[0]
    assert on_disk.text("/etc/key") == "secret" and not on_disk.has(SEAL_JSON)
    # Logs and caches go first, and make room.
    fill.rename(on_disk.at("/var/cache/fill"))
    assert on_disk.seal(mounts=mounts()).sealed
    assert not on_disk.has("/etc/key") and on_disk.has(LIST)


def test_a_pipe_and_a_socket_are_not_opened(made: MadeUp) -> None:
    os.mkfifo(made.at("/var/log/pipe"))
    os.mkfifo(made.at("/etc/machine-id-pipe"))
    os.mknod(made.at("/var/log/null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    made.section("/var/log/*", "truncate", cls="log")
    made.section("/etc/*-pipe", "remove")
    assert made.seal().sealed
    assert made.has("/var/log/pipe") and made.has("/var/log/null") and not made.has("/etc/machine-id-pipe")


def test_an_overlay_over_an_image(tmp_path: Path, mounted: Callable[..., Path]) -> None:
    """What is unlinked in it stays in the image below, behind a whiteout."""
    lower = MadeUp(tmp_path / "lower")
    lower.put("/etc/ssh/host_key")
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    words = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    top = mounted(tmp_path / "merged", "-t", "overlay", "-o", words, "overlay")
    (top / "usr/lib/persist/identity.d/t.conf").write_text(
        "[Identity]\nPath=/etc/ssh/host_key /etc/own\nAction=remove\nRegeneratedBy=none\n"
    )
    (top / "etc/own").write_text("x")
    with open_tree(str(top)) as tree:
        result = Seal(tree, (), mounts(), no_way_back, as_lines).first_pass()
    assert sorted(e.partition(":")[0] for e in result.errors) == ["'/etc/machine-id'", "'/etc/ssh/host_key'"]
    assert all(f"an overlay shows it from '{tmp_path}/lower'" in e for e in result.errors)
    # Copied up, the old content is still below.
    (top / "etc/machine-id").write_text("another\n")
    with open_tree(str(top)) as tree:
        assert len(Seal(tree, (), mounts(), no_way_back, as_lines).first_pass().errors) == 2


def test_filesystems_of_the_image_are_sealed(
    on_disk: MadeUp, tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    image = tmp_path / "var"
    sh('truncate -s 16M "$1"; mkfs.ext4 -q -O ^has_journal "$1"', image)
    mounted(on_disk.at("/srv"), "-o", "loop", image)
    on_disk.put("/srv/key")
    on_disk.section("/srv/key", "remove")
    result = on_disk.seal(mounts=mounts())
    assert result.sealed and not on_disk.has("/srv/key")
    assert len(result.notes) == 1 and result.notes[0].startswith("'/srv' is a filesystem of its own")


def test_memory_over_the_machine_id(made: MadeUp, mounted: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "id").write_text("transient\n")
    sh('mount --bind "$1" "$2"', tmp_path / "id", made.at("/etc/machine-id"))
    try:
        result = made.seal(mounts=mounts())
    finally:
        sh('umount "$1"', made.at("/etc/machine-id"))
    assert any("'/etc/machine-id' is a mount of" in e and "Unmount it." in e for e in result.errors)
    assert (tmp_path / "id").read_text() == "transient\n" and made.text("/etc/machine-id") == f"{ID}\n"


def test_a_mount_that_nothing_asks_for_is_told(made: MadeUp, mounted: Callable[..., Path]) -> None:
    mounted(made.at("/srv"), "-t", "tmpfs", "none")
    mounted(made.at("/proc"), "-t", "proc", "none")
    result = made.seal(mounts=mounts())
    assert result.sealed and [note.partition(",")[0] for note in result.notes] == [
        "'/srv' is a mount of 'none'"
    ]


def test_a_store_that_others_may_write(made: MadeUp, tmp_path: Path) -> None:
    made.at("/var/lib/persist").mkdir(mode=0o777)
    made.at("/var/lib/persist").chmod(0o777)
    with pytest.raises(PersistError, match="may be written by others than root"):
        made.seal()
    made.at("/var/lib/persist").rmdir()
    (tmp_path / "outside").mkdir()
    made.link("/var/lib/persist", str(tmp_path / "outside"))
    with pytest.raises(PersistError, match="symbolic link"):
        made.seal()
    assert os.listdir(tmp_path / "outside") == []


def test_a_report_that_somebody_made(made: MadeUp) -> None:
    made.at("/var/lib/persist").mkdir()
    for text in (
        "[" * 100000,
        '{"items": 1}',
        '{"items": [{"source": 1, "patterns": [], "wiped": "x"}]}',
        "\xff",
    ):
        made.put(SEAL_JSON, text)
        assert made.seal().sealed
    made.at(SEAL_JSON).unlink()
    made.link(SEAL_JSON, "/etc/passwd")
    assert "is a symbolic link" in made.seal().failures[0]
    assert made.text("/etc/passwd").startswith("root:")
