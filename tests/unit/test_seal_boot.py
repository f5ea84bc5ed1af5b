# SPDX-License-Identifier: LGPL-2.1-or-later
"""The seal boot, what of it is pure: who is here, what belongs to the image, what is not mounted, how a
request is used up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.seal.boot import consume, ended, unmounted, voice, who
from persist.seal.boot.kept import SEALED, WIPED, Kept
from persist.seal.boot.mounted import sort
from persist.seal.boot.unmounted import Known
from persist.seal.boot.who import Process
from persist.seal.look.traces import Old
from persist.system.mountinfo import parse
from persist.system.run import stream

TOP = Path(__file__).resolve().parents[2]
FENCE = ["systemd-udevd", "systemd-journald", "persist-seal", "systemd-fsck@", "lvm-activate-", "modprobe@"]


def test_who_may_run() -> None:
    for name in ("systemd-udevd", "systemd-fsck@dev-vda1", "lvm-activate-vg0", "persist-seal", "modprobe@dm"):
        assert who.may_run(f"{name}.service", FENCE), name
    for name in ("systemd-udevd2", "ssh", "systemd-fsck", "lvm-activate", "fsck@x", ""):
        assert not who.may_run(f"{name}.service", FENCE), name


def test_strangers() -> None:
    """By control groups, and by what was started; PID 1, the kernel and the initrd's storage are here by
    right."""
    processes = [
        Process(1, "/init.scope", "systemd"),
        Process(2, "/", "kthreadd", kernel=True),
        Process(300, "/system.slice/systemd-udevd.service/udev", "(udev-worker)"),
        Process(301, "/", "mdmon", of_storage=True),
        Process(302, "/system.slice/system-systemd\\x2dfsck.slice/systemd-fsck@a.service", "fsck.ext4"),
        Process(400, "/system.slice/ssh.service", "sshd"),
        Process(401, "/", "sh"),
    ]
    started = ["ssh.service", "consul.service", "systemd-udevd.service", "systemd-fsck@b.service"]
    assert who.strangers(processes, started, FENCE) == [
        "Process 400 (sshd) of ssh.service runs.",
        "Process 401 (sh) of / runs.",
        "consul.service was started in this boot.",
    ]
    assert who.strangers(processes[:5], [], FENCE) == []


def test_what_was_started() -> None:
    """One that has ended leaves no process; what the initrd's service manager ran was before this one."""
    assert who.since([("a.service", 700), ("b.service", 0), ("c.service", 100)], 500) == ["a.service"]
    for units, when in (([("a.service", None)], 500), ([("a.service", 700)], None)):
        with pytest.raises(PersistError, match=r"whether a\.service was started"):
            who.since(units, when)


def test_a_process_of_proc(tmp_path: Path) -> None:
    proc = tmp_path / "77"
    proc.mkdir()
    (proc / "stat").write_text("77 (a (b) c) S 1 77 77 0 -1 4194560 1 0")
    (proc / "cgroup").write_text("2:cpu:/x\n1:name=systemd:/system.slice/a.service\n0::/\n")
    (proc / "cmdline").write_bytes(b"@mdmon\0--all\0")
    assert who.processes(str(tmp_path)) == [
        Process(77, "/system.slice/a.service", "a (b) c", of_storage=True)
    ]
    (proc / "stat").write_text("77 (kworker/0:1) I 2 0 0 0 -1 69238880 0 0")
    (proc / "cmdline").write_bytes(b"")
    (proc / "cgroup").write_text("0::/\n")
    assert who.processes(str(tmp_path)) == [Process(77, "/", "kworker/0:1", kernel=True)]
    (proc / "stat").write_text("77 (gone) Z 2 0 0 0 -1 0 0 0")
    assert who.processes(str(tmp_path)) == []


