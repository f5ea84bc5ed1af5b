# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is to be done to which place of a tree, as data: first_pass.py makes it, wipe.py does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from persist.record import Record, made
from persist.seal.look.tree import Parts
from persist.seal.section import KEPT_BY_ALL, Item

SECRETS = ("identity", "secret")  # classes whose content must not be in the image, wherever a link put it
UNLINK, REMOVE, EMPTY, TRUNCATE, WRITE = "unlink", "remove", "empty-dir", "truncate", "write"

Judge = Callable[[Item, Sequence[str], str, str], str]  # way_back.judge


class Deed(Record):
    """One thing to do to one place. ``kind`` is UNLINK for a link that goes by itself, else the word of
    Action=; ``pending`` is False where it is done already; ``name`` is what the pattern met."""

    kind: str
    parts: Parts
    mode: int
    item: Item
    name: str
    named: bool
    pending: bool = True

    @property
    def path(self) -> str:
        """The place as a path of the tree."""
        return "/" + "/".join(self.parts)


def why_kept(item: Item, keep: Sequence[str]) -> str:
    """Why nothing is done to what an item matches: "report", "shared", "keep" or ''."""
    if item.action == "report":
        return "report"
    return "shared" if item.cls == KEPT_BY_ALL else "keep" if item.cls in keep else ""


class Wish(Record, frozen=False):
    """What one item found. ``matched`` are all names, ``pending`` those that something is to be done to;
    ``kept`` says why nothing is (why_kept()); ``places`` is where each name leads, and
    ``stale`` the patterns that found nothing."""

    item: Item
    matched: list[str] = made(list)
    pending: list[str] = made(list)
    kept: str = ""
    stale: list[str] = made(list)
    places: dict[str, Parts] = made(dict)


class Plan(Record, frozen=False):
    """The first pass. ``deeds`` are in the order in which they are done."""

    wishes: list[Wish] = made(list)
    deeds: list[Deed] = made(list)
    errors: list[str] = made(list)
    notes: list[str] = made(list)

    def run(self) -> list[Item]:
        """The items whose Exec= is to be run."""
        return [w.item for w in self.wishes if w.item.action == "run" and w.matched and not w.kept]


def judge_all(plan: Plan, judge: Judge, root: str, machine_id: str) -> None:
    """Add to the errors what a clone would not get back."""
    for wish in plan.wishes:
        if wish.pending:
            why = judge(wish.item, wish.pending, root, machine_id)
            if why:
                plan.errors.append(f"{wish.item.source}: {why}")
