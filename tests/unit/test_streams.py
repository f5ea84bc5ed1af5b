# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl where standard input, output or error is closed, full, or read by somebody who has gone: an exit
status, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "PERSIST_LIBRARY": str(TOP),
    "PYTHONDONTWRITEBYTECODE": "1",
}


def shell(script: str, *argv: str) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", script, "bash", *argv], capture_output=True, text=True, env=ENVIRONMENT, cwd=TOP
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("verb", "status"),
    [
        ("list --root=DIR", 0),
        ("list --root=DIR --json", 0),
        ("preset list --root=DIR --json", 0),
        ("preset enable nothing --root=DIR", 1),
        ("plan --root=DIR", 0),
        ("verify --root=DIR", 1),
        ("claim /dev/none", 1),
        ("--version", 0),
        ("--help", 0),
        ("nothing", 2),
    ],
)
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed(tmp_path: Path, verb: str, status: int, closed: str) -> None:
    found, text = shell(f"bin/persistctl {verb.replace('DIR', str(tmp_path))} {closed}")
    assert found == status and "Traceback" not in text and "Exception" not in text, text


@pytest.mark.parametrize(
    ("verb", "full", "status"),
    [
        ("list --root=DIR", ">", 1),
        ("--help", ">", 1),
        ("preset enable nothing --root=DIR", ">", 1),
        ("preset list --root=DIR", "2>", 0),
        ("preset enable nothing --root=DIR", "2>", 1),
    ],
)
def test_a_result_that_cannot_be_written_is_an_error(
    tmp_path: Path, verb: str, full: str, status: int
) -> None:
    found, text = shell(f"bin/persistctl {verb.replace('DIR', str(tmp_path))} {full}/dev/full")
    assert found == status and "Traceback" not in text and "Exception" not in text, text
    assert ("No space left" in text) == (full == ">" and "nothing" not in verb)


@pytest.mark.parametrize("verb", ["preset list --root=DIR", "--help"])
def test_a_reader_that_has_seen_enough(tmp_path: Path, verb: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            ["bin/persistctl", *verb.replace("DIR", str(tmp_path)).split()],
            stdout=writer,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd=TOP,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_is_opened_next_is_nobodys_output(tmp_path: Path) -> None:
    """A disk that is opened as number 1 would be written to by the next sentence."""
    (tmp_path / "disk").write_text("data")
    script = """import os, sys
from persist.cli.main import open_streams
open_streams()
number = os.open(sys.argv[1], os.O_RDWR)
print("text")
print("text", file=sys.stderr)
os.write(1, b"text")
sys.exit(0 if number > 2 and sys.stdin.read() == "" and not sys.stdin.isatty() else 3)
"""
    assert shell(f'{sys.executable} -c "$1" "$2" <&- >&- 2>&-', script, str(tmp_path / "disk")) == (0, "")
    assert (tmp_path / "disk").read_text() == "data" and os.stat(tmp_path / "disk").st_size == 4
