# SPDX-License-Identifier: LGPL-2.1-or-later
"""A volume is data. A table of volumes as a stranger would make them, each met by the real services in a
namespace of its own.

Whatever is on the volume: nothing beside it is read, written, emptied or given another mode; the service ends
well, so that the boot goes on; what is wrong is said; and the verdict is not better than the truth. PID 1 is
played by ``_boot()``, which takes the conditions from the units themselves and follows links as PID 1 does.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from persist.boot import paths
from persist.boot.load import Loaded, load
from persist.entries.bind import mount_seeded
from persist.record import Record
from persist.services import bind as bind_service
from persist.services import seed as seed_service
from persist.services import volume as volume_service
from persist.system import btrfs, mountinfo
from persist.verdict import judge
from persist.volume.ondisk import store
from persist.volume.outcome import Outcome

from .namespace import disk as small_disk
from .namespace import kept, kept_overlay, marker, own_machine, registry, sh
from .rig import LoopDisk, tool
from .volumes import Volume

SENTINEL = Path("/run/sentinel")
TOP = Path(__file__).resolve().parents[2]
ENTRIES = """
[Path]
Path=/srv/over
[Path]
Path=/srv/bind
Method=bind
[Path]
Path=/srv/link
Method=symlink
[Path]
Path=/srv/new
[Path]
Path=/srv/fresh
Method=bind
"""
PATHS = ("/srv/over", "/srv/bind", "/srv/link", "/srv/new", "/srv/fresh")
_STRANGE = PATHS  # what fails where the volume is not used at all
_libc = ctypes.CDLL(None, use_errno=True)


class Row(Record):
    """One volume: what is done to a good one, which entries fail of it (None: all that is known is that it is
    not online), and a word that has to be said.

    ``how``: on which boot it is met: ``plain``, ``ro`` (persist=ro), or ``initrd`` (which has mounted it).
    """

    change: str | Callable[[Path], None]
    fails: tuple[str, ...] | None
    said: str
    how: str = "plain"


def _deep(at: Path) -> None:
    (at / ".persist/volume.json").write_text("[" * 60_000)


def _deep_marker(at: Path) -> None:
    (at / ".persist/seed/srv-bind.json").write_text("[" * 60_000)


def _odd_names(at: Path) -> None:
    seeds = os.fsencode(at / ".persist/seed")
    for name in (
        b"\xff\xfe.json",
        b"a\nb.json",
        b"..-..-run-sentinel.json",
        b".json",
        b"\\x2e\\x2e-run.json",
        b"\\x00.json",
        "srv-\u2028.json".encode(),
    ):
        with open(seeds + b"/" + name, "w", encoding="utf-8") as f:
            f.write(
                '{"version": 1, "path": "/../../run/sentinel", "manifest": {"list": '
                '"../../../../run/sentinel/secret"}}'
            )


def _redirect(at: Path) -> None:
    upper = at / ".persist/overlay/srv-over/upper"
    (upper / "moved").mkdir()
    os.setxattr(upper / "moved", "trusted.overlay.redirect", b"/other")
    (upper / "data").touch()
    os.setxattr(upper / "data", "trusted.overlay.metacopy", b"")
    os.setxattr(upper / "data", "trusted.overlay.redirect", b"/other/secret")


def _subvolume(at: Path) -> None:
    upper = at / ".persist/overlay/srv-over/upper"
    upper.rmdir()
    tool("btrfs", "subvolume", "create", upper)


def _read_only(at: Path) -> None:
    tool("btrfs", "property", "set", at, "ro", "true")


OVER = ".persist/overlay/srv-over"
WRITERS = "may be written by others than root"
ROWS = {
    "store is a link": Row("mv .persist s; ln -s /run/sentinel/store .persist", _STRANGE, "symbolic link"),
    "store is a file": Row("rm -r .persist; touch .persist", _STRANGE, "not a directory"),
    "store is a user's": Row("chown 1000 .persist", _STRANGE, WRITERS),
    "store is everybody's": Row("chmod 777 .persist", _STRANGE, WRITERS),
    "top is everybody's": Row("chmod 1777 .", _STRANGE, WRITERS),
    "overlay is a link": Row(
        "rm -r .persist/overlay; ln -s /run/sentinel/store .persist/overlay", _STRANGE, "symbolic link"
    ),
    "overlay is a group's": Row("chmod 770 .persist/overlay", _STRANGE, WRITERS),
    "seed is a link": Row("mv .persist/seed s; ln -s ../s .persist/seed", _STRANGE, "symbolic link"),
    "tmp is a link": Row(
        "rm -r .persist/tmp; ln -s /run/sentinel/store .persist/tmp", _STRANGE, "symbolic link"
    ),
    "migrations is a link": Row(
        "rm -r .persist/migrations; ln -s /run/sentinel .persist/migrations", _STRANGE, "symbolic link"
    ),
    "no tmp and overlay is a link": Row(
        "rm -r .persist/tmp .persist/overlay; ln -s /run/sentinel .persist/overlay", _STRANGE, "symbolic link"
    ),
    "record is a pipe": Row("mkfifo .persist/volume.json", _STRANGE, "not a regular file"),
    "record is a link": Row("ln -s /run/sentinel/secret .persist/volume.json", _STRANGE, "symbolic link"),
    # A watchdog: opening it starts it.
    "record is a device": Row("mknod .persist/volume.json c 10 130", _STRANGE, "not a regular file"),
    "record is deep": Row(_deep, (), "volume.json cannot be understood"),
    "an entry's store is a link": Row(f"mv {OVER} s; ln -s ../../s {OVER}", ("/srv/over",), "symbolic link"),
    "an entry's store is a user's": Row(f"chown 1000 {OVER}", ("/srv/over",), WRITERS),
    "upper is a link": Row(
        f"rmdir {OVER}/upper; ln -s /run/sentinel/upper {OVER}/upper", ("/srv/over",), "symbolic link"
    ),
    "work is a link": Row(
        f"rmdir {OVER}/work; ln -s /run/sentinel/store {OVER}/work", ("/srv/over",), "symbolic link"
    ),
    "upper and work are links": Row(
        f"rmdir {OVER}/*; ln -s /run/sentinel/upper {OVER}/upper; ln -s /run/sentinel/tools {OVER}/work",
        ("/srv/over",),
        "symbolic link",
    ),
    "work is a user's": Row(f"chown 1000 {OVER}/work", ("/srv/over",), WRITERS),
    "work in work is a link": Row(f"ln -s /run/sentinel/tools {OVER}/work/work", (), ""),
    "upper is a file": Row(f"rmdir {OVER}/upper; touch {OVER}/upper", ("/srv/over",), "not a directory"),
    "upper is a subvolume": Row(_subvolume, ("/srv/over",), "is a subvolume"),
    "upper leads elsewhere in the image": Row(_redirect, (), ""),
    "marker is a link": Row(
        "rm .persist/seed/srv-bind.json; ln -s /run/sentinel/secret .persist/seed/srv-bind.json",
        ("/srv/bind",),
        "symbolic link",
    ),
    "marker is a pipe": Row(
        "rm .persist/seed/srv-over.json; mkfifo .persist/seed/srv-over.json",
        ("/srv/over",),
        "not a regular file",
    ),
    "marker is a directory": Row(
        "rm .persist/seed/srv-over.json; mkdir .persist/seed/srv-over.json",
        ("/srv/over",),
        "not a regular file",
    ),
    "marker is huge": Row("truncate -s 1T .persist/seed/srv-over.json", ("/srv/over",), "not a marker"),
    "marker is deep": Row(_deep_marker, ("/srv/bind",), "nested too deeply"),
    "markers have odd names": Row(_odd_names, (), ""),
    "content of a bind is a link": Row(
        "rm -r srv/bind; ln -s /run/sentinel/upper srv/bind", ("/srv/bind",), "symbolic link"
    ),
    "content of a bind is a device": Row(
        "rm -r srv/bind; mknod srv/bind c 1 3", ("/srv/bind",), "device or a pipe"
    ),
    "way to the content is a link": Row(
        "mv srv s; ln -s /run/sentinel/srv srv", ("/srv/bind", "/srv/link", "/srv/fresh"), "symbolic link"
    ),
    "content of a link is a link": Row(
        "rm -r srv/link; ln -s /run/sentinel/upper srv/link", ("/srv/link",), "symbolic link"
    ),
    "new content is a link already": Row(
        "ln -s /run/sentinel/upper srv/fresh", ("/srv/fresh",), "symbolic link"
    ),
    "new store is a link already": Row(
        "ln -s /run/sentinel/store .persist/overlay/srv-new", ("/srv/new",), "symbolic link"
    ),
    "place of the seed is a link": Row(
        "ln -s /run/sentinel/tools .persist/tmp/srv-new", ("/srv/new",), "symbolic link"
    ),
    "half a seed is a link": Row(
        "mkdir -m 700 .persist/tmp/srv-fresh; ln -s /run/sentinel/tools .persist/tmp/srv-fresh/tree", (), ""
    ),
    "manifest is a link": Row("ln -s /run/sentinel/secret .persist/seed/srv-fresh.manifest", (), ""),
    "all of it is read-only": Row(_read_only, None, "ead-only"),
    "store is a link, read-only boot": Row(
        "mv .persist s; ln -s /run/sentinel/store .persist", (), "symbolic link", "ro"
    ),
    "upper is a link, read-only boot": Row(
        f"rmdir {OVER}/upper; ln -s /run/sentinel/upper {OVER}/upper", (), "symbolic link", "ro"
    ),
    "content of a bind is a link, read-only boot": Row(
        "rm -r srv/bind; ln -s /run/sentinel/upper srv/bind", (), "neither a directory", "ro"
    ),
    "tmp is a link, mounted by the initrd": Row(
        "rm -r .persist/tmp; ln -s /run/sentinel/store .persist/tmp", _STRANGE, "symbolic link", "initrd"
    ),
    "upper is a link, mounted by the initrd": Row(
        f"rmdir {OVER}/upper; ln -s /run/sentinel/upper {OVER}/upper",
        ("/srv/over",),
        "symbolic link",
        "initrd",
    ),
    "something is mounted in the store": Row("", _STRANGE, "is mounted on", "initrd-and-more"),
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Volume]:
    """One filesystem for all rows, with a fresh subvolume for each."""
    # In memory: each row unmounts it some times, and would wait for the machine's own disk.
    memory = (
        tempfile.mkdtemp(dir="/dev/shm")
        if os.path.isdir("/dev/shm")
        else str(tmp_path_factory.mktemp("disk"))
    )
    disk = LoopDisk(Path(memory), 300)
    try:
        yield Volume(tmp_path_factory.mktemp("hostile"), [disk])
    finally:
        disk.unplug()
        shutil.rmtree(memory)


def _good(at: Path) -> None:
    """What three entries leave on a volume."""
    store.make(str(at))
    for part in ("upper", "work"):
        (at / OVER / part).mkdir(parents=True)
        (at / OVER / part).chmod(0o700)
    for name in ("bind", "link"):
        (at / "srv" / name).mkdir(parents=True)
        (at / "srv" / name / "f").write_text("kept")
    for path in PATHS[:3]:
        marker(path, str(at))


def _fill(volume: Volume, row: Row) -> None:
    """The row's volume, in place of the last one's."""
    state = Path(volume.at) / btrfs.SUBVOLUMES[0]
    tool("mount", "-o", "subvolid=5", volume.data(volume.disks[0]), volume.at)
    try:
        for nested in (state / OVER / "upper", state):
            if nested.is_dir() and not nested.is_symlink() and nested.stat().st_ino == 256:
                tool("btrfs", "property", "set", nested, "ro", "false")
                tool("btrfs", "subvolume", "delete", nested)
        tool("btrfs", "subvolume", "create", state)
        state.chmod(0o755)
        _good(state)
        if callable(row.change):
            row.change(state)
        else:
            sh(f"cd {state}; {row.change}")
    finally:
        tool("umount", volume.at)


def _sentinel() -> None:
    """A tree beside the volume with all that links lead to. Its access times tell who looked into it."""
    SENTINEL.mkdir()
    sh(f"""mount -t tmpfs -o strictatime,mode=0755 tmpfs {SENTINEL}; cd {SENTINEL}
