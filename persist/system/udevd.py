# SPDX-License-Identifier: LGPL-2.1-or-later
"""udevd without its library: whether there is one to talk to, what it is told, and what it is kept from.

In a chroot there is none for us, as for udevadm(8) itself, which says "Running in chroot, ignoring request"
and exits with 0: its socket and its database may be there, bound in from an initrd, and are another's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from persist.errors import PersistError
from persist.system import blockdev
from persist.system.run import run

CONTROL = "/run/udev/control"
QUEUE = "/run/udev/queue"  # there as long as udevd has something to do (udev_queue_is_empty(), 252 and 257)
_PATIENCE = 5.0  # seconds until udev is done with a disk, or we go on
_QUIET = 0.3  # seconds for which a queue has to be empty: what comes by inotify is in it a moment later
_STEP = 0.05


def in_chroot(proc: str = "/proc", root: str = "/") -> bool:
    """Whether our root is not that of PID 1, by the rule of systemd's running_in_chroot(): without /proc we
    are in a chroot (257), and where we may not look we are in none (both).

    That last is not rare: a service without CAP_SYS_PTRACE, as ours are, may not look at PID 1.
    """
    try:
        first, own = os.stat(f"{proc}/1/root"), os.stat(root)
    except OSError:
        return not os.path.exists(f"{proc}/self")
    return (first.st_dev, first.st_ino) != (own.st_dev, own.st_ino)


def runs(control: str = CONTROL, proc: str = "/proc", root: str = "/") -> bool:
    """Whether there is a udev to ask, and to tell about changes."""
    return os.path.exists(control) and not in_chroot(proc, root)


def trigger(*nodes: str) -> None:
    """Have udev look at devices again, where it runs. Raises CommandError."""
    if nodes and runs():
        run("udevadm", "trigger", "--action=change", *nodes)


def settle() -> None:
    """Wait until udev has done what our changes make it do: it reads new tables once our locks are released,
    and must not take the partitions away under a mount that comes next. Raises CommandError.

    From a chroot we see only whether the udevd outside is busy.
    """
    if runs():
        run("udevadm", "settle", "--timeout=30", ok=(0, 1))
    elif os.path.isdir(os.path.dirname(QUEUE)):
        idle(_PATIENCE)


def idle(
    timeout: float,
    queue: str = QUEUE,
    *,
    quiet: float = _QUIET,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether a udevd has nothing to do for ``quiet`` seconds on end, within ``timeout`` seconds. Where none
    runs, that is so."""
    began = since = clock()
    while True:
        now = clock()
        if os.path.exists(queue):
            since = now
        elif now - since >= quiet:
            return True
        if now - began >= timeout:
            return False
        sleep(_STEP)


@contextmanager
def without_udev(nodes: Iterable[str]) -> Iterator[None]:
    """Keep udev from looking at these devices, and telling the kernel about them: what it has begun is waited
    for, what comes waits for us."""
    with ExitStack() as stack:
        locked: set[str] = set()
        for node in nodes:
            try:
                disk = blockdev.whole(blockdev.by_node(node)).node
                if disk in locked:
                    continue
                locked.add(disk)
                fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                blockdev.lock(fd, disk, _PATIENCE)
            except (PersistError, OSError):
                continue  # it went away, or somebody has it; what comes next will say
        yield
