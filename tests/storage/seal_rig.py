# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees that are sealed in the storage tests: on what they lie, and what is put into them."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.unit.seal_tree import ID, MadeUp

AS_ROOT = [
    pytest.mark.storage,
    pytest.mark.skipif(os.geteuid() != 0, reason="sealing needs root"),
]
SEAL_JSON = "/var/lib/persist/seal.json"
LIST = "/var/lib/persist/regenerate"


def sh(script: str, *words: object) -> str:
    """Run a shell script with arguments; what it printed."""
    return subprocess.run(
        ["sh", "-ec", script, "sh", *map(str, words)], check=True, capture_output=True, text=True
    ).stdout


def full(made: MadeUp) -> None:
    """One thing of each action."""
    made.put("/var/lib/dbus/machine-id", f"{ID}\n")
    for kind in ("rsa", "ed25519"):
        made.put(f"/etc/ssh/ssh_host_{kind}_key", "secret", 0o600)
    made.put("/etc/ssh/sshd_config", "config")
    made.put("/var/log/a.log", "log", 0o640)
    made.put(f"/var/log/journal/{ID}/system.journal")
    made.put("/var/lib/iscsi/name", "iqn.old", 0o600)
    made.put("/var/lib/state/x/y")
    made.put("/var/log/w.db")
    made.link("/var/lib/w.db", "/var/log/w.db")
    made.put("/srv/snakeoil", "secret")
    made.link("/etc/hash", "/srv/snakeoil")
    made.put("/home/alice/.bash_history", "user")
    made.section("/var/lib/dbus/machine-id", "remove")
    made.section("/etc/ssh/ssh_host_*_key", "remove", more="Regenerate=ssh-keygen -A")
    made.section("/var/log/*.log", "truncate", cls="log")
    made.section("/var/log/journal/*", "remove", cls="log", more="")
    made.section("/var/lib/iscsi/name", "write", more="Content=GenerateName=yes\\n\nRegeneratedBy=none")
    made.section("/var/lib/state", "empty-dir")
    made.section("/var/lib/w.db", "remove", cls="log")
    made.section("/etc/hash /srv/snakeoil", "remove", cls="secret")
    made.section("~/.bash_history", "remove", cls="user", more="")


def hook(made: MadeUp, name: str, script: str, base: str = "/usr/lib") -> None:
    """A hook in a shell that the tree now has."""
    made.put(f"{base}/persist/seal.d/{name}", f"#!/bin/sh -e\n{script}\n", 0o755)
    shell(made)


def shell(made: MadeUp) -> None:
    """The machine's own shell and cat(1) with what they need, as the tree's."""
    for program in ("/bin/sh", "/bin/cat", "/bin/sleep"):
        if made.has(program):
            continue
        libraries = [w for w in sh('ldd "$1"', program).split() if w.startswith("/")]
        for file in (program, *libraries):
            made.at(file).parent.mkdir(parents=True, exist_ok=True)
            sh('cp -L "$1" "$2"', file, made.at(file))


def snapshot(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory, with times."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        st = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(st.st_mode) else b""
        found[str(path)] = (
            st.st_mode,
            st.st_uid,
            st.st_gid,
            st.st_ino,
            st.st_mtime_ns,
            st.st_ctime_ns,
            content,
        )
    return found
