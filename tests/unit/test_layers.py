# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `make test` does with the layers, here with a script in the place of make."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest

from tests import layers
from tests.vm.__main__ import Unit, work

TOP = Path(__file__).resolve().parents[2]
RUN = """
import sys
from pathlib import Path
from tests import layers, processes

processes.stop_at_signals()
run = layers.Run(Path(sys.argv[1]), sys.stdout.buffer, ["sh", sys.argv[2]], heartbeat=0.3)
sys.exit(layers.run_all(run, int(sys.argv[3])))
"""


def started(tmp_path: Path, script: str, processors: int = 2) -> subprocess.Popen[str]:
    """All layers, each by this script, whose $1 is the layer."""
    (tmp_path / "said").mkdir()
    (tmp_path / "make").write_text(f"cd {tmp_path}\n{script}")
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "said"), str(tmp_path / "make"), str(processors)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=TOP,
    )


def run(tmp_path: Path, script: str, processors: int = 2) -> tuple[int, str]:
    """Exit status and output."""
    process = started(tmp_path, script, processors)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def test_targets() -> None:
    """Both ways to run them run the same, and all of it is there."""
    assert sorted(layers.ONE_BY_ONE) == sorted((*layers.LOOPS, *layers.OTHERS))
    makefile = (TOP / "Makefile").read_text()
    for layer in (layers.FIRST, *layers.ONE_BY_ONE):
        assert re.search(rf"^{layer}:", makefile, re.MULTILINE), layer


def test_what_runs_beside_storage_has_no_loop_device() -> None:
    """But for the one that is used before (test-parts)."""
    found = re.compile(r"-o loop\b|\blosetup\b|\bLoopDisk\b")
    files = [*(TOP / "tests/vm").rglob("*.py"), TOP / "packaging/check-install-inside"]
    assert [file.name for file in files if found.search(file.read_text())] == ["scene.py"]


@pytest.mark.parametrize("processors", [1, 2])
def test_each_is_run_once_and_printed_whole(tmp_path: Path, processors: int) -> None:
    status, said = run(
        tmp_path,
        'echo "begin $1 $PERSIST_TEST_STRICT"; echo "$1" >>ran; sleep 0.1; echo "end $1" >&2',
        processors,
    )
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(ran) == sorted((layers.FIRST, *layers.ONE_BY_ONE)) and ran[0] == layers.FIRST
    if processors == 1:
        assert ran[1:] == list(layers.ONE_BY_ONE)
    for layer in ran:
        assert f"\n=== make {layer}\nbegin {layer} 1\nend {layer}\n=== {layer}: passed in " in said
    assert status == 0 and re.search(r"\nall 9 layers passed in \d+ s\n$", said)


def test_failure_hides_nothing(tmp_path: Path) -> None:
    status, said = run(tmp_path, "case $1 in lint) exit 3;; test-nspawn) kill -9 $$;; esac")
    assert status == 1 and said.endswith("\nFAILED: lint test-nspawn\n")
    assert "\nlint             FAILED in " in said and "\ntest-vm          passed in " in said


def test_storage_beside_the_others_and_not_beside_nspawn(tmp_path: Path) -> None:
    """And as long as one of the two runs, the VM layer is told to make do with one machine."""
    process = started(
        tmp_path,
        """
        wait() { n=0; until [ -e "$1" ]; do n=$((n + 1)); [ $n -lt 600 ] || exit 1; sleep 0.1; done; }
        busy() { ! flock --nonblock --shared "$PERSIST_TEST_BESIDE" true; }
        case $1 in
            test-storage) touch storage; wait both-were-named; rm storage;;
            test-nspawn) [ ! -e storage ] || exit 1; wait vm-was-told;;
            test-vm)
                wait storage; busy || exit 1; wait both-were-named; busy || exit 1; touch vm-was-told; n=0
                while busy; do n=$((n + 1)); [ $n -lt 600 ] || exit 1; sleep 0.1; done; echo both;;
        esac
        """,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        # Nobody is left without a word meanwhile.
        if re.match(r"\[\d+ s\] test-storage for \d+ s: .*\| test-vm for \d+ s: $", line):
            (tmp_path / "both-were-named").touch()
    assert process.wait(60) == 0, said
    assert "both" in said and (tmp_path / "both-were-named").exists()


def test_who_is_orphaned_and_ends_is_gone(tmp_path: Path) -> None:
    status, said = run(
        tmp_path,
        """
        [ "$1" = lint ] || exit 0
        pid=$(sh -c 'sleep 0.2 >/dev/null & echo $!')
        n=0
        while [ -e /proc/$pid ]; do n=$((n + 1)); [ $n -lt 300 ] || exit 1; sleep 0.1; done
        """,
    )
    assert status == 0, said


def left(mark: str) -> list[str]:
    """The processes that have a word in their arguments."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in file.read_bytes():
                found.append(file.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_it(tmp_path: Path, number: int) -> None:
    """Neither a layer, nor what it has started in a session of its own and left alone."""
    mark = f"1000.{os.getpid()}{int(number)}"
    process = started(
        tmp_path,
        f"""
        [ "$1" != {layers.FIRST} ] || exit 0
        echo "$1 runs"
        (setsid sh -c 'trap "" INT TERM; sleep {mark}; true' &)
        touch $1
        sleep {mark}
        """,
    )
    deadline = time.monotonic() + 30
    while not all((tmp_path / layer).exists() for layer in ("test-storage", "lint")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert left(mark)
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert left(mark) == []
    for layer in ("test-storage", "lint"):
        assert f"\n=== make {layer}\n{layer} runs\n=== {layer}: stopped after " in said


def test_second_machine_waits(tmp_path: Path) -> None:
    """A worker of the VM layer that finds the file locked begins nothing, and ends when the others have done
    all."""
    file = tmp_path / "beside"
    units = deque([Unit("one", "one")])
    with subprocess.Popen(["flock", file, "sh", "-c", "echo held; read x"], stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        ran: list[str] = []
        started_at = time.monotonic()

        def pause(seconds: float) -> None:
            ran.append("waited")
            if len(ran) == 2:
                units.clear()

        work(units, str(file), lambda unit: ran.append(unit.name), pause)
        assert ran == ["waited", "waited"] and time.monotonic() - started_at < 10
        holder.communicate(b"\n")
    units.append(Unit("two", "two"))
    work(units, str(file), lambda unit: ran.append(unit.name), pause)
    work(units, str(tmp_path / "nowhere"), lambda unit: ran.append(unit.name), pause)
    assert ran == ["waited", "waited", "two"] and not units
