# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a machine's files lies beside its image: the layers of its state volume, each a tree in which all
has the path that it has on the machine.

Image and layers are each sealed by themselves. An unlink in the merged view would leave a whiteout, and the
key below; and what an overlay shows of an upper is not all that the upper has. The merged view is looked at,
for the links that lead from one of them into another, and for what the machine says of itself; programs are
run in it, and nothing else is done there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from persist.seal.first_pass import Also, Planner
from persist.seal.look.obstacles import Surroundings
from persist.seal.look.pattern import Place, homes
from persist.seal.look.tree import Parts, Tree
from persist.seal.plan import EMPTY, REMOVE, Plan
from persist.seal.section import Item
from persist.system import newmount
from persist.system.safepath import Dir, split

Make = Callable[[Tree, Surroundings], Planner]
Show = Callable[[bool], Tree]  # the view; whether programs are to be run in it


def is_whiteout(there: os.stat_result) -> bool:
    """Whether it is what an overlay puts where a file of the image was removed: it holds nothing."""
    return stat.S_ISCHR(there.st_mode) and there.st_rdev == 0


class LayerTree(Tree):
    """A layer as a tree, in which a whiteout is nothing."""

    def entries(self, parts: Parts) -> dict[str, os.stat_result]:
        """As of a tree, without whiteouts."""
        return {name: st for name, st in super().entries(parts).items() if not is_whiteout(st)}

    def lstat(self, parts: Parts) -> os.stat_result | None:
        """As of a tree, None for a whiteout."""
        there = super().lstat(parts)
        return None if there is None or is_whiteout(there) else there


class Layer:
    """One layer: its tree, and what an administrator calls it."""

    def __init__(self, tree: Tree, name: str) -> None:
        self.tree = tree
        self.name = name
        self.around = Surroundings(tree.path, ())  # nothing is mounted in it but by us
        self.plan = Plan()


def also_of(plan: Plan, items: Sequence[Item], public: str = "") -> Also:
    """For each item where it has come to in a plan: so that a place is found in each layer that has it,
    whatever links led there. ``public``: the state volume's own name, below which its files have the
    paths that they have elsewhere. Pure."""
    found: dict[int, list[Place]] = {id(item): [] for item in items}
    above = tuple(split(public))
    for deed in plan.deeds:
        # A directory that a link led to is emptied and stays.
        inside = deed.kind == EMPTY and deed.item.action == REMOVE
        found[id(deed.item)].append(Place(deed.parts, deed.named, inside))
        if above and deed.parts[: len(above)] == above and len(deed.parts) > len(above):
            found[id(deed.item)].append(Place(deed.parts[len(above) :], deed.named, inside))
    return [found[id(item)] for item in items]


def merge(plan: Plan, other: Plan) -> None:
    """Add what the same items have found elsewhere to their wishes in a plan. Pure."""
    for wish, more in zip(plan.wishes, other.wishes, strict=True):
        wish.matched += [name for name in more.matched if name not in wish.matched]
        wish.pending += [name for name in more.pending if name not in wish.pending]
        wish.stale[:] = [pattern for pattern in wish.stale if pattern in more.stale]


class Beside:
    """The layers, and the view of all of them, which ``show`` makes anew: an overlay does not see what is
    changed below it. ``shown`` is the layer in which the machine has /var/lib/persist, None where that is the
    image's; ``public`` the volume's name on the machine; ``filesystems`` are directories of what has to be
    written out."""

    def __init__(
        self,
        show: Show,
        layers: Sequence[Layer],
        *,
        shown: Layer | None = None,
        public: str = "",
        filesystems: Sequence[str] = (),
    ) -> None:
        self.view = show(False)
        self.layers = list(layers)
        self.shown = shown
        self.public = public
        self.filesystems = tuple(filesystems)
        self._show = show
        self._view_plan = Plan()

    def look(self, items: Sequence[Item], keep: Sequence[str], make: Make) -> Also:
        """Make the plan of each layer; ``make`` makes planners. Returns what the image is to be searched for
        beside the patterns."""
        self._view_plan = make(self.view, Surroundings(self.view.path, ())).make(items, keep)
        also = also_of(self._view_plan, items, self.public)
        known = homes(self.view)
        for layer in self.layers:
            layer.tree.forget()
            planner = make(layer.tree, layer.around)
            planner.finder.at_home(known)
            layer.plan = planner.make(items, keep, also)
        return also

    def add_to(self, plan: Plan) -> None:
        """Add what was found here to the plan of the image: names, errors, notes."""
        known = [*plan.errors]
        for layer in self.layers:
            merge(plan, layer.plan)
            plan.errors += [f"On {layer.name}: {error}" for error in layer.plan.errors if error not in known]
            plan.notes += [f"On {layer.name}: {note}" for note in layer.plan.notes if note not in plan.notes]
            known += layer.plan.errors
        plan.errors += [error for error in self._view_plan.errors if error not in known]

    def again(self) -> list[str]:
        """A sentence for each place of a layer that is not as the plan would leave it."""
        return [
            f"'{deed.path}' is there again on {layer.name}, after it was wiped ({deed.item.source})."
            for layer in self.layers
            for deed in layer.plan.deeds
            if deed.pending
        ] + [f"On {layer.name}: {error}" for layer in self.layers for error in layer.plan.errors]

    def runs(self) -> list[Item]:
        """The items whose Exec= is to be run for what a layer has."""
        found = [item for layer in self.layers for item in layer.plan.run()]
        return list({id(item): item for item in found}.values())

    def whole(self) -> Tree:
        """The view, made so that programs can be run in it; until renew()."""
        self._drop()
        self.view = self._show(True)
        return self.view

    def renew(self) -> None:
        """Make the view anew: what it shows was changed."""
        self._drop()
        self.view = self._show(False)

    def _drop(self) -> None:
        self.view.__exit__()
        newmount.take_away(self.view.path)

    def sync(self) -> None:
        """Write out the filesystems. Raises OSError."""
        for path in self.filesystems:
            with Dir.at(path) as there:
                there.sync_filesystem()
