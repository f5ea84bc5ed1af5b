# SPDX-License-Identifier: LGPL-2.1-or-later
"""The request of this boot: what the generator has answered, asked again, and what was consumed."""

from __future__ import annotations

from collections.abc import Mapping

from persist.boot import facts, paths
from persist.boot.seal.decide import SEAL, Answer, decide
from persist.boot.seal.look import look
from persist.boot.seal.request import Request, parse, serialise
from persist.errors import CommandError, PersistError
from persist.system.files import write_atomically
from persist.system.run import start

CREDENTIALS = "/run/credentials/@system"


def confidential() -> bool:
    """Whether systemd says that this is a confidential virtual machine, whose host is not believed; an older
    one cannot tell (before 254)."""
    try:
        return start("systemd-detect-virt", "--quiet", "--cvm")() == 0
    except CommandError:
        return False


def ask(environ: Mapping[str, str], root: str = "") -> Answer:
    """Ask what the generator has asked, in a service: credentials are where PID 1 has put them, and nobody
    has told whether the host is to be believed. Raises OSError."""
    known = dict(environ)
    known["CREDENTIALS_DIRECTORY"] = CREDENTIALS
    if confidential():
        known["SYSTEMD_CONFIDENTIAL_VIRTUALIZATION"] = "yes"
    return decide(look(facts.gather(root, known), known))


def honoured(answer: Answer) -> Request:
    """The request that is honoured. Raises PersistError where none is."""
    if answer.kind != SEAL or answer.request is None:
        raise PersistError(answer.sentence or "Nobody asks that this machine be sealed.", hint=answer.hint)
    return answer.request


def begin(request: Request, path: str = paths.SEAL_BEGUN) -> None:
    """Note with what this boot has begun. Raises OSError."""
    write_atomically(path, serialise(request))


def begun(path: str = paths.SEAL_BEGUN) -> Request:
    """What this boot has begun with. Raises PersistError, OSError."""
    with open(path, "rb") as f:
        data = f.read()
    try:
        return parse(data, begun=True)
    except ValueError as e:
        raise PersistError(f"'{path}' {e}.") from None
