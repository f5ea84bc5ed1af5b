# SPDX-License-Identifier: LGPL-2.1-or-later
"""The operator script of a request from outside: a credential of the host's, run on the wiped machine, in its
own root (persist-operator-script(7))."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from persist.boot.paths import SEALING
from persist.errors import PersistError
from persist.seal.boot import who
from persist.system.run import run, stream

CREDENTIAL = "/run/credentials/@system/persist.operator-script"
ENCRYPTED = "/run/credentials/@encrypted/persist.operator-script"
PLACE = SEALING + "/script"
SERVICE = "persist-operator-script.service"
_TRIES = 100  # a tenth of a second each
LONGEST = 512 << 10  # bytes of a script
MOST_OUTPUT = 64 << 10  # characters of what it says that stay in the report


def handed(paths: Sequence[str] = (CREDENTIAL, ENCRYPTED)) -> bool:
    """Whether the host has handed a script, also where it is not to be believed: what ConditionCredential= of
    its unit asks (systemd.unit(5))."""
    return any(os.path.lexists(path) for path in paths)


def read(path: str = CREDENTIAL) -> bytes | None:
    """The script, None where there is none. Raises OSError, PersistError for one that cannot be run."""
    try:
        with open(path, "rb") as f:
            text = f.read(LONGEST + 1)
    except FileNotFoundError:
        return None
    if len(text) > LONGEST:
        raise PersistError("The operator script is larger than 512 KiB.")
    if not text.startswith((b"#!", b"\x7fELF")):
        raise PersistError("The operator script has no first line that begins with '#!'.")
    return text


def end_what_is_left(service: str = SERVICE, wait: Callable[[float], None] = time.sleep) -> None:
    """End what the script has left running, which could write when everything was looked at. Raises
    PersistError where something does not end."""
    for _ in range(_TRIES):
        left = [p.pid for p in who.processes() if who.service_of(p.group) == service and p.pid != os.getpid()]
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            return
        wait(0.1)
    raise PersistError("What the operator script has left running does not end.")


def execute(text: bytes, line: Callable[[str], None], place: str = PLACE) -> int:
    """Run it from memory of its own, for /run and the directory of credentials are mounted noexec (tried,
    both releases). Returns its exit status. Raises OSError, CommandError."""
    os.makedirs(place, 0o700, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "mode=0700,exec,nosuid,nodev", "persist-seal", place)
    try:
        path = f"{place}/operator-script"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
        with open(fd, "wb") as f:
            f.write(text)
        os.umask(0o022)
        return stream(path, line=line)
    finally:
        run("umount", "--lazy", place)
