# SPDX-License-Identifier: LGPL-2.1-or-later
"""What two and three disks hold, in tuples of numbers, and what the product says of them;
test_members_model.py lets things happen to them.

Records are built for the calls into the product alone, and what it said of the same superblocks and marks is
not asked again.
"""

from __future__ import annotations

import functools
import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from persist.system.superblock import Superblock
from persist.volume.heal.look import stale
from persist.volume.members import ancestry, in_kernel
from persist.volume.members.ancestry import Member
from persist.volume.members.assemble import assemble, newest_first
from persist.volume.members.in_kernel import LiveDevice
from persist.volume.members.torn import mend
from persist.volume.ondisk import degraded_mark
from persist.volume.ondisk.degraded_mark import DegradedMark

FSID = "11111111-2222-4333-8444-555555555555"
LOG = 4096  # the same for all logs: nothing may hang on telling one from the other
_DIGIT = degraded_mark.make_id(0, LOG, whole=False)[7]

# The id of a mark: its name, kind, whether there was a log, and the generation.
_NAME, KIND, _LOGGED = 24, 20, 16
FRESH = 0xFFFF  # the name of one that was just written


class Sector(NamedTuple):
    """A mark: ``ids``, the newest first."""

    counter: int
    ids: tuple[int, ...]


class Disk(NamedTuple):
    """What the product sees of one; ``bound`` to this machine."""

    devid: int
    generation: int
    total: int
    log: bool
    mark: Sector | None
    empty: bool
    bound: bool


class World(NamedTuple):
    """All there is. ``told`` and ``every``: of each disk the commits that it holds, those that somebody was
    told of and all, a bit for each.

    ``here``: attached, ``used``: mounted now, ``gone`` of them were pulled, each a bit for each disk;
    ``due``: what is left has no mark of that yet.
    ``by_hand``: it need not go on by itself any more.
    """

    disks: tuple[Disk, ...]
    told: tuple[int, ...]
    every: tuple[int, ...]
    here: int = 0
    used: int = 0
    gone: int = 0
    due: bool = False
    by_hand: bool = False


@functools.cache
def bits(mask: int) -> tuple[int, ...]:
    return tuple(n for n in range(mask.bit_length()) if mask >> n & 1)


# The product's answers


class Product(NamedTuple):
    """Who is asked: the product, or one with a mistake. ``alike``: worlds that differ by names alone are
    taken for one."""

    ancestor: Callable[[Member, Member], bool] = ancestry.ancestor
    following: Callable[..., DegradedMark] = degraded_mark.following
    alike: bool = True


_PRODUCT: ContextVar[Product] = ContextVar("product")


@contextmanager
def asked_once(product: Product) -> Iterator[None]:
    """What the product said of the same superblocks and marks is remembered until then; ancestor() is asked
    of two again and again, in ever other company. Nothing that is made here has cycles, and looking for them
    takes as long as all the rest."""
    known: dict[tuple[int, int], tuple[bool, Member, Member]] = {}

    def ancestor(older: Member, other: Member) -> bool:
        pair = id(older), id(other)
        if pair not in known:
            known[pair] = product.ancestor(older, other), older, other  # so that the ids are not given anew
        return known[pair][0]

    collects = gc.isenabled()
    gc.disable()
    with ExitStack() as stack:
        stack.callback(_PRODUCT.reset, _PRODUCT.set(product._replace(ancestor=ancestor)))
        for cache in (_mark, _member, decisions, decisions_as_they_are, following, healings):
            stack.callback(cache.cache_clear)
        if collects:
            stack.callback(gc.enable)
        yield


def _text(identity: int, greatest: int) -> str:
    name = 0xFFFFFF if identity == greatest else identity >> _NAME
    logged = _DIGIT if identity >> _LOGGED & 1 else "0"
    return f"{name:06x}{identity >> KIND & 15:x}{logged}{identity & 0xFFFF:08x}"


@functools.cache
def _mark(mark: Sector, greatest: int) -> DegradedMark:
    first, *earlier = (_text(i, greatest) for i in mark.ids)
    return DegradedMark(FSID, mark.counter, first, tuple(earlier))


@functools.cache
def _member(d: Disk, number: int, greatest: int) -> Member:
    block = Superblock(
        FSID, d.devid, f"uuid-{d.devid}", 1 << 30, d.total, d.generation, LOG * d.log, "persist-data", d.empty
    )
    return Member(f"/dev/{number}", block, d.mark and _mark(d.mark, greatest))


def _sector(mark: DegradedMark | None, known: Sequence[Disk], greatest: int) -> Sector | None:
    if mark is None:
        return None
    return next(
        Sector(mark.counter, d.mark.ids)
        for d in known
        if d.mark is not None and _text(d.mark.ids[0], greatest) == mark.id
    )


