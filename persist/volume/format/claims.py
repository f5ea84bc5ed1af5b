# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a volume of the disks that carry a claim, or have them join the one that is there; refuse the others,
and say so."""

from __future__ import annotations

from collections.abc import Callable

from persist.boot.config import Config
from persist.errors import CommandError, PersistError, Refusal
from persist.note import ERR, NOTICE, Note, Say, Status
from persist.system import udevd
from persist.system.blockdev import Disk
from persist.volume import outcome
from persist.volume.find import remembered, waiting
from persist.volume.find.decision import Candidate, Known
from persist.volume.format import asking, disk_set, format_lock, may_format, only_volume, refusals
from persist.volume.format.disk_set import Claimed, Picked
from persist.volume.format.steps import Formatted, OnStep
from persist.volume.format.under_lock import format_disks
from persist.volume.ondisk.header import Claim
from persist.volume.ondisk.partition_table import DATA_NAME


def _nodes(disks: list[Disk]) -> str:
    return ", ".join(d.node for d in disks)


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


def _failure(disks: list[Disk], error: Exception) -> Note:
    hint = error.hint if isinstance(error, PersistError) else ""
    if isinstance(error, CommandError) and error.returncode == 127:
        hint = "Run 'apt install btrfs-progs fdisk'."
    text = error.message if isinstance(error, PersistError) else str(error)
    reason = error.fields.get("PERSIST_REASON", "") if isinstance(error, PersistError) else ""
    return Note(
        ERR,
        f"Failed to format {_nodes(disks)}: {text} "
        f"{hint or 'The claim is still there; the next boot tries again.'}",
        "FORMAT_FAILED",
        {"PERSIST_DEVICE": " ".join(d.node for d in disks), "PERSIST_REASON": reason or "format-failed"},
    )


def _are(done: Formatted) -> str:
    return f"{_nodes(list(done.disks))} {'is' if len(done.disks) == 1 else 'are'}"


def _made(done: Formatted, config: Config) -> list[Note]:
    """What became the volume, and in the place of which other one. Raises OSError."""
    fields = {"PERSIST_DEVICE": " ".join(done.nodes), "PERSIST_UUID": done.uuid}
    notes = [Note(NOTICE, f"{_are(done)} the state volume now (UUID={done.uuid}).", "FORMAT_DONE", fields)]
    before = remembered.read() if config.ephemeral else ""
    if before and before != done.uuid:
        text = (
            f"The state volume of this machine (UUID={before}) is missing, and is replaced as "
            f"Ephemeral=yes allows: {_nodes(list(done.disks))} takes its place."
        )
        notes.insert(0, Note(NOTICE, text, "VOLUME_REPLACED", fields))
    return notes


class _Formatter:
    """What format_claimed() does, once it has the lock."""

    def __init__(self, config: Config, wanted: Known | str | None, say: Say, status: Status) -> None:
        self.config = config
        self.wanted = wanted
        self.say = say
        self.status = status

    def _on_step(self, shown: str, what: str) -> OnStep:
        begun: list[str] = []

        def on_step(step: str, nodes: tuple[str, ...], text: str) -> None:
            fields = {"PERSIST_DEVICE": " ".join(nodes)}
            if not begun:
                self.say(Note(NOTICE, f"{shown} {what}", "CLAIM_FOUND", fields))
                begun.append(step)
            said = f"Formatting {', '.join(nodes)}: {text}"
            self.status(said, 0)
            self.say(Note(NOTICE, said, "FORMAT_STEP", fields | {"PERSIST_STEP": step}))

        return on_step

    def _wait(self, every: list[Disk], claims: list[Claimed]) -> list[Claimed]:
        """All claims, once those are there that the ones at hand speak of, or MemberTimeoutSec= is over."""
        missing = disk_set.pick(_split(claims)[1], _there(only_volume.candidates_now())).missing
        patience = self.config.member_timeout
        if not missing or not patience:
            return claims
        self.status(f"Waiting up to {patience} s for {missing} more claimed disk(s)", patience)
        last = claims

        def look() -> list[Claimed] | None:
            nonlocal last
            more = [d for d in asking.tagged() if d.device not in {o.device for o in every}]
            last = asking.claimed(more + every, self.config.magic_headers, self.say)
            news = _split(last)[1]
            if news and disk_set.pick(news, _there(only_volume.candidates_now())).missing:
                return None
            return last

        return waiting.wait_for(look, patience) or last

    def _refuse_beside(self, done: Formatted, disks: list[Disk]) -> None:
        """Refuse those of the disks that were not needed for the volume."""
        refusal = Refusal(
            "volume-exists",
            f"{_are(done)} the state volume of this machine now.",
            hint="Claim it again with 'persistctl claim --force --join' to have it join, or keep it for "
            "another machine.",
        )
        asking.refuse_all([d for d in disks if d not in done.disks], refusal, self.say)

    def _refuse_blank(self, disk: Disk, refusal: Refusal) -> None:
        """Nobody claimed it: it may well be somebody's."""
        self.say(
            Note(
                NOTICE,
                f"{disk.node} is named by Device= and is not formatted: {refusal}",
                "CLAIM_REFUSED",
                {"PERSIST_DEVICE": disk.node, "PERSIST_REASON": refusal.code},
            )
        )

    def _make(self, news: list[Claimed], blank: bool = False) -> int:
        """Make a volume of disks that do not join one; those that must not become one are refused. Returns
        how many failed unexpectedly."""
        disks = [d for d, _ in news]
        every = only_volume.candidates_now()
        left_out: list[Disk] = []

        def refuse(disk: Disk, refusal: Refusal) -> None:
            left_out.append(disk)
            if blank:
                self._refuse_blank(disk, refusal)
            else:
                asking.refuse(disk, refusal, self.say)

        def alone(picked: Picked) -> None:
            only_volume.check_alone(disks, picked.volume, self.config, self.wanted, every)

        what = "carries a claim and is formatted now."
        if blank:
            what = "is blank, is named by Device=, and is formatted now."
        elif len(disks) != 1:
            what = "carry claims and are formatted now."
        try:
            done = format_disks(
                disks,
                self.config,
                self._on_step(_nodes(disks), what),
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
            self.say(_failure(disks, e))
            return len(disks)
        if done is not None:
            outcome.note_formatted(done.uuid)
            for note in _made(done, self.config):
                self.say(note)
            self._refuse_beside(done, [d for d in disks if d not in left_out])
        return 0

    def _join(self, joins: list[Claimed], volume: str) -> tuple[int, int]:
        """Prepare disks that join a volume. Returns how many are ready, and how many failed unexpectedly."""
        from persist.volume.format import joining

        ready = failed = 0
        for disk, claim in joins:
            on_step = self._on_step(disk.node, f"carries a claim and joins the state volume {volume}.")
            try:
                joining.check_join(claim, volume, self.config)
                ready += joining.prepare(disk, volume, self.config, on_step)
            except Refusal as e:
                asking.refuse(disk, e, self.say)
            except (PersistError, OSError) as e:
                self.say(_failure([disk], e))
                failed += 1
        return ready, failed

    def _sort(self, every: list[Disk], claims: list[Claimed]) -> tuple[list[Claimed], list[Claimed]]:
        """Those that join the volume, and those that make one, once all of these are there."""
        joins, news = _split(claims)
        fresh = [c for c in news if c[1].mark is None]
        if fresh and self.config.join == "auto" and only_volume.volume(self.config, self.wanted):
            joins, news = joins + fresh, [c for c in news if c not in fresh]
        if not news:
            return joins, []
        try:
            picked = disk_set.pick(news, _there(only_volume.candidates_now()))
            if picked.missing:
                only_volume.check_alone([d for d, _ in news], picked.volume, self.config, self.wanted)
                return _split(self._wait(every, claims))
        except Refusal as e:
            asking.refuse_all([d for d, _ in news], e, self.say)
            return joins, []
        return joins, news

    def format(self, every: list[Disk]) -> int:
        """See format_claimed()."""
        claims = asking.claimed(every, self.config.magic_headers, self.say)
        joins, news = self._sort(every, claims)
        failed = ready = 0
        blank = [] if claims else may_format.blank_by_name(self.config)
        if blank and only_volume.is_there(self.config, self.wanted):
            blank = []
        if news:
            failed += self._make(news)
        if blank:
            failed += self._make([(d, Claim(self.config.magic_headers[0])) for d in blank], blank=True)
        if joins:
            ready, more = self._join(joins, only_volume.volume(self.config, self.wanted))
            failed += more
        if ready:
            outcome.note_heal()
        if news or blank or ready:
            udevd.settle()
        return failed


def format_claimed(
    every: list[Disk], config: Config, wanted: Known | str | None, say: Say, status: Status
) -> int:
    """Make a volume of the claimed disks of ``every``, or prepare them to join the one that is there; refuse
    the others.

    ``wanted`` is what the machine knows of its volume, or the id that persist.volume= names. Where nothing is
    claimed and Format=blank says so, a blank disk is formatted. One at a time: another one that runs is
    waited for, and what it made is there for us to see. Returns how many disks failed unexpectedly. Raises
    CommandError and OSError.
    """
    with format_lock.alone():
        return _Formatter(config, wanted, say, status).format(every)
