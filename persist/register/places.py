# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the content of an image's path goes when the image is finished, and what is left at the path."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from persist.boot.paths import VOLUME, parents
from persist.errors import PersistError
from persist.foresee.image import Image
from persist.record import Record, replace
from persist.register.wish import Wish
from persist.system.mountinfo import mounts

# What has to be done at a path: nothing; the link, or the mount point; that and the content before; the same
# where something has come in their place since.
DONE, LEAVE, MOVE, MEND = "done", "leave", "move", "mend"


class Move(Record):
    """The content of ``path`` (without aliases) goes to ``place``, the ``SeedFrom=`` of its entry; ``at`` is
    that place behind the links of the image.

    ``link``: where the link leads that is left there; '' for an empty mount point, with owner and mode of the
    content. ``todo`` is one of the words above. Without a place only the link is made.
    """

    wish: Wish
    path: str
    place: str
    at: str
    link: str
    todo: str


def look(wish: Wish, path: str, place: str, link: str, image: Image) -> Move:
    """What has to be done for one path, and its wish as it is to be registered. Raises PersistError where
    nothing can be."""
    at = image.place(place) if place else ""
    here, there = image.lstat(path), image.lstat(at) if at else None
    if here is None:
        todo = LEAVE if link or there is not None else DONE
    elif stat.S_ISLNK(here.st_mode):
        todo = DONE
        if not link or image.target(path) not in (link, VOLUME + path):
            raise PersistError(
                f"'{path}' is a symbolic link to '{image.target(path)}', which is not ours.",
                hint="Register the path that it leads to, or take the link out of the image.",
            )
    elif there is None:
        todo = MOVE
    elif not link and empty(image, path, here):  # the mount point, whoever took its registry file away since
        todo = DONE
    elif wish.seed_from == place:  # so it was moved before
        todo = MEND
    else:
        raise PersistError(
            f"The content of '{path}' goes to '{place}', and something is there already.",
            hint="Look at both, and take one away.",
        )
    if here is not None and todo in (MOVE, MEND):
        _check_kinds(path, here, there)
        _check_mounts(path, image)
        _check_parents(path, at, image)
    if there is not None or todo == MOVE:
        wish = replace(wish, seed_from=place)
    return Move(wish, path, place, at, link, todo)


def empty(image: Image, path: str, here: os.stat_result) -> bool:
    """Whether a file or directory has nothing in it."""
    return here.st_size == 0 if stat.S_ISREG(here.st_mode) else not image.names(path)


def _check_kinds(path: str, here: os.stat_result, there: os.stat_result | None) -> None:
    kinds = {stat.S_IFMT(each.st_mode) for each in (here, there) if each is not None}
    if not kinds <= {stat.S_IFDIR, stat.S_IFREG}:
        raise PersistError(f"'{path}' is neither a directory nor a regular file.")
    if len(kinds) > 1:
        raise PersistError(
            f"'{path}' is another kind of file than what was moved away from it.",
            hint="Look at both, and take one away.",
        )


def check_apart(moves: Sequence[Move]) -> None:
    """Raise PersistError where content would go to a place that is moved itself, or lies behind a link or a
    mount then."""
    for move in (each for each in moves if each.place):
        for other in moves:
            if (move.place + "/").startswith(other.path + "/") or (move.at + "/").startswith(
                other.path + "/"
            ):
                raise PersistError(
                    f"The content of '{move.path}' would go to '{move.place}', which is in '{other.path}', "
                    "and nothing of that stays in the image.",
                    hint=f"Keep paths below '{other.path}' one by one instead.",
                )


def _check_parents(path: str, at: str, image: Image) -> None:
    above = next((each for each in parents(at) if image.lstat(each) is not None), "")
    if above and image.kind(above) != "directory":
        raise PersistError(
            f"The content of '{path}' goes to '{at}', and '{above}' is a {image.kind(above)}.",
            hint="Move it away after looking at it.",
        )


def _check_mounts(path: str, image: Image) -> None:
    top = os.path.realpath(image.top or "/").rstrip("/") + path
    for mount in mounts(top):
        raise PersistError(
            f"'{path}' cannot be moved: something is mounted on '{mount.mount_point}'.",
            hint="Unmount it first.",
        )
