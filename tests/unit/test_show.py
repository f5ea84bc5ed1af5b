# SPDX-License-Identifier: LGPL-2.1-or-later
"""How persistctl prints: tables that fit the terminal."""

from __future__ import annotations

import os

import pytest

from persist.cli import show

LONG = "/var/lib/" + "very-long-directory-name/" * 8 + "end"
ROWS = [
    (LONG, "overlay", "mounted", "/usr/lib/persist.d/some-application.conf:2"),
    ("/etc", "overlay", "failed", "/etc/persist.d/x.conf:12"),
]
HEAD = ("PATH", "METHOD", "STATE", "DECLARED IN")


def _printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int, *, full: bool = False
) -> list[str]:
    monkeypatch.setattr("sys.stdout.isatty", lambda: columns > 0)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns or 80))
    show.table(HEAD, ROWS, flexible=(0, 3), full=full)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("columns", [80, 84, 120, 60])
def test_a_long_path_is_cut_in_the_middle_and_the_state_never(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    lines = _printed(monkeypatch, capsys, columns)
    assert max(map(show.width, lines)) <= columns
    assert lines[1].startswith("/var/") and "end  overlay  mounted" in lines[1]
    assert " failed " in lines[2] and lines[2].startswith("/etc ")


@pytest.mark.parametrize(("columns", "full"), [(0, False), (80, True)])
def test_nothing_is_cut_for_a_pipe_or_with_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int, full: bool
) -> None:
    assert LONG in _printed(monkeypatch, capsys, columns, full=full)[1]


def test_a_terminal_too_narrow_for_all_still_shows_the_states(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert " mounted " in _printed(monkeypatch, capsys, 20)[1]


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
