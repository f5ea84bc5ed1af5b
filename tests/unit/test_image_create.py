# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl image create: the three waits, QEMU's own words, the work directory, and calls that are wrong.
With QEMU: tests/storage/test_image_create.py."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from persist.cli.main import main
from persist.errors import PersistError
from persist.image.control import GREETING_ANSWER, Events, Lines
from persist.image.waits import BOOT, DONE, STOP, WORK, GuestError, Waits
from persist.image.work import PREFIX, Work, sweep
from persist.system import run

TOP = Path(__file__).resolve().parents[2]


def test_the_way_that_it_should_go() -> None:
    waits = Waits(300, 100)
    assert waits.state == BOOT
    assert waits.heard("running", 142) == "sealing runs" and waits.state == WORK
    assert waits.heard("output:  two words ", 143) == " two words "
    waits.check(441.9)
    assert waits.heard("success", 150) and waits.state == STOP
    waits.gone("guest-shutdown", 152.5)
    assert waits.state == DONE and waits.took == {"boot": 42, "work": 8, "stop": 2.5}


@pytest.mark.parametrize(
    ("heard", "status"), [((), 3), (("success",), 3), (("running",), 4), (("running", "success"), 5)]
)
def test_each_wait_has_its_time(heard: tuple[str, ...], status: int) -> None:
    waits = Waits(10, 0)
    for line in heard:
        waits.heard(line, 9)
    since = 9 if heard and heard[0] == "running" else 0
    waits.check(since + 9.9)
    with pytest.raises(GuestError) as e:
        waits.check(since + 10)
    assert e.value.status == status and "in 10 s" in e.value.message


@pytest.mark.parametrize("state", [BOOT, WORK, STOP])
def test_an_error_counts_at_any_time(state: str) -> None:
    waits = Waits(10, 0)
    for line in {BOOT: [], WORK: ["running"], STOP: ["running", "success"]}[state]:
        waits.heard(line, 0)
    with pytest.raises(GuestError, match="The machine was not sealed: out of: space") as e:
        waits.heard("error: out of: space", 1)
    assert e.value.status == 4


@pytest.mark.parametrize(
    "line", ["", "Running", "running ", "success", "output:", "login:", "running\x1b[2J"]
)
def test_nothing_else_means_anything(line: str) -> None:
    waits = Waits(10, 0)
    assert (waits.heard(line, 1), waits.state) == ("", BOOT)


def test_a_script_says_nothing_for_us() -> None:
    waits = Waits(10, 0)
    waits.heard("running", 0)
    assert waits.heard("output: success", 1) == "success" and waits.state == WORK
    assert waits.heard("output: error: x", 1) == "error: x" and waits.state == WORK


@pytest.mark.parametrize(
    ("heard", "reason", "status"),
    [
        ((), "guest-shutdown", 3),
        ((), "guest-reset", 3),
        (("running",), "guest-shutdown", 4),
        (("running",), "guest-panic", 4),
        (("running", "success"), "guest-reset", 4),
        (("running", "success"), "host-signal", 4),
    ],
)
def test_an_end_at_the_wrong_time(heard: tuple[str, ...], reason: str, status: int) -> None:
    waits = Waits(10, 0)
    for line in heard:
        waits.heard(line, 0)
    with pytest.raises(GuestError) as e:
        waits.gone(reason, 1)
    assert e.value.status == status and waits.state != DONE


def test_what_qemu_says() -> None:
    events = Events()
    assert events.heard(b'{"QMP": {"version": {}}}') == GREETING_ANSWER
    for line in (b"", b"{", b"[1]", b'{"return": {}}', b'{"event": "RTC_CHANGE", "data": {"offset": 1}}'):
        assert events.heard(line) == b""
    assert (events.stopped, events.disk_error) == ("", "")
    events.heard(b'{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}')
    assert events.stopped == "guest-reset"
    events.heard(b'{"event": "BLOCK_IO_ERROR", "data": {"action": "report", "nospace": true}}')
    assert events.disk_error == ""
    events.heard(b'{"event": "BLOCK_IO_ERROR", "data": {"action": "stop", "nospace": true}}')
    assert events.disk_error == "no space is left on the host's filesystem"
    events.heard(b'{"event": "BLOCK_IO_ERROR", "data": {"action": "stop", "reason": "Input/output error"}}')
    assert events.disk_error == "Input/output error"


def test_lines_come_in_pieces() -> None:
    lines = Lines()
    assert lines.feed(b"run") == []
    assert lines.feed(b"ning\r\n\nsuc") == [b"running", b""]
    assert lines.rest() == b"suc"
    for _ in range(40):
        assert lines.feed(b"x" * 8192) == []
    assert len(lines.rest()) == Lines.MOST, "a line that never ends costs no memory"


