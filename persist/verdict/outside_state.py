# SPDX-License-Identifier: LGPL-2.1-or-later
"""What became of the entries of the registry that are not in the plan: together with entry_state.py, each has
a state and a reason. Looks only."""

from __future__ import annotations

from persist.boot.accept import Outside
from persist.boot.entry import Entry
from persist.boot.ini import ERROR
from persist.boot.load import Loaded
from persist.boot.plan import Planned
from persist.verdict import remedies
from persist.verdict.entry_state import EntryState, Here, elsewhere, entry_state
from persist.verdict.look import Look


def _outside(out: Outside, here: Here) -> EntryState:
    entry, look = out.entry, here.look
    state, reason, hint = out.state, out.why, ""
    if state == "not-before-pid1":
        planned = Planned(entry, out.real, "")
        planned.unit = ""  # it has none on this boot
        return entry_state(planned, here, out.why)
    if state == "elsewhere":
        state, reason = elsewhere(entry.method, out.real, out.why, look)
        if state == "failed":
            hint = remedies.elsewhere(out, look.mount(out.real) is not None)
    elif state == "refused":
        hint = remedies.correct(out)
    return EntryState(entry.path, entry.method, state, entry.source, "", reason, hint)


def passed_over(first: Entry) -> str:
    """Why an entry does not count where a file that sorts first has one for the same path."""
    return (
        f"taken out by {first.source} (Method=none)"
        if first.method == "none"
        else f"{first.source} declares it and sorts first"
    )


def outside(loaded: Loaded, here: Here) -> list[EntryState]:
    """The entries that are not in force, mistakes and repetitions of the registry's files among them."""
    found = [_outside(out, here) for out in loaded.plan.outside]
    for entry, first in loaded.registry.ignored:
        found.append(EntryState(entry.path, entry.method, "ignored", entry.source, "", passed_over(first)))
    for problem in loaded.registry.refused:
        # Not a mistake that counts where Method=none takes the path out.
        state, hint = ("refused", remedies.correct(problem)) if problem.level <= ERROR else ("ignored", "")
        found.append(EntryState(problem.path, "", state, problem.where, "", problem.text, hint))
    return found


def off(loaded: Loaded, why: str) -> list[EntryState]:
    """All entries on a boot on which persist does nothing."""
    return [EntryState(e.path, e.method, "off", e.source, "", why) for e in loaded.registry.entries] + [
        e for e in outside(loaded, Here(Look("", ()), None, "none", "")) if e.state in ("ignored", "refused")
    ]
