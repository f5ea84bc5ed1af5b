# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a run says: JSON for programs, the file that stays in the image, and lines for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from persist.seal.again import OUR_UNIT
from persist.seal.section import NOBODY
from persist.version import VERSION

if TYPE_CHECKING:
    from persist.seal.engine import Result
    from persist.seal.look.traces import Old
    from persist.seal.plan import Wish
    from persist.seal.section import Item

_NAMES = 12  # of one section that are shown to people; JSON has all
_KEPT = {"report": "only told", "shared": "only told, the clones have it in common", "keep": "kept (--keep)"}


def document(result: Result, *, dry_run: bool) -> dict[str, Any]:
    """All of it, for whoever sealed the tree."""
    return {
        "root": result.root,
        "dry_run": dry_run,
        "sealed": result.sealed,
        "touched": result.touched,
        "machine_id": result.machine_id,
        "keep": list(result.keep),
        "items": [
            {
                "source": wish.item.source,
                "class": wish.item.cls,
                "action": wish.item.action,
                "reason": wish.item.reason,
                "exec": wish.item.exec,
                "regenerated_by": wish.item.regenerated_by,
                "regenerate": wish.item.regenerate,
                "patterns": list(wish.item.patterns),
                "matched": wish.matched,
                "wiped" if result.touched else "to_wipe": wish.pending,
                "kept": wish.kept,
                "found_nothing": wish.stale,
            }
            for wish in result.plan.wishes
        ],
        "hooks": result.hooks,
        "traces": [{"path": t.path, "file": t.inside, "what": list(t.what)} for t in result.traces],
        "errors": result.errors,
        "failures": result.failures,
        "notes": result.notes,
    }


def _traces(before: bytes) -> list[dict[str, Any]]:
    """What earlier runs found to carry ids that are not known any more."""
    try:
        return [
            {"path": str(t["path"]), "file": str(t["file"]), "what": [str(w) for w in t["what"]]}
            for t in json.loads(before)["traces"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []  # none yet, or nothing of ours


def _counts(before: bytes) -> dict[tuple[str, str], int]:
    """How much of each item earlier runs on this tree have wiped: its own report, which is data like all of
    the tree."""
    try:
        items = json.loads(before)["items"]
        return {
            (str(i["source"]), str(i["patterns"])): i["wiped"]
            for i in items
            if isinstance(i["wiped"], int) and 0 <= i["wiped"] < 1 << 53
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}  # none yet, or nothing of ours


def text(said: dict[str, Any]) -> bytes:
    """A report as the file in the image has it: a line for each of what a list has. Not json's own way to
    indent, which takes ten times as long."""
    parts = []
    for key, value in said.items():
        if isinstance(value, list) and value:
            shown = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        else:
            shown = json.dumps(value)
        parts.append(f" {json.dumps(key)}: {shown}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode("ascii")


def record(result: Result, old: Old, before: bytes) -> dict[str, Any]:
    """What the file in the image says: what was sealed, without the ids that it had, and without a time, so
    that the same tree gives the same bytes. ``before`` is what the file said."""
    counts = _counts(before)
    items = []
    for wish in result.plan.wishes:
        patterns = list(wish.item.patterns)
        items.append(
            {
                "source": wish.item.source,
                "class": wish.item.cls,
                "action": wish.item.action,
                "patterns": patterns,
                "wiped": counts.get((wish.item.source, str(patterns)), 0)
                + (len(wish.pending) if wish.item.action != "run" else 0),
                "kept": wish.kept if wish.matched else "",
            }
        )
    found = [
        {"path": old.without(t.path), "file": old.without(t.inside), "what": list(t.what)}
        for t in result.traces
    ]
    return {
        "version": 1,
        "persist": VERSION,
        "machine_id": result.machine_id,
        "keep": list(result.keep),
        "items": items,
        "hooks": result.hooks,
        "traces": found + [trace for trace in _traces(before) if trace not in found],
        "notes": [old.without(note) for note in result.notes],
        "sealed": True,
    }


def _of_wish(wish: Wish) -> list[str]:
    names = wish.matched if wish.kept else wish.pending
    if not names:
        return []
    item = wish.item
    what = _KEPT.get(wish.kept, item.action)
    lines = [f"{item.source}: {what}, {item.cls}{': ' + item.reason if item.reason else ''}"]
    lines += [f"    {name}" for name in names[:_NAMES]]
    if len(names) > _NAMES:
        lines.append(f"    … and {len(names) - _NAMES} more")
    if not wish.kept:
        lines += [f"    runs: {item.exec}"] if item.exec else []
        lines += [f"    {line}" for line in _back(item)]
    return lines


def _back(item: Item) -> list[str]:
    """Who makes it again on the clone, as far as the section says."""
    if item.regenerated_by == NOBODY:
        return ["what uses it makes it again, or does without"]
    ways = [item.regenerated_by] if item.regenerated_by else []
    ways += [f"{OUR_UNIT}, with: {item.regenerate}"] if item.regenerate else []
    return [f"made again on the clone by {' or '.join(ways)}"] if ways else []


def of_plan(result: Result) -> list[str]:
    """The first pass for people: what would be done, and why."""
    hooks = [f"{path}: a hook, run in the image" for path in result.hooks]
    return [line for wish in result.plan.wishes for line in _of_wish(wish)] + hooks


def of_traces(result: Result) -> list[str]:
    """What carries old ids and is not changed."""
    return [
        f"{t.path}{f' ({t.inside})' if t.inside else ''} carries {', '.join(t.what)}, and is not changed."
        for t in result.traces
    ]


def summary(result: Result, *, dry_run: bool) -> str:
    """The last line."""
    wiped = sum(len(w.pending) for w in result.plan.wishes if not w.kept and w.item.action != "run")
    stale = sum(len(w.stale) for w in result.plan.wishes)
    files = f"{wiped} {'name' if wiped == 1 else 'names'}"
    held = sum(len(w.matched) for w in result.plan.wishes if w.kept == "keep")
    kept = f", {held} kept (--keep)" if held else ""
    if result.errors:
        return (
            f"{len(result.errors)} {'error' if len(result.errors) == 1 else 'errors'}: nothing was touched."
        )
    if dry_run:
        return f"{files} would be wiped{kept}; {stale} patterns found nothing."
    if result.failures:
        return f"{result.root} is not sealed. Mend what is said above, and seal it again: that finishes it."
    return f"{result.root} is sealed: {files} wiped{kept}." if wiped or held else f"{result.root} is sealed."
