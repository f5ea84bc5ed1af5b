# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict: the wish (the plan) beside what the machine shows. Looks only; writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from persist.boot import paths
from persist.boot.ini import ERROR
from persist.boot.load import Loaded
from persist.boot.plan import why_nothing
from persist.reason import Reason as Reason
from persist.record import Record, as_dict, made, replace
from persist.system.mountinfo import Mount
from persist.verdict import not_before_pid1, remedies
from persist.verdict.entry_state import EntryState, Here, entry_state, oddities
from persist.verdict.look import Look as Look
from persist.verdict.outside_state import off, outside
from persist.verdict.volume_reasons import DEGRADED as DEGRADED
from persist.verdict.volume_reasons import OFF as OFF
from persist.verdict.volume_reasons import ONLINE as ONLINE
from persist.verdict.volume_reasons import VOLATILE as VOLATILE
from persist.verdict.volume_reasons import expected_volume, unprotected, volume_gone, volume_reasons
from persist.verdict.volume_reasons import read_volume as read_volume
from persist.volume.outcome import REAL, Kind, Outcome


class Verdict(Record, frozen=False):
    """What a boot achieved; ``volume`` is what persist-volume.service wrote. ``notices`` are worth a word and
    cost nothing."""

    verdict: str
    volume: Outcome
    entries: list[EntryState] = made(list)
    reasons: list[Reason] = made(list)
    notices: list[Reason] = made(list)

    def as_dict(self) -> dict[str, Any]:
        """The form of state.json; ``device`` stands at the top for scripts that want nothing else."""
        return {
            "version": 1,
            "verdict": self.verdict,
            "device": self.volume.device,
            "volume": as_dict(self.volume),
            "entries": [as_dict(e) for e in self.entries],
            "reasons": [as_dict(r) for r in self.reasons],
            "notices": [as_dict(r) for r in self.notices],
        }


def _off(loaded: Loaded) -> str:
    """Why nothing was asked of persist on this boot, '' where something was."""
    why = why_nothing(loaded.facts)
    if not why and not loaded.registry.entries and not any(p.level <= ERROR for p in loaded.problems):
        why = "the registry has no entries"
    return why


def _still_mounted(volume: Outcome, look: Look, why: str) -> Verdict | None:
    """Paths that the volume covers although nothing is asked of persist: what they show says so and the
    image does not, or a switch was turned off while it runs."""
    covered = sorted(m.mount_point for m in look.every if m.upper.startswith(f"{paths.STORE}/overlay/"))
    if not covered:
        return None
    return Verdict(
        DEGRADED,
        volume,
        reasons=[
            Reason(
                "still-mounted",
                f"{why} But the state volume is still mounted on {' '.join(covered)}.",
                "Boot once with persist=off, and make the same change there.",
            )
        ],
    )


def _as_it_is_now(volume: Outcome, look: Look, at: Mount | None) -> Outcome:
    """The record of the volume, read-only where it takes no writes by now: a filesystem with errors turns so
    long after it was mounted, and a subvolume may be set so at any time."""
    protected = look.read_only(at) if volume.kind in (*REAL, "root") and at is not None else None
    if protected is None:
        return volume
    now = replace(volume, read_only=True)
    if not now.reason:
        now.because(protected.code, protected.message, protected.hint)
    return now


def _failed(entries: Iterable[EntryState]) -> Iterator[Reason]:
    """A reason for each entry that is not in place."""
    for e in entries:
        if e.state == "failed":
            hint = e.hint if e.source in e.hint else f"{e.hint} Declared in {e.source}."
            yield Reason("entry-failed", f"{e.path} {e.reason}.", hint, e.path)


def judge(loaded: Loaded, volume: Outcome, look: Look, health: Iterable[Reason] = ()) -> Verdict:
    """Compare the plan with the machine. ``health`` is what is wrong with the volume itself
    (volume/heal/health.py)."""
    why = _off(loaded)
    if why:
        reason = Reason("off", f"persist does nothing on this boot: {why}.")
        found = _still_mounted(volume, look, reason.message) or Verdict(OFF, Outcome(), reasons=[reason])
        found.entries = off(loaded, why)
        return found
    at = look.mount(paths.VOLUME)
    kind: Kind = volume.kind
    volume = _as_it_is_now(volume, look, at)
    word, reasons = volume_reasons(volume, expected_volume(loaded))
    gone = volume_gone(kind, at)
    if gone is not None:
        word, reasons = VOLATILE, [gone]
        kind = "none" if at is None else "tmpfs"
    open_volume = unprotected(at) if kind != "none" else None
    if open_volume is not None:
        reasons.append(open_volume)
    reasons += health
    if kind in REAL and volume.read_only and not look.exists(paths.MOUNT_ENTRIES):
        kind = "root"  # beside a volume that took no writes, entries were left to the root filesystem
    here = Here(look, at, kind, loaded.config.mount)
    entries = [entry_state(planned, here) for planned in loaded.plan.entries]
    for planned, e in zip(loaded.plan.entries, entries, strict=True):
        if e.state in ("mounted", "early"):
            reasons += oddities(planned, look)
    entries += outside(loaded, here)
    reasons += not_before_pid1.reasons(loaded, entries, look, kind)
    reasons += _failed(entries)
    reasons += [
        Reason("registry", str(p), remedies.correct(p), p.path) for p in loaded.problems if p.level <= ERROR
    ]
    notices = [
        Reason("elsewhere", f"{e.path} is left alone: {e.reason}.", "", e.path)
        for e in entries
        if e.state == "elsewhere" and e.method != "tmpfs"
    ]
    if word == ONLINE and reasons:
        word = DEGRADED
    return Verdict(word, volume, entries, reasons, notices)
