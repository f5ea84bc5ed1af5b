# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine that is to be sealed, or that asks whether it could be: its tree opened, and what is wrong with
it beside what the first pass over a tree finds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from persist.boot import facts
from persist.boot.facts import Facts
from persist.boot.registry import Registry
from persist.seal.boot import disks, unmounted
from persist.seal.boot.manager import Manager
from persist.seal.boot.tree import Copy
from persist.seal.engine import Result, Seal
from persist.seal.look.pattern import homes
from persist.seal.opened import open_tree
from persist.seal.plan import why_kept
from persist.seal.way_back import judge, regenerate_list
from persist.system import blockdev, mountinfo
from persist.system.run import status

if TYPE_CHECKING:
    from persist.seal.volume.included import Included

# Properties of a unit, and of one that is a mount.
_STATE = ("Id", "LoadState", "ActiveState")
_SHOWN = ("Where", "What", "Type", "Options")


def known() -> Facts:
    """What the machine's fstab and directories of units say. Raises OSError."""
    found = facts.gather("", os.environ)
    facts.gather_paths(found, Registry(), os.environ)
    return found


def of_manager(manager: Manager, names: Sequence[str]) -> list[unmounted.Known]:
    """All mounts that a service manager knows, or would know when asked for these units. Raises OSError,
    PersistError."""
    units = {u.name: (u.load, u.active, u.path) for u in manager.listed(".mount")}
    missing = [name for name in names if name not in units]
    paths = [path for path in manager.loaded(missing) if path]
    states = manager.properties([(path, "Unit", key) for path in paths for key in _STATE])
    for number, path in enumerate(paths):
        name, load, active = map(str, states[3 * number : 3 * number + 3])
        units[name] = (load, active, path)
    there = {name: (active, path) for name, (load, active, path) in units.items() if load == "loaded"}
    asked = [(path, "Mount", key) for _, path in there.values() for key in _SHOWN]
    answers = iter(manager.properties(asked))
    found = []
    for name, (active, _) in there.items():
        where, what, fstype, options = [str(next(answers) or "") for _ in _SHOWN]
        if where:
            here = active in ("active", "reloading")
            found.append(unmounted.Known(name, where, what, fstype, options, here))
    return found


def known_mounts(machine: Facts) -> list[unmounted.Known]:
    """All mounts that the service manager knows, or would know when asked; and lines of fstab of which it has
    made none, as it does where nothing tells it of devices. Raises OSError, PersistError."""
    names = {*machine.shipped, *(line.unit() for line in machine.lines if line.where not in ("", "/"))}
    with Manager() as manager:
        found = {mount.where: mount for mount in of_manager(manager, sorted(names))}
    for line in machine.lines:
        if line.where not in ("", "/") and line.where not in found and line.fstype != "swap":
            found[line.where] = unmounted.Known(line.source, line.where, line.what, line.fstype, line.options)
    return list(found.values())


def settle(machine: Facts) -> None:
    """Wait until udev is done, until mounts that nothing waits for have come or not (nofail), and touch what
    is mounted when it is touched. Raises OSError, PersistError."""
    status("udevadm", "settle")
    with Manager() as manager:
        mounts = [unit for unit in manager.jobs() if unit.endswith(".mount")]
        touched = [u.path for u in manager.listed(".automount") if u.active == "active"]
        places = manager.properties([(path, "Automount", "Where") for path in touched])
    for unit in mounts:
        status("systemctl", "start", "--", unit, timeout=None)  # waits for the job that is there
    if places:
        network = {mount.where for mount in known_mounts(machine) if mount.network}
        for where in places:
            if where and where not in network:
                status("ls", str(where), timeout=None)  # does not come: it is then one that is not mounted


class Work:
    """The tree of a machine, opened, and the run over it; with its state volume, where that is sealed too."""

    def __init__(
        self,
        copy: Copy,
        keep: Sequence[str],
        seal: Seal,
        machine: Facts,
        included: Included | None,
        *,
        looking: bool = False,
    ) -> None:
        self.copy = copy
        self.keep = keep
        self.seal = seal
        self.machine = machine
        self.included = included
        self.looking = looking
        self.swap: list[disks.Swap] = []

    def first_pass(self, before: Sequence[str] = ()) -> Result:
        """The first pass over the tree, with what is wrong with the machine; ``before`` are errors that are
        known. Raises OSError, PersistError."""
        result = self.seal.first_pass()
        patterns = [
            pattern for item in self.seal.items if not why_kept(item, self.keep) for pattern in item.patterns
        ]
        there = [m.mount_point for m in mountinfo.mounts()]
        errors, notes = unmounted.judge(known_mounts(self.machine), there, patterns, homes(self.seal.tree))
        volume = () if self.included is None else self.included.volume.nodes
        on = disks.captured(self.copy.mounts).union(*map(disks.whole_disks, volume))
        self.swap, wrong = disks.swap_space(self.machine.lines, self.copy.path, looking=self.looking)
        known = [blockdev.number_of(node) for node in volume]
        for node in disks.volumes_on(on):
            if blockdev.number_of(node) not in known:
                wrong.append(
                    f"The state volume on {node} is on a disk of the image, which would carry it along. Move "
                    "it to a disk of its own, or have it sealed, too: --include-volume."
                )
        if self.included is not None:
            wrong += self.included.wrong()
            notes += self.included.notes
        result.errors[:0] = [*before, *self.copy.errors, *errors, *wrong]
        result.notes += [*self.copy.notes, *notes]
        return result

    def empty_swap(self) -> None:
        """Make the swap space of fstab anew. Raises CommandError."""
        for swap in self.swap:
            disks.make_swap(swap)

    def empty_volume(self) -> None:
        """Take away what the state volume has beside files. Raises PersistError, OSError."""
        if self.included is not None:
            self.included.empty(lambda node, uuid, label: disks.make_swap(disks.Swap(node, uuid, label)))

    def left(self) -> list[str]:
        """What is there that should have gone, of what the first pass over a tree does not find. Raises
        CommandError, OSError."""
        return [] if self.included is None else self.included.left()

    def trim(self) -> list[str]:
        """Give back the blocks of what was wiped; a warning for each place where they stay."""
        stay = () if self.included is None else self.included.stay
        return [*disks.trim(self.copy.mounts, self.copy.path), *stay]


@contextmanager
def opened(
    copy: Copy,
    keep: Sequence[str],
    *,
    looking: bool = False,
    include_volume: bool = False,
    wiped: bool = False,
) -> Iterator[Work]:
    """The work on a machine's tree; ``looking``: nothing of it is done, and the machine runs; ``wiped``: all
    of it is done. Raises PersistError, OSError."""
    machine = known()
    with ExitStack() as stack:
        tree = stack.enter_context(open_tree(copy.path, running=True, looking=looking))
        volume = None
        if include_volume:
            from persist.seal.volume import included

            volume = stack.enter_context(included.opened(copy.path, machine, looking=looking, trim=wiped))
        beside = None if volume is None else volume.beside
        seal = Seal(tree, keep, copy.mounts, judge, regenerate_list, running=True, beside=beside)
        yield Work(copy, keep, seal, machine, volume, looking=looking)
