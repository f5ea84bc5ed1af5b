# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-seal-end.service: the wiped machine is looked at once more, and "sealed" is written last.
persist-seal-off.service: what became of it is said, whatever it was, before the power goes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from persist import log
from persist.errors import CommandError, PersistError
from persist.seal.boot import kept
from persist.seal.boot.kept import Kept
from persist.seal.boot.voice import Voice

# What is only needed where there is work left, or nothing was sealed, is loaded there: what the other units
# have to say is said by a process of its own, and most of what it does is to start.

_LOOK_SEC = 30  # for a console is read by people
_REBOOTS = ("reboot", "halt")


def _end(voice: Voice, notes: Kept) -> list[str]:
    from persist.seal.boot import asked, tree
    from persist.seal.boot.machine import opened
    from persist.services.seal.wipe import finish

    request = asked.begun()
    if not notes.marked(kept.WIPED):
        return ["Nothing was wiped, so there is nothing to end."]
    copy = tree.make(writable=True, whole=True)
    with opened(copy, request.keep, include_volume=request.include_volume, wiped=True) as work:
        result = work.seal.look_again(notes.old())
        errors = [*copy.errors, *result.failures, *work.left()]
        return errors or finish(voice, notes, work, notes.report())


def end_main() -> int:
    """Run as persist-seal-end.service."""
    from persist.services.seal.begin import tried

    return tried(_end)


def _note_failure(request_id: str, reasons: list[str]) -> None:
    """Leave the reasons for the next boot, in the image. Raises PersistError, OSError."""
    from persist.seal import wipe
    from persist.seal.boot import ended, tree
    from persist.seal.boot.machine import opened

    copy = tree.make(writable=True, whole=True)
    with opened(copy, ()) as work:
        wipe.write_own(work.seal.tree, ended.FAILED, ended.failure(request_id, reasons))
        os.sync()


def _not_sealed(voice: Voice, notes: Kept) -> str:
    """Say why; returns the first reason."""
    from persist.seal.boot import asked, ended

    reasons = notes.errors() or ended.why_not()
    try:
        name = asked.begun().id
    except (PersistError, OSError):
        name = ""  # the request was not even consumed
    for reason in reasons:
        log.log(log.ERR, reason, "SEAL_FAILED")
    voice.on_console("This machine is NOT sealed:\n" + "\n".join(f"  {reason}" for reason in reasons))
    if name:
        try:
            _note_failure(name, reasons)
        except (PersistError, OSError) as e:
            voice.on_console(f"Failed to note that for the next boot: {e}")
    else:
        voice.on_console(
            "The request could not be used up, and comes back at each boot: take 'persist.seal=' off the "
            "command line, or the credential off the machine; 'systemd.unit=multi-user.target' boots without "
            "it."
        )
    return reasons[0]


def _go(how: str, sleep: Callable[[float], None]) -> None:
    """Another end than the power-off of the unit: forced, as that one is, and needs no target."""
    from persist.system.run import run

    try:
        run("systemctl", "--force", how)
    except CommandError as e:
        log.log_error(e)
        return  # then it is powered off
    sleep(600)


def off(environ: Mapping[str, str], sleep: Callable[[float], None] = time.sleep) -> int:
    """As off_main(); ``environ`` tells whether it runs as ExecStop= of another unit, when somebody has asked
    for the power-off."""
    voice, notes = Voice(), Kept()
    stopping = "SERVICE_RESULT" in environ
    if notes.marked(kept.SAID):
        return 0
    if notes.marked(kept.SEALED):
        log.log(log.NOTICE, "This machine is sealed.", "SEAL_DONE")
        voice.on_console("This machine is sealed.")
        voice.on_port("success")
        then = notes.then()
        if then in _REBOOTS and not stopping:
            _go(then, sleep)
        return 0
    from persist.boot import config

    reason = _not_sealed(voice, notes)
    notes.mark(kept.SAID)
    seconds = 0 if stopping else min(_LOOK_SEC, config.load("", []).seal_timeout or _LOOK_SEC)
    if seconds:
        voice.on_console(f"It is powered off in {seconds:g} seconds.")
    voice.on_port(f"error: {reason}")
    sleep(seconds)
    return 0


def off_main() -> int:
    """Run as persist-seal-off.service; the power-off itself is the unit's."""
    return off(os.environ)