def test_what_was_killed_is_swept_and_what_works_is_not(tmp_path: Path) -> None:
    work = Work(tmp_path)
    assert work.file("script", b"x").stat().st_mode & 0o777 == 0o600
    assert work.path.stat().st_mode & 0o777 == 0o700
    (killed := tmp_path / f"{PREFIX}killed").mkdir()
    (killed / "overlay.qcow2").touch()
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to("elsewhere")
    assert sweep(tmp_path) == [killed.name]
    assert sorted(os.listdir(tmp_path)) == sorted(
        [work.path.name, f"{PREFIX}file", f"{PREFIX}link", "elsewhere"]
    )
    assert os.listdir(tmp_path / "elsewhere") == []
    work.remove()
    assert not work.path.exists() and sweep(tmp_path) == []


def test_a_lock_is_not_passed_on(tmp_path: Path) -> None:
    """QEMU, which may live for a moment longer than we, would hold it."""
    work = Work(tmp_path)
    script = f"import fcntl, os; os.execlp('flock', 'flock', '-n', {str(work.path / 'lock')!r}, 'true')"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 1
    flags = [fcntl.fcntl(fd, fcntl.F_GETFD) for fd in map(int, os.listdir("/proc/self/fd")) if _is(fd, work)]
    assert flags == [fcntl.FD_CLOEXEC]
    work.remove()


def _is(fd: int, work: Work) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), (work.path / "lock").stat())
    except OSError:
        return False  # the one that listdir() had


def test_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(PersistError, match="Nothing can be written to"):
        Work(tmp_path / "not there")


def test_a_child_whose_parent_is_already_gone_ends() -> None:
    """SIGKILL between fork and prctl(2): no signal would ever come."""
    bind = run._bound()
    between = os.fork()
    if between == 0:
        late = os.fork()  # its parent is not the process that bind was made in
        if late == 0:
            bind()
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(late, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(between, 0)[1]) == 126
    child = os.fork()
    if child == 0:
        bind()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["disk.img", "o"], "does not tell its format"),
        (["disk.raw", "there"], "is already there"),
        (["disk.raw", "no/o"], "is not a directory"),
        (["none.raw", "o"], "cannot be read: No such file or directory"),
        ([".", "o", "--format=raw"], "is neither a file nor a disk"),
        (["disk.raw", "o", "--append=x"], "are for --kernel="),
        (["disk.raw", "o", "--kernel=none"], "'none' cannot be read"),
        (["disk.raw", "o", "--operator-script=none"], "'none' cannot be read"),
        (["disk.raw", "o", "--operator-script=disk.raw"], "does not begin with '#!'"),
    ],
)
def test_a_call_that_is_wrong(words: list[str], sentence: str, tmp_path: Path) -> None:
    for name in ("disk.raw", "disk.img", "there"):
        (tmp_path / name).write_bytes(bytes(512))
    done = subprocess.run(
        [TOP / "bin/persistctl", "image", "create", *words],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PERSIST_LIBRARY": str(TOP), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, sentence in done.stderr, done.stdout) == (1, True, ""), done.stderr
    assert sorted(os.listdir(tmp_path)) == ["disk.img", "disk.raw", "there"]


def installed(library: Path, *words: str) -> tuple[int, str]:
    """persistctl with what a package puts into /usr/lib/persist, and without what persist depends on."""
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); "
        "sys.modules.update(dict.fromkeys(('dbus_next', 'pyudev', 'systemd'))); "
        "from persist.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-IBc", script, library, *words], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_each_package_is_named_where_it_is_missing(tmp_path: Path) -> None:
    library, disk = tmp_path / "library", tmp_path / "disk.raw"
    subprocess.run(
        [
            "make",
            "--silent",
            "-C",
            TOP,
            "install-common",
            f"DESTDIR={tmp_path}",
            f"PRIVATE_DIR=/{library.name}",
        ],
        check=True,
    )
    disk.write_bytes(bytes(512))
    words = ("image", "create", str(disk), str(tmp_path / "no" / "out"))
    status, said = installed(library, *words)
    assert status == 1 and "package persist-image-tools" in said, said
    for verb in (["status"], ["claim", "/dev/none"], ["volume", "show"], ["preset", "list"]):
        status, said = installed(library, *verb)
        assert status == 1 and "which has not the package persist" in said, said
    assert installed(library, "list", f"--root={tmp_path}")[0] == 0
    shutil.copytree(TOP / "persist/image", library / "persist/image")
    status, said = installed(library, *words)
    assert status == 1 and "is not a directory" in said, said
    (library / "persist-service").touch()
    assert "has not the package" not in installed(library, "status")[1]


@pytest.mark.parametrize("word", ["0", "-1", "x", "inf", "nan"])
def test_a_time_that_is_none(word: str) -> None:
    with pytest.raises(SystemExit) as e:
        main(["image", "create", "a.raw", "b", f"--timeout={word}"])
    assert e.value.code == 2
