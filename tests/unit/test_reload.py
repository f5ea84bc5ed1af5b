# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done after /etc came late: which target is started again (a rescue boot must stay one), and whether
the journal has to go elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from persist.boot.facts import Facts
from persist.services import reload as reload_service
from persist.services.reload import target


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        ("quiet ro", "default.target"),
        ("single", ""),
        ("rescue", ""),
        ("1", ""),
        ("emergency", ""),
        ("quiet -b", ""),
        ("systemd.unit=rescue.target", "rescue.target"),
        ("systemd.unit=my.target", "my.target"),
        ("singles=1", "default.target"),
    ],
)
def test_target(cmdline: str, expected: str) -> None:
    facts = Facts()
    facts.cmdline = cmdline
    assert target(facts) == expected


OLD, NEW = "a" * 32, "b" * 32


@pytest.mark.parametrize(
    ("running", "image", "kept", "expected"),
    [
        (OLD, "", NEW, True),  # a transient id, and /etc came with the machine's own
        ("", OLD, NEW, True),  # the image has an id
        (OLD, "", OLD, False),  # the first boot
        (OLD, NEW, OLD, False),
        (OLD, "", "uninitialized", False),  # nothing that a journal could go to
        (OLD, "", "", False),
        ("", "", NEW, False),
    ],
)
def test_journal_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: str, image: str, kept: str, expected: bool
) -> None:
    """journalctl(1) looks where the machine-id of /etc says: journald must not write elsewhere."""
    for name, text in (("run", running), ("image/etc", image), ("etc", kept)):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "machine-id").write_text(f"{text}\n" if text else "")
    done: list[tuple[str, ...]] = []
    monkeypatch.setattr(reload_service, "run", lambda *argv: done.append(argv))
    reload_service.journal(str(tmp_path), str(tmp_path / "image"))
    assert done == ([("systemctl", "restart", "systemd-journald.service")] if expected else [])


def test_before_the_flush() -> None:
    """A flush takes all journals that are in /run; one that came before journald was restarted would be in
    the directory of the other id."""
    unit = (Path(__file__).resolve().parents[2] / "units/persist-reload.service").read_text()
    before = [
        word
        for line in unit.splitlines()
        if line.startswith("Before=")
        for word in line.removeprefix("Before=").split()
    ]
    after = [
        word
        for line in unit.splitlines()
        if line.startswith("After=")
        for word in line.removeprefix("After=").split()
    ]
    assert "systemd-journal-flush.service" in before and "etc.mount" in after
