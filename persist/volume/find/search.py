# SPDX-License-Identifier: LGPL-2.1-or-later
"""Look for the volume, and wait for it and for its members where somebody said that there is one."""

from __future__ import annotations

from collections.abc import Callable

from persist import log
from persist.boot.config import Config
from persist.boot.facts import Facts
from persist.errors import PersistError
from persist.system import blockdev, uuids
from persist.volume import outcome
from persist.volume.find import candidates, remembered
from persist.volume.find.choose import decide
from persist.volume.find.decision import BTRFS, Ambiguous, Decision, Found, Known, Missing, Untrusted
from persist.volume.members import assemble
from persist.volume.members.assemble import Assembly

SHORT_WAIT = (
    3.0  # seconds; a root that keeps nothing forgets everything without its volume, which is worth a moment
)
CREDENTIALS = "/run/credentials/@system"  # what PID 1 imported (systemd.exec(5), "CREDENTIALS")
CREDENTIAL = "persist.volume"
_Seen = tuple[Decision, Assembly | None]


def an_id(text: str) -> str:
    """A UUID as people write it (capitals, quotes, a ``UUID=`` in front) as we do; any other text as it
    is."""
    bare = text.strip().strip("\"'")
    if bare[:5].lower() == "uuid=":
        bare = bare[5:].strip("\"'")
    return bare.lower() if uuids.valid(bare.lower()) else text


def _credential() -> str:
    """The volume that whoever made this machine names in a system credential, '' where there is none."""
    try:
        with open(f"{CREDENTIALS}/{CREDENTIAL}", encoding="ascii", errors="replace") as f:
            text = an_id(f.read(100).strip())
    except OSError:
        return ""
    if text and not uuids.valid(text):
        log.log(
            log.WARNING,
            f"The credential {CREDENTIAL} is not a UUID and is ignored.",
            "FAILED",
            PERSIST_PATH=f"{CREDENTIALS}/{CREDENTIAL}",
        )
        return ""
    return text


def _noted() -> str:
    try:
        return remembered.read()
    except OSError as e:
        log.log(
            log.WARNING,
            f"Nobody knows which volume this machine had: {e}",
            "FAILED",
            PERSIST_PATH=remembered.PATH,
        )
        return ""


def what_is_known(machine: Facts) -> Known:
    """What this machine knows of its volume, from the command line, a credential, and the note on a writable
    root."""
    asked = an_id(machine.option("persist.volume") or "")
    told = _credential()
    known_, source = (told, f"the credential {CREDENTIAL}") if told else (_noted(), remembered.PATH)
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


def _once(config: Config, told: Known) -> _Seen:
    decision = decide(config, told, candidates.candidates())
    if isinstance(decision, Found) and decision.fstype == BTRFS:
        return decision, assemble.look(decision.members, decision.uuid)
    return decision, None


def _wait(
    config: Config,
    told: Known,
    timeout: float,
    last: _Seen,
    enough: Callable[[Decision, Assembly | None], bool],
) -> _Seen:
    """Look again after each event of a disk until it is enough, or the time is over."""
    if not blockdev.udev_runs():
        return last
    from persist.system.udev import wait_for

    def look() -> _Seen | None:
        nonlocal last
        last = _once(config, told)
        return last if enough(*last) else None

    return wait_for(look, timeout) or last


def search(config: Config, told: Known, timeout: float) -> _Seen:
    """The volume, and how its members stand where it is a btrfs.

    Waits ``timeout`` seconds for a volume, and then MemberTimeoutSec= for members that nobody has seen. What
    is missing is explained by what is here. Raises CommandError and OSError.
    """
    last = _once(config, told)
    if isinstance(last[0], Missing | Untrusted) and timeout:
        log.notify_status(f"Waiting up to {timeout:.0f} s for the state volume", timeout)
        last = _wait(config, told, timeout, last, lambda d, a: not isinstance(d, Missing | Untrusted))
    if last[1] is not None and last[1].awaited and config.member_timeout:
        log.notify_status(
            f"Waiting up to {config.member_timeout} s for {last[1].awaited} member(s) of the state volume",
            config.member_timeout,
        )
        last = _wait(
            config,
            told,
            config.member_timeout,
            last,
            lambda d, a: isinstance(d, Ambiguous) or (a is not None and not a.awaited),
        )
    if isinstance(last[0], Missing):
        from persist.volume.find import around, missing

        try:
            last = missing.explain(last[0], config, told, around.gather(config)), None
        except (PersistError, OSError) as e:
            # A hint is not worth the decision, which stands without it.
            log.log(log.NOTICE, f"Nobody knows why there is no state volume: {e}", "FAILED")
    return last
