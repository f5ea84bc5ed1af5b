# SPDX-License-Identifier: LGPL-2.1-or-later
"""What became of a request to seal this machine, where the boot is an ordinary one: it was refused, or it was
begun and never came to its end. Said whatever the verdict is, for who only seals keeps nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from persist.boot import paths
from persist.boot.facts import Facts, content
from persist.boot.main import seal_asked
from persist.boot.seal.request import KEY
from persist.errors import PersistError
from persist.reason import Reason
from persist.record import Record
from persist.system.run import run

CREDENTIALS = "/run/credentials/@system"
REPORT = "/var/lib/persist/seal.json"  # of what was sealed, with the ID of its request
FAILED = "/var/lib/persist/seal-failed"  # the ID of a request that was begun, and why it came to nothing
_SEEN = " The stage before the service manager took it for a boot that seals, and has mounted nothing."
Environment = Mapping[str, str]


class Sealing(Record):
    """Reasons for the verdict, and notices."""

    reasons: tuple[Reason, ...] = ()
    notices: tuple[Reason, ...] = ()


def environment(root: str = "", command: Sequence[str] = ("systemd-detect-virt", "--cvm")) -> dict[str, str]:
    """What PID 1 tells its generators of credentials, and not its services. ``command`` prints the kind of
    confidential virtual machine that this is; systemd 252 does not know it."""
    if not os.path.lexists(f"{root}{CREDENTIALS}/{KEY}"):
        return {}
    try:
        kind = run(*command, ok=(0, 1)).strip()
    except PersistError:
        kind = "none"
    confidential = {} if kind in ("", "none") else {"SYSTEMD_CONFIDENTIAL_VIRTUALIZATION": kind}
    return {"CREDENTIALS_DIRECTORY": CREDENTIALS, **confidential}


def _text(path: str) -> str:
    return content(path).decode("utf-8", "replace")


def _json(path: str) -> dict[str, object]:
    try:
        found = json.loads(content(path))
    except (ValueError, RecursionError):
        return {}  # not there, or not ours
    return found if isinstance(found, dict) else {}


def begun(root: str = "") -> Reason | None:
    """The reason where the last request that was used up has not sealed the machine."""
    lines = [line for line in _text(root + paths.SEAL_DONE).split("\n") if line]
    # With a word behind it, it was refused, or somebody has seen to it.
    last = next((line for line in reversed(lines) if " " not in line), "")
    report = _json(root + REPORT)
    if not last or report.get("request") == last and report.get("sealed") is True:
        return None
    told, *why = [line for line in _text(root + FAILED).split("\n") if line] or [""]
    said = " ".join(why) if told == last and why else "It was cut, and what of it was wiped nobody knows."
    return Reason(
        "seal-begun",
        f"This machine was to be sealed (ID {last}), and is not: {said}",
        "Ask again, with another ID; or restore it from a copy. To keep it as it is, write the word kept "
        f"behind that ID in {paths.SEAL_DONE}.",
    )


def _of_boot(known: Facts, environ: Environment) -> tuple[str, Reason] | None:
    """What the command line or a credential asks for, and was not done in this boot: the code of the refusal,
    and the reason."""
    from persist.boot.seal.decide import NONE, REFUSED, decide
    from persist.boot.seal.look import look

    seen = look(known, environ)
    # As the generator saw it, but for a local request: what is there by now is for the next boot.
    seen.ordinary, seen.begun, seen.local = False, None, None
    answer = decide(seen)
    if answer.kind == NONE:
        return None
    if answer.kind == REFUSED:
        return answer.code, Reason("seal-refused", answer.sentence, answer.hint)
    name = "" if answer.request is None else f" (ID {answer.request.id})"
    return "not-done", Reason(
        "seal-refused",
        f"It is asked that this machine be sealed{name}, and this boot has not done so.",
        "The next one will. What this one said is in the kernel log: 'journalctl -b -k'.",
    )


def look_back(known: Facts, environ: Environment) -> Sealing:
    """What there is to say. ``environ`` as environment() has it."""
    root = known.root
    reasons: list[Reason] = []
    notices: list[Reason] = []
    first = begun(root)
    if first is not None:
        reasons.append(first)
    local = _json(root + paths.SEAL_REFUSED)
    if local:
        reasons.append(Reason("seal-refused", str(local.get("sentence", "")), str(local.get("hint", ""))))
    other = _of_boot(known, environ) if seal_asked(known, environ) else None
    if other is not None and local.get("code") != "two":
        code, reason = other
        # It comes back at each boot, and nothing is wrong with the machine.
        (notices if code == "done" else reasons).append(reason)
    if reasons and os.path.lexists(root + paths.SEAL_SEEN):
        last = reasons[-1]
        reasons[-1] = Reason(last.code, last.message + _SEEN, last.hint)
    return Sealing(tuple(reasons), tuple(notices))
