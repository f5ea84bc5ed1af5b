# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl seal on real filesystems: what is wiped and kept, what stands in the way, and power cuts."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.seal.opened import open_tree
from persist.seal.wipe import STEPS
from tests.unit.seal_tree import ID, MadeUp
from tests.unit.test_seed_cuts import killed

from .seal_rig import AS_ROOT, LIST, SEAL_JSON, full, hook, shell, snapshot

pytestmark = AS_ROOT


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
