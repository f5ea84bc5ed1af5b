# SPDX-License-Identifier: LGPL-2.1-or-later
"""The last step of an image's build: the content of what will be a link is moved to where the seed of its
entry is looked for, and the link is left.

All is looked at before anything is done. What is there tells what is left to do: the registry file of a path
has SeedFrom= before the content goes, and the content is at that place, whole, before the link is. So the
next call goes on where one was killed, and mends what packages have put in the place of links since.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat

from persist import cut
from persist.boot.paths import VOLUME, above
from persist.boot.registry import load
from persist.errors import PersistError
from persist.foresee.entries import FACTORY, USE_EPHEMERAL
from persist.foresee.image import Image
from persist.record import replace
from persist.register import files, tripleo
from persist.register.check import Plan, judge, must_be_read
from persist.register.places import DONE, MEND, MOVE, Move, check_apart, look
from persist.register.wish import Wish, of
from persist.system.run import run

STEPS = ("recorded", "copied", "moved", "emptied", "left")


def finalise(image: Image) -> tuple[list[str], list[str]]:
    """Finish an image; returns the paths at which something was done, and notes. Raises PersistError, before
    anything is touched, where one cannot be, and OSError."""
    if not image.root and os.path.ismount(VOLUME):
        raise PersistError(
            "This machine runs with a state volume.", hint="An image is finished while it is built."
        )
    must_be_read(image)
    plan = judge(_listed(image), image)
    moves = _moves(plan, {wish.path for wish in plan.wishes}, image)
    check_apart(moves)
    plan.wishes = [move.wish for move in moves if move.place]
    written = files.write(plan, image)
    _step("recorded")
    for move in moves:
        _do(move, image)
    return [m.path for m in moves if m.todo != DONE or m.wish.file in written], plan.notes


def _listed(image: Image) -> list[Wish]:
    """What is on the list, with the keys that 'persistctl register' was told for the same paths."""
    told = {e.path: of(e) for e in load(image.root, []).entries if e.file == of(e).file}
    return [replace(told.get(wish.path, wish), method=wish.method) for wish in tripleo.read(image)]


def _step(name: str) -> None:
    assert name in STEPS, name
    cut.after(name)


def _moves(plan: Plan, listed: set[str], image: Image) -> list[Move]:
    found = list[Move]()
    for planned in plan.entries:
        entry, path = planned.entry, planned.path
        over = above(path, {each.path for each in found if each.wish.seed_from})
        if over and entry.method in ("overlay", "image"):
            raise PersistError(
                f"The content of '{over}' cannot be moved: {entry.source} shows '{path}' from the image.",
                hint=f"Take '{over}' off {tripleo.LIST}, and register it.",
            )
        wish = of(entry)
        if entry.method != "symlink" and entry.path not in listed:
            continue
        link = plan.mount + path if entry.method == "symlink" else ""
        places = [USE_EPHEMERAL + path, FACTORY + path]
        place = places[0 if entry.path in listed else 1]
        if entry.seed_from in places and image.has(entry.seed_from):
            place = entry.seed_from  # moved before, when it was on the list, or not yet
        if entry.file != wish.file:
            if image.kind(path) in ("directory", "file"):
                raise PersistError(
                    f"'{path}' has content in the image, and {entry.source} does not say where its seed is "
                    "moved to.",
                    hint=f"Run 'persistctl register {image.option()}--leave-symlink' for it first, or take "
                    "the content away.",
                )
            place = ""
        found.append(look(wish, path, place, link, image))
    return found


def _do(move: Move, image: Image) -> None:
    """Do for one path what is left to do. Raises OSError, CommandError."""
    path, place = image.top + move.path, image.top + move.at
    if move.todo == MOVE:
        os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
        _rename(path, place)
    elif move.todo == MEND:
        _copy(path, place)
        _remove(path)
    if move.todo != DONE:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        if move.link:
            os.symlink(move.link, path)
        else:
            _mount_point(path, place)
        _step("left")


def _rename(path: str, place: str) -> None:
    try:
        os.rename(path, place)
    except OSError as e:
        # Another filesystem, or a directory of a lower layer of an overlay (overlayfs.rst, "Renaming
        # directories").
        if e.errno != errno.EXDEV:
            raise
        aside = place + ".persist-tmp"
        run("rm", "-rf", "--one-file-system", "--", aside, timeout=None)
        run("cp", "-a", "--reflink=auto", "-T", "--", path, aside, timeout=None)
        _step("copied")
        os.rename(aside, place)
        _step("moved")
        _remove(path)
    else:
        _step("moved")


def _copy(path: str, place: str) -> None:
    """Put what is at a path over what was moved away from it before."""
    run("cp", "-a", "--reflink=auto", "--remove-destination", "-T", "--", path, place, timeout=None)
    _step("copied")


def _remove(path: str) -> None:
    run("rm", "-rf", "--one-file-system", "--", path, timeout=None)
    _step("emptied")


def _mount_point(path: str, place: str) -> None:
    """An empty directory or file with owner, mode and label of what was moved away."""
    there, new = os.lstat(place), path + ".persist-tmp"
    # What was left by a call that was killed is empty; anything else of that name stays, and is said.
    if os.path.isdir(new) and not os.path.islink(new):
        os.rmdir(new)
    elif os.path.isfile(new) and not os.path.islink(new) and os.path.getsize(new) == 0:
        os.unlink(new)
    if stat.S_ISDIR(there.st_mode):
        os.mkdir(new, 0o700)
    else:
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.chown(new, there.st_uid, there.st_gid)
    shutil.copystat(place, new)
    os.rename(new, path)
