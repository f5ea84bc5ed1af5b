# SPDX-License-Identifier: LGPL-2.1-or-later
"""The first pass of seal: what patterns find, where links lead, and what is an error."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from persist.seal.look.obstacles import Surroundings, lowers
from persist.seal.look.pattern import Finder, homes, system_partitions
from persist.seal.look.tree import Tree
from persist.system.mountinfo import Mount, parse

from .seal_tree import MadeUp

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root")


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path / "t")


def found(made: MadeUp, pattern: str) -> list[str]:
    with Tree(str(made.root)) as tree:
        return [each.path for each in Finder(tree).find(pattern)]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("/etc/a", ["/etc/a"]),
        ("/etc/absent", []),
        ("/absent/a", []),
        ("/etc/a/b", []),
        ("/etc/*.x", ["/etc/.h.x", "/etc/b.x", "/etc/c.x"]),
        ("/etc/[bc].?", ["/etc/b.x", "/etc/c.x"]),
        ("/etc/[!b].x", ["/etc/c.x"]),
        ("/etc/*/d", ["/etc/sub/d"]),
        ("/etc/**/d", ["/etc/d", "/etc/sub/d", "/etc/sub/deep/d"]),
        ("/etc/sub/**", ["/etc/sub/d", "/etc/sub/deep", "/etc/sub/deep/d"]),
        ("/etc/**/deep/*", ["/etc/sub/deep/d"]),
        ("/lnk/d", ["/etc/sub/d"]),
        ("/lnk", ["/lnk"]),
        ("/up/a", []),
        ("/loop/a", []),
        ("~/.h", ["/home/alice/.h", "/root/.h"]),
        ("~/.c/*", ["/home/alice/.c/x"]),
        ("ESP:/loader/seed", ["/boot/efi/loader/seed"]),
        ("/var/run/x", ["/run/x"]),
    ],
)
def test_what_a_pattern_finds(made: MadeUp, pattern: str, names: list[str]) -> None:
    for path in ("a", "b.x", "c.x", ".h.x", "d", "sub/d", "sub/deep/d"):
        made.put(f"/etc/{path}")
    for path in (
        "/root/.h",
        "/home/alice/.h",
        "/home/alice/.c/x",
        "/boot/efi/loader/seed",
        "/boot/loader.x",
        "/run/x",
    ):
        made.put(path)
    made.link("/lnk", "/etc/sub")
    made.link("/up", "../../etc")
    made.link("/loop", "loop")
    made.link("/etc/sub/deep/back", "../..")
    made.link("/var/run", "/run")
    if pattern == "/etc/sub/**":
        names = [*names[:2], "/etc/sub/deep/back", names[2]]
    assert found(made, pattern) == (names if pattern != "/etc/**/deep/*" else ["/etc/sub/deep/back", *names])


def test_homes_are_those_of_the_tree(made: MadeUp) -> None:
    made.put(
        "/etc/passwd",
        "root:x:0:0::/root:\nd:x:2:2::/usr/sbin:\na:x:1000:1::/srv/a b/:\nn:x:65534:1::/nonexistent:\n"
        "b:x:1001:1::/:\nc:x:1002:1::/home/../etc:\nbad\ne:x:1²:1::/e:\nf:x:99999999999:1::/f:\n"
        "g:x:1003:1::/home/[x]:\nh:x:1004:1::/root:\n",
    )
    with Tree(str(made.root)) as tree:
        assert homes(tree) == ["/root", "/srv/a b", "/home/[x]"]
    made.put("/home/[x]/.h")
    made.put("/home/x/.h")
    assert found(made, "~/.h") == ["/home/[x]/.h"]
    made.at("/etc/passwd").unlink()
    with Tree(str(made.root)) as tree:
        assert homes(tree) == ["/root"]


def test_system_partitions(made: MadeUp) -> None:
    for path in ("/efi/EFI", "/boot/loader", "/boot/efi/nothing"):
        made.at(path).mkdir(parents=True)
    with Tree(str(made.root)) as tree:
        assert system_partitions(tree) == ["/efi", "/boot"]


def test_actions(made: MadeUp) -> None:
    made.put("/var/log/a")
    made.put("/var/log/empty", "")
    made.put("/var/log/sub/b")
    made.put("/var/lib/d/x")
    made.put("/etc/iscsi/name", "old")
    made.put("/etc/told")
    os.mkfifo(made.at("/var/log/pipe"))
    made.section("/var/log/**", "truncate", cls="log")
    made.section("/var/lib/d", "empty-dir")
    made.section("/etc/iscsi/name", "write", more="Content=new\\n\nRegeneratedBy=none")
    made.section("/etc/told", "report")
    made.section("/etc/t*", "remove", cls="shared")
    assert made.deeds() == [
        "truncate /var/log/a",
        "truncate /var/log/sub/b",
        "empty-dir /var/lib/d",
        "write /etc/iscsi/name",
    ]
    assert made.deeds(["log"]) == ["empty-dir /var/lib/d", "write /etc/iscsi/name"]
    wishes = {w.item.patterns[0]: w for w in made.plan(["log"]).wishes}
    assert [w.kept for w in wishes.values()] == ["", "keep", "", "", "report", "shared"]
    assert wishes["/etc/t*"].matched == ["/etc/told"] and wishes["/etc/t*"].pending == []


def test_what_is_done_is_not_to_be_done(made: MadeUp) -> None:
    made.put("/etc/machine-id", "")
    made.put("/etc/name", "new\n")
    made.put("/var/log/a", "")
    made.at("/var/lib/d").mkdir()
    made.section("/etc/name", "write", more="Content=new\\n\nRegeneratedBy=none")
    made.section("/var/log/a", "truncate", cls="log")
    made.section("/var/lib/d", "empty-dir")
    plan = made.plan()
    assert not any(d.pending for d in plan.deeds) and len(plan.deeds) == 4
    assert [w.pending for w in plan.wishes] == [[]] * 4
    made.put("/etc/name", "new\nand more")
    assert made.deeds() == ["write /etc/name"]


def test_patterns_that_found_nothing_are_told(made: MadeUp) -> None:
    made.put("/etc/a")
    made.section("/etc/a /etc/b /etc/c*", "remove")
    assert [w.stale for w in made.plan().wishes] == [[], ["/etc/b", "/etc/c*"]]


LOG = "/var/log/wtmp.db"


@pytest.mark.parametrize(
    "others", [[], [(LOG, "truncate")], [("/var/log/**", "truncate")], [(LOG, "remove")]]
)
def test_the_link_of_debian_13(made: MadeUp, others: list[tuple[str, str]]) -> None:
    """/var/lib/wtmpdb/wtmp.db leads to /var/log: without the link the package does not find it any more."""
    made.put(LOG)
    made.link("/var/lib/wtmpdb/wtmp.db", "../../log/wtmp.db")
    made.section("/var/lib/wtmpdb/wtmp.db", "remove", cls="log")
    for path, action in others:
        made.section(path, action, cls="log")
    if others == [(LOG, "remove")]:
        assert made.deeds() == ["unlink /var/lib/wtmpdb/wtmp.db", f"remove {LOG}"]
    else:
        assert made.deeds() == [f"{others[0][1] if others else 'remove'} {LOG}"]
    made.at(LOG).unlink()
    assert made.deeds() == [], "a link that leads nowhere is the place of what is made again"


def test_emptying_goes_through_a_link(made: MadeUp) -> None:
    made.put("/srv/real")
    made.put("/srv/dir/x")
    made.link("/etc/a", "/srv/real")
    made.link("/etc/d", "../srv/dir")
    made.section("/etc/a", "truncate")
    made.section("/etc/d", "empty-dir")
    assert made.deeds() == ["empty-dir /srv/dir", "truncate /srv/real"]


def test_a_directory_behind_a_link_is_emptied(made: MadeUp) -> None:
    made.put("/srv/instances/i-1/x")
    made.link("/etc/instance", "/srv/instances/i-1")
    made.section("/etc/instance", "remove")
    assert made.deeds() == ["empty-dir /srv/instances/i-1"]
    made.section("/srv/instances", "remove")
    assert made.deeds() == ["remove /srv/instances"]


def test_links_that_are_met_by_chance(made: MadeUp) -> None:
    """What lies in /tmp or in a cache leads to what nobody meant; of a key, the content is meant."""
    made.put("/etc/important")
    made.link("/tmp/x", "/etc/important")
    made.link("/etc/ssh/host_key", "/etc/important")
    made.section("/tmp/*", "remove", cls="cache")
    assert made.deeds() == ["unlink /tmp/x"]
    made.section("/tmp/*", "truncate", "0", cls="cache")
    assert made.deeds() == ["unlink /tmp/x"]
    made.section("/etc/ssh/*_key", "remove")
    assert made.deeds() == ["unlink /tmp/x", "remove /etc/important"]


@pytest.mark.parametrize("action", ["remove", "truncate", "write", "empty-dir"])
def test_dev_null_stays(made: MadeUp, action: str) -> None:
    made.link("/root/.bash_history", "/dev/null")
    made.section("~/.bash_history", action, cls="user")
    assert made.deeds() == []


def test_what_a_package_ships_is_not_reached_by_a_link(made: MadeUp) -> None:
    made.put("/usr/share/x")
    made.link("/etc/x", "/usr/share/x")
    made.section("/etc/x", "remove")
    plan = made.plan()
    assert [d.kind for d in plan.deeds] == ["write", "unlink"] or [d.kind for d in plan.deeds] == [
        "unlink",
        "write",
    ]
    assert plan.notes and "'/usr/share/x', which is a package's" in plan.notes[0]
    made.section("/etc/x", "truncate", "0")
    assert "which is a package's" in made.plan().errors[0]


@ROOT
@pytest.mark.parametrize("cls", ["identity", "cache"])
def test_links_of_strangers(made: MadeUp, cls: str) -> None:
    """~/.cache -> /etc must not have us empty /etc."""
    made.put("/etc/important/x")
    for path in ("/home/alice", "/home/alice/.cache"):
        if path.endswith("cache"):
            made.link(path, "/etc/important")
        os.lchown(made.at(path), 1000, 1000)
    made.section("~/.cache/*", "remove", cls=cls)
    plan = made.plan()
    said = plan.errors if cls == "identity" else plan.notes
    assert len(said) == 1 and "'/home/alice/.cache' was made by somebody who does not own" in said[0]
    assert len(plan.deeds) == 1
    os.lchown(made.at("/etc/important"), 1000, 1000)
    assert made.deeds() == ["remove /etc/important/x"], "what is theirs may be wiped through their link"


@ROOT
def test_a_link_of_roots_that_somebody_moved(made: MadeUp) -> None:
    made.put("/etc/shadow")
    os.chown(made.at("/home/alice"), 1000, 1000)
    made.link("/home/alice/.bash_history", "/etc/shadow")
    made.section("~/.bash_history", "remove", cls="user")
    plan = made.plan()
    assert [(d.kind, d.path) for d in plan.deeds if d.item.action == "remove"] == [
        ("unlink", "/home/alice/.bash_history")
    ]
    assert "what it leads to stays" in plan.notes[0]
    made.section("~/.bash_history", "truncate", "0", cls="identity")
    assert "does not own what it leads to" in made.plan().errors[0]


@pytest.mark.parametrize("action", ["remove", "truncate", "write"])
def test_a_link_out_of_the_tree(made: MadeUp, action: str) -> None:
    made.put("/../outside")
    made.link("/etc/x", "../../outside")
    made.link("/etc/d", "../..")
    made.section("/etc/x", action)
    made.section("/etc/d/outside", "remove")
    assert made.plan().errors == [
        "/usr/lib/persist/identity.d/t.conf:1: the link '/etc/x' leads out of the tree.",
        "/usr/lib/persist/identity.d/t.conf:6: the link '/etc/d' leads out of the tree.",
    ]
    assert len(made.plan().deeds) == 1


def test_an_absolute_link_is_the_trees(made: MadeUp, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("x")
    made.link("/etc/x", str(outside))
    made.section("/etc/x", "truncate")
    assert made.deeds() == []
    made.put(str(outside))
    assert made.deeds() == [f"truncate {outside}"]


@pytest.mark.parametrize(
    ("first", "second", "deeds"),
    [
        (("/var/log/**", "truncate"), ("/var/log/a", "remove"), ["remove /var/log/a"]),
        (("/var/log/*", "remove"), ("/var/log/a", "truncate"), ["truncate /var/log/a"]),
        (("/var/log/*", "truncate"), ("/var/log/?", "remove"), ["remove /var/log/a"]),
        (("/var/log/a", "truncate"), ("/var/log/a", "remove"), ["truncate /var/log/a"]),
        (("/var/log", "empty-dir"), ("/var/log/?", "truncate"), ["empty-dir /var/log"]),
        (("/var/log/a", "report"), ("/var/log/a", "remove"), ["remove /var/log/a"]),
    ],
)
def test_two_sections_for_one_file(
    made: MadeUp, first: tuple[str, str], second: tuple[str, str], deeds: list[str]
) -> None:
    made.put("/var/log/a")
    for path, action in (first, second):
        made.section(path, action)
    plan = made.plan()
    assert [f"{d.kind} {d.path}" for d in plan.deeds if d.path != "/etc/machine-id"] == deeds
    assert all(w.pending for w in plan.wishes if w.item.action != "report"), "what one does, all asked for"
    assert bool(plan.notes) == (first[0] == second[0] and first[1] == "truncate")


def test_what_is_to_stay_in_a_directory_that_goes(made: MadeUp) -> None:
    made.put("/var/lib/d/x")
    made.section("/var/lib/d", "remove")
    made.section("/var/lib/d/x", "truncate")
    assert "t.conf:1 takes away the directory that it is in" in made.plan().errors[0]


@pytest.mark.parametrize(
    ("path", "action", "what"),
    [
        ("/var/log", "truncate", "a directory"),
        ("/var/p", "write", "no file"),
        ("/var/f", "empty-dir", "no directory"),
    ],
)
def test_a_name_that_is_something_else(made: MadeUp, path: str, action: str, what: str) -> None:
    os.mkfifo(made.at("/var/p"))
    made.put("/var/f")
    made.section(path, action)
    assert f"'{path}' is {what}" in made.plan().errors[0]
    made.at("/usr/lib/persist/identity.d/t.conf").unlink()
    made.section({"/var/log": "/var/lo*", "/var/p": "/var/*", "/var/f": "/var/[f-]"}[path], action)
    assert made.plan().errors == [], "what a wildcard meets is passed over"


def test_no_directory_below_the_top_is_removed(made: MadeUp) -> None:
    made.section("/var", "remove")
    assert "'/var' is a directory below /, and is not removed" in made.plan().errors[0]


def test_second_names(made: MadeUp) -> None:
    made.put("/etc/key")
    os.link(made.at("/etc/key"), made.at("/srv-key"))
    made.section("/etc/key", "truncate")
    assert "'/etc/key' has another name (a hard link)" in made.plan().errors[0]
    made.at("/usr/lib/persist/identity.d/t.conf").unlink()
    made.section("/etc/key", "remove")
    assert "under which its content would stay" in made.plan().errors[0]
    made.section("/srv-key", "remove")
    assert made.deeds() == ["remove /etc/key", "remove /srv-key"]


def test_a_tree_without_bottom(made: MadeUp) -> None:
    here = os.open(made.at("/tmp"), os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    made.section("/tmp/**/x", "remove")
    assert "has more than 200 directories in one another" in made.plan().errors[0]
    made.at("/usr/lib/persist/identity.d/t.conf").unlink()
    made.section("/tmp/*", "remove", cls="cache")
    assert "more than 200 directories in one another" in made.plan().errors[0]
    subprocess.run(["rm", "-rf", made.at("/tmp")], check=True)


def mounts(made: MadeUp, *lines: str) -> list[Mount]:
    """mountinfo of a machine; T is the tree."""
    text = "".join(f"{20 + i} 1 {line}\n" for i, line in enumerate(lines))
    return parse(text.replace(" T", f" {made.root}"))


SDA = "8:1 / / rw - ext4 /dev/sda1 rw"


@pytest.mark.parametrize(
    ("lines", "own", "foreign"),
    [
        (["7:1 / T/var rw - ext4 /dev/loop1 rw"], ["var"], []),
        (["7:1 / T rw - ext4 /dev/loop0 rw", "0:5 / T/proc rw - proc proc rw"], [], ["proc"]),
        (["8:1 /srv/cache T/var/cache rw - ext4 /dev/sda1 rw"], [], ["var/cache"]),
        (["8:2 / /data rw - ext4 /dev/sda2 rw", "8:2 / T/var rw - ext4 /dev/sda2 rw"], [], ["var"]),
        (["0:9 / T/tmp rw - tmpfs none rw"], [], ["tmp"]),
        (["0:30 /@var T/var rw - btrfs /dev/sdb rw,subvol=/@var"], ["var"], []),
        (["0:30 /@/x T/var rw - btrfs /dev/sdb rw,subvol=/@"], [], ["var"]),
    ],
)
def test_whose_a_mount_is(made: MadeUp, lines: list[str], own: list[str], foreign: list[str]) -> None:
    around = Surroundings(str(made.root), mounts(made, SDA, *lines))
    assert ["/".join(p) for p in around.own] == own and ["/".join(p) for p in around.foreign] == foreign


def test_a_mount_of_the_builders_is_not_wiped(made: MadeUp) -> None:
    """The package cache of the machine that does the work, bound into the tree."""
    made.put("/var/cache/apt/archives/x.deb")
    made.section("/var/cache/apt/archives/*", "remove", cls="cache")
    bound = mounts(made, SDA, "8:1 /srv/cache T/var/cache/apt rw - ext4 /dev/sda1 rw")
    plan = made.plan(mounts=bound)
    assert len(plan.deeds) == 1
    assert plan.errors == [
        "'/var/cache/apt' is a mount of '/dev/sda1', which is not the image's and hides what the image has "
        "there. Unmount it."
    ]
    other = mounts(made, SDA, "0:7 / T/srv rw - tmpfs none rw", "0:5 / T/dev rw - devtmpfs dev rw")
    assert made.deeds(mounts=other) == ["remove /var/cache/apt/archives/x.deb"], (
        "nothing looks for anything there"
    )


def test_a_machine_id_that_is_mounted(made: MadeUp) -> None:
    bound = mounts(made, SDA, "0:7 /machine-id T/etc/machine-id rw - tmpfs none rw")
    assert "'/etc/machine-id' is a mount of 'none'" in made.plan(mounts=bound).errors[0]


def test_a_mount_in_a_directory_that_goes(made: MadeUp) -> None:
    made.put("/var/lib/d/m/x")
    made.section("/var/lib/d", "remove")
    for line in ("7:1 / T/var/lib/d/m rw - ext4 /dev/loop1 rw", "0:7 / T/var/lib/d/m rw - tmpfs none rw"):
        assert "something is mounted on '/var/lib/d/m'" in made.plan(mounts=mounts(made, SDA, line)).errors[0]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("rw,lowerdir=/a:/b,upperdir=/u", ["/a", "/b"]),
        (r"rw,lowerdir=/a\:x:/b\\y", ["/a:x", "/b\\y"]),
        ("rw,lowerdir+=/a,lowerdir+=/b,datadir+=/c", ["/a", "/b", "/c"]),
        (r"lowerdir=/a\134\072b", ["/a:b"]),
        (r"lowerdir=/a\040b::/c", ["/a b", "/c"]),
        ("rw", []),
    ],
)
def test_lower_directories(options: str, names: list[str]) -> None:
    mount = parse(f"1 1 0:1 / /x rw - overlay overlay {options}\n")[0]
    assert lowers(mount) == names
    assert lowers(parse(f"1 1 0:1 / /x rw - ext4 overlay {options}\n")[0]) == []


def test_our_own_files_are_nobodys_to_wipe(made: MadeUp) -> None:
    """The list of what the clone makes is written before what it is for is wiped."""
    for name in ("regenerate", "seal.json", "known-volume"):
        made.put(f"/var/lib/persist/{name}")
    made.section("/var/lib/persist/* /var/lib/**/regenerate", "remove")
    made.section("/var/lib/persist/**", "truncate", "0")
    assert made.deeds() == ["remove /var/lib/persist/known-volume"]
    made.section("/var/lib/persist", "empty-dir")
    made.section("/var/lib", "remove")
    assert [e.partition(": ")[2] for e in made.plan().errors] == [
        "'/var/lib/persist' is where seal's own files are; name what is in it.",
        "'/var/lib' is where seal's own files are; name what is in it.",
    ]


@pytest.mark.parametrize("cls", ["identity", "cache"])
def test_a_link_on_the_way_to_a_packages_files(made: MadeUp, cls: str) -> None:
    made.put("/usr/share/x/key")
    made.put("/usr/local/lib/key")
    made.put("/boot/loader/key")
    made.link("/etc/x", "/usr/share/x")
    made.link("/etc/l", "../usr/local/lib")
    made.link("/lib", "usr/lib")
    made.put("/usr/lib/y/key")
    made.section("/etc/x/*", "remove", cls=cls)
    plan = made.plan()
    said = plan.errors if cls == "identity" else plan.notes
    assert len(plan.deeds) == 1 and [text.partition(": ")[2] for text in said] == [
        "a link in '/etc/x/*' leads to '/usr/share/x/key', which is a package's."
    ]
    made.at("/usr/lib/persist/identity.d/t.conf").unlink()
    made.section("/etc/l/* ESP:/loader/key /lib/y/* /usr/share/x/key", "remove", cls=cls)
    assert made.deeds() == [
        "remove /boot/loader/key",
        "remove /usr/lib/y/key",
        "remove /usr/local/lib/key",
        "remove /usr/share/x/key",
    ]
