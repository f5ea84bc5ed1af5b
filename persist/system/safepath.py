# SPDX-License-Identifier: LGPL-2.1-or-later
"""Directories held open, below which nothing is reached through a symbolic link.

A state volume is data and not a friend: ``var -> /usr`` on it must not make us write into /usr. Each
component is opened by itself with O_NOFOLLOW, so the error can name the one that is a link.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from types import TracebackType

from persist.errors import PersistError

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Self

_RENAME_NOREPLACE = 1
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_SYS_OPEN_TREE, _SYS_OPENAT2 = 428, 437  # the same on every architecture since the tables were unified
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS = 0x01, 0x02, 0x04
_RESOLVE_BENEATH, _RESOLVE_IN_ROOT = 0x08, 0x10
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class LinkRefused(PersistError):
    """A symbolic link where a directory or file of ours has to be."""


def _oserror(name: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), name)


def split(path: str) -> list[str]:
    """The components of a normalised path. Raises ValueError on ``..``, which no entry may have."""
    parts = [p for p in path.split("/") if p not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"'..' in '{path}'")
    return parts


class Dir:
    """One open directory. ``name`` is what an administrator calls it; a context manager, closed at its
    end."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name

    @classmethod
    def at(cls, path: str) -> Dir:
        """Open a directory whose own path is trusted, such as /run/persist/volume."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; a second time does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def path(self, name: str) -> str:
        """What to call a name in this directory in a message."""
        return f"{self.name.rstrip('/')}/{name}"

    def proc(self, name: str = ".") -> str:
        """A path to a name in this directory, for programs that were given the descriptor with pass_fds."""
        return f"/proc/self/fd/{self.fd}/{name}"

    def lstat(self, name: str) -> os.stat_result | None:
        """What a name is, or None when there is nothing of that name."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _not_a_directory(self, name: str, e: OSError) -> PersistError:
        there = self.lstat(name)
        if there is not None and stat.S_ISLNK(there.st_mode):
            return LinkRefused(
                f"'{self.path(name)}' is a symbolic link to '{os.readlink(name, dir_fd=self.fd)}', which "
                "persist does not follow.",
                hint="Look at where it comes from; put a directory there, or register the path behind it.",
            )
        return PersistError(f"'{self.path(name)}' is not a directory ({e.strerror}).")

    def sub(self, path: str) -> Dir:
        """Open a directory below this one. Raises FileNotFoundError, LinkRefused, or PersistError when it is
        none."""
        return self.descend(split(path))

    def descend(self, parts: list[str], missing: Callable[[Dir, str], None] | None = None) -> Dir:
        """``sub()`` of the components of a path. ``missing`` is called for each that is not there, with the
        directory that it belongs into and its path below this one, and may make it.

        Raises as sub() does, FileNotFoundError where a component is still not there.
        """
        here = Dir(os.dup(self.fd), self.name)
        try:
            for number, part in enumerate(parts, 1):
                if missing is not None and here.lstat(part) is None:
                    missing(here, "/".join(parts[:number]))
                deeper = here._open(part)
                here.close()
                here = deeper
        except BaseException:
            here.close()
            raise
        return here

    def _open(self, name: str) -> Dir:
        try:
            return Dir(os.open(name, _DIRECTORY, dir_fd=self.fd), self.path(name))
        except OSError as e:
            if e.errno in (errno.ENOTDIR, errno.ELOOP):
                raise self._not_a_directory(name, e) from e
            raise

    def inner(self, path: str) -> Dir:
        """``sub()`` in one system call, and on this very mount: nothing that is mounted below it is entered.
        Raises as sub() does."""
        name = self.path("/".join(split(path)))
        how = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_XDEV
        try:
            return Dir(_openat2(self.fd, path, _DIRECTORY, how), name)
        except OSError as e:
            if e.errno == errno.EXDEV:
                raise PersistError(
                    f"Something else is mounted on '{name}' or above it.", hint="Unmount it."
                ) from e
            if e.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            self.sub(path).close()  # knows which component it is
            raise

    def node(self, path: str) -> int | None:
        """An O_PATH descriptor of whatever is at a path below, links included, or None when nothing is
        there."""
        parts = split(path)
        try:
            with self.sub("/".join(parts[:-1])) as parent:
                return os.open(parts[-1], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
        except FileNotFoundError:
            return None

    def own(self, name: str) -> Dir:
        """Open, and make where missing, a directory of our own store: 0700, and nobody else's.

        Raises LinkRefused or PersistError when the volume has something else there.
        """
        if self.lstat(name) is None:
            try:
                os.mkdir(name, 0o700, dir_fd=self.fd)
                self.sync()
            except FileExistsError:
                return self.own(name)  # somebody was faster: look at what it is
        try:
            there = self.inner(name)
        except FileNotFoundError:
            return self.own(name)  # a work directory that its last user just removed
        try:
            there.must_be_ours()
        except PersistError:
            there.close()
            raise
        return there

    def must_be_ours(self) -> None:
        """Raise PersistError where others than root own the directory or may write into it."""
        st = os.fstat(self.fd)
        if st.st_uid != os.geteuid() or st.st_mode & 0o022:
            raise PersistError(
                f"'{self.name}' may be written by others than root, so it is not trusted.",
                hint=f"Look at what is in it, then: chown root: '{self.name}'; chmod 0700 '{self.name}'.",
            )

    def read(self, name: str, limit: int = 1 << 20) -> bytes | None:
        """The content of a small regular file, or None when there is none. A link or anything else raises."""
        there = self.lstat(name)
        if there is None:
            return None
        if not stat.S_ISREG(there.st_mode):
            what = "a symbolic link" if stat.S_ISLNK(there.st_mode) else "not a regular file"
            raise LinkRefused(f"'{self.path(name)}' is {what}.", hint="Move it away after looking at it.")
        # Looked at before it is opened: opening a device does something.
        fd = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=self.fd
        )
        with open(fd, "rb") as f:
            return f.read(limit)

    def write(self, name: str, data: bytes, mode: int = 0o600) -> None:
        """Write a new file and sync it. A file of that name is taken away first, never written through."""
        if self.lstat(name) is not None:
            os.unlink(name, dir_fd=self.fd)
        fd = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self.fd
        )
        with open(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)

    def remove(self, name: str) -> None:
        """Remove whatever is there, a tree too, without following a link. Nothing there is fine."""
        there = self.lstat(name)
        if there is None:
            return
        if stat.S_ISDIR(there.st_mode):
            import shutil  # rare, and heavy: whoever only looks does without

            shutil.rmtree(name, dir_fd=self.fd)
        else:
            os.unlink(name, dir_fd=self.fd)

    def sync(self) -> None:
        """Make what was created, renamed or removed in this directory outlive a power cut."""
        os.fsync(self.fd)

    def sync_filesystem(self) -> None:
        """Write out the whole filesystem. Raises OSError, also for data that was lost on the way."""
        if _libc.syncfs(self.fd) != 0:
            raise _oserror(self.name)

    def read_only(self) -> bool:
        """Whether the filesystem, or this mount of it, is read-only."""
        return bool(os.fstatvfs(self.fd).f_flag & os.ST_RDONLY)


