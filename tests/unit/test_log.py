# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the service manager hears of a wait."""

from __future__ import annotations

import importlib
import socket
from pathlib import Path
from types import ModuleType

import pytest

from persist import log
from persist.boot.config import Config
from persist.volume import search
from persist.volume.find import Machine, Missing


def test_a_wait_has_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MemberTimeoutSec= may be longer than the unit's time-out, and what comes after it (memory in the volume's place) has to be done."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(5)
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        log.notify_status("at work\nWATCHDOG=1")
        assert manager.recv(4096) == rb"STATUS=at work\nWATCHDOG=1"
        monkeypatch.setattr(search, "_once", lambda config, told: (Missing("", ""), None))
        monkeypatch.setattr(search, "_wait", lambda config, told, timeout, last, enough: last)
        search.search(Config(), Machine(), 1200.0)
        assert manager.recv(4096) == b"STATUS=Waiting up to 1200 s for the state volume\nEXTEND_TIMEOUT_USEC=1500000000"


@pytest.mark.parametrize(("name", "function"), [("journal", "sendv"), ("daemon", "notify")])
def test_python_systemd(name: str, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of its parts have what we use: the inner one, and the outer one should the inner one be renamed."""
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
