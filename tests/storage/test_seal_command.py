# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command: what it prints, and its exit statuses."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from persist.cli.main import main
from tests.unit.seal_tree import ID, MadeUp

from .seal_rig import AS_ROOT

pytestmark = AS_ROOT
TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    found = MadeUp(tmp_path / "t")
    found.put("/etc/key", "secret")
    found.section("/etc/key /etc/absent", "remove", more="RegeneratedBy=none\nReason=It is a key.")
    return found


def seal(made: MadeUp, *words: str) -> int:
    return main(["seal", f"--root={made.root}", *words])


def test_dry_run(made: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    made.put("/usr/lib/persist/seal.d/10-x", "#!/bin/sh\n", 0o755)
    assert seal(made, "--dry-run") == 0
    assert capsys.readouterr().out == (
        "/usr/lib/persist/identity.d/systemd.conf:1: write, identity\n    /etc/machine-id\n"
        "    what uses it makes it again, or does without\n"
        "/usr/lib/persist/identity.d/t.conf:1: remove, identity: It is a key.\n    /etc/key\n"
        "    what uses it makes it again, or does without\n"
        "/usr/lib/persist/seal.d/10-x: a hook, run in the image\n"
        "2 names would be wiped; 1 patterns found nothing.\n"
    )
    assert made.text("/etc/key") == "secret"


def test_the_dry_run_says_who_makes_it_again(made: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    made.put("/var/log/l", "x")
    made.section(
        "/var/log/l", "run", cls="log", more="Exec=/bin/x -y\nRegenerate=/bin/z\nRegeneratedBy=z.service"
    )
    assert seal(made, "--dry-run") == 1  # neither is there
    assert (
        "    /var/log/l\n    runs: /bin/x -y\n"
        "    made again on the clone by z.service or persist-regenerate.service, with: /bin/z\n"
    ) in capsys.readouterr().out


def test_seal_and_again(made: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    assert seal(made) == 0
    assert capsys.readouterr() == (f"{made.root} is sealed: 2 names wiped.\n", "")
    assert not made.has("/etc/key")
    assert seal(made) == 0
    assert capsys.readouterr() == (f"{made.root} is sealed.\n", "")


def test_keep(made: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    made.put("/var/log/x")
    made.section("/var/log/x", "truncate", cls="log", more="")
    assert seal(made, "--keep=identity", "--keep=cache", "--dry-run") == 0
    last = "1 name would be wiped, 2 kept (--keep); 1 patterns found nothing."
    assert capsys.readouterr().out.split("\n")[-2] == last
    assert seal(made, "--keep=identity", "--keep=cache") == 0
    assert capsys.readouterr().out == f"{made.root} is sealed: 1 name wiped, 2 kept (--keep).\n"
    assert (
        made.text("/var/log/x") == "" and made.has("/etc/key") and made.text("/etc/machine-id").strip() == ID
    )
    with pytest.raises(SystemExit) as e:
        seal(made, "--keep=shared")
    assert e.value.code == 2


def test_json(made: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    assert seal(made, "--json", "--dry-run") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dry_run"], found["sealed"], found["touched"]) == (True, False, False)
    assert found["items"][1]["to_wipe"] == ["/etc/key"] and found["items"][1]["found_nothing"] == [
        "/etc/absent"
    ]
    assert found["items"][1]["reason"] == "It is a key."
    assert seal(made, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dry_run"], found["sealed"], found["touched"]) == (False, True, True)
    assert found["items"][1]["wiped"] == ["/etc/key"]


def test_an_error_of_the_first_pass(made: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    made.section("/etc/passwd", "remove", more="")
    for words in ((), ("--dry-run",)):
        assert seal(made, *words) == 1
        out, err = capsys.readouterr()
        assert out.split("\n")[-2] == "1 error: nothing was touched."
        assert err.startswith(
            "error: /usr/lib/persist/identity.d/t.conf:7: The section has neither RegeneratedBy="
        )
    assert seal(made, "--json") == 1
    assert len(json.loads(capsys.readouterr().out)["errors"]) == 1
    assert made.text("/etc/key") == "secret"


def test_what_was_begun_and_came_to_no_end(made: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    made.put("/usr/lib/persist/seal.d/x", "#!/nowhere\n", 0o755)
    assert seal(made) == 3
    out, err = capsys.readouterr()
    assert (
        out == f"{made.root} is not sealed. Mend what is said above, and seal it again: that finishes it.\n"
    )
    assert err.startswith("error: /usr/lib/persist/seal.d/x failed: exit status 127")
    assert not made.has("/etc/key") and not made.has("/var/lib/persist/seal.json")


@pytest.mark.parametrize(
    "words", [[], ["--root=/"], ["--root=/absent"], ["--root=/etc/passwd"], ["--root=/mnt"]]
)
def test_what_is_no_image(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seal", *words]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("persistctl: ")


def test_only_root_seals(made: MadeUp) -> None:
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os._exit(10 + seal(made, "--dry-run"))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
    assert made.text("/etc/key") == "secret"


def test_names_that_a_terminal_would_obey(made: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (b"a\nb", b"c\x1b[31m", b"d\xff"):
        with open(os.fsencode(made.at("/var/log")) + b"/" + name, "w", encoding="ascii") as f:
            f.write("x")
    made.section("/var/log/*", "remove", cls="log", more="")
    assert seal(made, "--dry-run") == 0
    assert "    /var/log/a\\nb\n    /var/log/c\\x1b[31m\n    /var/log/d\\udcff\n" in capsys.readouterr().out
    assert seal(made, "--json") == 0
    assert os.listdir(made.at("/var/log")) == []


@pytest.mark.parametrize("answer", ["n", "y"])
def test_on_a_terminal_it_asks(made: MadeUp, answer: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, TOP / "bin/persistctl", "seal", f"--root={made.root}"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"PERSIST_LIBRARY": str(TOP), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    os.close(theirs)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(ours, 1000)
    os.write(ours, f"{answer}\n".encode())
    assert process.wait(60) == (0 if answer == "y" else 1)
    os.close(ours)
    assert b"It is a key." in said and b"What is wiped does not come back." in said
    assert made.has("/etc/key") == (answer == "n")