def _greatest(disks: Sequence[Disk]) -> tuple[int, ...]:
    """Names of marks are random, and the product takes the greatest where nothing else tells, of those that
    are not among the earlier ones: each may be it."""
    marks = {d.mark.ids[0] for d in disks if d.mark is not None}
    top = marks.difference(*(d.mark.ids[1:] for d in disks if d.mark is not None))
    return tuple(sorted(top)) if len(top) > 1 else (0,)


def _number(m: Member) -> int:
    return int(m.node.removeprefix("/dev/"))


class Decision(NamedTuple):
    """An Assembly, by the places of the disks. ``mounts``: the kernel takes it; ``base``: what the kernel
    goes on from."""

    use: tuple[int, ...]
    stale: tuple[int, ...]
    split: tuple[int, ...]
    absent: int
    mounts: bool
    base: int
    said: str


def _enough(use: Sequence[Disk], absent: int) -> bool:
    """Whether the kernel would mount it: data lies on two devices, or on the one that there is."""
    return absent <= (1 if use[0].total > 1 else 0) and not all(d.empty for d in use)


def _decide(disks: tuple[Disk, ...], places: range, greatest: int) -> Decision:
    names = list(places)
    a = assemble(
        [_member(d, n, greatest) for d, n in zip(disks, names, strict=True)],
        lambda m: disks[names.index(_number(m))].bound,
        _PRODUCT.get().ancestor,
    )

    def at(found: Sequence[Member]) -> tuple[int, ...]:
        return tuple(names.index(_number(m)) for m in found)

    if not a.use:
        return Decision((), (), (), 0, False, 0, a.odd[0].code)
    if not _enough([disks[n] for n in at(a.use)], a.absent):
        a = mend(a) or a
    use = at(a.use)
    # What the kernel goes on from: the newest superblock, that of the lowest devid among equals.
    base = max(use, key=lambda n: (not disks[n].empty, disks[n].generation, -disks[n].devid))
    use = tuple(sorted(use, key=lambda n: (disks[n].devid, n)))
    return Decision(
        use,
        tuple(sorted(at(a.stale))),
        tuple(sorted(at(a.split))),
        a.absent,
        _enough([disks[n] for n in use], a.absent),
        base,
        "",
    )


@functools.lru_cache(1 << 18)
def decisions(disks: tuple[Disk, ...]) -> tuple[Decision, ...]:
    """What is decided of these disks at a boot: one answer, or more where it hangs on the names of marks, or
    nodes."""
    return decisions_as_they_are(alike(disks) if _PRODUCT.get().alike else disks)


@functools.lru_cache(1 << 18)
def decisions_as_they_are(disks: tuple[Disk, ...]) -> tuple[Decision, ...]:
    """As decisions(), by the very names and numbers."""
    found: dict[Decision, None] = {}
    places = [range(len(disks))]
    if len({d.devid for d in disks}) < len(disks):
        places.append(places[0][::-1])
    for greatest, names in itertools.product(_greatest(disks), places):
        found[_decide(disks, names, greatest)] = None
    return tuple(found)


@functools.lru_cache(1 << 18)
def following(
    disks: tuple[Disk, ...], whole: bool, mounted: bool
) -> tuple[tuple[Sector, tuple[int, ...]], ...]:
    """The next mark, as btrfs_mount and lost have it, and the order of places in which it is written."""
    found: dict[tuple[Sector, tuple[int, ...]], None] = {}
    newest = max(disks, key=lambda d: (d.generation, d.log))
    for greatest in _greatest(disks):
        members = [_member(d, n, greatest) for n, d in enumerate(disks)]
        known = {_text(i, greatest): i for d in disks if d.mark is not None for i in d.mark.ids}
        mark = _PRODUCT.get().following(
            FSID,
            degraded_mark.newest(m.mark for m in members),
            newest.generation,
            LOG * newest.log,
            whole=whole,
            mounted=mounted,
        )
        assert degraded_mark.parse(mark.encode()) == mark
        fresh = (
            FRESH << _NAME
            | int(mark.id[6], 16) << KIND
            | (mark.id[7] != "0") << _LOGGED
            | int(mark.id[8:], 16)
        )
        found[
            Sector(mark.counter, (fresh, *(known[i] for i in mark.earlier))),
            tuple(map(_number, newest_first(members))),
        ] = None
    return tuple(found)


class Healing(NamedTuple):
    """``wiped``: places of disks, each with whether in_kernel.split() would have it; ``head``: the mark that
    they get."""

    wiped: tuple[tuple[int, bool], ...]
    head: Sector | None


