# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-reload.service: whether the journal has to go elsewhere, and what is told where that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persist.errors import CommandError
from persist.services import reload

from .namespace import own_machine, sh

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
@own_machine
def test_journal_follows(running: str, image: str, kept: str, expected: bool) -> None:
    """journalctl(1) looks where the machine-id of /etc says: journald must not write elsewhere."""
    for name, text in (("run", running), ("image/etc", image), ("etc", kept)):
        os.makedirs(f"/srv/{name}", exist_ok=True)
        Path(f"/srv/{name}/machine-id").write_text(f"{text}\n" if text else "", encoding="ascii")
    _systemctl('echo "$@" >> /run/done')
    reload.journal("/srv", "/srv/image")
    done = Path("/run/done").read_text(encoding="ascii") if os.path.exists("/run/done") else ""
    assert done == ("restart systemd-journald.service\n" if expected else "")


@own_machine
def test_a_journal_that_stays_where_it_is() -> None:
    for name, text in (("run", OLD), ("etc", NEW)):
        os.makedirs(f"/srv/{name}")
        Path(f"/srv/{name}/machine-id").write_text(f"{text}\n", encoding="ascii")
    _systemctl("echo no bus >&2; exit 1")
    with pytest.raises(CommandError, match="no bus"):
        reload.journal("/srv", "/srv/image")


def _systemctl(script: str) -> None:
    """The systemctl(1) that is found first is this one."""
    sh("mount -t tmpfs none /usr/local/bin")
    program = Path("/usr/local/bin/systemctl")
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
