# SPDX-License-Identifier: LGPL-2.1-or-later
"""A state volume that is sealed with the image of its machine: mounted, its layers opened, the view made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from persist.boot.facts import Facts
from persist.record import Record
from persist.seal.beside import Beside
from persist.seal.look.tree import Tree
from persist.seal.volume import layers, remains, view, where
from persist.seal.volume.where import Volume
from persist.system.safepath import Dir

MakeSwap = Callable[[str, str, str], None]  # on a node, with a UUID and a label


class Included(Record):
    """The volume, what of it is sealed as the image is, and notes on it; ``stay``: why what was wiped can
    still be read from its free blocks."""

    volume: Volume
    beside: Beside
    notes: tuple[str, ...]
    looking: bool
    stay: tuple[str, ...] = ()

    def wrong(self) -> list[str]:
        """What is wrong with all that lies on it beside files. Raises CommandError, OSError."""
        return remains.wrong(self.volume, looking=self.looking)

    def left(self) -> list[str]:
        """What of that is there and should have gone. Raises CommandError, OSError."""
        return remains.left(self.volume)

    def empty(self, make_swap: MakeSwap) -> None:
        """Take it away. Raises PersistError, OSError."""
        remains.empty(self.volume, make_swap)


@contextmanager
def opened(image: str, machine: Facts, *, looking: bool, trim: bool = False) -> Iterator[Included]:
    """The volume of a machine whose image lies in a directory, in mounts of this process's own; ``looking``:
    nothing of it is to be changed; ``trim``: it was wiped. Raises PersistError where it is not to be sealed,
    OSError."""
    notes: list[str] = []
    volume, stay = where.mount(machine, notes, looking=looking, trim=trim)
    with Dir.at(volume.path) as top:
        every = layers.kept(top)
    found, shown = layers.make(volume, every, looking=looking)

    def show(writable: bool) -> Tree:
        return view.show(image, volume, every, writable=writable)

    notes.append(f"The state volume on {' and '.join(volume.nodes)} is sealed, too.")
    beside = Beside(show, found, shown=shown, public=volume.public, filesystems=[volume.path])
    try:
        yield Included(volume, beside, tuple(notes), looking, tuple(stay))
    finally:
        for tree in (beside.view, *(layer.tree for layer in found)):
            tree.__exit__()