@functools.lru_cache(1 << 18)
def healings(
    inside: tuple[Disk, ...], lost: tuple[Disk, ...], outside: tuple[Disk, ...]
) -> tuple[Healing, ...]:
    """What persist-heal.service would put in the place of what is gone from ``inside``; ``lost``: pulled
    since the mount."""
    found: dict[Healing, None] = {}
    is_ancestor = _PRODUCT.get().ancestor
    every = (*inside, *lost, *outside)
    for greatest in _greatest(every):
        devices = {n: LiveDevice(n, f"uuid-{n}", "", 1, 0, "missing") for n in range(1, inside[0].total + 1)}
        for n, d in enumerate((*inside, *lost)):
            m = _member(d, n, greatest)
            devices[d.devid] = LiveDevice(
                d.devid,
                f"uuid-{d.devid}",
                m.node,
                1,
                0,
                "ok" if n < len(inside) else "lost",
                m.superblock,
                m.mark,
            )
        shown = [devices[n] for n in sorted(devices)]
        first = len(inside) + len(lost)
        others = [_member(d, first + n, greatest) for n, d in enumerate(outside)]
        wiped = tuple(
            (_number(m) - first, in_kernel.split(m, shown, is_ancestor))
            for m in stale(shown, others, lambda m: every[_number(m)].bound, is_ancestor)
        )
        found[Healing(wiped, _sector(in_kernel.head(shown), every, greatest))] = None
    return tuple(found)


# The same world by other names


def _orders(w: World) -> Iterator[list[int]]:
    """Disks by devid, which the product goes by; raw copies of one device by what nobody's name is part of,
    in each order where that does not tell: decisions() sees to the names of their nodes."""
    devids = [d.devid for d in w.disks]
    if len(set(devids)) == len(devids):
        yield sorted(range(len(devids)), key=devids.__getitem__)
        return
    told, every = _held(w.told), _held(w.every)

    def key(n: int) -> tuple[object, ...]:
        d = w.disks[n]
        line = () if d.mark is None else (d.mark.counter, *(i & ((1 << _NAME) - 1) for i in d.mark.ids[:1]))
        return (
            *d[:4],
            d.bound,
            d.empty,
            line,
            told[n].bit_count(),
            every[n].bit_count(),
            w.here >> n & 1,
            w.used >> n & 1,
            w.gone >> n & 1,
        )

    for parts in itertools.product(
        *(
            itertools.permutations(same)
            for _, same in itertools.groupby(sorted(range(len(devids)), key=key), key)
        )
    ):
        yield list(itertools.chain(*parts))


def _held(commits: Sequence[int]) -> tuple[int, ...]:
    """Who holds all that another one holds is all that is ever asked, and whatever happens (one takes what
    another has, some get one more) it follows from what it was before: a bit for each that holds anything,
    held by those that hold all that this one holds."""
    return tuple(
        [sum([1 << n for n, less in enumerate(commits) if less and not less & ~mine]) for mine in commits]
    )


def alike(disks: Sequence[Disk]) -> tuple[Disk, ...]:
    """One for all superblocks and marks that no rule tells apart, now and whatever happens next.

    Ids of marks are compared with each other alone: they are named in the order of their appearance.
    Generations are compared with each other, and with those that ids have: they are counted from the lowest.
    All of the history stays: an id that nobody asks for may be asked for when those before it are dropped.
    """
    lines = [() if d.mark is None else d.mark.ids for d in disks]
    lowest = min([d.generation for d in disks] + [i & 0xFFFF for ids in lines for i in ids]) - 1
    names: dict[int, int] = {}
    for ids in lines:
        for i in ids:
            if i not in names:
                names[i] = len(names) << _NAME | (i & ((1 << _NAME) - 1)) - lowest
    return tuple(
        [
            Disk(
                d[0],
                d[1] - lowest,
                d[2],
                d[3],
                d[4] and Sector(d[4][0], tuple([names[i] for i in ids])),
                d[5],
                d[6],
            )
            for d, ids in zip(disks, lines, strict=True)
        ]
    )


def canonical(w: World) -> World:
    """One for all worlds that no rule tells apart, now and whatever happens next: alike(), who holds what
    others hold, nothing attached to what is off."""
    found = [_ordered(w, order) for order in _orders(w)]
    return min(found, key=repr) if len(found) > 1 else found[0]


def _ordered(w: World, order: Sequence[int]) -> World:
    shown = alike([w.disks[n] for n in order])
    told, every = _held([w.told[n] for n in order]), _held([w.every[n] for n in order])
    if not w.used & ~w.gone:
        return World(shown, told, every, by_hand=w.by_hand)
    if order == sorted(order):
        return World(shown, told, every, w.here, w.used, w.gone, w.due, w.by_hand)
    here, used, gone = (
        sum(1 << k for k, n in enumerate(order) if mask >> n & 1) for mask in (w.here, w.used, w.gone)
    )
    return World(shown, told, every, here, used, gone, w.due, w.by_hand)


def named(w: World) -> World:
    """The same world, where what was just written has a name of its own."""
    fresh = FRESH << _NAME
    ids = [i for d in w.disks if d.mark is not None for i in d.mark.ids]
    name = 1 + max((i for i in ids if i < fresh), default=0) // (1 << _NAME)
    again = {i: name << _NAME | i & ((1 << _NAME) - 1) for i in ids if i >= fresh}
    return w._replace(
        disks=tuple(
            d._replace(mark=d.mark and d.mark._replace(ids=tuple(again.get(i, i) for i in d.mark.ids)))
            for d in w.disks
        )
    )
