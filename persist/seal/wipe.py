# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wipe: each deed of a plan by descriptors, the files of our own in the tree, and the steps at which
tests cut it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from persist import cut
from persist.errors import CommandError, PersistError
from persist.seal.look.obstacles import Surroundings
from persist.seal.look.tree import Parts, Tree
from persist.seal.plan import EMPTY, REMOVE, TRUNCATE, UNLINK, WRITE, Deed
from persist.seed.tree import walk
from persist.system.btrfs import TOP_INODE
from persist.system.run import run
from persist.system.safepath import Dir

# The steps after which PERSIST_TEST_KILL_AFTER=<step> kills the process, for tests that cut the power; those
# of single deeds after the first of their kind.
STEPS = (
    "unsealed",
    "cleared",
    "listed",
    UNLINK,
    REMOVE,
    EMPTY,
    TRUNCATE,
    WRITE,
    "wiped",
    "ran",
    "hook",
    "hooks",
    "looked",
    "sealed",
)
STORE = ("var", "lib", "persist")
REPORT = "seal.json"  # what was sealed; there only while the tree is
LIST = "regenerate"  # what persist-regenerate.service makes on the clone
_OPEN = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def step(name: str) -> None:
    """Note that a step is done (persist/cut.py)."""
    assert name in STEPS, name
    cut.after(name)


def remove(parent: Dir, name: str) -> None:
    """Remove a file or a tree. rm(1) for the tree: it takes any depth, and enters no mount. Raises OSError,
    CommandError."""
    there = parent.lstat(name)
    if there is None:
        return
    if stat.S_ISDIR(there.st_mode):
        try:
            _rm(parent, name)
        except CommandError:
            inner = _subvolumes(parent, name)
            if not inner:
                raise
            for path in inner:
                directory, _, last = path.rpartition("/")
                with parent.inner(directory) as there_in:
                    _rm(there_in, last)
            _rm(parent, name)
    else:
        os.unlink(name, dir_fd=parent.fd)


def _rm(parent: Dir, name: str) -> None:
    run("rm", "-rf", "--one-file-system", "--", parent.proc(name), pass_fds=[parent.fd], timeout=None)


def _subvolumes(parent: Dir, name: str) -> list[str]:
    """The subvolumes in a tree on a btrfs, the innermost first. They are a part of it, and rm(1) takes them
    for other filesystems. Raises OSError, PersistError where one of them is mounted there."""
    found = []
    own = os.stat(name, dir_fd=parent.fd, follow_symlinks=False).st_dev
    for at, st in walk(parent.proc(name)):
        if st.st_ino == TOP_INODE and st.st_dev != own and stat.S_ISDIR(st.st_mode):
            found.append(f"{name}/{at}")
    for path in found:
        parent.inner(path).close()
    return found[::-1]


def _write(parent: Dir, name: str, data: bytes) -> None:
    """Make this the content of a file that keeps its inode, and with it owner, mode, label and all else."""
    fd = os.open(name, _OPEN, dir_fd=parent.fd)
    try:
        there = os.fstat(fd)
        if not stat.S_ISREG(there.st_mode) or there.st_nlink > 1:
            raise PersistError(f"'{parent.path(name)}' is not the file any more that it was.")
        at = 0
        while at < len(data):
            at += os.pwrite(fd, data[at:], at)
        os.ftruncate(fd, len(data))
        os.fsync(fd)
    finally:
        os.close(fd)


def do(tree: Tree, deed: Deed, data: bytes) -> None:
    """Do one thing to one place; ``data`` is what WRITE leaves. What is gone already is done. Raises OSError,
    PersistError where something else has come in its place."""
    with tree.directory(deed.parts[:-1]) as parent:
        name = deed.parts[-1]
        there = parent.lstat(name)
        if there is None:
            return
        if stat.S_IFMT(there.st_mode) != stat.S_IFMT(deed.mode):
            raise PersistError(
                f"'{deed.path}' has become something else while we looked.",
                hint="Somebody works in the tree: end that first.",
            )
        if deed.kind in (UNLINK, REMOVE):
            remove(parent, name)
        elif deed.kind == EMPTY:
            with parent.sub(name) as directory:
                for inner in sorted(os.listdir(directory.fd)):
                    remove(directory, inner)
        else:
            _write(parent, name, data)


def wipe(tree: Tree, deeds: Iterable[tuple[Deed, bytes]]) -> None:
    """Do all that is pending. Raises as do()."""
    for deed, data in deeds:
        if deed.pending:
            try:
                do(tree, deed, data)
            except OSError as e:
                raise PersistError(f"Failed to {deed.kind} '{deed.path}': {e.strerror}.") from e
            step(deed.kind)


def sync(tree: Tree, around: Surroundings) -> None:
    """Write out the filesystems of the tree. Raises OSError, also for what was lost on the way."""
    tree.top.sync_filesystem()
    for point in around.own:
        with tree.directory(point) as there:
            there.sync_filesystem()


def store_place(tree: Tree) -> Parts:
    """Where the tree has /var/lib/persist, or would have it."""
    return (*(tree.real("/" + "/".join(STORE[:-1])).parts or STORE[:-1]), STORE[-1])


def store(tree: Tree, *, make: bool) -> Dir | None:
    """/var/lib/persist of the tree, None where there is none and it is not to be made. Raises PersistError
    where others than root may write it, OSError."""

    def missing(parent: Dir, path: str) -> None:
        if not make:
            raise FileNotFoundError(path)
        os.mkdir(path.rpartition("/")[2], 0o755, dir_fd=parent.fd)
        parent.sync()

    try:
        there = tree.top.descend(list(store_place(tree)), missing)
    except FileNotFoundError:
        if make:
            raise
        return None
    try:
        there.must_be_ours()
    except PersistError:
        there.close()
        raise
    return there


def read_own(tree: Tree, name: str) -> bytes:
    """What a file of ours in the tree says, b'' where there is none. Raises OSError, PersistError."""
    there = store(tree, make=False)
    if there is None:
        return b""
    with there:
        return there.read(name) or b""


def write_own(tree: Tree, name: str, data: bytes) -> None:
    """Write a file of ours: the old one or the new one, whenever it is cut. Raises PersistError."""
    try:
        there = store(tree, make=True)
        assert there is not None
        with there:
            temporary = f".{name}.tmp"
            there.write(temporary, data, 0o644)
            os.rename(temporary, name, src_dir_fd=there.fd, dst_dir_fd=there.fd)
            there.sync()
    except OSError as e:
        raise PersistError(f"Failed to write '/{'/'.join(STORE)}/{name}': {e.strerror}.") from e


def remove_own(tree: Tree, name: str) -> None:
    """Take a file of ours away. Raises OSError, PersistError."""
    there = store(tree, make=False)
    if there is None:
        return
    with there:
        if there.lstat(name) is not None:
            os.unlink(name, dir_fd=there.fd)
            there.sync()
