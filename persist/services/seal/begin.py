# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-seal-begin.service: the request is used up before anything is done for it.
persist-seal-refused.service: a local request that an ordinary boot finds is taken away, and said.

What all services of a seal boot say lies here, for this is the one that loads least."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable

from persist import log
from persist.boot.paths import SEAL_REFUSED, SEAL_REQUEST
from persist.boot.seal.decide import SEAL
from persist.boot.seal.request import LOCAL, NAMES
from persist.errors import PersistError
from persist.seal.boot import asked, consume, tree
from persist.seal.boot.kept import Kept
from persist.seal.boot.voice import Voice
from persist.system import mountinfo
from persist.system.files import write_atomically


def say(voice: Voice, text: str, priority: int = log.INFO) -> None:
    """One line of what goes on, to the journal and the console."""
    log.log(priority, text, "SEAL_STEP")
    voice.on_console(text)


def _fail(voice: Voice, notes: Kept, errors: Iterable[str]) -> int:
    """Say why nothing is sealed; persist-seal-off.service says it last."""
    every = list(errors)
    for error in every:
        log.log(log.ERR, error, "SEAL_FAILED")
        voice.on_console(error)
    notes.failed(every)
    return 1


def tried(what: Callable[[Voice, Kept], list[str]]) -> int:
    """Do one service's work, which returns why it failed, if it did; whatever goes wrong is said. Returns the
    exit status."""
    voice, notes = Voice(), Kept()
    try:
        errors = what(voice, notes)
    except PersistError as e:
        errors = [str(e)]
    except OSError as e:
        errors = [f"{e.filename or 'The kernel'}: {e.strerror}."]
    except Exception as e:  # noqa: BLE001  # whatever it is, the machine is not left half sealed in silence
        errors = [f"Unexpected: {type(e).__name__}: {e}. Please report this."]
    return _fail(voice, notes, errors) if errors else 0


def _roots(*, writable: bool) -> list[str]:
    """Where /etc is: the private copy of the root, and what is mounted over the image's, if anything. Raises
    OSError, PersistError."""
    over = mountinfo.at("/etc")
    lost = tree.memory("/etc") if over is not None else ""
    if lost:
        raise PersistError(f"What is written to /etc is lost: it is {lost}. The ID cannot be noted.")
    copy = tree.make(writable=writable, whole=False)
    return [*(["/"] if over is not None else []), copy.path]


def _begin(voice: Voice, notes: Kept) -> list[str]:
    request = asked.honoured(asked.ask(os.environ))
    # In this order: what the generator answers may not change when the request is gone.
    asked.begin(request)
    consume.step("flagged")
    consume.consume(request.id, _roots(writable=True))
    say(voice, f"This boot seals the machine, as {NAMES[request.source]} asks, ID {request.id}.", log.NOTICE)
    return []


def begin_main() -> int:
    """Run as persist-seal-begin.service. Where the request cannot be used up, nothing is wiped."""
    return tried(_begin)


def _refuse() -> None:
    answer = asked.ask(os.environ)
    code = "links" if answer.kind == SEAL else answer.code or "ordinary"
    told = {"source": LOCAL, "code": code, "sentence": answer.sentence, "hint": answer.hint}
    if not answer.sentence:
        told["sentence"] = f"Not sealing, though {SEAL_REQUEST} asks for it: see 'journalctl -b -k'."
    write_atomically(SEAL_REFUSED, json.dumps(told) + "\n")  # for the verdict
    roots = _roots(writable=False)
    # Of two that do not agree neither is honoured later: the other one must not become valid by this.
    consume.take_away(roots, [r.id for r in answer.requests] if code == "two" else [])
    why = answer.sentence or "this boot is an ordinary one, whatever it asks for."
    log.log(
        log.WARNING,
        f"{SEAL_REQUEST} was taken away, and nothing was wiped: {why} 'persistctl seal' asks anew.",
        "SEAL_REFUSED",
        PERSIST_PATH=SEAL_REQUEST,
        PERSIST_REASON=code,
    )


def refused_main() -> int:
    """Run as persist-seal-refused.service, which an ordinary boot starts where there is a local request."""
    try:
        _refuse()
    except (PersistError, OSError) as e:
        log.log(
            log.ERR,
            f"{SEAL_REQUEST} could not be taken away, and may seal this machine at its next boot: {e} "
            "Remove it.",
            "SEAL_REFUSED",
            PERSIST_PATH=SEAL_REQUEST,
            PERSIST_REASON="not-taken-away",
        )
        return 1
    return 0
