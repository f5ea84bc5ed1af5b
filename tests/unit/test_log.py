# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the service manager hears of a wait."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from persist import log
from persist.errors import PersistError
from tests.storage.namespace import own_machine

TOP = Path(__file__).resolve().parents[2]


def test_a_wait_has_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MemberTimeoutSec= may be longer than the unit's time-out, and what comes after it (memory in the
    volume's place) has to be done."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(5)
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        log.notify_status("at work\nWATCHDOG=1")
        assert manager.recv(4096) == rb"STATUS=at work\nWATCHDOG=1"
        log.notify_status("Waiting up to 1200 s", 1200.0)
        assert manager.recv(4096) == b"STATUS=Waiting up to 1200 s\nEXTEND_TIMEOUT_USEC=1500000000"


@pytest.mark.parametrize(("name", "function"), [("journal", "sendv"), ("daemon", "notify")])
def test_python_systemd(name: str, function: str, tmp_path: Path) -> None:
    """Both of its parts have what we use: the inner one, and the outer one should the inner one be
    renamed."""
    assert log._of_systemd(name).__name__ == f"systemd._{name}"
    for module in (f"systemd._{name}", f"systemd.{name}"):
        assert callable(getattr(importlib.import_module(module), function))
    renamed = tmp_path / "systemd"
    renamed.mkdir()
    (renamed / "__init__.py").touch()
    (renamed / f"{name}.py").touch()
    code = f"from persist import log; print(log._of_systemd({name!r}).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{tmp_path}:{TOP}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"systemd.{name}\n"


@own_machine
def test_the_journal_gets_text_whatever_a_name_on_the_volume_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What journalctl calls "[blob data]": a control character (C0 but for tab and newline, C1) in any field.
    And one record is one line."""
    sent: list[str] = []
    own = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{own.st_dev}:{own.st_ino}")
    Path("/run/systemd/journal").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.settimeout(5)
        journald.bind("/run/systemd/journal/socket")
        path = "/srv/\x1b[2J\n\x85\u2028\u2029\x7f\x9b\udcff\tgrün \U0001f600"
        log.log(log.ERR, f"'{path}' is a symbolic link.", "ENTRY_FAILED", PERSIST_PATH=path)
        log.log_error(PersistError(f"{path}.", hint=path, PERSIST_DEVICE=path))
        for _ in range(2):
            # A field with a line end in it would be sent with its length, and would be no KEY=value.
            sent += journald.recv(1 << 16).decode().removesuffix("\n").split("\n")
    text = r"/srv/\x1b[2J\n\x85\u2028\u2029\x7f\x9b\udcff\tgrün " + "\U0001f600"
    assert (
        f"MESSAGE='{text}' is a symbolic link." in sent
        and f"PERSIST_PATH={text}" in sent
        and f"PERSIST_DEVICE={text}" in sent
    )
    assert all(field.isprintable() and "=" in field for field in sent)
