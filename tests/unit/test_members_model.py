# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that may happen to two and three members, in every order up to six steps: does assemble() and healing
ever lose what was synced?

The model knows what each device really holds: every commit that reached it, and which of them somebody was
told of. What the product decides, it decides by the superblocks and marks alone, with its own code. Its rules
are checked at each boot and each healing (docs/volume.md, "Who is an ancestor"): what is mounted together
holds the same; nothing that was synced is wiped anywhere; without copies all goes on by itself.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest

from persist.volume.members.ancestry import Member
from persist.volume.ondisk import degraded_mark
from persist.volume.ondisk.degraded_mark import DegradedMark
from tests.unit.members_world import (
    KIND,
    Decision,
    Disk,
    Product,
    World,
    asked_once,
    bits,
    canonical,
    decisions,
    following,
    healings,
    named,
)

STEPS = int(os.environ.get("PERSIST_TEST_MODEL_STEPS") or "0")  # at least so many of all: 'make test-model'

Found = Iterator[tuple[str, World]]


class Rules:
    """What was broken: each rule, in which world, and what was done to it then."""

    def __init__(self, start: World) -> None:
        self.broken: dict[str, tuple[World, str]] = {}
        self.at = start

    def check(self, kept: bool, rule: str, done: str) -> None:
        if not kept:
            self.broken.setdefault(rule, (self.at, done))


def put(w: World, changed: dict[int, Disk]) -> World:
    return w._replace(disks=tuple(changed.get(n, d) for n, d in enumerate(w.disks)))


def off(w: World) -> World:
    return World(w.disks, w.told, w.every, by_hand=w.by_hand)


def commit(
    w: World, which: Sequence[int], reached: Iterable[int], *, told: bool = False, log: bool = False
) -> World:
    """A commit to those that are mounted, or the sync of a log, that reached some of them; ``told``: somebody
    waited for it."""
    source = w.disks[which[0]]
    fresh = 1 << max(h.bit_length() for h in w.every)
    got, knew = w.every[which[0]] | fresh, w.told[which[0]] | (fresh if told else 0)
    disks, every, known = list(w.disks), list(w.every), list(w.told)
    for n in reached:
        every[n], known[n] = got, knew
        disks[n] = disks[n]._replace(generation=source.generation + (not log), log=log)
    return World(tuple(disks), tuple(known), tuple(every), w.here, w.used, w.gone, w.due, w.by_hand)


def marked(w: World, which: Sequence[int], *, whole: bool, mounted: bool) -> Iterator[tuple[int, World]]:
    """As mount.py marks, and lost.py what is ``mounted``; on how many the mark is, all of them first."""
    for mark, order in following(tuple([w.disks[n] for n in which]), whole, mounted):
        for count in range(len(order), 0, -1):
            yield count, put(w, {which[k]: w.disks[which[k]]._replace(mark=mark) for k in order[:count]})


def within(w: World, a: int, b: int) -> bool:
    """Whether all that was synced on one is on the other; what no chunk lies on holds nothing."""
    return w.disks[a].empty or not w.told[a] & ~w.told[b]


def less(w: World, a: int, b: int) -> bool:
    return w.every[a] != w.every[b] and not w.every[a] & ~w.every[b]


def in_line(w: World, disks: Sequence[int]) -> bool:
    return all(
        not w.every[a] & ~w.every[b] or not w.every[b] & ~w.every[a]
        for a, b in itertools.combinations(disks, 2)
    )


def check_boot(w: World, disks: Sequence[int], decision: Decision, rules: Rules, done: str) -> bool:
    """The rules at a boot; returns whether it mounts."""
    check: Callable[[bool, str], None] = lambda kept, rule: rules.check(kept, rule, done)  # noqa: E731
    alike = not w.by_hand and in_line(w, disks) and not all(w.disks[n].empty for n in disks)
    if not decision.use:
        check(not alike, f"nothing is used: {decision.said}")
        return False
    if not decision.mounts:
        if alike:
            full = [n for n in disks if not w.disks[n].empty]
            newest = sum(all(not w.every[n] & ~w.every[m] for n in full) for m in disks)
            check(newest < w.disks[disks[0]].total - 1, "does not mount, and enough is here")
            one_mark = len({d.mark and d.mark.ids for d in w.disks}) == 1
            check(
                not one_mark or len({w.disks[n].devid for n in full}) < w.disks[full[0]].total,
                "does not mount, and all are here under one mark",
            )
        return False
    base = disks[decision.base]
    for k in decision.use:
        check(within(w, disks[k], base), "mounted together, and one holds what the other has not")
    for k, n in enumerate(disks):
        stranger = w.disks[base].bound and not w.disks[n].bound
        # Of what was written alone on both sides, too, and not synced on the one, either may be used.
        apart = stranger or any(w.every[disks[i]] & ~w.every[n] for i in decision.use)
        check(
            k in decision.use or apart or within(w, n, base) or not less(w, base, n),
            "an ancestor is used beside what came of it",
        )
    for k in decision.stale:
        check(within(w, disks[k], base), "called stale, and holds what those in use have not")
    check(not alike or not decision.split, "an ancestor is not known as one")
    return True


