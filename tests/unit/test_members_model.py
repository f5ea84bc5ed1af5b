# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that may happen to two and three members, in every order up to six steps: does assemble() and healing ever lose what was synced?

The model knows what each device really holds: every commit that reached it, and which of them somebody was told of. What the product decides, it decides
by the superblocks and marks alone, with its own code. Its rules are checked at each boot and each healing (docs/volume.md, "Who is an ancestor"):
what is mounted together holds the same; nothing that was synced is wiped anywhere; without copies all goes on by itself.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from persist.system.superblock import Superblock
from persist.volume.heal import look
from persist.volume.members import assemble as members
from persist.volume.members import in_kernel
from persist.volume.members.ancestry import Member
from persist.volume.members.assemble import Assembly, assemble, torn
from persist.volume.members.in_kernel import LiveDevice
from persist.volume.ondisk import degraded_mark
from persist.volume.ondisk.degraded_mark import DegradedMark

FSID = "11111111-2222-4333-8444-555555555555"
LOG = 4096  # the same for all logs: nothing may hang on telling one from the other


class Device(NamedTuple):
    """A disk. ``held``: the commits that it has, those that somebody was told of are positive."""

    devid: int
    generation: int
    total: int
    log: int = 0
    mark: DegradedMark | None = None
    held: frozenset[int] = frozenset()
    empty: bool = False
    bound: bool = False


class World(NamedTuple):
    """``used``: mounted now, ``gone`` of them were pulled, ``here``: attached. ``clock`` numbers commits and marks; ``copied``: there are raw copies."""

    disks: tuple[Device, ...]
    here: frozenset[int]
    used: tuple[int, ...] = ()
    gone: frozenset[int] = frozenset()
    clock: int = 1
    copied: bool = False


class Lost(AssertionError):
    """A rule was broken."""


@functools.cache
def as_member(d: Device, number: int) -> Member:
    return Member(f"/dev/{number}", Superblock(FSID, d.devid, f"uuid-{d.devid}", 1 << 30, d.total, d.generation, d.log, "persist-data", d.empty), d.mark)


def member(world: World, number: int) -> Member:
    return as_member(world.disks[number], number)


def number_of(m: Member) -> int:
    return int(m.node.removeprefix("/dev/"))


def numbers(found: tuple[Member, ...]) -> tuple[int, ...]:
    return tuple(number_of(m) for m in found)


def synced(d: Device) -> frozenset[int]:
    return frozenset(n for n in d.held if n > 0)


def change(world: World, which: tuple[int, ...] | list[int], **changes: object) -> World:
    disks = list(world.disks)
    for n in which:
        disks[n] = disks[n]._replace(**changes)  # type: ignore[arg-type]
    return world._replace(disks=tuple(disks))


def left(world: World) -> list[int]:
    """Those that are written."""
    return [n for n in world.used if n not in world.gone]


def marked(world: World, which: list[int], *, whole: bool, only: int = 99, mounted: bool = False) -> World:
    """As mount/btrfs_mount.py marks, and lost.py what is ``mounted``; ``only`` so many of them before a cut."""
    newest = max((world.disks[n] for n in which), key=lambda d: (d.generation, d.log))
    mark = degraded_mark.following(FSID, members._head([member(world, n) for n in which]), newest.generation, newest.log, whole=whole, mounted=mounted)
    known = degraded_mark.parse(DegradedMark(FSID, mark.counter, f"{world.clock:06x}{mark.id[6:]}", mark.earlier).encode())
    order = [number_of(m) for m in members.newest_first([member(world, n) for n in which])]
    return change(world, order[:only], mark=known)._replace(clock=world.clock + 1)


def commit(world: World, which: list[int], *, told: bool, log: bool = False, reached: int = 99) -> World:
    """A commit, or the sync of a log, that reached so many of those that are written."""
    at = world.disks[which[0]]
    token = world.clock if told else -world.clock
    new = {"held": at.held | {token}, "log": LOG} if log else {"held": at.held | {token}, "log": 0, "generation": at.generation + 1}
    return change(world, which[:reached], **new)._replace(clock=world.clock + 1)


def enough(assembly: Assembly, disks: tuple[Device, ...]) -> bool:
    """Whether the kernel would mount it: data lies on two devices, or on the one that there is."""
    first = disks[number_of(assembly.use[0])]
    if all(disks[n].empty for n in numbers(assembly.use)):
        return False
    return assembly.absent <= (1 if first.total > 1 else 0)


def check_assembly(world: World, assembly: Assembly) -> None:
    """The rules of safety at a mount."""
    use = [world.disks[n] for n in numbers(assembly.use)]
    # What the kernel goes on from: the newest superblock, that of the lowest devid among equals.
    base = max(use, key=lambda d: (not d.empty, d.generation, -d.devid))
    for d in use:
        if not synced(d) <= base.held and not d.empty:
            raise Lost("mounted together, and one holds what the other has not")
    for n in sorted(world.here):
        stranger = base.bound and not world.disks[n].bound
        if world.disks[n].held > base.held and not world.disks[n].empty and not stranger:
            raise Lost("an ancestor is used beside what came of it")
    for m in assembly.stale:
        if not synced(world.disks[number_of(m)]) <= base.held:
            raise Lost(f"{m.node} is called stale and holds what those in use have not")


