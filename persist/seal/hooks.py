# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs of the tree that are run in it: the executables of persist/seal.d, and Exec= of a section.

They are root's, as the maintainer scripts of its packages are. What they leave running ends with them, and
what they mount is seen by them alone, where the kernel lets us.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from persist.boot.ini import ERROR, Problem
from persist.errors import CommandError, PersistError
from persist.seal.look.tree import Tree, fragments
from persist.system.run import run, status

DIRECTORY = "persist/seal.d"
_TIMEOUT = 900  # seconds for one program
_LEFT_OVER = (
    "~",
    ".bak",
    ".orig",
    ".dpkg-old",
    ".dpkg-new",
    ".dpkg-dist",
    ".dpkg-tmp",
    ".rpmsave",
    ".rpmnew",
)
_OUT = f"An empty file of its name in /etc/{DIRECTORY} takes it out."
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
# What a program expects, seen by it alone: without it, '> /dev/null' would make a file in the image. Where
# the kernel allows us none of that (a container), it goes without.
_FURNISH = """
top=$1 places=$2; shift 2
for place in $places; do
    case $place in
    proc) mount -t proc proc "$top/proc" ;;
    dev)
        mount -t tmpfs -o mode=0755,nosuid,noexec tmpfs "$top/dev" || continue
        for node in null zero full random urandom; do
            : > "$top/dev/$node" && mount --bind "/dev/$node" "$top/dev/$node"
        done
        ;;
    esac
done 2>/dev/null
exec chroot "$top" "$@"
"""


def find(tree: Tree, problems: list[Problem]) -> list[str]:
    """The hooks in force, in the order of their names."""
    found = []
    for path in fragments(tree, DIRECTORY, problems, suffix=""):
        if tree.masks(path) or path.endswith(_LEFT_OVER):
            continue
        parts = tree.real(path, any_owner=True).parts
        there = None if parts is None else tree.lstat(parts)
        if there is None or not stat.S_ISREG(there.st_mode):
            problems.append(Problem(ERROR, path, f"Is not a regular file, and would not be run. {_OUT}"))
        elif there.st_size and not there.st_mode & 0o111:
            text = f"Is not executable, and would not be run: 'chmod +x' makes it a hook. {_OUT}"
            problems.append(Problem(ERROR, path, text))
        elif there.st_size:  # an empty one masks
            found.append(path)
    return found


class Runner:
    """Runs programs in one tree."""

    def __init__(self, tree: Tree, said: list[tuple[str, str]]) -> None:
        """``said`` gets what they print, by their names; of one that fails, what stands in stderr."""
        self.tree = tree
        self.said = said
        self._device = os.fstat(tree.top.fd).st_dev
        self._begin: tuple[str, ...] | None = None

    def _inside(self) -> tuple[str, ...]:
        """What stands before the command: a chroot, in namespaces of its own where that is allowed."""
        if self._begin is None:
            own: tuple[str, ...] = ("chroot", self.tree.path)
            if status(*_NAMESPACES, "true") == 0:
                places = [name for name in ("dev", "proc") if self._is_bare(name)]
                own = (*_NAMESPACES, "sh", "-c", _FURNISH, "sh", self.tree.path, " ".join(places))
            # systemctl(1) asks /proc/1/root whether it is in a chroot, which says no in such a namespace.
            self._begin = ("env", "SYSTEMD_OFFLINE=1", *own)
        return self._begin

    def _is_bare(self, name: str) -> bool:
        """Whether a directory below the top is one, and nothing is mounted there."""
        there = self.tree.lstat((name,))
        return there is not None and stat.S_ISDIR(there.st_mode) and there.st_dev == self._device

    def run(self, argv: Sequence[str], what: str) -> None:
        """Run a program to its end. Raises PersistError where it fails, with the last line that it said."""
        try:
            self.said.append((what, run(*self._inside(), *argv, timeout=_TIMEOUT)))
        except CommandError as e:
            before, _, said = e.stderr.strip().rpartition("\n")
            self.said.append((what, before))
            why = (
                f"exit status {e.returncode}" if e.returncode != 124 else f"still running after {_TIMEOUT} s"
            )
            raise PersistError(f"{what} failed: {why}{': ' + said if said else ''}") from e
