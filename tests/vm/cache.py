# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cache outside the checkout: things built once, under a key, and renamed into place when they are whole.

A key's lock file is held exclusively while its thing is built, and shared for as long as the process
that asked for it lives, so that pruning never takes away what another run still uses.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_held: dict[str, int] = {}


def cache_dir() -> Path:
    """The directory of the cache, made if it is not there."""
    path = Path(os.environ.get("PERSIST_TEST_CACHE") or "/var/cache/persist-tests")
    (path / "locks").mkdir(parents=True, exist_ok=True)
    return path


def digest(parts: Iterable[str | bytes]) -> str:
    """A short key for an ordered list of texts; where one ends and the next begins is part of it."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(b"%d:" % len(data))
        total.update(data)
    return total.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """The sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_lock(name: str) -> int:
    return os.open(cache_dir() / "locks" / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def obtain(kind: str, key: str, build: Callable[[Path], None], keep: int) -> Path:
    """Return the cached directory KIND-KEY; call BUILD on a temporary sibling if it is not there yet.

    At most KEEP directories of one kind stay, the least recently used go first.
    """
    name = f"{kind}-{key}"
    final = cache_dir() / name
    if name in _held and final.is_dir():
        os.utime(final)
        return final
    lock = _open_lock(name)
    try:
        _build_or_wait(final, lock, build)
        os.utime(final)
        fcntl.flock(lock, fcntl.LOCK_SH)
    except BaseException:
        os.close(lock)
        raise
    previous = _held.pop(name, None)
    if previous is not None:
        os.close(previous)
    _held[name] = lock
    _prune(kind, keep)
    return final


def _build_or_wait(final: Path, lock: int, build: Callable[[Path], None]) -> None:
    """Have FINAL there: built by us, or by whoever holds the lock. Who waited for the exclusive lock would
    wait for the end of the process that was quicker, for that keeps a shared one."""
    while True:
        fcntl.flock(lock, fcntl.LOCK_SH)  # waits while somebody builds
        if final.is_dir():
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(lock, fcntl.LOCK_UN)  # another one is at this very point
            time.sleep(random.uniform(0.01, 0.1))
            continue
        if not final.is_dir():
            _build(final, build)
        return


def _build(final: Path, build: Callable[[Path], None]) -> None:
    for stale in final.parent.glob(f".{final.name}.*"):
        shutil.rmtree(stale)
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        temporary.chmod(0o755)
        build(temporary)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _prune(kind: str, keep: int) -> None:
    found = sorted(cache_dir().glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[keep:]:
        lock = _open_lock(path.name)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


class WorkDir:
    """A private temporary directory; those that killed runs left behind are swept away on the way."""

    def __init__(self, prefix: str) -> None:
        parent = cache_dir() / "run"
        parent.mkdir(exist_ok=True)
        self._sweep(parent)
        self.path = Path(tempfile.mkdtemp(prefix=f"{prefix}.", dir=parent))
        self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @staticmethod
    def _sweep(parent: Path) -> None:
        for lock_path in parent.glob("*/.lock"):
            try:
                lock = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Between another run's mkdtemp and its flock is a moment without a lock: spare the young.
                if lock_path.stat().st_mtime < time.time() - 60:
                    shutil.rmtree(lock_path.parent, ignore_errors=True)
            except (BlockingIOError, FileNotFoundError):
                continue
            finally:
                os.close(lock)

    def close(self) -> None:
        """Remove the directory and all in it."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1
