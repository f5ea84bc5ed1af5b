# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a boot does without its volume: Fallback= of persist.conf."""

from __future__ import annotations

from persist import log
from persist.boot import paths
from persist.boot.config import Config
from persist.errors import PersistError
from persist.volume.mount import btrfs_mount
from persist.volume.outcome import Outcome

_LEAVE = "This boot does without its state volume"


def _has_symlinks() -> bool:
    """Whether an entry needs a place to link to even where the root keeps everything anyway."""
    from persist.boot import registry

    return any(e.method == "symlink" for e in registry.load("", []).entries)


def tmpfs(result: Outcome) -> None:
    """Memory takes the place of the volume. Raises PersistError and OSError."""
    btrfs_mount.mount_tmpfs()
    result.kind = "tmpfs"
    log.log(
        log.WARNING,
        f"{_LEAVE}: what is written now is lost at power-off. {result.message}",
        "FALLBACK",
        PERSIST_REASON=result.reason,
    )


def _root(result: Outcome) -> None:
    try:
        btrfs_mount.bind_image()
        btrfs_mount.mount_root_directory()
    except (PersistError, OSError) as e:
        log.log(
            log.ERR,
            f"State cannot be kept in {paths.ROOT_STORE} of the root filesystem: {e}",
            "FALLBACK",
            PERSIST_REASON="root-store",
        )
        if result.root_read_only:
            tmpfs(result)
        return
    result.kind = "root"
    if result.root_kept:
        log.log(
            log.INFO,
            f"{_LEAVE}: state is kept in {paths.ROOT_STORE} of the root filesystem.",
            "FALLBACK",
            PERSIST_REASON=result.reason,
        )
    else:
        log.log(
            log.WARNING,
            f"{_LEAVE}: state is in {paths.ROOT_STORE} of the root filesystem, which is "
            f"{result.root_memory}, and lost at power-off.",
            "FALLBACK",
            PERSIST_REASON=result.reason,
        )


def policy(config: Config, result: Outcome) -> str:
    """What Fallback= means on this boot: tmpfs, root, none or fail."""
    if config.fallback == "auto":
        return "tmpfs" if not result.root_kept else "root" if _has_symlinks() else "none"
    return config.fallback


def fall_back(config: Config, result: Outcome) -> int:
    """Do what Fallback= says; returns the exit status of the service. Raises PersistError and OSError."""
    how = policy(config, result)
    if how == "tmpfs":
        tmpfs(result)
    elif how == "root":
        _root(result)
    elif how == "fail":
        log.log(
            log.ERR,
            f"{_LEAVE}, and Fallback=fail says that it must not. {result.message}",
            "FALLBACK",
            PERSIST_REASON=result.reason,
        )
        return 1
    return 0
