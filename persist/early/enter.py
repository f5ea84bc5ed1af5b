# SPDX-License-Identifier: LGPL-2.1-or-later
"""/run, /dev, /proc and /sys of the initrd, put into the root that a stage was started in.

The initrd has opened them (``chroot ROOT … 3</run 4</dev 5</proc 6</sys``), so that none of its tools is
needed: Python starts without any of them, and its own system calls do the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from persist.errors import PersistError
from persist.system import newmount

# Where each goes, and the descriptor that the glue has opened. What is mounted below /run has to be seen by
# both, so it comes first.
TREES = (("/run", 3), ("/dev", 4), ("/proc", 5), ("/sys", 6))


@contextmanager
def entered(trees: Iterable[tuple[str, int]] = TREES) -> Iterator[None]:
    """Have the trees in their places as long as the context lasts.

    The first one is shared with the initrd's: what is mounted there stays when this copy goes. Raises
    PersistError where a place or a descriptor is missing; nothing is left in place then.
    """
    put: list[str] = []
    try:
        for path, fd in trees:
            try:
                if not put:
                    newmount.share(fd)
                newmount.attach_peer(fd, path)
            except OSError as e:
                raise PersistError(
                    f"Failed to bring {path} of the initrd into the root: {e.strerror}.",
                    hint=f"The root needs a directory {path}.",
                    PERSIST_PATH=path,
                ) from e
            put.append(path)
        yield
    finally:
        for path in reversed(put):
            # Private first: a shared copy would take along what is mounted below its peer.
            with suppress(OSError):  # what cannot be taken away goes with the root
                newmount.take_away(path)
