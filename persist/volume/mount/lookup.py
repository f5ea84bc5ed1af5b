# SPDX-License-Identifier: LGPL-2.1-or-later
"""The volume of this boot, or the reason why there is none: looked for, waited for, made of a blank disk
where that is asked for, and said."""

from __future__ import annotations

import os

from persist.boot import paths
from persist.boot.config import Config
from persist.note import ERR, INFO, NOTICE, WARNING, Note, Say, Status
from persist.record import replace
from persist.volume import outcome
from persist.volume.find import remembered
from persist.volume.find.decision import Ambiguous, Found, Known, Missing, Untrusted
from persist.volume.find.search import SHORT_WAIT, patience, search
from persist.volume.format.may_format import blank_is_here
from persist.volume.members.assemble import Assembly
from persist.volume.mount import fallback
from persist.volume.outcome import Outcome


def _unused(decision: Missing | Ambiguous | Untrusted, loud: bool) -> Note:
    """The record of a volume that is not used. ``loud``: one was waited for."""
    fields = {"PERSIST_REASON": decision.code}
    message = f"{decision.message} {decision.hint}"
    match decision:
        case Missing():
            plain = decision.code == "missing"
            name = "VOLUME_UNREADABLE" if decision.code == "unreadable" else "VOLUME_MISSING"
            return Note(WARNING if loud or not plain else INFO, message, name, fields)
        case Ambiguous():
            devices = {"PERSIST_DEVICE": " ".join(decision.nodes)}
            return Note(ERR, message, "VOLUME_AMBIGUOUS", devices | fields)
        case Untrusted():
            devices = {"PERSIST_DEVICE": " ".join(decision.nodes)}
            return Note(WARNING, message, "VOLUME_UNTRUSTED", devices | fields)


def _known_is_missing(config: Config, result: Outcome, told: Known, found: Missing) -> Missing:
    message = f"The state volume of this machine (UUID={told.known}) was not found"
    if result.root_kept and fallback.policy(config, result) != "tmpfs":
        message += "; what is written now goes to the root filesystem and is hidden when the volume is back"
    if found.code != "missing":
        return Missing(
            f"{message}. {found.message}",
            found.hint,
            "known-volume-missing" if found.code == "other-volume" else found.code,
        )
    anew = f"remove {remembered.PATH}" if told.source == remembered.PATH else f"take {told.source} away"
    return Missing(
        f"{message}.",
        f"Attach its disk. To begin anew without it, {anew} and restart the machine.",
        "known-volume-missing",
    )


def _blank_takes_over(config: Config, told: Known) -> bool:
    """Whether a blank disk is formatted without waiting for a volume first: none is known, or the known one
    is lost by contract."""
    return (
        config.format_blank
        and not told.named
        and (not told.known or config.ephemeral)
        and blank_is_here(config)
    )


def say_others(found: Found, result: Outcome, say: Say) -> None:
    """Other filesystems that could be the volume: left alone, and worth a word."""
    result.others = [{"device": node, "uuid": uuid} for node, uuid in found.others]
    for node, uuid in found.others:
        say(
            Note(
                NOTICE,
                f"{node} (UUID={uuid}) could be a state volume, too; the one of this machine is on "
                f"{found.node}, and {node} is left alone.",
                "VOLUME_OTHERS",
                {"PERSIST_DEVICE": node, "PERSIST_UUID": uuid},
            )
        )


def find(
    config: Config, told: Known, result: Outcome, say: Say, status: Status, *, may_format: bool
) -> tuple[Found, Assembly | None] | None:
    """The volume, or None and the reason in the result. ``may_format``: a blank disk may be made one
    (Format=blank)."""
    result.expected = bool(told.known)
    timeout = patience(config, told, kept=result.root_kept)
    if os.path.lexists(paths.WAITED):
        timeout = min(timeout, SHORT_WAIT)  # the stage before PID 1 has done that already
    decision, assembly = search(config, told, 0.0, say, status)
    if (
        timeout
        and isinstance(decision, Missing | Untrusted)
        and not (may_format and _blank_takes_over(config, told))
    ):
        decision, assembly = search(config, told, timeout, say, status)
    if isinstance(decision, Missing) and may_format and config.format_blank:
        from persist.volume.format.claims import format_claimed

        # No header, so no udev tag and no persist-format.service: a named disk that is blank is formatted
        # where it is missed.
        format_claimed([], config, told, say, status)
        if outcome.formatted():
            told = replace(told, known=outcome.formatted() if told.known else "")
            decision, assembly = search(config, told, float(config.member_timeout), say, status)
    if isinstance(decision, Found):
        say_others(decision, result, say)
        return decision, assembly
    if isinstance(decision, Missing) and told.known and told.known == (told.named or told.known).lower():
        decision = _known_is_missing(config, result, told, decision)
    result.because(decision.code, decision.message, decision.hint)
    say(_unused(decision, loud=timeout > 0))
    return None
