# SPDX-License-Identifier: LGPL-2.1-or-later
"""Look for the volume, and wait for it and for its members where somebody said that there is one."""

from __future__ import annotations

from collections.abc import Callable

from persist.boot.config import Config
from persist.boot.facts import Facts
from persist.errors import PersistError
from persist.note import NOTICE, WARNING, Note, Say, Status
from persist.record import Record
from persist.system import uuids
from persist.volume import outcome
from persist.volume.find import candidates, remembered, waiting
from persist.volume.find.choose import decide
from persist.volume.find.decision import (
    BTRFS,
    Ambiguous,
    Candidate,
    Decision,
    Found,
    Known,
    Missing,
    Untrusted,
)
from persist.volume.members import assemble
from persist.volume.members.assemble import Assembly

SHORT_WAIT = (
    3.0  # seconds; a root that keeps nothing forgets everything without its volume, which is worth a moment
)
CREDENTIALS = "/run/credentials/@system"  # what PID 1 imported (systemd.exec(5), "CREDENTIALS")
CREDENTIAL = "persist.volume"
Here = Callable[[], list[Candidate]]


def an_id(text: str) -> str:
    """A UUID as people write it (capitals, quotes, a ``UUID=`` in front) as we do; any other text as it
    is."""
    bare = text.strip().strip("\"'")
    if bare[:5].lower() == "uuid=":
        bare = bare[5:].strip("\"'")
    return bare.lower() if uuids.valid(bare.lower()) else text


def _credential(say: Say, directory: str) -> str:
    """The volume that whoever made this machine names in a system credential, '' where there is none."""
    try:
        with open(f"{directory}/{CREDENTIAL}", encoding="ascii", errors="replace") as f:
            text = an_id(f.read(100).strip())
    except OSError:
        return ""
    if text and not uuids.valid(text):
        say(
            Note(
                WARNING,
                f"The credential {CREDENTIAL} is not a UUID and is ignored.",
                "FAILED",
                {"PERSIST_PATH": f"{directory}/{CREDENTIAL}"},
            )
        )
        return ""
    return text


def _noted(say: Say, root: str) -> str:
    try:
        return remembered.read(root)
    except OSError as e:
        say(
            Note(
                WARNING,
                f"Failed to read which volume this machine had: {e}",
                "FAILED",
                {"PERSIST_PATH": remembered.PATH},
            )
        )
        return ""


def what_is_known(machine: Facts, say: Say, *, root: str = "/", credentials: str = CREDENTIALS) -> Known:
    """What this machine knows of its volume, from the command line, a credential, and the note on a writable
    root."""
    asked = an_id(machine.option("persist.volume") or "")
    told = _credential(say, credentials)
    known_, source = (told, f"the credential {CREDENTIAL}") if told else (_noted(say, root), remembered.PATH)
    made = outcome.formatted()
    if made and source == remembered.PATH:
        known_ = made  # what this boot has made takes the place of what is noted
    named = uuids.valid(asked)
    return Known(
        asked if named else "",
        known_,
        candidates.bound_here,
        candidates.member,
        "" if named else asked,
        source if known_ else "",
    )


def patience(config: Config, told: Known, *, kept: bool) -> float:
    """For how many seconds a volume that is not there is waited for: MemberTimeoutSec= where somebody said
    that there is one.

    ``kept``: the root filesystem keeps what is written.
    """
    if told.wrong or not config.device:
        return 0.0  # that cannot come
    if config.device != ["auto"] or told.named or told.known or outcome.formatted():
        return float(config.member_timeout)
    return 0.0 if kept else SHORT_WAIT


class _Look(Record):
    """One look: what it came to, how the members stand where that is a btrfs, and all that was here."""

    decision: Decision
    assembly: Assembly | None
    every: list[Candidate]


def _once(config: Config, told: Known, here: Here) -> _Look:
    every = here()
    decision = decide(config, told, every)
    if isinstance(decision, Found) and decision.fstype == BTRFS:
        return _Look(decision, assemble.look(decision.members, decision.uuid), every)
    return _Look(decision, None, every)


def _wait(last: _Look, timeout: float, once: Callable[[], _Look], enough: Callable[[_Look], bool]) -> _Look:
    """Look again after each event of a disk until it is enough, or the time is over."""

    def look() -> _Look | None:
        nonlocal last
        last = once()
        return last if enough(last) else None

    return waiting.wait_for(look, timeout) or last


def search(
    config: Config,
    told: Known,
    timeout: float,
    say: Say,
    status: Status,
    here: Here = candidates.everything,
) -> tuple[Decision, Assembly | None]:
    """The volume, and how its members stand where it is a btrfs. ``here`` finds all block devices.

    Waits ``timeout`` seconds for a volume, and then MemberTimeoutSec= for members that nobody has seen. What
    is missing is explained by what is here. Raises CommandError and OSError.
    """

    def once() -> _Look:
        return _once(config, told, here)

    last = once()
    if isinstance(last.decision, Missing | Untrusted) and timeout:
        status(f"Waiting up to {timeout:.0f} s for the state volume", timeout)
        last = _wait(last, timeout, once, lambda seen: not isinstance(seen.decision, Missing | Untrusted))
    awaited = last.assembly.awaited if last.assembly is not None else 0
    if awaited and config.member_timeout:
        wait = config.member_timeout
        status(f"Waiting up to {wait} s for {awaited} member(s) of the state volume", wait)
        last = _wait(last, wait, once, _complete)
    if isinstance(last.decision, Missing):
        from persist.volume.find import around, missing

        try:
            return missing.explain(last.decision, config, told, around.gather(config, last.every)), None
        except (PersistError, OSError) as e:
            # A hint is not worth the decision, which stands without it.
            say(Note(NOTICE, f"Failed to look for the reason why there is no state volume: {e}", "FAILED"))
    return last.decision, last.assembly


def _complete(seen: _Look) -> bool:
    """Whether there is no member to wait for."""
    return isinstance(seen.decision, Ambiguous) or (seen.assembly is not None and not seen.assembly.awaited)
