# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-regenerate.service on files of the test's: what is run, what is not, and what a cut leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persist.seal import again
from persist.seal.again import Again
from persist.services.regenerate import main


class Clone:
    """A list, and a program that writes down that it was called and makes files."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.list = top / "regenerate"
        self.calls = top / "calls"
        self.calls.touch()

    def program(self, name: str, does: str) -> str:
        path = self.top / name
        path.write_text(f'#!/bin/sh\necho {name} "$@" >>{self.calls}\n{does}\n')
        path.chmod(0o755)
        return str(path)

    def item(self, name: str, *paths: str, does: str = "", anyway: bool = False) -> Again:
        command = self.program(name, does or f"for f in {' '.join(self.at(*paths))}; do echo new >$f; done")
        return Again(tuple(self.at(*paths)), (command, "-A"), f"{name}.conf:1", anyway)

    def at(self, *paths: str) -> list[str]:
        return [str(self.top / path) for path in paths]

    def put(self, *items: Again) -> None:
        self.list.write_bytes(again.dump(list(items)))
        self.list.chmod(0o600)

    def left(self) -> list[str]:
        """The programs that are still to be run."""
        if not self.list.exists():
            return []
        return [os.path.basename(item.command[0]) for item in again.parse(self.list.read_bytes())[0]]

    def called(self) -> list[str]:
        found = [line.split()[0] for line in self.calls.read_text().splitlines()]
        self.calls.write_text("")
        return found

    def run(self) -> int:
        return main(str(self.list))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_all_of_it(clone: Clone) -> None:
    clone.put(clone.item("a", "key", "key.pub"), clone.item("b", "name"))
    assert clone.run() == 0
    assert clone.called() == ["a", "b"] and not clone.list.exists()
    assert (clone.top / "key.pub").read_text() == "new\n"
    assert clone.run() == 0 and clone.called() == []


def test_what_is_there_is_not_made_again(clone: Clone) -> None:
    clone.put(clone.item("a", "key", "key.pub"), clone.item("b", "conf", anyway=True))
    for name in ("key", "key.pub", "conf"):
        (clone.top / name).write_text("cloud-init was here\n")
    assert clone.run() == 0
    assert clone.called() == ["b"], "what was only edited is there, and says nothing"
    assert (clone.top / "key").read_text() == "cloud-init was here\n" and not clone.list.exists()


@pytest.mark.parametrize("left", ["", None])
def test_what_a_cut_leaves_of_a_key(clone: Clone, left: str | None) -> None:
    """An empty file is taken away first: many a program makes no key where there is a file."""
    does = f"[ ! -e {clone.top}/key ] || exit 0; echo new >{clone.top}/key"
    clone.put(clone.item("a", "key", "key.pub", does=f"{does}; echo new >>{clone.top}/key.pub"))
    (clone.top / "key.pub").write_text("whole\n")
    if left is not None:
        (clone.top / "key").write_text(left)
    assert clone.run() == 0 and clone.called() == ["a"]
    assert (clone.top / "key").read_text() == "new\n"
    assert (clone.top / "key.pub").read_text() == "whole\nnew\n", (
        "what holds something is left to the program"
    )


def test_an_empty_file_behind_a_link(clone: Clone) -> None:
    (clone.top / "real").touch()
    (clone.top / "key").symlink_to("real")
    clone.put(clone.item("a", "key"))
    assert clone.run() == 0
    assert (clone.top / "key").is_symlink() and (clone.top / "real").read_text() == "new\n"


def test_directories(clone: Clone) -> None:
    (clone.top / "full/a").mkdir(parents=True)
    (clone.top / "empty").mkdir()
    clone.put(clone.item("a", "full"), clone.item("b", "empty", does=f"echo new >{clone.top}/empty/key"))
    assert clone.run() == 0 and clone.called() == ["b"]


def test_a_directory_that_takes_no_writes(clone: Clone) -> None:
    """ssh-keygen(1) ends well on a root that is read-only, and has made no key: that is tried again."""
    clone.put(clone.item("a", "key", does="true"), clone.item("b", "other"))
    assert main(str(clone.list), lambda path, mode: path != str(clone.top)) == 1 and clone.left() == ["a"]
    clone.program("a", f"echo new >{clone.top}/key")
    assert clone.run() == 0 and clone.left() == []


def test_a_failure_stops_nothing(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    clone.put(
        clone.item("a", "one", does="echo no primes today >&2; exit 3"),
        Again(("/nowhere/x",), ("/nowhere/gone",), "gone.conf:7"),
        clone.item("b", "two"),
    )
    assert clone.run() == 1
    assert clone.called() == ["a", "b"] and clone.left() == ["a", "gone"]
    said = capsys.readouterr().err
    assert "one (a.conf:1)" in said and "no primes today" in said and "gone.conf:7" in said
    clone.program("a", f"echo new >{clone.top}/one")
    assert clone.run() == 1
    assert clone.called() == ["a"] and clone.left() == ["gone"]


def test_a_cut_between(clone: Clone) -> None:
    """Killed in the second: the first is not run again, the list names what is left."""
    clone.put(
        clone.item("a", "one"),
        clone.item("b", "two", does=f": >{clone.top}/two; kill -9 $PPID"),
        clone.item("c", "three"),
    )
    pid = os.fork()
    if not pid:
        os._exit(clone.run())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert clone.called() == ["a", "b"] and clone.left() == ["b", "c"]
    (clone.top / "one").unlink()  # would show that it is run again
    clone.program("b", f"[ ! -e {clone.top}/two ] && echo new >{clone.top}/two")
    assert clone.run() == 0
    assert clone.called() == ["b", "c"] and not clone.list.exists()
    assert not (clone.top / "one").exists()


def test_what_a_program_does_not_make(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    """A key of a type of old: said once, for a second time would not help."""
    clone.put(clone.item("a", "rsa", "dsa", does=f"echo new >{clone.top}/rsa"))
    assert clone.run() == 0 and not clone.list.exists()
    assert f"has not made {clone.top}/dsa (a.conf:1)" in capsys.readouterr().err


def test_lines_that_cannot_be_read(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    clone.put(clone.item("a", "one"))
    with clone.list.open("ab") as f:
        f.write(b'{"paths"')
    assert clone.run() == 1 and clone.called() == ["a"] and not clone.list.exists()
    assert "line 2" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["others", "group", "link", "fifo", "directory"])
def test_a_list_of_somebody_else(clone: Clone, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what root runs."""
    clone.put(clone.item("a", "one"))
    if case in ("others", "group"):
        clone.list.chmod(0o602 if case == "others" else 0o620)
    elif case == "link":
        clone.list.rename(clone.top / "real")
        clone.list.symlink_to("real")
    else:
        clone.list.unlink()
        os.mkfifo(clone.list) if case == "fifo" else clone.list.mkdir()
    assert clone.run() == 1 and clone.called() == []
    assert capsys.readouterr().err


def test_no_list(clone: Clone) -> None:
    assert clone.run() == 0 and list(clone.top.iterdir()) == [clone.calls]


def test_the_environment_is_small(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRAY", "yes")
    clone.put(clone.item("a", "env", does=f"env >{clone.top}/env"))
    assert clone.run() == 0
    assert "STRAY" not in (clone.top / "env").read_text()
