# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copy a tree with everything that belongs to it, and list what was copied.

cp(1) does the copying: it is the fastest there is (reflinks) and knows hard links, holes, ACLs, extended attributes,
file capabilities and time stamps. Flags of chattr(1) are not copied.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator

from ..errors import CommandError, PersistError
from ..record import Record, replace
from ..run import run
from .safepath import Dir, without_submounts

ATTEMPTS = 3
_FICLONE = 0x40049409  # linux/fs.h; another number on a few architectures, where nothing is a reflink then
_KINDS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFSOCK: "s",
          stat.S_IFCHR: "c", stat.S_IFBLK: "b"}


class Summary(Record, frozen=False):
    """How much there is in a tree, by name: a file with two names counts twice."""

    files: int = 0
    directories: int = 0
    others: int = 0
    bytes: int = 0
    allocated: int = 0  # on the disk; a copy elsewhere may differ

    def add(self, st: os.stat_result) -> None:
        """Count one more name."""
        if stat.S_ISREG(st.st_mode):
            self.files += 1
            self.bytes += st.st_size
            self.allocated += st.st_blocks * 512 // max(1, st.st_nlink)
        elif stat.S_ISDIR(st.st_mode):
            self.directories += 1
        else:
            self.others += 1

    def __str__(self) -> str:
        return f"{self.files} {'file' if self.files == 1 else 'files'}, {size(self.bytes)}"


class Source(Record):
    """Something to copy: an O_PATH descriptor, ``directory`` or ``file``, and what to call it."""

    fd: int
    kind: str
    label: str

    def path(self) -> str:
        """A path to it that holds as long as the descriptor does."""
        return f"/proc/self/fd/{self.fd}" + ("/." if self.kind == "directory" else "")

    def count(self, *, one_device: bool = False) -> Summary:
        """How much it is. What vanishes meanwhile raises FileNotFoundError."""
        if self.kind == "directory":
            return count(self.path(), one_device=one_device)
        summary = Summary()
        summary.add(os.fstat(self.fd))
        return summary

    def empty(self) -> bool:
        """Whether there is nothing in it."""
        if self.kind == "file":
            return os.fstat(self.fd).st_size == 0
        with os.scandir(self.path()) as entries:
            return next(entries, None) is None


def size(count: int) -> str:
    """A number of bytes for people."""
    if count < 1 << 20:
        return f"{count / 1024:.1f} KiB" if count >= 1024 else f"{count} bytes"
    return f"{count / (1 << 20):.1f} MiB"


def walk(top: str, *, one_device: bool = False) -> Iterator[tuple[str, os.stat_result]]:
    """Every name in a tree and the top itself (as ``""``), in an order that depends on nothing but the names."""
    first = os.stat(top) if top.endswith("/.") else os.lstat(top)
    todo = [("", first)]
    while todo:
        at, st = todo.pop()
        yield at, st
        if not stat.S_ISDIR(st.st_mode) or (one_device and st.st_dev != first.st_dev):
            continue
        with os.scandir(f"{top}/{at}" if at else top) as entries:
            found = [(e.name, e.stat(follow_symlinks=False)) for e in entries]
        found.sort(key=lambda pair: os.fsencode(pair[0]), reverse=True)
        todo.extend((f"{at}/{name}" if at else name, st) for name, st in found)


def count(top: str, *, one_device: bool = False) -> Summary:
    """Count what is in a tree; what vanishes meanwhile raises FileNotFoundError."""
    summary = Summary()
    for _name, st in walk(top, one_device=one_device):
        summary.add(st)
    return summary


def manifest(top: str) -> bytes:
    """One line of JSON for each name: path, kind, mode, uid, gid, size, mtime in ns.

    No digest of the content: size and time stamp tell a changed file from one that is as it was seeded, as they do for
    rsync, and reading every byte once more would double the time of a first boot.
    """
    lines = []
    for name, st in walk(top):
        kind = _KINDS[stat.S_IFMT(st.st_mode)]
        length = st.st_size if kind in ("f", "l") else 0
        lines.append(json.dumps([name, kind, f"{stat.S_IMODE(st.st_mode):04o}", st.st_uid, st.st_gid, length,
                                 st.st_mtime_ns]))
    return ("\n".join(lines) + "\n").encode("ascii")


