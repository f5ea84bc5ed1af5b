# SPDX-License-Identifier: LGPL-2.1-or-later
"""The layers of a state volume: the upper of each overlay, and all that lies on the volume at the path that
it has on the machine. By what is on the volume and not by the registry: what an entry has left that nobody
has registered any more is in each clone, too."""

from __future__ import annotations

import os
from collections.abc import Iterable

from persist.boot.paths import SEALING, escape, unescape
from persist.errors import PersistError
from persist.record import Record
from persist.seal.beside import Layer, LayerTree
from persist.seal.volume.where import Volume
from persist.seal.wipe import STORE
from persist.seed import marker
from persist.system import newmount
from persist.system.btrfs import SUBVOLUMES
from persist.system.safepath import Dir, split

PLACE = SEALING + "/layers"
_OVERLAY = ".persist/overlay"
_SEED = ".persist/seed"
_SUFFIX = ".json"


class Kept(Record):
    """An entry that the volume has something of: its path, and whether that is an overlay's upper; else it is
    at its path on the volume. ``seeded``: its marker says that all of it is there."""

    path: str
    overlay: bool
    seeded: bool = True


def _path_of(name: str, at: str) -> str:
    """The path behind the name of a store. Raises PersistError."""
    try:
        path = unescape(name)
        split(path)
    except ValueError:
        path = "/"
    if path == "/" or escape(path) != name:
        raise PersistError(f"'{at}/{name}' on the state volume is of no path.", hint="Look at it, remove it.")
    return path


def _seeded_method(seeds: Dir, name: str) -> str | None:
    """The method in a marker, '' where it says none; None where there is no marker. Raises PersistError,
    OSError."""
    data = seeds.read(name + _SUFFIX, marker.LIMIT)
    if data is None:
        return None
    try:
        return str(marker.parse(data).get("method") or "")
    except ValueError as e:
        raise PersistError(f"'{seeds.path(name + _SUFFIX)}' is not a marker of persist: {e}.") from e


def kept(volume: Dir) -> list[Kept]:
    """What the volume has, parents first. Raises PersistError for what cannot be understood, OSError."""
    found: list[Kept] = []
    with volume.inner(_OVERLAY) as overlays, volume.inner(_SEED) as seeds:
        uppers = [name for name in sorted(os.listdir(overlays.fd)) if _has_upper(overlays, name)]
        for name in uppers:
            method = _seeded_method(seeds, name)
            found.append(Kept(_path_of(name, _OVERLAY), True, method in ("", "overlay")))
        for file in sorted(os.listdir(seeds.fd)):
            name = file.removesuffix(_SUFFIX)
            if file == name:
                continue
            method = _seeded_method(seeds, name)
            if method != "overlay" and (method or name not in uppers):
                found.append(Kept(_path_of(name, _SEED), False))
    return sorted(found, key=lambda one: one.path + "/")


def _has_upper(overlays: Dir, name: str) -> bool:
    try:
        overlays.inner(f"{name}/upper").close()
    except FileNotFoundError:
        return False
    return True


def shown(every: Iterable[Kept], path: str = "/" + "/".join(STORE)) -> Kept | None:
    """The entry in which the machine has a path, None where that is the image. Pure."""
    above = [one for one in every if one.seeded and (path + "/").startswith(one.path + "/")]
    return max(above, key=lambda one: len(one.path), default=None)


def _upper(volume: Dir, one: Kept, number: int, looking: bool) -> Layer:
    """The upper of an overlay as a tree in which it is at its path."""
    place = f"{PLACE}/{number}"
    os.makedirs(place + one.path, 0o700, exist_ok=True)
    with (
        volume.inner(f"{_OVERLAY}/{escape(one.path)}/upper") as upper,
        Dir.at(place) as top,
        top.descend(split(one.path)) as at,
    ):
        newmount.attach(upper.fd, at.fd)
    return Layer(LayerTree(place, looking=looking), f"the state volume (overlay of {one.path})")


def make(volume: Volume, every: Iterable[Kept], *, looking: bool) -> tuple[list[Layer], Layer | None]:
    """The layers, for whoever closes their trees; and the one in which the machine has /var/lib/persist.
    ``looking``: nothing of them is to be changed. Raises PersistError, OSError."""
    every = list(every)
    layers = [Layer(LayerTree(volume.path, looking=looking), "the state volume")]
    by_path = {}
    with Dir.at(volume.path) as top:
        for number, one in enumerate(each for each in every if each.overlay):
            by_path[one.path] = _upper(top, one, number, looking)
    layers += by_path.values()
    bulk = f"{volume.top}/{SUBVOLUMES[1]}"
    if volume.top and os.path.isdir(bulk) and not os.path.islink(bulk):
        layers.append(Layer(LayerTree(bulk, looking=looking), f"the state volume ({SUBVOLUMES[1]})"))
    above = shown(every)
    if above is None:
        return layers, None
    return layers, by_path[above.path] if above.overlay else layers[0]