def mount(w: World, use: Sequence[int], base: int, done: str) -> Found:
    """The kernel mounts it, and goes on from one of them; a log is replayed, and what was behind is level
    with the first commit."""
    up = w._replace(used=sum(1 << n for n in use))
    if not uneven(w, use) and not w.disks[base].log:
        yield done, up
        return
    order = [base, *use]
    yield done, commit(up, order, use)
    for reached in parts(use):
        yield (
            f"{done}, cut as its first commit was on {reached}",
            off(commit(w, order, reached))._replace(by_hand=True),
        )


def uneven(w: World, use: Sequence[int]) -> bool:
    return len({(*w.disks[n][1:4:2], w.told[n], w.every[n]) for n in use}) > 1


def boot(w: World, here: int, rules: Rules, *, last: bool = False) -> Found:
    """Power on with these disks attached; of the last step, what is decided is checked."""
    disks = bits(here)
    done = f"boot {disks}"
    for decision in decisions(tuple([w.disks[n] for n in disks])):
        if not check_boot(w, disks, decision, rules, done) or last:
            continue
        w = w._replace(here=here)
        use = [disks[k] for k in decision.use]
        base = disks[decision.base]
        if len(use) == 1 and not decision.absent:
            yield from mount(w, use, base, done)
            continue
        for count, now in marked(w, use, whole=not decision.absent, mounted=False):
            if count == len(use):
                yield from mount(now, use, base, done)
            yield (
                f"{done}, cut after {count} marks",
                off(now)._replace(by_hand=w.by_hand or (count == len(use) and uneven(w, use))),
            )


