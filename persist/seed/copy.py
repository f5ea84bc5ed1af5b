# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copy a tree with everything that belongs to it.

cp(1) does the copying: it is the fastest there is (reflinks) and knows hard links, holes, ACLs, extended
attributes, file capabilities and time stamps. Flags of chattr(1) are not copied.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable

from persist.errors import CommandError, PersistError
from persist.record import Record, replace
from persist.seed.tree import Progress, Summary, Watch, count, count_in_time, size, stalled
from persist.system.run import follow
from persist.system.safepath import Dir, without_submounts

ATTEMPTS = 3
Begin = Callable[[], None]
_FICLONE = 0x40049409  # linux/fs.h; another number on a few architectures, where nothing is a reflink then


class Source(Record):
    """Something to copy: an O_PATH descriptor, ``directory`` or ``file``, and what to call it."""

    fd: int
    kind: str
    label: str

    def path(self) -> str:
        """A path to it that holds as long as the descriptor does."""
        return f"/proc/self/fd/{self.fd}" + ("/." if self.kind == "directory" else "")

    def count(self, progress: Progress, *, one_device: bool = False) -> Summary:
        """How much it is. What vanishes meanwhile raises FileNotFoundError."""
        if self.kind == "directory":
            return count_in_time(self.path(), self.label, progress, one_device=one_device)
        summary = Summary()
        summary.add(os.fstat(self.fd))
        return summary

    def empty(self) -> bool:
        """Whether there is nothing in it."""
        if self.kind == "file":
            return os.fstat(self.fd).st_size == 0
        with os.scandir(self.path()) as entries:
            return next(entries, None) is None


def _cp(source: Source, target: Dir, name: str, watch: Watch, *extra: str) -> None:
    # -a opens nothing but regular files: a pipe or a device becomes one, and a link a link.
    try:
        follow(
            "cp",
            "-a",
            "--reflink=auto",
            "--sparse=auto",
            *extra,
            "-T",
            "--",
            source.path(),
            target.proc(name),
            tick=watch,
            pass_fds=(source.fd, target.fd),
        )
    except CommandError as e:
        if e.returncode == 124:
            raise stalled(source.label, watch.progress) from e
        raise


def _changed(e: CommandError) -> bool:
    """Whether cp only complains about files that went away or were replaced while it read them."""
    lines = [line for line in e.stderr.split("\n") if line.strip()]
    return bool(lines) and all(
        "No such file or directory" in x or "replaced while being copied" in x for x in lines
    )


def copy(
    source: Source,
    target: Dir,
    name: str,
    progress: Progress,
    begin: Begin | None = None,
    *,
    reserve: bool = True,
) -> tuple[Summary, list[str]]:
    """Copy a source to a new name; returns what was copied and sentences about what could not be kept.
    ``begin`` makes the directory of that name, where it is not to be an ordinary one; ``reserve``: leave room
    for others.

    Raises PersistError, the half copy removed, when there is no space or the source does not stand still.
    """
    clone = without_submounts(source.fd) if source.kind == "directory" else None
    own = source if clone is None else Source(clone, source.kind, source.label)
    more = _Asked(begin or (lambda: None), clone is None and source.kind == "directory", reserve)
    try:
        return _copy(own, target, name, progress, more)
    finally:
        if clone is not None:
            os.close(clone)


class _Asked(Record):
    """How a copy is made."""

    begin: Begin
    one_device: bool
    reserve: bool


