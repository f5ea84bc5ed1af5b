# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a volume of the disks that carry a claim, or have them join the one that is there; refuse the others,
and say so."""

from __future__ import annotations

from collections.abc import Callable

from persist import log
from persist.boot.config import Config
from persist.errors import CommandError, PersistError, Refusal
from persist.system import blockdev
from persist.system.blockdev import Disk
from persist.system.run import run
from persist.volume import outcome
from persist.volume.find import remembered
from persist.volume.find.decision import Candidate, Known
from persist.volume.format import asking, disk_set, format_lock, may_format, only_volume, refusals
from persist.volume.format.disk_set import Claimed, Picked
from persist.volume.format.steps import Formatted, Status
from persist.volume.format.under_lock import format_disks
from persist.volume.ondisk.header import Claim
from persist.volume.ondisk.partition_table import DATA_NAME


def _nodes(disks: list[Disk]) -> str:
    return ", ".join(d.node for d in disks)


def _failed(disks: list[Disk], error: Exception) -> None:
    hint = error.hint if isinstance(error, PersistError) else ""
    if isinstance(error, CommandError) and error.returncode == 127:
        hint = "Run 'apt install btrfs-progs fdisk'."
    text = error.message if isinstance(error, PersistError) else str(error)
    reason = error.fields.get("PERSIST_REASON", "") if isinstance(error, PersistError) else ""
    log.log(
        log.ERR,
        f"{_nodes(disks)} could not be formatted: {text} "
        f"{hint or 'The claim is still there; the next boot tries again.'}",
        "FORMAT_FAILED",
        PERSIST_DEVICE=" ".join(d.node for d in disks),
        PERSIST_REASON=reason or "format-failed",
    )


def _status(shown: str, what: str) -> Status:
    begun: list[str] = []

    def status(step: str, nodes: tuple[str, ...], text: str) -> None:
        if not begun:
            log.log(log.NOTICE, f"{shown} {what}", "CLAIM_FOUND", PERSIST_DEVICE=" ".join(nodes))
            begun.append(step)
        said = f"Formatting {', '.join(nodes)}: {text}"
        log.notify_status(said)
        log.log(log.NOTICE, said, "FORMAT_STEP", PERSIST_DEVICE=" ".join(nodes), PERSIST_STEP=step)

    return status


def _split(claims: list[Claimed]) -> tuple[list[Claimed], list[Claimed]]:
    """Those that join a volume, and those that make one."""
    return [c for c in claims if c[1].join], [c for c in claims if not c[1].join]


def _there(every: list[Candidate]) -> Callable[[Claimed], bool]:
    """Whether the volume that a disk was begun for has its label, on whatever disk: then it is in use, or
    was."""
    labelled = {c.uuid.lower() for c in every if c.label == DATA_NAME}
    own = {c.disk_device for c in every if c.label == DATA_NAME}

    def there(one: Claimed) -> bool:
        mark = one[1].mark
        # A mark of version 1 knows no id, but is of a disk by itself.
        return mark is not None and (mark.volume in labelled if mark.volume else one[0].device in own)

    return there


def _wait(every: list[Disk], config: Config, claims: list[Claimed]) -> list[Claimed]:
    """All claims, once those are there that the ones at hand speak of, or MemberTimeoutSec= is over."""
    missing = disk_set.pick(_split(claims)[1], _there(only_volume.candidates_now())).missing
    if not missing or not config.member_timeout or not blockdev.udev_runs():
        return claims
    from persist.system.udev import wait_for

    log.notify_status(
        f"Waiting up to {config.member_timeout} s for {missing} more claimed disk(s)", config.member_timeout
    )
    last = claims

    def look() -> list[Claimed] | None:
        nonlocal last
        last = asking.claimed(
            [d for d in asking.tagged() if d.device not in {o.device for o in every}] + every,
            config.magic_headers,
        )
        news = _split(last)[1]
        return (
            last
            if not news or not disk_set.pick(news, _there(only_volume.candidates_now())).missing
            else None
        )

    return wait_for(look, config.member_timeout) or last


def _say_made(done: Formatted, config: Config) -> None:
    """Say what became the volume, and in the place of which other one."""
    made = _nodes(list(done.disks))
    before = remembered.read() if config.ephemeral else ""
    if before and before != done.uuid:
        log.log(
            log.NOTICE,
            f"The state volume of this machine (UUID={before}) is not here any more, and its disk is lost by "
            f"contract (Ephemeral=yes): {made} takes its place.",
            "VOLUME_REPLACED",
            PERSIST_DEVICE=" ".join(done.nodes),
            PERSIST_UUID=done.uuid,
        )
    log.log(
        log.NOTICE,
        f"{made} {_are(done)} the state volume now (UUID={done.uuid}).",
        "FORMAT_DONE",
        PERSIST_DEVICE=" ".join(done.nodes),
        PERSIST_UUID=done.uuid,
    )


def _are(done: Formatted) -> str:
    return "is" if len(done.disks) == 1 else "are"


def _refuse_beside(done: Formatted, disks: list[Disk]) -> None:
    """Refuse those of the disks that were not needed for the volume."""
    asking.refuse_all(
        [d for d in disks if d not in done.disks],
        Refusal(
            "volume-exists",
            f"{_nodes(list(done.disks))} {_are(done)} the state volume of this machine now.",
            hint="Claim it again with 'persistctl claim --force --join' to have it join, or keep it for "
            "another machine.",
        ),
    )


def _make(news: list[Claimed], config: Config, wanted: Known | str | None, blank: bool = False) -> int:
    """Make a volume of disks that do not join one; those that must not become one are refused. Returns how
    many failed unexpectedly."""
    disks = [d for d, _ in news]
    every = only_volume.candidates_now()
    left_out: list[Disk] = []

    def refuse(disk: Disk, refusal: Refusal) -> None:
        left_out.append(disk)
        if blank:  # nobody claimed it: it may well be somebody's
            log.log(
                log.NOTICE,
                f"{disk.node} is named by Device= and is not formatted: {refusal}",
                "CLAIM_REFUSED",
                PERSIST_DEVICE=disk.node,
                PERSIST_REASON=refusal.code,
            )
        else:
            asking.refuse(disk, refusal)

    def alone(picked: Picked) -> None:
        only_volume.check_alone(disks, picked.volume, config, wanted, every)

    try:
        what = (
            "carries a claim and is formatted now."
            if len(disks) == 1
            else "carry claims and are formatted now."
        )
        if blank:
            what = "is blank, is named by Device=, and is formatted now."
        done = format_disks(
            disks,
            config,
            _status(_nodes(disks), what),
            refuse=refuse,
            alone=alone,
            there=_there(every),
            blank=blank,
        )
    except Refusal as e:
        for disk in [d for d in disks if d not in left_out]:
            refuse(disk, refusals.another(e))
        return 0
    except (PersistError, OSError) as e:
        _failed(disks, e)
        return len(disks)
    if done is not None:
        outcome.note_formatted(done.uuid)
        _say_made(done, config)
        _refuse_beside(done, [d for d in disks if d not in left_out])
    return 0


def _join(joins: list[Claimed], volume: str, config: Config) -> tuple[int, int]:
    """Prepare disks that join a volume. Returns how many are ready, and how many failed unexpectedly."""
    from persist.volume.format import joining

    ready = failed = 0
    for disk, claim in joins:
        try:
            joining.check_join(claim, volume, config)
            if joining.prepare(
                disk,
                volume,
                config,
                _status(disk.node, f"carries a claim and joins the state volume {volume}."),
            ):
                ready += 1
        except Refusal as e:
            asking.refuse(disk, e)
        except (PersistError, OSError) as e:
            _failed([disk], e)
            failed += 1
    return ready, failed


def format_claimed(every: list[Disk], config: Config, wanted: Known | str | None) -> int:
    """Make a volume of the claimed disks of ``every``, or prepare them to join the one that is there; refuse
    the others.

    ``wanted`` is what the machine knows of its volume, or the id that persist.volume= names. Where nothing is
    claimed and Format=blank says so, a blank disk is formatted. One at a time: another one that runs is
    waited for, and what it made is there for us to see. Returns how many disks failed unexpectedly. Raises
    CommandError and OSError.
    """
    with format_lock.alone():
        return _format_claimed(every, config, wanted)


def _format_claimed(every: list[Disk], config: Config, wanted: Known | str | None) -> int:
    claims = asking.claimed(every, config.magic_headers)
    failed = ready = 0
    made = False
    joins, news = _split(claims)
    if news:
        fresh = [c for c in news if c[1].mark is None]
        volume = only_volume.volume(config, wanted) if config.join == "auto" and fresh else ""
        if volume:
            joins, news = joins + fresh, [c for c in news if c not in fresh]
    if news:
        try:
            picked = disk_set.pick(news, _there(only_volume.candidates_now()))
            if picked.missing:
                only_volume.check_alone([d for d, _ in news], picked.volume, config, wanted)
                joins, news = _split(_wait(every, config, claims))
        except Refusal as e:
            asking.refuse_all([d for d, _ in news], e)
            news = []
    if news:
        failed += _make(news, config, wanted)
        made = True
    if not claims:
        blank = may_format.blank_by_name(config)
        if blank and not only_volume.is_there(config, wanted):
            failed += _make([(d, Claim(config.magic_headers[0])) for d in blank], config, wanted, blank=True)
            made = True
    if joins:
        ready, more = _join(joins, only_volume.volume(config, wanted), config)
        failed += more
    if ready:
        outcome.note_heal()
    if (made or ready) and blockdev.udev_runs():
        # Our locks are released: udev reads the new tables now, and must not take the partitions away under
        # the mount that comes next.
        run("udevadm", "settle", "--timeout=30", ok=(0, 1))
    return failed