def test_the_fence_is_what_the_generator_made(tmp_path: Path) -> None:
    for name in ("systemd-udevd.service.d", "lvm-activate-.service.d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / who.DROP_IN).symlink_to("/dev/null")
    (tmp_path / "service.d").mkdir()
    (tmp_path / "service.d" / who.DROP_IN).write_text("[Unit]\n")
    (tmp_path / "other.service.d").mkdir()
    assert who.fence(str(tmp_path)) == ["lvm-activate-", "systemd-udevd"]
    with pytest.raises(OSError, match="No such file"):
        who.fence(str(tmp_path / "none"))


MOUNTINFO = """\
21 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
22 21 0:5 / /proc rw - proc proc rw
23 21 0:6 / /run rw - tmpfs tmpfs rw
24 21 254:2 / /var rw - ext4 /dev/vda2 rw
25 24 254:3 / /var/log rw - xfs /dev/vda3 rw
26 21 254:15 / /boot/efi rw - vfat /dev/vda15 rw
27 21 0:30 /@home /home rw - btrfs /dev/vdc rw,subvol=/@home
28 23 0:40 /@persist-state /run/persist/volume rw - btrfs /dev/vdb2 rw,subvol=/@persist-state
29 21 0:40 /@persist-state /mnt/state rw - btrfs /dev/vdb2 rw,subvol=/@persist-state
30 21 0:40 /@persist-state/srv/data /srv/data rw - btrfs /dev/vdb2 rw,subvol=/@persist-state
31 21 0:41 / /etc rw - overlay overlay rw,lowerdir=/run/persist/private/lower/etc,upperdir=/u
32 21 0:6 /machine-id /etc/machine-id ro - tmpfs tmpfs rw
33 21 254:1 /srv/a /srv/b rw - ext4 /dev/vda1 rw
34 21 0:50 / /opt rw - tmpfs tmpfs rw
"""


def test_what_is_the_images() -> None:
    """Filesystems on disks, parents first; nothing that persist or PID 1 has mounted."""
    found = sort(parse(MOUNTINFO))
    assert [m.mount_point for m in found.inside] == ["/boot/efi", "/home", "/var", "/var/log"]
    assert found.errors == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("40 21 0:60 / /tank rw - zfs tank/data rw", "'/tank' is a mount of 'tank/data' (zfs)"),
        ("40 21 0:60 / /opt rw - overlay overlay rw,lowerdir=/a,upperdir=/b", "no filesystem on a disk"),
        ("40 21 254:9 /sub /data rw - ext4 /dev/vda9 rw", "is mounted nowhere as a whole"),
    ],
)
def test_what_cannot_be_put_in(line: str, said: str) -> None:
    errors = sort(parse(MOUNTINFO + line + "\n")).errors
    assert len(errors) == 1 and said in errors[0]


def test_a_hole_in_an_entry() -> None:
    """It shows a directory of the image, whatever the root is: in the tree that is there already."""
    text = """\
21 1 0:28 / / rw - overlay overlay rw,lowerdir=/a,upperdir=/b
22 21 0:41 / /var rw - overlay overlay rw,lowerdir=/run/persist/private/lower/var,upperdir=/u
23 22 0:28 /var/cache/apt /var/cache/apt rw - overlay overlay rw,lowerdir=/a,upperdir=/b
"""
    found = sort(parse(text))
    assert found.inside == [] and found.errors == []


def test_a_mount_that_is_covered_is_not_seen() -> None:
    """What is mounted now on a place, not what was; a /var from before another /var has gone out of sight."""
    again = MOUNTINFO + "50 24 254:8 / /var rw - ext4 /dev/vda8 rw\n"
    assert [(m.mount_point, m.source) for m in sort(parse(again)).inside if "var" in m.mount_point] == [
        ("/var", "/dev/vda8")
    ]


def test_a_volume_on_the_root_hides_nothing() -> None:
    """Fallback=root: the volume is a directory of the root filesystem, whose other parts are not its."""
    text = """\
21 1 0:30 /@ / rw - btrfs /dev/vda1 rw,subvol=/@
22 21 0:30 /@home /home rw - btrfs /dev/vda1 rw,subvol=/@home
23 21 0:30 /@/var/lib/persist/root /run/persist/volume rw - btrfs /dev/vda1 rw,subvol=/@
24 21 0:30 /@/var/lib/persist/root/srv /srv rw - btrfs /dev/vda1 rw,subvol=/@
"""
    found = sort(parse(text))
    assert [m.mount_point for m in found.inside] == ["/home"] and found.errors == []


