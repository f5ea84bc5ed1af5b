# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the service manager hears of a wait."""

from __future__ import annotations

import importlib
import socket
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from persist import log
from persist.errors import PersistError


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
def test_python_systemd(name: str, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of its parts have what we use: the inner one, and the outer one should the inner one be
    renamed."""
    assert callable(getattr(log._of_systemd(name), function))
    assert log._of_systemd(name).__name__ == f"systemd._{name}"
    real = importlib.import_module

    def renamed(wanted: str) -> ModuleType:
        if wanted == f"systemd._{name}":
            raise ImportError(wanted)
        return real(wanted)

    monkeypatch.setattr(log, "import_module", renamed)
    assert log._of_systemd(name).__name__ == f"systemd.{name}"
    assert callable(getattr(log._of_systemd(name), function))


def test_the_journal_gets_text_whatever_a_name_on_the_volume_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What journalctl calls "[blob data]": a control character (C0 but for tab and newline, C1) in any field.
    And one record is one line."""
    sent: list[str] = []
    monkeypatch.setattr(log, "to_journal", lambda: True)
    monkeypatch.setattr(
        log, "_of_systemd", lambda name: SimpleNamespace(sendv=lambda *fields: sent.extend(fields))
    )
    path = "/srv/\x1b[2J\n\x85\u2028\u2029\x7f\x9b\udcff\tgrün \U0001f600"
    log.log(log.ERR, f"'{path}' is a symbolic link.", "ENTRY_FAILED", PERSIST_PATH=path)
    log.log_error(PersistError(f"{path}.", hint=path, PERSIST_DEVICE=path))
    text = r"/srv/\x1b[2J\n\x85\u2028\u2029\x7f\x9b\udcff\tgrün " + "\U0001f600"
    assert (
        f"MESSAGE='{text}' is a symbolic link." in sent
        and f"PERSIST_PATH={text}" in sent
        and f"PERSIST_DEVICE={text}" in sent
    )
    assert all(field.isprintable() for field in sent)
