# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-regenerate.service: on a machine that was cloned from a sealed one, make anew what nobody else
does: ssh host keys, NVMe names, the snakeoil key (persist/seal/again.py has the list).

An item counts as done when its command has ended well and its files were synced, and leaves the list; the
list goes last. So a cut is resumed, and so is an item that failed, at the next boot.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from persist import log
from persist.errors import PersistError
from persist.seal import again
from persist.seal.again import Again
from persist.system.run import run

Access = Callable[[str, int], bool]

_MOST = 1 << 20  # bytes of a list that are read


def _read(path: str) -> bytes:
    """The list. It says what root runs, so nobody else may have written it. Raises OSError, PersistError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as f:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode) or st.st_uid != os.geteuid() or st.st_mode & 0o022:
            raise PersistError(
                f"'{path}' is not a file that root alone can write, so none of it is run.",
                hint="Look at what it says, then remove it.",
                message_id="REGENERATE_FAILED",
                PERSIST_PATH=path,
            )
        return f.read(_MOST)


def _write(path: str, items: list[Again]) -> None:
    """Make the list say what is left, so that a cut sees the old or the new one. Raises OSError."""
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if items:
            temporary = f"{path}.tmp"
            with open(temporary, "wb") as f:
                os.fchmod(f.fileno(), 0o600)
                f.write(again.dump(items))
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        else:
            os.unlink(path)
        os.fsync(directory)
    finally:
        os.close(directory)


def _missing(item: Again) -> list[str]:
    """The paths of an item that are not there, or hold nothing: what a cut has left of a key is an empty
    file, which no program takes, and which many take for a reason not to make one."""
    return [path for path in item.paths if not _holds_something(path)]


def _holds_something(path: str) -> bool:
    try:
        st = os.stat(path)
        return bool(os.listdir(path)) if stat.S_ISDIR(st.st_mode) else st.st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def _take_away_what_is_empty(paths: list[str]) -> None:
    for path in paths:
        real = os.path.realpath(path)
        if os.path.isfile(real) and not os.path.getsize(real):
            os.unlink(real)


def _make(item: Again, access: Access) -> None:
    """Run one item, unless its files are there. Raises OSError, PersistError."""
    if not item.anyway and item.paths and not _missing(item):
        return
    what = ", ".join(item.paths)
    log.notify_status(f"Making anew: {what}")
    if not item.anyway:
        _take_away_what_is_empty(_missing(item))
    run(*item.command)
    os.sync()
    left = _missing(item)
    closed = next((d for d in map(os.path.dirname, left) if not access(d, os.W_OK)), "")
    if closed:
        # ssh-keygen(1) ends well all the same.
        raise PersistError(f"'{closed}' takes no writes.")
    fields = {"PERSIST_PATH": what, "PERSIST_SOURCE": item.source}
    if left:
        # A key of a type that the program of today does not make any more; running it again would not help.
        log.log(
            log.WARNING,
            f"'{' '.join(item.command)}' has not made {', '.join(left)} ({item.source}).",
            "REGENERATE_FAILED",
            **fields,
        )
    else:
        log.log(
            log.NOTICE,
            f"Made anew for this machine, which was cloned from a sealed one: {what}.",
            "REGENERATED",
            **fields,
        )


def main(path: str = again.PATH, access: Access = os.access) -> int:
    """Work the list off; returns the exit status of the service, 1 where something could not be made.
    ``access``: as access(2)."""
    try:
        items, wrong = again.parse(_read(path))
    except FileNotFoundError:
        return 0
    except (OSError, PersistError) as e:
        log.log(log.ERR, str(e), "REGENERATE_FAILED", PERSIST_PATH=path)
        return 1
    for text in wrong:
        log.log(log.ERR, f"{path}: {text}, ignoring the line.", "REGENERATE_FAILED", PERSIST_PATH=path)
    todo, failed = list(items), []
    while todo:
        item = todo.pop(0)
        try:
            _make(item, access)
        except (OSError, PersistError) as e:
            failed.append(item)
            log.log(
                log.ERR,
                f"Failed to make anew {', '.join(item.paths)} ({item.source}): {e} It is tried again at the "
                "next boot.",
                "REGENERATE_FAILED",
                PERSIST_PATH=", ".join(item.paths),
                PERSIST_SOURCE=item.source,
            )
            continue
        if todo or failed:
            _note(path, [*failed, *todo])
    if not failed:
        _note(path, [])
    return 1 if failed or wrong else 0


def _note(path: str, items: list[Again]) -> None:
    """As _write(); where it cannot be written the items run once more at the next boot, which is said."""
    try:
        _write(path, items)
    except OSError as e:
        log.log(log.ERR, f"Failed to write {path}: {e.strerror}.", "REGENERATE_FAILED", PERSIST_PATH=path)