def in_line(disks: list[Device]) -> bool:
    held = sorted((d.held for d in disks), key=len)
    return all(a <= b for a, b in itertools.pairwise(held))


@functools.cache
def assembled(disks: tuple[Device, ...], here: frozenset[int]) -> Assembly:
    return assemble([as_member(disks[n], n) for n in sorted(here)], lambda m: disks[number_of(m)].bound)


def boot(world: World, here: frozenset[int], cut: bool = False) -> World | None:
    """Power on with these disks attached."""
    world = world._replace(here=here, used=(), gone=frozenset())
    assembly = assembled(world.disks, here)
    whole_line = not world.copied and in_line([world.disks[n] for n in here]) and not all(world.disks[n].empty for n in here)
    if not assembly.use:
        if whole_line:
            raise Lost(f"nothing is used: {assembly.notes[0].message}")
        return world
    if assembly.degraded and not enough(assembly, world.disks):
        assembly = torn(assembly) or assembly
        if not enough(assembly, world.disks):
            newest = max((world.disks[n].held for n in here if not world.disks[n].empty), key=len, default=None)
            if whole_line and newest is not None and sum(world.disks[n].held == newest for n in here) >= world.disks[min(here)].total - 1:
                raise Lost("does not mount, and enough is here")
            return world
    check_assembly(world, assembly)
    if whole_line and assembly.split:
        raise Lost("an ancestor is not known as one")
    use = list(numbers(assembly.use))
    base = max((world.disks[n] for n in use), key=lambda d: (not d.empty, d.generation, -d.devid))
    if len(use) > 1 or assembly.degraded:
        world = marked(world, use, whole=not assembly.degraded, only=1 if cut else 99)
    if cut:
        return world
    world = change(world, use, held=base.held, generation=base.generation, log=base.log)
    if base.log:
        world = commit(world, use, told=False)  # the log is replayed
    return world._replace(used=tuple(use))


def as_live(world: World) -> list[LiveDevice]:
    """What live.members() would find."""
    count = world.disks[world.used[0]].total
    found = []
    for devid in range(1, count + 1):
        mine = next((n for n in world.used if world.disks[n].devid == devid), None)
        if mine is None:
            found.append(LiveDevice(devid, f"uuid-{devid}", "", 1, 0, "missing"))
        else:
            m = member(world, mine)
            found.append(LiveDevice(devid, f"uuid-{devid}", m.node, 1, 0, "lost" if mine in world.gone else "ok", m.superblock, m.mark))
    return found


def heal(world: World) -> World:
    """As persist-heal.service does: what is gone is replaced by what is stale, and the marks are cleared."""
    devices = as_live(world)
    inside = left(world)
    outside = [member(world, n) for n in sorted(world.here) if n not in inside]
    bound = lambda m: world.disks[number_of(m)].bound  # noqa: E731
    source = world.disks[inside[0]]
    for m in look.stale(devices, outside, bound):
        n = number_of(m)
        if in_kernel.split(m, devices):
            raise Lost(f"{m.node} would be wiped and may hold more")
        if not synced(world.disks[n]) <= source.held:
            raise Lost(f"{m.node} is wiped and holds what no other has")
        if world.disks[n].bound and not any(world.disks[i].bound for i in inside):
            raise Lost(f"{m.node} is this machine's, and wiped for a stranger's sake")
        world = change(world, [n], held=source.held, generation=source.generation, log=source.log, mark=in_kernel.head(devices), total=source.total)
        world = world._replace(used=tuple(sorted({i for i in world.used if world.disks[i].devid != m.superblock.devid} | {n})), gone=world.gone - {n})
    now = left(world)
    if len({world.disks[n].devid for n in now}) == source.total:
        world = change(world, [n for n in now if world.disks[n].mark is not None], mark=source.mark.healed() if source.mark else None)
    elif not world.copied and all(world.disks[n].held <= source.held for n in world.here) and len({world.disks[n].devid for n in world.here}) == source.total:
        raise Lost("it does not become whole by itself")
    return world._replace(used=tuple(now), gone=frozenset())


def join(world: World, blank: Device, cut: int) -> World | None:
    """A second disk for a volume on one; ``cut``: the power went with the superblock on the first (1), or the second alone (2)."""
    only = world.used[0]
    both = world.disks[only]
    world = world._replace(disks=(*world.disks, blank._replace(devid=2, mark=both.mark, empty=True, bound=both.bound)))
    new = len(world.disks) - 1
    order = [new, only] if cut == 2 else [only, new]
    world = change(world, order, total=2) if not cut else world
    world = world._replace(here=world.here | {new}, used=(only, new))
    if cut:
        reached = order[0]
        held = frozenset[int]() if cut == 2 else both.held | {-world.clock}
        world = change(world, [reached], total=2, generation=both.generation + 1, held=held)
        if cut == 1:  # no superblock: it is blank still
            return World(world.disks[:-1], world.here - {new}, (), frozenset(), world.clock + 1, world.copied)
        return world._replace(used=(), clock=world.clock + 1)
    world = change(world, order, generation=both.generation + 1, held=both.held | {-world.clock}, log=0)
    world = marked(world._replace(clock=world.clock + 1), [only, new], whole=True)
    world = commit(world, [only, new], told=False)  # the balance
    return change(world, [new], empty=False)