def _watch(top: str, total: Summary, label: str, say: Callable[[str], None], done: threading.Event) -> None:
    """Report every few seconds how far a long copy is; it may take a tenth of the time and not more."""
    pause = 2.0
    while not done.wait(pause):
        start = time.monotonic()
        try:
            now = count(top)
        except OSError:
            # Not made yet, or a name went away under us: nothing to report this time.
            now = Summary()
        percent = min(99, now.bytes * 100 // total.bytes) if total.bytes else 0
        say(f"Copying {label}: {now.files} of {total.files} files, "
            f"{size(now.bytes)} of {size(total.bytes)} ({percent} %)")
        pause = max(2.0, 10 * (time.monotonic() - start))


def _cp(source: str, target: Dir, name: str, fds: tuple[int, ...], *extra: str) -> None:
    run("cp", "-a", "--reflink=auto", "--sparse=auto", *extra, "-T", "--", source, target.proc(name),
        timeout=None, pass_fds=fds)


def _changed(e: CommandError) -> bool:
    """Whether cp only complains about files that went away or were replaced while it read them."""
    lines = [line for line in e.stderr.split("\n") if line.strip()]
    return bool(lines) and all("No such file or directory" in x or "replaced while being copied" in x for x in lines)


def copy(source: Source, target: Dir, name: str, say: Callable[[str], None]) -> tuple[Summary, list[str]]:
    """Copy a source to a new name; returns what was copied and sentences about what could not be kept.

    Raises PersistError, the half copy removed, when there is no space or the source does not stand still.
    """
    clone = without_submounts(source.fd) if source.kind == "directory" else None
    own = source if clone is None else Source(clone, source.kind, source.label)
    try:
        return _copy(own, target, name, say, one_device=clone is None and source.kind == "directory")
    finally:
        if clone is not None:
            os.close(clone)


def _copy(
    source: Source, target: Dir, name: str, say: Callable[[str], None], *, one_device: bool
) -> tuple[Summary, list[str]]:
    extra = ["--preserve=mode,ownership,timestamps,links,xattr"]  # -a alone is silent about lost attributes
    extra += ["--one-file-system"] if one_device else []
    extra += ["-L"] if source.kind == "file" else []  # the descriptor's own link, and only that
    fds = (source.fd, target.fd)
    notes: list[str] = []
    for _attempt in range(ATTEMPTS):
        try:
            before = source.count(one_device=one_device)
        except FileNotFoundError:
            continue
        if not _fits(source, target, before):
            raise no_space(target, source.label, before)
        done = threading.Event()
        watch = threading.Thread(
            target=_watch, args=(target.proc(name), before, source.label, say, done), daemon=True)
        watch.start()
        try:
            _cp(source.path(), target, name, fds, *extra)
        except CommandError as e:
            target.remove(name)
            if "No space left on device" in e.stderr or "Disk quota exceeded" in e.stderr:
                raise no_space(target, source.label, before) from e
            if "Operation not supported" in e.stderr and extra[0].endswith(",xattr"):
                # tmpfs before Linux 6.6 has no user.* attributes; better the files without than no files.
                notes.append(f"The volume cannot keep some extended attributes of {source.label}.")
                extra[0] = extra[0].removesuffix(",xattr")
                continue
            if _changed(e):
                continue
            raise
        finally:
            done.set()
            watch.join()
        try:
            after = source.count(one_device=one_device)
        except FileNotFoundError:
            after = None
        copied = count(target.proc(name))
        if after is not None and replace(copied, allocated=0) == replace(after, allocated=0):
            return copied, notes
        target.remove(name)
    raise PersistError(
        f"{source.label} changes while it is copied; {ATTEMPTS} attempts were in vain.",
        hint="Find what writes there before persist-setup.target and order it after that.",
    )


def _reserve(volume: os.statvfs_result) -> int:
    """What has to stay free: a sixteenth, 64 MiB at most."""
    return min(64 << 20, volume.f_blocks * volume.f_frsize // 16)


def _reflinks(directory: Dir) -> bool:
    """Whether files of this filesystem can share their content. Tried, for XFS has it or not as it was made."""
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


def _fits(source: Source, target: Dir, needed: Summary) -> bool:
    """Whether a copy leaves room for others.

    Tried: a btrfs that was filled once, with all of it given to data, has no room for its metadata afterwards, even
    with the copy removed again and after a balance. One entry too large would cost all the others.
    """
    to, of = os.fstatvfs(target.fd), os.statvfs(source.path())
    if to.f_blocks == 0:
        return True  # a filesystem that does not say
    same = (to.f_blocks, to.f_bfree, to.f_bavail, to.f_files) == (of.f_blocks, of.f_bfree, of.f_bavail, of.f_files)
    if same and _reflinks(target):
        return True  # cp(1) shares what is on the disk
    names = needed.files + needed.directories + needed.others
    return needed.allocated + names * 512 + _reserve(to) <= to.f_bavail * to.f_frsize


def no_space(volume: Dir, label: str, needed: Summary) -> PersistError:
    """The error for a volume that is too small."""
    volume.sync_filesystem()  # what was just removed is free on btrfs only after this
    free = os.fstatvfs(volume.fd)
    return PersistError(
        f"The state volume has no room for {label}: {needed}, of which {size(needed.allocated)} are on the disk; "
        f"{size(free.f_bavail * free.f_frsize)} are free, and {size(_reserve(free))} have to stay so.",
        hint="Use a larger disk, keep the path by Method=overlay, or leave a part of it out with Method=image.",
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
