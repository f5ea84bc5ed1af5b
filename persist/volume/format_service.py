# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-format.service: format what carries a claim. Here, and only here, what the library raises is logged."""

from __future__ import annotations

import os
from collections.abc import Callable

from .. import log
from ..boot import facts
from ..boot.config import Config, load
from ..boot.facts import Facts
from ..boot.paths import VOLUME
from ..errors import CommandError, PersistError, Refusal
from ..run import run
from . import blockdev, claimable, formatset, known, outcome, refused, switch
from .blockdev import Disk
from .find import Ambiguous, Candidate, Found, Machine, Missing, decide
from .formatset import Claimed, Picked
from .formatting import format_disks
from .header import Claim
from .layout import DATA_NAME

TAGS = "/run/udev/tags/persist-claim"  # named in persist-format.service too
# What a disk or a header that comes later may change: said again each time, and not remembered.
_PASSING = ("members-missing", "members-disagree", "join-missing")


def _tagged() -> list[Disk]:
    """The disks that udev tagged in this boot; all of them where no udev runs. Only a pre-filter: a tag outlives its header."""
    every = blockdev.disks()
    if not blockdev.udev_runs():
        return every
    try:
        tagged = os.listdir(TAGS)
    except FileNotFoundError:
        tagged = []
    return [d for d in every if f"b{d.device}" in tagged]


def _refuse(disk: Disk, refusal: Refusal) -> None:
    refusal.fields.setdefault("PERSIST_DEVICE", disk.node)
    refusal.message = f"{disk.node} asks to be formatted and is left alone: {refusal.message}"
    log.log_error(refusal, priority=log.WARNING)
    if refusal.code not in _PASSING:
        refused.remember(disk, refusal)


def _refuse_all(disks: list[Disk], refusal: Refusal) -> None:
    """One record for each of them."""
    for disk in disks:
        _refuse(disk, refused.another(refusal))


def _nodes(disks: list[Disk]) -> str:
    return ", ".join(d.node for d in disks)


def _failed(disks: list[Disk], error: Exception) -> None:
    hint = error.hint if isinstance(error, PersistError) else ""
    if isinstance(error, CommandError) and error.returncode == 127:
        hint = "Run 'apt install btrfs-progs fdisk'."
    text = error.message if isinstance(error, PersistError) else str(error)
    reason = error.fields.get("PERSIST_REASON", "") if isinstance(error, PersistError) else ""
    log.log(log.ERR, f"{_nodes(disks)} could not be formatted: {text} {hint or 'The claim is still there; the next boot tries again.'}", "FORMAT_FAILED",
            PERSIST_DEVICE=" ".join(d.node for d in disks), PERSIST_REASON=reason or "format-failed")


def claimed(every: list[Disk], words: list[str]) -> list[Claimed]:
    """The disks that carry a claim and were not refused before: those that were begun first, then by serial number and place.

    Headers that cannot be understood, or are for another disk, are refused here, and logged. Raises OSError where a note cannot be written.
    """
    found = []
    for disk in every:
        try:
            if refused.known(disk):
                continue
            claim = claimable.read_claim(disk, words)
            if claim is not None:
                claimable.check_serial(disk, claim)
        except Refusal as e:
            _refuse(disk, e)
            continue
        except OSError as e:
            # No medium, or a disk that does not answer: the kernel's own messages say more.
            log.log(log.DEBUG, f"{disk.node} cannot be read: {e.strerror}.", "FAILED", PERSIST_DEVICE=disk.node)
            continue
        if claim is not None:
            found.append((disk, claim))
    return sorted(found, key=lambda pair: (pair[1].mark is None, pair[0].serial, pair[0].sys_path))


def _machine(wanted: Machine | str | None) -> Machine:
    return wanted if isinstance(wanted, Machine) else Machine(named=wanted or "")


def _candidates() -> list[Candidate]:
    """What is on the disks now. Not by pyudev where that can be helped: it takes as long to load as formatting a disk."""
    from . import candidates

    return candidates.from_database() if blockdev.udev_runs() else candidates.candidates()


def check_alone(disks: list[Disk], volume: str, config: Config, wanted: Machine | str | None, every: list[Candidate] | None = None) -> None:
    """Raise Refusal where disks may not become the volume because there is one, or a certain one is expected.

    ``volume``: the id of the set that was begun on them, '' for none. Raises OSError where the root filesystem's note of its volume cannot be read.
    """
    machine = _machine(wanted)
    every = _candidates() if every is None else every
    own = {d.device for d in disks}
    here = {c.uuid.lower() for c in every if c.disk_device in own} | {volume}
    # Not by what is known: another filesystem with our label is reason enough to keep off.
    decision = decide(config, Machine(named=machine.named), [c for c in every if c.disk_device not in own and c.uuid.lower() != volume])
    if isinstance(decision, Found | Ambiguous):
        nodes = decision.node if isinstance(decision, Found) else ", ".join(decision.nodes)
        raise Refusal("volume-exists", f"This machine has a state volume already ({nodes}).",
                      hint="Claim it with 'persistctl claim --join' to have it join that one, detach that one, or erase the header of this disk.")
    if machine.named and isinstance(decision, Missing):
        raise Refusal("volume-expected", f"The kernel command line names another volume (persist.volume={machine.named}), which is not here.",
                      hint="Attach it, or take persist.volume= off the kernel command line to begin anew.")
    # Ours from before a cut at the very last step may have been mounted and noted since.
    last = known.read()
    if last and last not in here:
        raise Refusal("volume-expected", f"This machine has a state volume (UUID={last}), which is not here.",
                      hint=f"Attach it. To begin anew without it, remove {known.PATH} and restart the machine.")
    if machine.known and machine.known.lower() not in here | {last}:
        raise Refusal("volume-expected", f"This machine was told which state volume it has (UUID={machine.known}), and it is not here.",
                      hint="Attach it, or take the credential persist.volume away to begin anew.")


