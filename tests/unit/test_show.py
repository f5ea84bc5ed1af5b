# SPDX-License-Identifier: LGPL-2.1-or-later
"""How persistctl prints: tables that fit the terminal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from persist.cli import show

LONG = "/var/lib/" + "very-long-directory-name/" * 8 + "end"
ROWS = [
    (LONG, "overlay", "mounted", "/usr/lib/persist.d/some-application.conf:2"),
    ("/etc", "overlay", "failed", "/etc/persist.d/x.conf:12"),
]
HEAD = ("PATH", "METHOD", "STATE", "DECLARED IN")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


def _sent(terminal: int) -> Iterator[bytes]:
    """What a terminal was sent, once nobody has it open."""
    with contextlib.suppress(OSError):  # EIO says so
        while data := os.read(terminal, 1 << 16):
            yield data


def _on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, *, full: bool = False) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    ours, theirs = os.openpty()
    try:
        with open(theirs, "w", encoding="utf-8") as screen, contextlib.redirect_stdout(screen):
            show.table(HEAD, ROWS, flexible=(0, 3), full=full)
        return b"".join(_sent(ours)).decode("utf-8").splitlines()
    finally:
        os.close(ours)


@pytest.mark.parametrize("columns", [80, 84, 120, 60])
def test_a_long_path_is_cut_in_the_middle_and_the_state_never(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    lines = _on_terminal(monkeypatch, columns)
    assert max(map(show.width, lines)) <= columns
    assert lines[1].startswith("/var/") and "end  overlay  mounted" in lines[1]
    assert " failed " in lines[2] and lines[2].startswith("/etc ")


def test_nothing_is_cut_with_full(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LONG in _on_terminal(monkeypatch, 80, full=True)[1]


def test_nothing_is_cut_for_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show.table(HEAD, ROWS, flexible=(0, 3))
    assert LONG in capsys.readouterr().out.splitlines()[1]


def test_a_terminal_too_narrow_for_all_still_shows_the_states(monkeypatch: pytest.MonkeyPatch) -> None:
    assert " mounted " in _on_terminal(monkeypatch, 20)[1]


@pytest.mark.parametrize(("text", "cells"), [("日本語", 6), ("e\u0301", 1), ("abc", 3), ("", 0)])
def test_width_in_cells(text: str, cells: int) -> None:
    assert show.width(text) == cells


@pytest.mark.parametrize("cells", range(4, 40))
def test_cut_is_never_wider_than_asked(cells: int) -> None:
    for text in (LONG, "日本語" * 20, "short"):
        assert show.width(show.cut(text, cells)) <= cells


def test_root_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    from persist.cli.main import main

    for verb in ("list", "plan", "verify"):
        assert main([verb, "--root=/no/such/directory"]) == 1
        assert "'/no/such/directory' is not a directory." in capsys.readouterr().err
    assert not os.path.exists("/no/such/directory")