def _copy(
    source: Source, target: Dir, name: str, progress: Progress, asked: _Asked
) -> tuple[Summary, list[str]]:
    one_device = asked.one_device
    extra = ["--preserve=mode,ownership,timestamps,links,xattr"]  # -a alone is silent about lost attributes
    extra += ["--one-file-system"] if one_device else []
    extra += ["-L"] if source.kind == "file" else []  # the descriptor's own link, and only that
    notes: list[str] = []
    for _attempt in range(ATTEMPTS):
        try:
            before = source.count(progress, one_device=one_device)
        except FileNotFoundError:
            continue
        if not _fits(source, target, before, reserve=asked.reserve):
            raise no_space(target, source.label, before)
        asked.begin()
        try:
            _cp(source, target, name, Watch(target.proc(name), before, source.label, progress), *extra)
        except CommandError as e:
            target.remove(name)
            if "No space left on device" in e.stderr or "Disk quota exceeded" in e.stderr:
                raise no_space(target, source.label, before) from e
            if "Operation not supported" in e.stderr and extra[0].endswith(",xattr"):
                # tmpfs before Linux 6.6 has no user.* attributes; better the files without than no files.
                notes.append(f"The state volume does not support some extended attributes of {source.label}.")
                extra[0] = extra[0].removesuffix(",xattr")
                continue
            if _changed(e):
                continue
            raise
        try:
            after = source.count(progress, one_device=one_device)
        except FileNotFoundError:
            after = None
        copied = count(target.proc(name))
        if after is not None and replace(copied, allocated=0) == replace(after, allocated=0):
            return copied, notes
        target.remove(name)
    raise PersistError(
        f"{source.label} changed while it was copied, {ATTEMPTS} times.",
        hint="Order what writes there after persist-setup.target.",
    )


def _reserve(volume: os.statvfs_result) -> int:
    """What has to stay free: a sixteenth, 64 MiB at most."""
    return min(64 << 20, volume.f_blocks * volume.f_frsize // 16)


def _reflinks(directory: Dir) -> bool:
    """Whether files of this filesystem can share their content. Tried, for XFS has it or not as it was
    made."""
    fds = []
    try:
        for _ in range(2):
            fds.append(os.open(directory.proc(), os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600))
        fcntl.ioctl(fds[1], _FICLONE, fds[0])
    except OSError:
        return False  # whatever the reason: the copy needs its own room then
    finally:
        for fd in fds:
            os.close(fd)
    return True


def _fits(source: Source, target: Dir, needed: Summary, *, reserve: bool) -> bool:
    """Whether a copy leaves room for others.

    Tried: a btrfs that was filled once, with all of it given to data, has no room for its metadata
    afterwards, even with the copy removed again and after a balance. One entry too large would cost all the
    others.
    """
    to, of = os.fstatvfs(target.fd), os.statvfs(source.path())
    if to.f_blocks == 0:
        return True  # a filesystem that does not say
    same = (to.f_blocks, to.f_bfree, to.f_bavail, to.f_files) == (
        of.f_blocks,
        of.f_bfree,
        of.f_bavail,
        of.f_files,
    )
    if same and _reflinks(target):
        return True  # cp(1) shares what is on the disk
    names = needed.files + needed.directories + needed.others
    room = _reserve(to) if reserve else 0
    return needed.allocated + names * 512 + room <= to.f_bavail * to.f_frsize


def no_space(volume: Dir, label: str, needed: Summary) -> PersistError:
    """The error for a volume that is too small."""
    volume.sync_filesystem()  # what was just removed is free on btrfs only after this
    free = os.fstatvfs(volume.fd)
    return PersistError(
        f"The state volume has no room for {label}: {needed}, of which {size(needed.allocated)} are on the "
        "disk; "
        f"{size(free.f_bavail * free.f_frsize)} are free, and {size(_reserve(free))} have to stay free.",
        hint="Use a larger disk, keep the path by Method=overlay, or leave a part of it out with "
        "Method=image.",
        message_id="SEED_FAILED",
    )


def copy_attributes(source: Source, target: Dir) -> list[str]:
    """Give an open directory owner, mode, ACLs, extended attributes and times of a source directory.

    Returns the names of attributes that the filesystem does not take.
    """
    st = os.stat(source.path())
    lost = []
    os.fchown(target.fd, st.st_uid, st.st_gid)
    os.fchmod(target.fd, stat.S_IMODE(st.st_mode))
    for name in sorted(os.listxattr(source.path())):
        if name.startswith(("trusted.overlay.", "user.overlay.")):
            continue  # they would tell overlayfs something about the new layer
        try:
            os.setxattr(target.fd, name, os.getxattr(source.path(), name))
        except OSError as e:
            if e.errno != errno.ENOTSUP:
                raise
            lost.append(name)
    os.utime(target.fd, ns=(st.st_atime_ns, st.st_mtime_ns))
    return lost
