# SPDX-License-Identifier: LGPL-2.1-or-later
"""A tree that is to be sealed: opened, locked, and nobody else in it."""

from __future__ import annotations

import fcntl
import os

from persist.errors import PersistError
from persist.seal.look.tree import Tree

_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")


def _runs(top: os.stat_result) -> bool:
    """Whether a directory is the root of this system, of which a chroot that we are in is but a part."""
    if os.path.samestat(top, os.stat("/")):
        return True
    try:
        return os.path.samestat(top, os.stat("/proc/1/root"))
    except OSError:
        return False  # no /proc, or the system's root is out of our reach


def open_tree(root: str, *, running: bool = False, looking: bool = False) -> Tree:
    """The tree below a directory, locked. Raises PersistError for one that is not to be sealed this way.

    ``running``: it is the running system's own root, without what is mounted on it: of the seal boot, or of
    a first look that changes nothing (``looking``).
    """
    if os.geteuid() != 0:
        raise PersistError("Only root can seal a tree.", hint="Run it as root, with sudo for one.")
    path = os.path.realpath(root)
    tree = Tree(path, looking=looking)
    try:
        if not running and _runs(os.fstat(tree.top.fd)):
            raise PersistError(
                f"'{root}' is the root of the running system, which is sealed in a boot of its own.",
                hint="'persistctl seal' without --root asks for that. The tree of an image that is built is "
                "sealed from outside of its chroot.",
            )
        if not any(tree.read(name) is not None for name in _OS_RELEASE):
            raise PersistError(
                f"'{root}' has no system in it: neither /etc/os-release nor /usr/lib/os-release.",
                hint="--root= takes the directory that an image is mounted on.",
            )
        try:
            fcntl.flock(tree.top.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PersistError(f"'{root}' is being sealed already, or locked by somebody else.") from None
    except BaseException:
        tree.top.close()
        raise
    return tree


def processes(tree: Tree) -> list[tuple[int, str]]:
    """Processes whose root the tree is."""
    top = os.fstat(tree.top.fd)
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            is_process = name.isascii() and name.isdigit()
            if is_process and os.path.samestat(os.stat(f"/proc/{name}/root"), top):
                with open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as f:
                    found.append((int(name), f.read().strip()))
        except OSError:
            continue  # it has ended
    return found