def _status(shown: str, what: str) -> Callable[[str, str], None]:
    begun: list[str] = []

    def status(step: str, text: str) -> None:
        nodes = text.split(": ", 1)[0].replace(",", "")
        if not begun:
            log.log(log.NOTICE, f"{shown} {what}", "CLAIM_FOUND", PERSIST_DEVICE=nodes)
            begun.append(step)
        log.notify_status(f"Formatting {text}")
        log.log(log.INFO, f"Formatting {text}", "FORMAT_STEP", PERSIST_DEVICE=nodes, PERSIST_STEP=step)

    return status


def _split(claims: list[Claimed]) -> tuple[list[Claimed], list[Claimed]]:
    """Those that join a volume, and those that make one."""
    return [c for c in claims if c[1].join], [c for c in claims if not c[1].join]


def _there(every: list[Candidate]) -> Callable[[Claimed], bool]:
    """Whether the volume that a disk was begun for has its label, on whatever disk: then it is in use, or was."""
    labelled = {c.uuid.lower() for c in every if c.label == DATA_NAME}
    own = {c.disk_device for c in every if c.label == DATA_NAME}

    def there(one: Claimed) -> bool:
        mark = one[1].mark
        # A mark of version 1 knows no id, but is of a disk by itself.
        return mark is not None and (mark.volume in labelled if mark.volume else one[0].device in own)

    return there


def _wait(every: list[Disk], config: Config, claims: list[Claimed]) -> list[Claimed]:
    """All claims, once those are there that the ones at hand speak of, or MemberTimeoutSec= is over."""
    missing = formatset.pick(_split(claims)[1], _there(_candidates())).missing
    if not missing or not config.member_timeout or not blockdev.udev_runs():
        return claims
    from ..udev import wait_for

    log.notify_status(f"Waiting up to {config.member_timeout} s for {missing} more claimed disk(s)", config.member_timeout)
    last = claims

    def look() -> list[Claimed] | None:
        nonlocal last
        last = claimed([d for d in _tagged() if d.device not in {o.device for o in every}] + every, config.magic_headers)
        news = _split(last)[1]
        return last if not news or not formatset.pick(news, _there(_candidates())).missing else None

    return wait_for(look, config.member_timeout) or last


def _make(news: list[Claimed], config: Config, wanted: Machine | str | None, blank: bool = False) -> int:
    """Make a volume of disks that do not join one; those that must not become one are refused. Returns how many failed unexpectedly."""
    disks = [d for d, _ in news]
    every = _candidates()
    left_out: list[Disk] = []

    def refuse(disk: Disk, refusal: Refusal) -> None:
        left_out.append(disk)
        if blank:  # nobody claimed it: it may well be somebody's
            log.log(log.NOTICE, f"{disk.node} is named by Device= and is not formatted: {refusal.message}", "CLAIM_REFUSED",
                    PERSIST_DEVICE=disk.node, PERSIST_REASON=refusal.code)
        else:
            _refuse(disk, refusal)

    def alone(picked: Picked) -> None:
        check_alone(disks, picked.volume, config, wanted, every)

    try:
        what = "carries a claim and is formatted now." if len(disks) == 1 else "carry claims and are formatted now."
        if blank:
            what = "is blank, is named by Device=, and is formatted now."
        done = format_disks(disks, config, _status(_nodes(disks), what), refuse=refuse, alone=alone, there=_there(every), blank=blank)
    except Refusal as e:
        for disk in [d for d in disks if d not in left_out]:
            refuse(disk, refused.another(e))
        return 0
    except (PersistError, OSError) as e:
        _failed(disks, e)
        return len(disks)
    if done is None:
        return 0
    outcome.note_formatted(done.uuid)
    made = _nodes(list(done.disks))
    verb = "is" if len(done.disks) == 1 else "are"
    log.log(log.NOTICE, f"{made} {verb} the state volume now (UUID={done.uuid}).", "FORMAT_DONE", PERSIST_DEVICE=" ".join(done.nodes), PERSIST_UUID=done.uuid)
    _refuse_all([d for d in disks if d not in left_out and d not in done.disks],
                Refusal("volume-exists", f"{made} {verb} the state volume of this machine now.",
                        hint="Claim it again with 'persistctl claim --force --join' to have it join, or keep it for another machine."))
    return 0