def test_what_is_not_mounted() -> None:
    """An error where a pattern may find something there, else a notice; what comes with the network is in no
    image."""
    known = [
        Known("var-log.mount", "/var/log", "/dev/vda3", "xfs"),
        Known("boot-efi.mount", "/boot/efi", "/dev/vda15", "vfat"),
        Known("srv.mount", "/srv", "/dev/vdd", "ext4"),
        Known("mnt.mount", "/mnt", "nas:/x", "nfs4"),
        Known("data.mount", "/data", "/dev/sdx", "ext4", "rw,_netdev"),
        Known("home.mount", "/home", "/dev/vda4", "ext4"),
        Known("tmp.mount", "/tmp", "tmpfs", "tmpfs"),
        Known("dev-hugepages.mount", "/dev/hugepages", "hugetlbfs", "hugetlbfs"),
        Known("opt.mount", "/opt", "/dev/vda7", "ext4", active=True),
    ]
    patterns = ["/var/log/journal/*", "ESP:/loader/random-seed", "~/.bash_history", "/opt/x", "/tmp/*"]
    errors, notes = unmounted.judge(known, ["/", "/opt"], patterns, ["/root", "/home/user"])
    assert [e.split("'")[1] for e in errors] == ["/boot/efi", "/home", "/var/log"]
    assert [n.split("'")[1] for n in notes] == ["/srv"]
    assert unmounted.judge(known, [k.where for k in known], patterns, []) == ([], [])


@pytest.mark.parametrize(
    ("where", "pattern", "holds"),
    [
        ("/var", "/var/log/wtmp", True),
        ("/var/log", "/var/log/**/*.log", True),
        ("/var/log/a/b", "/var/log/**/*.log", True),
        ("/var/lib/x", "/var/*/y/id", False),
        ("/var/lib/y", "/var/*/y/id", True),
        ("/etc/ssh", "/etc/ssh", False),
        ("/boot", "ESP:/loader/random-seed", True),
    ],
)
def test_where_a_pattern_may_find_something(where: str, pattern: str, holds: bool) -> None:
    assert unmounted.may_hold(where, pattern, ["/root"]) is holds


# -- a request is used up


def etc(root: Path) -> Path:
    directory = root / "etc/persist"
    directory.mkdir(parents=True)
    (directory / "seal.request").write_text("{}")
    return directory


def test_consume(tmp_path: Path) -> None:
    """Below both roots: the ID is noted, once, and the request is gone."""
    one, other = etc(tmp_path / "a"), tmp_path / "b/etc/persist"
    (tmp_path / "b").mkdir()
    (one / "seal.done").write_text("first")
    for _ in range(2):
        consume.consume("second", [str(tmp_path / "a"), str(tmp_path / "b")])
    assert (one / "seal.done").read_text() == "first\nsecond\n"
    assert (other / "seal.done").read_text() == "second\n"
    assert sorted(p.name for p in one.iterdir()) == ["seal.done"]


@pytest.mark.parametrize("step", consume.STEPS)
def test_consume_cut(tmp_path: Path, step: str) -> None:
    """Whenever it is cut: while the request is there and its ID is not noted, nothing has begun; and never is
    the request gone without that its ID is noted."""
    directory = etc(tmp_path)
    code = (
        "from persist.seal.boot import consume;"
        f"consume.step('flagged'); consume.consume('id', [{str(tmp_path)!r}])"
    )
    environ = {**os.environ, "PYTHONPATH": str(TOP), "PERSIST_TEST_KILL_AFTER": step}
    done = subprocess.run([sys.executable, "-c", code], env=environ, check=False)
    assert done.returncode == -signal.SIGKILL
    noted = (directory / "seal.done").exists()
    assert (noted, (directory / "seal.request").exists()) == {
        "flagged": (False, True),
        "noted": (True, True),
        "taken": (True, False),
    }[step]


def test_taken_away_unused(tmp_path: Path) -> None:
    """Of two that did not agree neither is honoured later, and nobody has begun with one of them."""
    directory = etc(tmp_path)
    (directory / "seal.done").write_text("zero\none\n")
    roots = [str(tmp_path), str(tmp_path / "nothing")]
    (tmp_path / "nothing").mkdir()
    consume.take_away(roots, ["one", "two"])
    assert [p.name for p in directory.iterdir()] == ["seal.done"]
    assert (directory / "seal.done").read_text() == "zero\none\ntwo refused\n"
    consume.take_away(roots, ["two"])
    consume.consume("two", [str(tmp_path)])
    assert (directory / "seal.done").read_text() == "zero\none\ntwo refused\n", "once and for all"


def test_consume_where_it_cannot_be(tmp_path: Path) -> None:
    """A link or somebody else's directory: nothing is taken away, and it raises."""
    directory = etc(tmp_path / "a")
    (tmp_path / "b/etc").mkdir(parents=True)
    (tmp_path / "b/etc/persist").symlink_to(directory)
    with pytest.raises(PersistError, match="symbolic link"):
        consume.consume("id", [str(tmp_path / "a"), str(tmp_path / "b")])
    assert [p.name for p in directory.iterdir()] == ["seal.request"]
    directory.chmod(0o777)
    with pytest.raises(PersistError, match="may be written by others"):
        consume.consume("id", [str(tmp_path / "a")])
    assert [p.name for p in directory.iterdir()] == ["seal.request"]