mkdir -p store/srv-over/upper store/srv-over/work upper tools/inner srv/bind srv/link
for d in store upper tools tools/inner srv/bind; do echo secret >$d/secret; done
echo '{{"version": 1}}' >secret; chmod 755 store upper tools""")
    for top, directories, files in os.walk(SENTINEL):
        for name in (*directories, *files, "."):
            os.utime(f"{top}/{name}", ns=(10**9, 10**9))


def _picture() -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for top, directories, files in sorted(os.walk(SENTINEL)):
        for name in sorted((*directories, *files, ".")):
            st = os.lstat(f"{top}/{name}")
            found.append(
                (f"{top}/{name}", st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns, st.st_nlink)
            )
    return found


def _looked_into() -> list[str]:
    """What was read, from the top down; to be asked before anybody lists a directory here."""
    found = []
    todo = [str(SENTINEL)]
    while todo:
        here = todo.pop()
        if os.lstat(here).st_atime_ns != 10**9:
            found.append(here)
        if stat.S_ISDIR(os.lstat(here).st_mode):
            todo += [f"{here}/{name}" for name in os.listdir(here)]
    return found


def _image(node: str, how: str) -> Loaded:
    """A read-only machine with an image of its own and the registry."""
    tree = Path("/run/tree/srv")
    for name in ("over", "bind", "new", "fresh"):
        (tree / name).mkdir(parents=True)
        (tree / name / "image").write_text("image")
    (tree / "over/other").mkdir()
    (tree / "over/other/secret").write_text("secret")
    (tree / "link").symlink_to(f"{paths.VOLUME}/srv/link")
    sh(f"mount --bind {tree} /srv")
    for place in (paths.IMAGE, paths.LOWER):
        sh(f"umount -R {place}; mount --bind /run/tree {place}")
    Path("/run/persist/persist.conf").write_text(
        f"[Volume]\nDevice={node}\nMount=/run/state\nMemberTimeoutSec=0\n"
    )
    sh("mount -o remount,bind,ro /")
    return registry(ENTRIES, cmdline="persist=ro" if how == "ro" else "")


def _holds(text: str, instance: str) -> bool:
    """Whether PID 1 would start a unit of this text: its conditions and asserts, as condition.c looks at
    them."""
    ways: list[bool] = []
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if not key.startswith(("Condition", "Assert")) or key.endswith("KernelCommandLine"):
            continue
        kind = key.removeprefix("Condition").removeprefix("Assert")
        trigger, value = value.startswith("|"), value.removeprefix("|")
        negated, path = (
            value.startswith("!"),
            value.removeprefix("!").replace("%i", instance).replace("%f", paths.unescape(instance)),
        )
        checks: dict[str, Callable[[str], bool]] = {
            "PathExists": os.path.exists,
            "PathIsDirectory": os.path.isdir,
            "PathIsSymbolicLink": os.path.islink,
            "PathIsMountPoint": os.path.ismount,
            "PathIsReadWrite": lambda p: os.path.exists(p) and not os.statvfs(p).f_flag & os.ST_RDONLY,
        }
        good = checks[kind](path) is not negated
        if trigger:
            ways.append(good)
        elif not good:
            return False
    return not ways or any(ways)


def _boot(loaded: Loaded) -> None:
    """What PID 1 does between persist-volume.service and persist-verify.service."""
    seed = (TOP / "units/persist-seed@.service").read_text()
    for planned in loaded.plan.entries:
        if _holds(seed, planned.name):
            seed_service.main(planned.name)
        text = loaded.plan.files.get(planned.unit, "")
        if not text or not _holds(text, planned.name):
            continue
        if planned.entry.method == "bind":
            bind_service.main(planned.name)
            continue
        get = {line.partition("=")[0]: line.partition("=")[2] for line in text.splitlines()}
        options = get["Options"].replace("\\\\", "\\").replace("%%", "%")
        sh(f"LIBMOUNT_FORCE_MOUNT2=always mount -t overlay -o '{options}' overlay {get['Where']} || :")


def _down() -> None:
    """Unmount what was mounted, and wait for it: a namespace that ends does so later."""
    for mount in reversed(
        mountinfo.mounts("/srv") + mountinfo.mounts("/run/persist") + mountinfo.mounts("/run/state")
    ):
        _libc.umount2(os.fsencode(mount.mount_point), 0)


def _meet(row: Row, node: str) -> tuple[int, judge.Verdict, str]:
    """One boot. Returns the status of the service, the verdict, and what was said."""
    _sentinel()
    loaded = _image(node, row.how)
    before = _picture()
    for top, _, _ in list(os.walk(SENTINEL)):
        os.utime(top, ns=(10**9, 10**9))
    if row.how.startswith("initrd"):
        sh(f"mkdir -p {paths.VOLUME}; mount -t btrfs -o subvol={btrfs.SUBVOLUMES[0]} {node} {paths.VOLUME}")
    if row.how == "initrd-and-more":
        sh(f"mount -t tmpfs tmpfs {paths.VOLUME}/.persist/overlay")
    try:
        with (
            open("/run/said", "w", encoding="utf-8", errors="backslashreplace") as said,
            redirect_stderr(said),
        ):
            status = volume_service.volume_main()
            _boot(loaded)
            loaded = load("", os.environ)
            found = judge.judge(loaded, judge.read_volume(), judge.Look())
        looked = _looked_into()
        after = _picture()
        assert after == before, "something beside the volume was changed"
        assert not looked, "something beside the volume was read"
        for path in PATHS[:2] + PATHS[3:]:
            assert "secret" not in os.listdir(path), "something beside the volume is shown"
        if os.path.isdir("/srv/over/moved"):
            assert os.listdir("/srv/over/moved") == []
    finally:
        _down()
    return (
        status,
        found,
        Path("/run/said").read_text(errors="backslashreplace")
        + "".join(f"{r.message} {r.hint}\n" for r in found.reasons),
    )


@pytest.mark.parametrize("name", ROWS)
def test_hostile_volume(disk: Volume, name: str) -> None:
    row = ROWS[name]
    if os.geteuid() != 0 or not shutil.which("mkfs.btrfs"):
        pytest.skip("root and mkfs.btrfs")
    _fill(disk, row)

    @own_machine
    def meet() -> None:
        status, found, said = _meet(row, Volume.data(disk.disks[0]))
        assert status == 0, said
        assert row.said in said, said
        states = {e.path: (e.state, e.reason) for e in found.entries}
        failed = {path for path, (state, _) in states.items() if state in ("failed", "waiting")}
        if row.how == "ro":
            assert found.verdict == "volatile"
        elif row.fails is None:
            assert found.verdict in ("degraded", "volatile")
        elif row.fails == _STRANGE:
            assert (
                found.verdict == "volatile"
                and found.volume.reason == "strange-store"
                and found.volume.kind == "tmpfs"
            ), found.as_dict()
        else:
            assert failed == set(row.fails), states
            assert found.verdict == ("degraded" if row.fails else "online"), found.reasons

    meet()


@own_machine
def test_an_upper_that_was_exchanged_after_the_mount_is_seen() -> None:
    """mountinfo goes on to show the name."""
    for path in ("/srv/over", "/srv/bind"):
        os.makedirs(path)
    small_disk()
    kept_overlay("/srv/over")
    kept("/srv/bind", "kept")
    loaded = registry("[Path]\nPath=/srv/over\n[Path]\nPath=/srv/bind\nMethod=bind\n")
    assert mount_seeded(loaded) == []
    sh(f"umount {paths.LOWER}; mount --rbind / {paths.LOWER}")
    _boot(loaded)

    def states() -> dict[str, str]:
        return {e.path: e.reason for e in judge.judge(loaded, Outcome(kind="native"), judge.Look()).entries}

    Path(paths.MOUNT_ENTRIES).touch()
    assert states() == {"/srv/over": "", "/srv/bind": ""}
    sh(
        f"cd {paths.VOLUME}; mv .persist/overlay/srv-over old; mkdir -m 700 .persist/overlay/srv-over; cd "
        ".persist/overlay/srv-over; mkdir -m 700 upper work"
    )
    assert "was replaced" in states()["/srv/over"]
    os.unlink(f"{paths.STORES}/srv-bind")
    assert "was not checked" in states()["/srv/bind"]