def _volume(config: Config, wanted: Machine | str | None) -> str:
    """The id of this machine's volume: of the one that is mounted, or of the one that would be; '' for none."""
    from .mount import mounted_uuid

    mounted = mounted_uuid(VOLUME)
    if mounted:
        return mounted
    decision = decide(config, _machine(wanted), _candidates())
    return decision.uuid.lower() if isinstance(decision, Found) and decision.fstype == "btrfs" else ""


def _join(joins: list[Claimed], volume: str, config: Config) -> tuple[int, int]:
    """Prepare disks that join a volume. Returns how many are ready, and how many failed unexpectedly."""
    from . import joining

    ready = failed = 0
    for disk, claim in joins:
        try:
            joining.check_join(claim, volume, config)
            if joining.prepare(disk, volume, config, _status(disk.node, f"carries a claim and joins the state volume {volume}.")):
                ready += 1
        except Refusal as e:
            _refuse(disk, e)
        except (PersistError, OSError) as e:
            _failed([disk], e)
            failed += 1
    return ready, failed


def _is_there(config: Config, wanted: Machine | str | None) -> bool:
    """Whether there is a volume, mounted or not, on whatever filesystem."""
    from .mount import mounted_uuid

    return bool(mounted_uuid(VOLUME)) or isinstance(decide(config, _machine(wanted), _candidates()), Found)


def format_claimed(every: list[Disk], config: Config, wanted: Machine | str | None) -> int:
    """Make a volume of the claimed disks of ``every``, or prepare them to join the one that is there; refuse the others.

    ``wanted`` is what the machine knows of its volume, or the id that persist.volume= names. Where nothing is claimed and Format=blank says so, a
    blank disk is formatted. Returns how many disks failed unexpectedly. Raises CommandError and OSError.
    """
    claims = claimed(every, config.magic_headers)
    failed = ready = 0
    made = False
    joins, news = _split(claims)
    if news:
        fresh = [c for c in news if c[1].mark is None]
        volume = _volume(config, wanted) if config.join == "auto" and fresh else ""
        if volume:
            joins, news = joins + fresh, [c for c in news if c not in fresh]
    if news:
        try:
            picked = formatset.pick(news, _there(_candidates()))
            if picked.missing:
                check_alone([d for d, _ in news], picked.volume, config, wanted)
                joins, news = _split(_wait(every, config, claims))
        except Refusal as e:
            _refuse_all([d for d, _ in news], e)
            news = []
    if news:
        failed += _make(news, config, wanted)
        made = True
    if not claims:
        blank = claimable.blank_by_name(config)
        if blank and not _is_there(config, wanted):
            failed += _make([(d, Claim(config.magic_headers[0])) for d in blank], config, wanted, blank=True)
            made = True
    if joins:
        ready, more = _join(joins, _volume(config, wanted), config)
        failed += more
    if ready:
        from . import joining

        joining.ask_to_heal()
    if (made or ready) and blockdev.udev_runs():
        # Our locks are released: udev reads the new tables now, and must not take the partitions away under the mount that comes next.
        run("udevadm", "settle", "--timeout=30", ok=(0, 1))
    return failed


def _format_tagged(machine: Facts) -> int:
    """Format what udev tagged, and what it tags meanwhile: a start of a service that runs already is none. Returns how many disks failed."""
    from .search import what_is_known

    failed = 0
    seen: set[str] = set()
    while True:
        disks = _tagged()
        if seen >= {d.diskseq for d in disks}:
            return failed
        seen |= {d.diskseq for d in disks}
        failed += format_claimed(disks, load("", []), what_is_known(machine))


def format_main() -> int:
    """Run as persist-format.service: format what carries a claim and may be formatted.

    A refused claim is a warning in the journal and not a failure. Exit status 1 when formatting failed, or something unexpected did.
    """
    try:
        machine = facts.gather("", os.environ)
        if not _tagged():
            return 0
        if not machine.enabled:
            log.log(log.NOTICE, "A disk may carry a claim, but persist-setup.target is not enabled: nothing is formatted. "
                    "Run 'systemctl enable persist-setup.target'.", "CLAIM_REFUSED", PERSIST_REASON="not-enabled")
            return 0
        word = switch.volatile_word(machine)
        if word:
            log.log(log.NOTICE, f"A disk may carry a claim, and nothing is formatted: {switch.explain(word)[0]}", "CLAIM_REFUSED", PERSIST_REASON="volatile")
            return 0
        if switch.read_only(machine):
            log.log(log.NOTICE, "A disk may carry a claim, and nothing is formatted: persist=ro is on the kernel command line.", "CLAIM_REFUSED",
                    PERSIST_REASON="read-only")
            return 0
        return 1 if _format_tagged(machine) else 0
    except PersistError as e:
        log.log_error(e)
    except Exception as e:  # noqa: BLE001  # whatever it is, it is said in the journal, and the boot goes on
        log.log(log.ERR, f"Formatting failed: {type(e).__name__}: {e}. Please report this.", "FORMAT_FAILED", PERSIST_REASON="unexpected")
    return 1
