# SPDX-License-Identifier: LGPL-2.1-or-later
"""Registry files of single paths: written whole, and taken away."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from persist.boot.registry import load
from persist.errors import PersistError
from persist.foresee.image import Image
from persist.foresee.unit_directories import private
from persist.register.check import Plan
from persist.register.wish import DIRECTORY, HEADER, Wish
from persist.system.safepath import Dir

_TEMPORARY = ".persistctl-register.tmp"  # no registry file: those end in .conf


def _directory(image: Image, *, make: bool) -> Dir | None:
    """/usr/lib/persist.d of an image, links followed within it; None where it is not there and not to be
    made. Raises OSError."""
    path = image.root + image.behind(DIRECTORY)
    if make:
        os.makedirs(path, 0o755, exist_ok=True)
    try:
        return Dir.at(path)
    except FileNotFoundError:
        return None


@contextmanager
def alone(root: str) -> Iterator[None]:
    """Wait for other calls that change what an image registers, and let others wait. Directories that are
    made are open to all meanwhile, whatever the caller's umask: users and services go through them. Raises
    OSError."""
    before = os.umask(0o022)
    try:
        with _locked(root):
            yield
    finally:
        os.umask(before)


@contextmanager
def _locked(root: str) -> Iterator[None]:
    fd = os.open(root or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as e:
            # NFS has locks for what is open for writing only, which no directory is (flock(2)).
            if e.errno not in (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield
    finally:
        os.close(fd)


def write(plan: Plan, image: Image) -> list[str]:
    """Write the files of all wishes; returns those that were not there as they are now. Raises PersistError,
    before any is written, where one is not ours to replace, and OSError."""
    directory = _directory(image, make=True)
    assert directory is not None
    with directory:
        for wish in plan.wishes:
            _ours(directory, wish)
        return [wish.file for wish in plan.wishes if _write(directory, wish)]


def _base(wish: Wish) -> str:
    return wish.file.rpartition("/")[2]


def _ours(directory: Dir, wish: Wish) -> bool:
    """Whether the file of a wish is there. Raises PersistError for one that somebody else wrote."""
    data = directory.read(_base(wish))
    if data is not None and not data.startswith(HEADER.encode()):
        raise PersistError(
            f"'{wish.file}' was not written by 'persistctl register'.",
            hint="Look at what it says, and give it another name, or take it away.",
        )
    return data is not None


def _write(directory: Dir, wish: Wish) -> bool:
    data = wish.text.encode("utf-8", "surrogateescape")
    name = _base(wish)
    if directory.read(name) == data:
        return False
    directory.write(_TEMPORARY, data, 0o644)
    os.rename(_TEMPORARY, name, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
    directory.sync()
    return True


def remove(paths: Sequence[str], image: Image) -> tuple[list[str], list[str]]:
    """Take the files of paths away; returns their names, and notes on what 'register --finalise' has left.
    Raises PersistError, before any is taken away, for a path that has none, and OSError."""
    directory = _directory(image, make=False)
    if directory is None:
        raise _not_registered(paths[0], image)
    with directory:
        found = [_registered(directory, path, image) for path in dict.fromkeys(paths)]
        notes = _moved({wish.file for wish in found}, image)
        for wish in found:
            os.unlink(_base(wish), dir_fd=directory.fd)
        directory.sync()
    return [wish.file for wish in found], notes


def _moved(names: set[str], image: Image) -> list[str]:
    return [
        f"The content of '{e.path}' is still in '{e.seed_from}'; nothing brings it back."
        for e in load(image.root, []).entries
        if e.file in names and e.seed_from and image.has(e.seed_from)
    ]


def _registered(directory: Dir, path: str, image: Image) -> Wish:
    """The path as it is registered, which is elsewhere for units with DynamicUser=. Raises PersistError."""
    for place in (path, private(path)):
        if place and _ours(directory, Wish(place)):
            return Wish(place)
    raise _not_registered(path, image)


def _not_registered(path: str, image: Image) -> PersistError:
    for entry in load(image.root, []).entries:
        if entry.path == path:
            return PersistError(
                f"'{path}' was not registered by 'persistctl register': {entry.source} declares it.",
                hint="Write Path= with Method=none into a file that sorts first, such as "
                "/etc/persist.d/00-local.conf, or disable the preset.",
            )
    return PersistError(f"'{path}' is not registered.", hint="'persistctl list' shows what is.")
