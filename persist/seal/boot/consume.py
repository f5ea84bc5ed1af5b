# SPDX-License-Identifier: LGPL-2.1-or-later
"""A request is used up before anything is done for it: each ID is honoured once, whatever becomes of it.

A cut before the ID is synced leaves the request as it was, and nothing was wiped; a cut after it leaves an
ordinary machine that says so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from persist import cut
from persist.boot.paths import SEAL_DONE, SEAL_REQUEST
from persist.errors import PersistError
from persist.system.safepath import Dir

STEPS = ("flagged", "noted", "taken")
_DONE, _REQUEST = (path.rpartition("/")[2] for path in (SEAL_DONE, SEAL_REQUEST))
_BELOW = SEAL_DONE.rpartition("/")[0].strip("/").split("/")  # etc/persist
_MOST = 1 << 20  # bytes of seal.done that are read


def step(name: str) -> None:
    """Note that a step is done."""
    assert name in STEPS, name
    cut.after(name)


def made(parent: Dir, path: str) -> None:
    """Make a directory that is missing, for Dir.descend(). Raises OSError."""
    os.mkdir(path.rpartition("/")[2], 0o755, dir_fd=parent.fd)
    parent.sync()


def _note(there: Dir, request_id: str, word: str = "") -> None:
    """Add an ID to seal.done: the old file or the new one, whenever it is cut. With a ``word`` behind it, it
    is honoured no more, and nobody has begun with it. Raises OSError, PersistError."""
    before = there.read(_DONE, _MOST + 1) or b""
    if len(before) > _MOST:
        raise PersistError(f"'{there.path(_DONE)}' is larger than 1 MiB.")
    if request_id.encode("ascii") in [line.partition(b" ")[0] for line in before.split(b"\n")]:
        return
    line = f"{request_id} {word}".rstrip().encode("ascii")
    lines = before if not before or before.endswith(b"\n") else before + b"\n"
    temporary = f".{_DONE}.tmp"
    there.write(temporary, lines + line + b"\n", 0o644)
    os.rename(temporary, _DONE, src_dir_fd=there.fd, dst_dir_fd=there.fd)
    there.sync()


def _take(there: Dir) -> None:
    if there.lstat(_REQUEST) is not None:
        os.unlink(_REQUEST, dir_fd=there.fd)
        there.sync()


def consume(request_id: str, roots: Sequence[str]) -> None:
    """Note the ID in /etc/persist/seal.done below each of these directories, then take the local request
    away below each. Raises PersistError, OSError; nothing is to be wiped then.

    ``roots``: "/" and the private copy of the root, whose /etc is the image's own where an overlay keeps the
    other.
    """
    opened: list[Dir] = []
    try:
        for root in roots:
            with Dir.at(root) as top:
                there = top.descend(_BELOW, made)
                opened.append(there)
                there.must_be_ours()
        for there in opened:
            _note(there, request_id)
        step("noted")
        for there in opened:
            _take(there)
        step("taken")
    finally:
        for there in opened:
            there.close()


def take_away(roots: Sequence[str], never: Sequence[str] = ()) -> None:
    """Take the local request away, unused; the IDs of ``never`` are honoured no more. Raises PersistError,
    OSError."""
    for root in roots:
        with Dir.at(root) as top:
            try:
                with top.descend(_BELOW) as there:
                    for request_id in never:
                        _note(there, request_id, "refused")
                    _take(there)
            except FileNotFoundError:
                continue
