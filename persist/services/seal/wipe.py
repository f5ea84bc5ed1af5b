# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-seal.service: first pass and wipe; persist-operator-script.service: the script of a request from
outside. What both say is on the console, in the journal, and on the hypervisor's port."""

from __future__ import annotations

from typing import Any

from persist import log
from persist.boot.seal.request import LOCAL, Request
from persist.seal import report, wipe
from persist.seal.boot import asked, ended, kept, script, tree, who
from persist.seal.boot.kept import Kept
from persist.seal.boot.machine import Work, known, opened, settle
from persist.seal.boot.voice import Voice
from persist.seal.engine import Result
from persist.services.seal.begin import say, tried


def _tell(voice: Voice, result: Result) -> None:
    for name, said in result.said:
        for line in said.rstrip("\n").split("\n") if said else ():
            say(voice, f"{name}: {line}")
    for note in [*result.notes, *report.of_traces(result)]:
        say(voice, note, log.NOTICE)


def _wipe(voice: Voice, notes: Kept) -> list[str]:
    voice.on_port("running")
    request = asked.begun()
    settle(known())
    copy = tree.make(writable=True, whole=True)
    with opened(copy, request.keep, include_volume=request.include_volume) as work:
        result = work.first_pass(who.look())
        if result.errors:
            _tell(voice, result)
            return [*result.errors, "Nothing was touched."]
        say(voice, f"Wiping what must not be cloned, request {request.id}.", log.NOTICE)
        work.seal.wipe()
        _tell(voice, result)
        if result.failures:
            return [*result.failures, "The wipe was begun and is not complete."]
        work.empty_swap()
        document = work.seal.said()
        work.empty_volume()
        if script.handed() or request.include_volume:
            # The volume is given back its blocks as it is when it was just mounted (persist/seal/volume).
            notes.wiped(document, work.seal.old)
            return []
        # Nothing comes between, and all was looked at again: no second process, no second look at the tree.
        return finish(voice, notes, work, document)


def finish(voice: Voice, notes: Kept, work: Work, document: dict[str, Any]) -> list[str]:
    """The end of a tree that was looked at again: who is here, trim, and "sealed" last. Returns what keeps it
    from being sealed. Raises OSError, PersistError."""
    strangers = who.look()
    if strangers:
        return strangers
    for warning in work.trim():
        say(voice, warning, log.WARNING)
    wipe.remove_own(work.seal.tree, ended.FAILED)
    output, request = notes.script_output(), asked.begun()
    work.seal.write_report(ended.document(document, request.id, output, work.seal.old))
    notes.sealed(request.then)
    return []


def seal_main() -> int:
    """Run as persist-seal.service: nothing is touched where the first pass finds an error."""
    return tried(_wipe)


def _whose(request: Request) -> str:
    """Why the host's script is none of this request's, or ''."""
    if request.source == LOCAL:
        return "the request was made in the machine itself"
    return "the host of a confidential virtual machine is not believed" if asked.confidential() else ""


def _script(voice: Voice, notes: Kept) -> list[str]:
    if not notes.marked(kept.WIPED):
        return ["The operator script is not run: nothing was wiped."]
    why = _whose(asked.begun())
    if why:  # no error: what the host hands to a machine does not keep it from sealing itself
        say(voice, f"The operator script is not run: {why}.", log.NOTICE)
        return []
    text = script.read()
    if text is None:
        return []
    newest: list[str] = []  # one text, of what is kept: a script may say a lot

    def line(said: str) -> None:
        newest[:] = ["\n".join([*newest, said])[-script.MOST_OUTPUT :]]
        log.log(log.INFO, said, "SEAL_SCRIPT")
        voice.on_console(said)
        voice.on_port(f"output: {said}")
        notes.script(newest[0])  # also should it never end

    status = script.execute(text, line)
    script.end_what_is_left()
    notes.script("".join(newest))
    if status:
        how = f"exit status {status}" if status > 0 else f"signal {-status}"
        return [f"The operator script failed: {how}."]
    return []


def script_main() -> int:
    """Run as persist-operator-script.service."""
    return tried(_script)