def steps(world: World, most: int, *, last: bool) -> Iterator[tuple[str, World | None]]:
    """All that may happen next; where nothing comes after it (``last``), all that is checked."""
    disks = range(len(world.disks))
    for size in range(1, len(world.disks) + 1):
        for some in itertools.combinations(disks, size):
            yield f"boot {some}", boot(world, frozenset(some))
            if size > 1 and not last:
                yield f"boot {some}, cut between the marks", boot(world, frozenset(some), cut=True)
    inside = left(world)
    if inside:
        yield "heal", heal(world)
    if last:
        return
    if len(world.disks) < most:
        for n in disks:
            copy = world.disks[n]._replace(bound=False)
            yield f"copy {n}", world._replace(disks=(*world.disks, copy), used=(), gone=frozenset(), copied=True)
    if not inside:
        return
    yield "write", commit(world, inside, told=True)
    if not any(world.disks[n].log for n in inside):
        yield "fsync", commit(world, inside, told=True, log=True)
    if len(inside) > 1:
        for order in (inside, inside[::-1]):
            yield f"write not synced, cut after {order[0]}", commit(world, order, told=False, reached=1)._replace(used=(), gone=frozenset())
        for n in inside if len(inside) >= world.disks[inside[0]].total else ():  # with one more away the kernel takes no writes
            pulled = world._replace(gone=world.gone | {n}, here=world.here - {n})
            rest = [i for i in inside if i != n]
            yield f"pull {n}, not marked yet", pulled
            now = commit(pulled, rest, told=False)
            yield f"pull {n}", marked(now, rest, whole=False, mounted=True)
            if len(rest) > 1:
                yield f"pull {n}, cut between the marks", marked(now, rest, whole=False, only=1, mounted=True)._replace(used=(), gone=frozenset())
    elif world.disks[inside[0]].total == 1 and len(world.disks) < most:
        for cut in range(3):
            yield f"join, cut {cut}", join(world, Device(2, world.disks[inside[0]].generation, 1), cut)
    for n in disks:
        if n not in world.here:
            back = world._replace(here=world.here | {n})
            yield f"attach {n}", back


def renamed(world: World) -> World:
    """The same for worlds that differ in the numbers of marks and commits alone."""
    names: dict[str | int, int] = {}

    def identity(old: str) -> str:
        return f"{names.setdefault(old[:6], len(names) + 1):06x}{old[6:]}"

    def commits(held: frozenset[int]) -> frozenset[int]:
        return frozenset(names.setdefault(abs(n), len(names) + 1) * (1 if n > 0 else -1) for n in sorted(held, key=abs))

    disks = []
    for d in world.disks:
        mark = d.mark and DegradedMark(FSID, min(d.mark.counter, 1), identity(d.mark.id), tuple(map(identity, d.mark.earlier)))
        disks.append(d._replace(mark=mark, held=commits(d.held)))
    return world._replace(disks=tuple(disks), clock=len(names) + 1)


def explore(start: World, depth: int, most: int) -> int:
    """Every order of so many steps; returns how many worlds there were. Raises Lost with the way that leads there."""
    level: list[tuple[World, tuple[str, ...]]] = [(start, ())]
    seen = {start}
    for step in range(1, depth + 1):
        found = []
        for world, way in level:
            try:
                said = ""
                for said, after in steps(world, most, last=step == depth):
                    if after is not None and step < depth and (shown := renamed(after)) not in seen:
                        seen.add(shown)
                        found.append((shown, (*way, said)))
            except Lost as e:
                raise Lost(f"{e}; after {'; '.join(way)}; then what comes after '{said}': {world}") from e
        level = found
    return len(seen)


def mirror(count: int, bound: bool) -> World:
    every = tuple(Device(n, 7, count, bound=bound) for n in range(1, count + 1))
    world = boot(World(every, frozenset(range(count))), frozenset(range(count)))
    assert world is not None and len(world.used) == count
    return world


@pytest.mark.parametrize("count, most, depth, bound, least", [
    (2, 2, 6, False, 10000), (2, 3, 4, True, 900), (2, 4, 3, False, 100), (3, 3, 4, False, 1500), (3, 4, 3, True, 300), (1, 3, 5, False, 1500),
    (1, 4, 4, True, 300)])
def test_every_order(count: int, most: int, depth: int, bound: bool, least: int) -> None:
    """``most`` disks with those that join and raw copies; ``bound``: formatting bound the first ones to this machine; at ``least`` so many worlds."""
    assert explore(mirror(count, bound), depth, most) > least
