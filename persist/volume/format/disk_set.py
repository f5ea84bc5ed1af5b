# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which claimed disks become one volume, each at which place. Pure. docs/volume.md, "A set of claimed
disks"."""

from __future__ import annotations

from collections.abc import Callable

from persist.errors import Refusal
from persist.record import Record
from persist.system import uuids
from persist.system.blockdev import Disk
from persist.volume.ondisk.header import Claim, FormatMark, Layout

Claimed = tuple[Disk, Claim]


class Picked(Record):
    """A set: ``places`` are the disks by index, None where one is missing. ``volume`` is the id of one that
    was begun, '' for a new one or version 1.

    ``wanted``: how many disks the headers ask to wait for. ``complete``: the volume is there, nothing but
    claims is left to be erased.
    """

    places: tuple[Claimed | None, ...]
    others: tuple[Claimed, ...]
    layout: Layout
    volume: str
    wanted: int
    complete: bool = False

    @property
    def disks(self) -> list[Claimed]:
        """Those that are here, in their order."""
        return [p for p in self.places if p is not None]

    @property
    def missing(self) -> int:
        """For how many disks it is worth to wait."""
        return 0 if self.complete else max(len(self.places), self.wanted) - len(self.disks)


def _opinions(disks: list[Claimed], what: Callable[[Claim], str], name: str) -> str:
    """What all headers that say anything agree on, '' where none does. Raises Refusal."""
    said = sorted({what(claim) for _, claim in disks} - {""})
    if len(said) > 1:
        nodes = ", ".join(disk.node for disk, _ in disks)
        raise Refusal(
            "members-disagree",
            f"The headers of {nodes} disagree: {name}={f' and {name}='.join(said)}.",
            hint="Claim all disks of one volume in one go: 'persistctl claim DEVICE DEVICE'.",
        )
    return said[0] if said else ""


def _wanted(disks: list[Claimed], layout: Layout) -> int:
    members = _opinions(disks, lambda claim: str(claim.options.members or ""), "members")
    # Mirrored at any price: not on one disk.
    return max(int(members or "0"), 2 if layout == "raid1" else 0)


def _fresh(claims: list[Claimed]) -> Picked:
    said = _opinions(claims, lambda claim: claim.options.layout, "layout")
    layout: Layout = "single" if said == "single" else "raid1" if said == "raid1" else "auto"
    return Picked(tuple(claims), (), layout, "", _wanted(claims, layout))


def _volume(mark: FormatMark | None) -> str:
    return mark.volume if mark is not None else ""


def pick(claims: list[Claimed], there: Callable[[Claimed], bool] = lambda claim: False) -> Picked:
    """The set to be made now of these disks (at least one), none of which joins a volume. The order of
    ``claims`` decides between equals.

    ``there`` tells whether the volume of a mark has its label, on whatever disk. Such a set is complete and
    comes first. Else one that was begun is filled up: by disks of other sets that were begun and never became
    a volume (a cut while a set was made anew leaves two), then by fresh claims. Raises Refusal
    (members-disagree).
    """
    begun = [c for c in claims if c[1].mark is not None]
    done = [c for c in begun if there(c)]
    if not begun:
        return _fresh(claims)
    disk, claim = (done or begun)[0]
    mark = claim.mark
    assert mark is not None
    if not mark.volume:
        return Picked(((disk, claim),), tuple(c for c in claims if c[0] != disk), "auto", "", 0, bool(done))
    places: list[Claimed | None] = [None] * mark.count
    left = []
    for one in claims:
        index = one[1].mark.index if one[1].mark is not None else 0
        if _volume(one[1].mark) == mark.volume and index < mark.count and places[index] is None:
            places[index] = one
        else:
            left.append(one)
    if done:
        return Picked(tuple(places), tuple(left), mark.layout, mark.volume, 0, True)
    fits = [
        c
        for c in left
        if (c[1].mark is None and c[1].options.layout in ("", mark.layout))
        or (_volume(c[1].mark) and not there(c))
    ]
    fits.sort(key=lambda c: c[1].mark is None)
    for index, place in enumerate(places):
        if place is None and fits:
            places[index] = fits.pop(0)
            left.remove(places[index])  # type: ignore[arg-type]
    here = [p for p in places if p is not None]
    return Picked(tuple(places), tuple(left), mark.layout, mark.volume, _wanted(here, mark.layout))


def check_enough(picked: Picked) -> None:
    """Raise Refusal where the headers ask for more disks than there are. A disk that comes later makes it
    good."""
    here = len(picked.disks)
    if not picked.complete and here < picked.wanted:
        raise Refusal(
            "members-missing",
            f"Its volume needs at least {picked.wanted} disks, {here} of them "
            f"{'is' if here == 1 else 'are'} attached.",
            hint="Attach the missing ones, or claim those that are here again without members= and "
            "layout=raid1.",
        )


def places(picked: Picked, marks: dict[str, FormatMark]) -> list[FormatMark]:
    """The mark that each disk of the set has to carry, in their order. ``marks`` are those that it has, or
    would begin with, by its place in sysfs.

    The set of a volume that was begun is kept while all its places are filled; else it is one of what is
    here, under a new id: a member that is gone could come back with the old one.
    """
    here = picked.disks
    if not picked.volume and picked.places[0] is not None and picked.places[0][1].mark is not None:
        return [marks[here[0][0].sys_path]]  # version 1
    volume = picked.volume if picked.volume and len(here) == len(picked.places) else uuids.new()
    found = []
    for index, (disk, _) in enumerate(here):
        mark = marks[disk.sys_path]
        found.append(FormatMark(mark.disk_id, mark.swap, volume, index, len(here), False, picked.layout))
    return found
