# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a boot does without its volume: Fallback= of persist.conf."""

from __future__ import annotations

import errno
import os

from persist.boot import paths
from persist.boot.config import Config
from persist.boot.paths import IMAGE, VOLUME
from persist.errors import PersistError
from persist.note import ERR, INFO, WARNING, Note, Say
from persist.system import newmount
from persist.system.run import run
from persist.volume.mount import binds
from persist.volume.ondisk import store
from persist.volume.outcome import Outcome

_LEAVE = "This boot does without its state volume"


def _has_symlinks() -> bool:
    """Whether an entry needs a place to link to even where the root keeps everything anyway."""
    from persist.boot import registry

    return any(e.method == "symlink" for e in registry.load("", []).entries)


def _mount_tmpfs() -> None:
    """Stand in for the volume with memory: lost at power-off. Raises PersistError and OSError."""
    os.makedirs(VOLUME, 0o755, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"mode=0711,size=50%,{newmount.DATA}", "tmpfs", VOLUME)
    store.make(VOLUME)


def _mount_root_directory() -> None:
    """Stand in for the volume with a directory of the root filesystem, as it is below whatever is mounted on
    it.

    Raises PersistError and OSError (a read-only root).
    """
    directory = IMAGE + paths.ROOT_STORE
    os.makedirs(directory, 0o755, exist_ok=True)
    store.make(directory)
    os.makedirs(VOLUME, 0o755, exist_ok=True)
    newmount.bind(directory, VOLUME, options=newmount.DATA)


def tmpfs(result: Outcome, say: Say) -> None:
    """Memory takes the place of the volume. Raises PersistError and OSError."""
    _mount_tmpfs()
    result.kind = "tmpfs"
    say(
        Note(
            WARNING,
            f"{_LEAVE}: what is written now is lost at power-off. {result.message}",
            "FALLBACK",
            {"PERSIST_REASON": result.reason},
        )
    )


def _root(result: Outcome, say: Say) -> None:
    try:
        binds.bind_image()
        if result.root_read_only:
            # The mount is, whatever the filesystem below it would take: IMAGE has no flag of its own.
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), paths.ROOT_STORE)
        _mount_root_directory()
    except (PersistError, OSError) as e:
        say(
            Note(
                ERR,
                f"State cannot be kept in {paths.ROOT_STORE} of the root filesystem: {e}",
                "FALLBACK",
                {"PERSIST_REASON": "root-store"},
            )
        )
        if result.root_read_only:
            tmpfs(result, say)
        return
    result.kind = "root"
    kept = "state is kept in" if result.root_kept else "state is in"
    lost = "" if result.root_kept else f", which is {result.root_memory}, and lost at power-off"
    say(
        Note(
            INFO if result.root_kept else WARNING,
            f"{_LEAVE}: {kept} {paths.ROOT_STORE} of the root filesystem{lost}.",
            "FALLBACK",
            {"PERSIST_REASON": result.reason},
        )
    )


def policy(config: Config, result: Outcome) -> str:
    """What Fallback= means on this boot: tmpfs, root, none or fail."""
    if config.fallback == "auto":
        return "tmpfs" if not result.root_kept else "root" if _has_symlinks() else "none"
    return config.fallback


def fall_back(config: Config, result: Outcome, say: Say) -> int:
    """Do what Fallback= says; returns the exit status of the service. Raises PersistError and OSError."""
    how = policy(config, result)
    if how == "tmpfs":
        tmpfs(result, say)
    elif how == "root":
        _root(result, say)
    elif how == "fail":
        say(
            Note(
                ERR,
                f"{_LEAVE}, which Fallback=fail does not allow. {result.message}",
                "FALLBACK",
                {"PERSIST_REASON": result.reason},
            )
        )
        return 1
    return 0