# -- what is said


def test_the_report_names_the_request_and_no_old_id() -> None:
    old = Old({"the machine-id": ("0123456789abcdef0123456789abcdef",)})
    data = ended.document({"sealed": True}, "r-1", "id is 0123456789ABCDEF0123456789abcdef\n", old)
    assert json.loads(data) == {
        "sealed": True,
        "request": "r-1",
        "operator_script": {"output": "id is <machine-id>\n"},
    }
    assert "operator_script" not in json.loads(ended.document({}, "r", None, old))


def test_what_failed() -> None:
    text = (
        "Id=persist-seal.service\nActiveState=failed\nResult=timeout\nAssertResult=yes\n\n"
        "Id=persist-seal-begin.service\nActiveState=inactive\nResult=success\nAssertResult=no\n"
        "AssertTimestampMonotonic=7\n\n"
        "Id=persist-seal-off.service\nActiveState=inactive\nResult=success\nAssertResult=no\n"
        "AssertTimestampMonotonic=0\n\n"
        "Id=persist-seal-end.service\nActiveState=inactive\nResult=success\nAssertResult=yes\n"
    )
    assert ended.parse_units(text) == [
        "persist-seal.service failed (timeout).",
        "persist-seal-begin.service was not started: an assertion of its unit failed.",
    ]
    text = (
        "What=/dev/x\nWhere=/srv\nId=srv.mount\nActiveState=inactive\n\nId=a\nActiveState=active\nWhere=/a\n"
    )
    assert ended.parse_mounts(text) == ["'/srv' (/dev/x, srv.mount) is not mounted."]
    assert ended.failure("id", ["a\nb", "c"]) == b"id\na b\nc\n"


def test_a_port_that_nobody_reads_keeps_nobody(tmp_path: Path) -> None:
    ports = tmp_path / "ports/vport1p2"
    ports.mkdir(parents=True)
    (ports / "name").write_text("org.persist.seal\n")
    os.mkfifo(tmp_path / "vport1p2")
    node = voice.port(ports=str(tmp_path / "ports"), dev=str(tmp_path))
    assert node == str(tmp_path / "vport1p2")
    assert not voice.write(node, "running\n")  # no reader
    reader = os.open(node, os.O_RDONLY | os.O_NONBLOCK)
    try:
        one = voice.Voice(console="", port_node=node)
        one.on_port("error: a\nb\x1b")
        assert os.read(reader, 99) == b"error: a\\nb\\x1b\n"
        while voice.write(node, "x" * 4000):
            pass
        one.on_port("success")  # full: lost, and no wait
    finally:
        os.close(reader)
    assert voice.port(ports=str(tmp_path / "none")) == ""


def test_what_services_leave_one_another(tmp_path: Path) -> None:
    kept = Kept(str(tmp_path / "seal"))
    assert kept.errors() == [] and kept.script_output() is None and not kept.marked(WIPED)
    kept.failed(["a"])
    kept.failed(["b"])
    old = Old({"the host name": ("web-1",)})
    kept.wiped({"sealed": True}, old)
    kept.script("out")
    assert kept.errors() == ["a", "b"] and kept.old() == old and kept.report() == {"sealed": True}
    assert kept.marked(WIPED) and not kept.marked(SEALED) and kept.script_output() == "out"
    kept.sealed("reboot")
    assert kept.marked(SEALED) and kept.then() == "reboot"
    assert (tmp_path / "seal").stat().st_mode & 0o777 == 0o700


def test_a_program_that_says_what_it_does() -> None:
    """Lines as they come, of both outputs, also the last one without an end; what it leaves running is not
    waited for."""
    lines: list[str] = []
    assert stream("sh", "-c", "echo a; echo b >&2; printf c; sleep 60 & exit 3", line=lines.append) == 3
    assert lines == ["a", "b", "c"]
    assert stream("sh", "-c", "kill -9 $$", line=lines.append) == -9
    assert stream("sh", "-c", "exec >&- 2>&-; exit 4", line=lines.append) == 4
    assert stream("sh", "-c", "yes & exit 5", line=lambda line: None) == 5