def rename_noreplace(old: Dir, old_name: str, new: Dir, new_name: str) -> None:
    """Rename, and raise FileExistsError rather than replace anything."""
    done = _libc.renameat2(
        old.fd, os.fsencode(old_name), new.fd, os.fsencode(new_name), ctypes.c_uint(_RENAME_NOREPLACE)
    )
    if done == 0:
        return
    error = _oserror(new.path(new_name))
    if error.errno not in (errno.EINVAL, errno.ENOSYS):
        raise error
    # A filesystem without the flag. Nobody but us writes here this early, and entries are locked one by one.
    if new.lstat(new_name) is not None:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new.path(new_name))
    os.rename(old_name, new_name, src_dir_fd=old.fd, dst_dir_fd=new.fd)


def without_submounts(fd: int) -> int | None:
    """A descriptor of the same directory in a private copy of its mount, on which nothing else is mounted.

    What other mounts hide becomes visible and what they show does not, while btrfs subvolumes stay part of
    the tree, which ``cp --one-file-system`` would leave out. None where the kernel does not let us (a
    container).
    """
    clone = _libc.syscall(
        _SYS_OPEN_TREE, fd, b"", ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH)
    )
    if clone >= 0:
        return int(clone)
    if ctypes.get_errno() in (errno.EPERM, errno.ENOSYS, errno.EINVAL):
        return None
    raise _oserror(f"/proc/self/fd/{fd}")


def _openat2(at: int, path: str, flags: int, resolve: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    fd = _libc.syscall(
        _SYS_OPENAT2, at, os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
    )
    if fd < 0:
        raise _oserror(path)
    return int(fd)


def node_in_root(root: Dir, path: str) -> int | None:
    """An O_PATH descriptor of a path, its links followed as if ``root`` were ``/``; None if nothing is
    there."""
    try:
        return _openat2(root.fd, path, os.O_PATH, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    except (FileNotFoundError, NotADirectoryError):
        return None