def parts(disks: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """What a cut within the writing of superblocks may have reached: some, and not all."""
    for size in range(1, len(disks)):
        yield from itertools.combinations(disks, size)


def without(w: World, n: int) -> World:
    """The disk has no superblock any more, and the machine is off."""
    keep = [k for k in range(len(w.disks)) if k != n]
    return World(
        tuple(w.disks[k] for k in keep),
        tuple(w.told[k] for k in keep),
        tuple(w.every[k] for k in keep),
        by_hand=w.by_hand,
    )


def heal(w: World, rules: Rules) -> Found:
    """As persist-heal.service does: what is gone is replaced by what is stale, and the marks are cleared."""
    inside = bits(w.used & ~w.gone)
    outside = bits(w.here & ~(w.used & ~w.gone))
    source = inside[0]
    plans = healings(
        *(tuple([w.disks[n] for n in some]) for some in (inside, bits(w.used & w.gone), outside))
    )
    for plan in plans:
        now, used = w, w.used
        for k, split in plan.wiped:
            n = outside[k]
            rules.check(not split, "would be wiped and may hold more", "heal")
            rules.check(within(w, n, source), "wiped, and holds what no other has", "heal")
            rules.check(
                not w.disks[n].bound or any(w.disks[i].bound for i in inside),
                "this machine's is wiped for a stranger's sake",
                "heal",
            )
            yield f"heal, cut after the wipe of {n}", without(now, n)
            first = now.disks[source]
            used = sum(1 << i for i in bits(used) if w.disks[i].devid != w.disks[n].devid) | 1 << n
            now = put(
                now, {n: first._replace(devid=w.disks[n].devid, bound=w.disks[n].bound, mark=plan.head)}
            )._replace(
                told=(*now.told[:n], now.told[source], *now.told[n + 1 :]),
                every=(*now.every[:n], now.every[source], *now.every[n + 1 :]),
                gone=now.gone & ~(1 << n),
            )
        now = now._replace(used=used & ~now.gone, gone=0, due=False)
        left = bits(now.used)
        total = w.disks[source].total
        if len({w.disks[n].devid for n in left}) < total:
            here = bits(w.here)
            alike = (
                not w.by_hand
                and all(not now.every[n] & ~now.every[source] for n in here)
                and len({w.disks[n].devid for n in here}) == total
            )
            rules.check(not alike, "it does not become whole by itself", "heal")
            yield "heal", now
            continue
        yield from begun(now, left)


def begun(w: World, left: Sequence[int]) -> Found:
    """All are there again: where their mark began without one of them, a new one begins. Then the marks are
    cleared."""
    mark = w.disks[left[0]].mark
    if mark is None or mark.ids[0] >> KIND & 1:
        yield from cleared(w, left)
        return
    for count, now in marked(w, left, whole=True, mounted=True):
        if count < len(left):
            yield f"heal, cut after {count} new marks", off(now)
            continue
        yield "heal, not cleared yet", now
        yield from cleared(now, left)


def cleared(w: World, left: Sequence[int]) -> Found:
    marks = {n: mark._replace(counter=0) for n in left if (mark := w.disks[n].mark) is not None}
    for count in range(len(marks)):
        yield (
            f"heal, cut after {count} marks were cleared",
            off(put(w, {n: w.disks[n]._replace(mark=marks[n]) for n in left[:count] if n in marks})),
        )
    yield "heal", put(w, {n: w.disks[n]._replace(mark=mark) for n, mark in marks.items()})


def join(w: World, only: int) -> Found:
    """A second disk for a volume on one, and the power goes after each superblock and each mark."""
    one = w.disks[only]
    new = len(w.disks)
    blank = one._replace(devid=2, total=2, generation=one.generation + 1, log=False, empty=True)
    both = World(
        (*w.disks, blank),
        (*w.told, 0),
        (*w.every, 0),
        w.here | 1 << new,
        w.used | 1 << new,
        by_hand=w.by_hand or any(d.devid == 2 for d in w.disks),
    )
    yield "join, cut after the superblock of the new one", off(both)
    both = commit(put(both, {only: one._replace(total=2)}), [only], [only, new])
    yield "join, cut after the superblock of the old one", without(both, new)
    yield "join, cut before the marks", off(both)
    for count, now in marked(both, [only, new], whole=True, mounted=True):
        if count < 2:
            yield "join, cut after one mark", off(now)
            continue
        balanced = commit(now, [only, new], [only, new])
        yield "join", put(balanced, {new: balanced.disks[new]._replace(empty=False)})


def running(w: World, most: int) -> Found:
    """What may happen to what is mounted, but healing."""
    inside = bits(w.used & ~w.gone)
    log = any(w.disks[n].log for n in inside)
    yield "write", commit(w, inside, inside, told=True)
    if not log:
        yield "fsync", commit(w, inside, inside, told=True, log=True)
    for reached in parts(inside):
        yield f"write not synced, cut after {reached}", off(commit(w, inside, reached))
        if not log:
            yield f"fsync, cut after {reached}", off(commit(w, inside, reached, log=True))
    if w.due:
        yield from lost(w, inside, "mark what is left")
    elif len(inside) > 1 and len(inside) >= w.disks[inside[0]].total:
        # With one more away the kernel takes no writes.
        for n in inside:
            pulled = w._replace(gone=w.gone | 1 << n, here=w.here & ~(1 << n), due=True)
            yield f"pull {n}, not marked yet", pulled
            yield from lost(pulled, [i for i in inside if i != n], f"pull {n}")
    if len(inside) == 1 and w.disks[inside[0]].total == 1 and len(w.disks) < most:
        yield from join(w, inside[0])
    for n in range(len(w.disks)):
        if not w.here >> n & 1:
            yield f"attach {n}", w._replace(here=w.here | 1 << n)


def lost(w: World, rest: Sequence[int], done: str) -> Found:
    """The next look finds that one is gone: it commits, and marks those that are left."""
    for count, now in marked(commit(w, rest, rest), rest, whole=False, mounted=True):
        if count == len(rest):
            yield done, now._replace(due=False)
        else:
            yield f"{done}, cut after {count} marks", off(now)


def copies(w: World, most: int) -> Found:
    """A raw copy of a disk, made while the machine is off; it may be attached beside it, or in its place."""
    for n in range(len(w.disks) if len(w.disks) < most else 0):
        yield (
            f"copy {n}",
            World(
                (*w.disks, w.disks[n]._replace(bound=False)),
                (*w.told, w.told[n]),
                (*w.every, w.every[n]),
                by_hand=True,
            ),
        )


class Walk:
    """Every order of so many steps. The last one is not taken: all that is checked is checked before it."""

    def __init__(
        self, start: World, depth: int, most: int, same: Callable[[World], World] = canonical
    ) -> None:
        self.most = most
        self.same = same
        self.rules = Rules(same(start))
        self.came: dict[World, tuple[World, str] | None] = {same(start): None}
        self.levels = [[same(start)]]
        self._offs: set[World] = set()
        for step in range(1, depth + 1):
            self._level(last=step == depth)

    def _level(self, *, last: bool) -> None:
        found = []
        for w in self.levels[-1]:
            try:
                for done, after in self._steps(w, last):
                    if last:
                        continue
                    after = self.same(after)
                    if after not in self.came:
                        self.came[after] = w, done
                        found.append(after)
            except Exception as e:
                e.add_note(self.way(w, "?"))
                raise
        self.levels.append(found)

    def _steps(self, w: World, last: bool) -> Found:
        self.rules.at = w
        down = off(w)
        if down not in self._offs:  # what follows a boot or a copy does not depend on what ran before it
            self._offs.add(down)
            for here in range(1, 1 << len(w.disks)):
                yield from boot(down, here, self.rules, last=last)
            if not last:
                yield from copies(down, self.most)
        if w.used:
            yield from heal(w, self.rules)
            if not last:
                yield from running(w, self.most)

    def way(self, w: World, done: str) -> str:
        said = [done]
        at = self.came[w]
        while at is not None:
            said.insert(0, at[1])
            at = self.came[at[0]]
        return f"{'; '.join(said)}: {w}"


def mounted(count: int, *, bound: bool) -> World:
    """A volume on so many disks that was just formatted and booted; ``bound``: to this machine."""
    made = World(
        tuple(Disk(n, 1, count, False, None, False, bound) for n in range(1, count + 1)),
        (0,) * count,
        (0,) * count,
    )
    first = next(w for done, w in boot(made, (1 << count) - 1, Rules(made)) if "cut" not in done)
    assert first.used == (1 << count) - 1
    return first


PRODUCT = Product()


def walk(
    count: int,
    most: int,
    depth: int,
    *,
    bound: bool,
    same: Callable[[World], World] = canonical,
    product: Product = PRODUCT,
) -> Walk:
    with asked_once(product):
        return Walk(mounted(count, bound=bound), depth, most, same)


# Whether all disks are bound to this machine, or none, is asked of them and their copies alone.
@pytest.mark.parametrize(
    "count, most, bound, depth, least",
    [
        (2, 2, False, 6, 20_000),
        (3, 3, False, 6, 90_000),
        (2, 3, False, 5, 6_000),
        (2, 3, True, 6, 50_000),
        (1, 3, True, 6, 15_000),
        (1, 4, False, 5, 2_000),
        (2, 4, False, 4, 1_000),
        (2, 4, True, 4, 1_000),
        (3, 4, False, 4, 4_000),
        (3, 4, True, 4, 4_000),
    ],
)
def test_every_order(count: int, most: int, bound: bool, depth: int, least: int) -> None:
    """``most`` disks with those that join and raw copies; ``bound``: formatting bound the first ones to this
    machine; at ``least`` so many worlds."""
    found = walk(count, most, max(depth, STEPS), bound=bound)
    assert not found.rules.broken, "\n".join(
        f"{rule}: {found.way(*where)}" for rule, where in found.rules.broken.items()
    )
    assert len(found.came) > least


def _older_is_enough(older: Member, other: Member) -> bool:
    return older.superblock.generation <= other.superblock.generation


def _no_marks(
    uuid: str,
    before: DegradedMark | None,
    generation: int,
    log_root: int = 0,
    *,
    whole: bool = False,
    mounted: bool = False,
) -> DegradedMark:
    return DegradedMark(uuid, 0, degraded_mark.make_id(generation, log_root, whole=whole, mounted=mounted))


@pytest.mark.parametrize("count, most, depth", [(2, 2, 5), (2, 3, 4), (3, 3, 4), (3, 4, 3), (1, 3, 5)])
@pytest.mark.parametrize(
    "mistake",
    [PRODUCT, Product(ancestor=_older_is_enough), Product(following=_no_marks)],
    ids=["none", "older", "no-marks"],
)
def test_the_same_without_shortcuts(
    count: int,
    most: int,
    depth: int,
    mistake: Product,
) -> None:
    """Taking worlds for one loses none, and nothing that is broken in one: with each name, each commit and
    the whole history it is the same."""
    short = walk(count, most, depth, bound=True, product=mistake)
    full = walk(count, most, depth, bound=True, same=named, product=mistake._replace(alike=False))
    assert short.rules.broken.keys() == full.rules.broken.keys()
    assert len(full.came) > len(short.came)
    assert mistake is PRODUCT or short.rules.broken or (count, most) not in ((2, 2), (3, 3))
    seen: set[World] = set()
    for level, every in zip(short.levels, full.levels, strict=True):
        found = {canonical(w) for w in every} - seen
        assert found == set(level)
        seen |= found
