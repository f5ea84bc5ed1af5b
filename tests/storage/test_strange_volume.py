# SPDX-License-Identifier: LGPL-2.1-or-later
"""Any disk with the right label may become the volume, so it is data: what a user can do with setuid
programs, devices and files on one.

As the user nobody, by every way that a boot opens to them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import pytest

from persist.boot import paths
from persist.cli import main as cli
from persist.cli import status
from persist.entries.bind import mount_seeded
from persist.errors import PersistError
from persist.system import files, newmount
from persist.verdict import judge, written
from persist.volume import outcome
from persist.volume.mount.private import keep_users_out

from .namespace import disk, kept, own_machine, registry
from .rig import PYTHON, LoopDisk, tool
from .services import services
from .volumes import unmounted

# For each directory of the command line: a setuid copy of id is run, a device node and a file are opened.
_USER = """
import json, os, subprocess, sys
found = {}
for way in sys.argv[2:]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
        did = []
        try:
            if subprocess.run([way + "/id", "-u"], capture_output=True, text=True).stdout == "0\\n":
                did.append("root")
        except OSError:
            pass
        for name, what in (("null", "device"), ("file", "file")):
            try:
                os.open(way + "/" + name, os.O_RDONLY)
                did.append(what)
            except OSError:
                pass
        os.write(writing, " ".join(did).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    found[way] = os.read(reading, 100).decode()
with open(sys.argv[1], "w") as f:
    json.dump(found, f)
"""
OVERLAYS = ("/srv", "/media")
ENTRIES = """
[Path]
Path=/srv
[Path]
Path=/srv/bound
Method=bind
[Path]
Path=/media
Options=suid,dev
[Path]
Path=/media/bound
Method=bind
Options=suid,dev
"""
LINK = """
[Path]
Path=/opt/link
Method=symlink
"""
VOLUME, PRIVATE = "/run/persist/volume", "/run/persist/private"
ALL = "root device file"


def bad(directory: Path) -> None:
    """A directory with a program that makes its user root, a device node and a file, open to everybody."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    shutil.copy("/usr/bin/id", directory / "id")
    (directory / "id").chmod(0o4755)
    (directory / "file").write_text("data")
    os.mknod(directory / "null", 0o020666, os.makedev(1, 3))
    (directory / "null").chmod(0o666)


def fill(state: Path) -> None:
    """What a stranger put on a volume, open to everybody. A top that is not root's own is not used at all
    (test_hostile.py)."""
    for place in (
        "",
        "srv/bound",
        "media/bound",
        "opt/link",
        *(f".persist/overlay{o}/upper" for o in OVERLAYS),
    ):
        bad(state / place)
    for overlay in OVERLAYS:
        (state / f".persist/overlay{overlay}/work").mkdir()
    for name in ("srv", "srv-bound", "media", "media-bound", "opt-link"):
        (state / f".persist/seed/{name}.json").write_text('{"version": 1}')


@pytest.fixture
def strange(volume: LoopDisk, tmp_path: Path) -> LoopDisk:
    place = tmp_path / "place"
    place.mkdir()
    with unmounted(str(place)):
        tool("mount", "-o", "subvol=@persist-state", f"{volume.node}p1", place)
        fill(place)
    return volume


def machine(entries: str, before: str = "") -> str:
    """A machine with these entries, whose /opt has the link of one of them."""
    return (
        f"mount -t tmpfs tmpfs /opt; ln -s {VOLUME}/opt/link /opt/link; mkdir -p /run/persist.d "
        "/run/systemd/system/local-fs.target.wants; "
        "ln -s /usr/lib/systemd/system/persist-setup.target "
        "/run/systemd/system/local-fs.target.wants/persist-setup.target; "
        f"cat >/run/persist.d/t.conf <<'END'\n{entries}\nEND\n{before}"
    )


def as_a_user(
    disk: LoopDisk,
    tmp_path: Path,
    *ways: str,
    entries: str,
    before: str = "",
    after: str = "",
    cmdline: str = "",
) -> dict[str, str]:
    """What nobody can do in each of the directories after the volume service has run (twice: the second time
    it finds what is mounted)."""
    program, result = tmp_path / "user.py", tmp_path / "found.json"
    program.write_text(_USER)
    services(
        "volume",
        "volume",
        after or "true",
        f"{PYTHON} {program} {result} {' '.join(ways)}",
        device=[disk.node],
        cmdline=cmdline,
        before=machine(entries, before),
    )
    found: dict[str, str] = json.loads(result.read_text())
    return found


PLACES = ("/srv", "/srv/bound", "/media", "/media/bound")
BELOW = (
    VOLUME,
    "/mnt/state",
    f"{VOLUME}/srv/bound",
    "/mnt/state/srv/bound",
    f"{VOLUME}/.persist/overlay/srv/upper",
)
BEFORE = """
mkdir -p /run/persist/volume; mount -o subvol=@persist-state {node}p1 /run/persist/volume
for o in srv media; do
at=/run/persist/volume/.persist/overlay/$o
mount -t overlay -o lowerdir=/$o,upperdir=$at/upper,workdir=$at/work early /$o
mkdir /$o/bound; mount --bind /run/persist/volume/$o/bound /$o/bound
done
"""


@pytest.mark.parametrize("boot", ["", "ro"])
def test_nobody_becomes_root_by_a_strange_volume(strange: LoopDisk, tmp_path: Path, boot: str) -> None:
    """What an entry shows is a file to read, and more only where the entry asks for it; the volume itself is
    shown to nobody."""
    found = as_a_user(
        strange,
        tmp_path,
        *PLACES,
        *BELOW,
        f"{PRIVATE}/readonly",
        f"{PRIVATE}/readonly/srv/bound",
        entries=ENTRIES,
        cmdline="persist=ro" if boot == "ro" else "",
    )
    assert found == {
        "/srv": "file",
        "/srv/bound": "file",
        "/media": ALL,
        "/media/bound": ALL,
    } | dict.fromkeys((*BELOW, f"{PRIVATE}/readonly", f"{PRIVATE}/readonly/srv/bound"), "")


def test_links_lead_through_a_strange_volume_and_make_nobody_root(strange: LoopDisk, tmp_path: Path) -> None:
    """With a symlink entry users come through the top of the volume to names that they know."""
    found = as_a_user(
        strange,
        tmp_path,
        "/opt/link",
        *PLACES,
        f"{VOLUME}/opt/link",
        "/mnt/state/opt/link",
        entries=ENTRIES + LINK,
        after=f"set -- $(stat -c '%a %u %g' {VOLUME}); test \"$*\" = '711 0 0'; ! setpriv --reuid 65534 "
        f"--clear-groups ls {VOLUME}",
    )
    assert found == {
        "/opt/link": "file",
        "/srv": "file",
        "/srv/bound": "file",
        "/media": ALL,
        "/media/bound": ALL,
        f"{VOLUME}/opt/link": "file",
        "/mnt/state/opt/link": "file",
    }


def test_volume_that_takes_no_writes_and_is_open_has_no_public_name(
    strange: LoopDisk, tmp_path: Path
) -> None:
    strange.replug("--read-only")
    assert as_a_user(strange, tmp_path, VOLUME, "/mnt/state", entries=ENTRIES) == {
        VOLUME: "file",
        "/mnt/state": "",
    }


def test_what_the_initrd_mounted_is_protected_whatever_fails(strange: LoopDisk) -> None:
    seen = services(
        "volume",
        f"findmnt -no OPTIONS {VOLUME} | grep ^rw,nosuid,nodev; test $(stat -c %a {VOLUME}) = 711",
        device=[strange.node],
        before=machine(ENTRIES, BEFORE.format(node=strange.node)) + "\ntouch /run/persist/stores",
    )
    assert (seen.last["status"], seen.last["kind"], seen.last["reason"]) == (1, "btrfs", "failed")


@pytest.mark.parametrize("kind", ["memory", "root"])
def test_what_stands_in_for_the_volume(volume: LoopDisk, tmp_path: Path, kind: str) -> None:
    """Memory and a directory of the root are as closed as a volume, but for links."""
    copy = (
        f"for d in . opt/link; do mkdir -p {VOLUME}/$d; cp -p /usr/bin/id {VOLUME}/$d/; chmod 4755 "
        f"{VOLUME}/$d/id; echo data >{VOLUME}/$d/file; done"
    )
    for entries, file in ((ENTRIES, ""), (LINK, "file")):
        program, result = tmp_path / "user.py", tmp_path / "found.json"
        program.write_text(_USER)
        services(
            "volume",
            copy,
            f"{PYTHON} {program} {result} {VOLUME} {VOLUME}/opt/link /mnt/state /opt/link",
            cmdline="persist=volatile" if kind == "memory" else "",
            before=machine(entries),
            config={"member_timeout": 0} | ({"fallback": "root"} if kind == "root" else {}),
            device=["/dev/nothing"],
        )
        assert json.loads(result.read_text()) == dict.fromkeys(
            (VOLUME, f"{VOLUME}/opt/link", "/mnt/state", "/opt/link"), file
        )


def test_image_is_shown_to_root_alone_and_with_its_own_flags(volume: LoopDisk, tmp_path: Path) -> None:
    """Users run no program by private/lower that was removed from an overlay; in holes, which are binds of
    private/image, programs work as ever."""
    options = "sed -n 's|.* / {} \\([^ ]*\\) .*|\\1|p' /proc/self/mountinfo"
    found = as_a_user(
        volume,
        tmp_path,
        f"{PRIVATE}/lower/usr/bin",
        f"{PRIVATE}/image/usr/bin",
        PRIVATE,
        entries=ENTRIES,
        after=(
            "for p in lower image; do ! setpriv --reuid 65534 --clear-groups test -x "
            f"{PRIVATE}/$p/usr/bin/id; done; "
            f'test "$({options.format(PRIVATE + "/image")})" = "$({options.format("/")})"; '
            f'case "$({options.format(PRIVATE + "/lower")})" in ro,nosuid,nodev*) ;; *) exit 1 ;; esac'
        ),
    )
    assert set(found.values()) == {""}


def test_a_look_at_a_volume_runs_nothing_of_it(volume: LoopDisk) -> None:
    with newmount.nowhere("btrfs", f"{volume.node}p1", "subvolid=5", read_only=True) as at:
        flags = os.statvfs(at).f_flag
    wanted = os.ST_NOSUID | os.ST_NODEV | os.ST_RDONLY
    assert flags & wanted == wanted


def test_new_volume_is_closed(volume: LoopDisk, place: Path) -> None:
    """Also where it is mounted by hand, on another machine."""
    at = place / "volume"
    at.mkdir()
    tool("mount", "-o", "subvolid=5", f"{volume.node}p1", at)
    assert {d.name: d.stat().st_mode & 0o7777 for d in at.iterdir()} == dict.fromkeys(
        ("@persist-state", "@persist-data", "@persist-state-snapshots"), 0o700
    )


@own_machine
def test_status_tells_users_what_it_tells_root() -> None:
    """They cannot see markers and stores, which does not make an entry one that was not seeded."""
    os.mkdir("/srv/app")
    disk()
    kept("/srv/app", "kept")
    loaded = registry("[Path]\nPath=/srv/app\nMethod=bind\n")
    assert keep_users_out(links=False) == "" and mount_seeded(loaded) == []
    outcome.write(outcome.Outcome(kind="native", device="/dev/loop"))
    found = judge.judge(loaded, judge.read_volume(), judge.Look())
    assert [(e.path, e.state, e.reason) for e in found.entries] == [("/srv/app", "mounted", "")]
    with pytest.raises(PersistError, match="No verdict"):
        written.read()
    files.write_atomically(written.STATE, json.dumps(written.document(found)))
    assert os.stat(written.STATE).st_mode & 0o777 == 0o644
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    assert not os.path.exists(f"{paths.VOLUME}/srv/app"), "so much for looking"
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert cli.main(["status", "--json"]) == status.EXIT[found.verdict]
    assert json.loads(shown.getvalue())["entries"] == found.as_dict()["entries"]
    assert written.read()[0] == found and found.verdict == judge.ONLINE
