# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel does for healing, which may take hours: how far it is, and what happens to the members
meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

from persist.errors import CommandError
from persist.system import btrfs
from persist.system.run import run
from persist.volume.members import in_kernel
from persist.volume.members.in_kernel import LiveDevice
from persist.volume.members.lost import mark_lost

Status = Callable[[str, str], None]
Watch = Callable[[list[LiveDevice]], None]
_POLL = 1.0  # seconds between two looks at how far the kernel is
_SHORT = 20  # the first ones come so much sooner


def progress(path: str, operation: str) -> str:
    """How far the kernel is, in its tools' words, '' where it does not say. Raises CommandError."""
    if operation == "device replace":
        return run("btrfs", "replace", "status", "-1", path).strip()
    if operation.startswith("balance"):
        return run("btrfs", "balance", "status", path, ok=(0, 1)).strip().rpartition("\n")[2]
    return ""


class KernelWork:
    """Long work on the volume that is mounted at ``path``.

    ``status('', text)`` is called while it goes on, and ``watch(lost)`` each second, with the members that
    went away since the last time and were marked; ``gone`` are those (by devid) that were away before.
    """

    def __init__(self, path: str, status: Status, watch: Watch) -> None:
        self.path = path
        self.uuid = btrfs.filesystem_uuid(path)
        self.status = status
        self.watch = watch
        self.gone: set[int] = set()

    def tick(self) -> None:
        """What cannot wait for the end of a step: whoever goes away now must not come back unnoticed. Raises
        OSError."""
        self.watch(mark_lost(self.uuid, in_kernel.glance(self.path), self.gone))
        in_kernel.level(in_kernel.glance(self.path))

    def operation(self) -> str:
        """What the kernel is doing, 'none' for nothing."""
        return btrfs.attribute(self.uuid, "exclusiveoperation") or "none"

    def run(self, text: str, *argv: str) -> None:
        """As follow(), of a program."""
        self.follow(text, lambda: run(*argv, timeout=None))

    def _say_progress(self, text: str) -> None:
        how_far = progress(self.path, self.operation())
        self.status("", f"{text}: {how_far}" if how_far else text)

    def follow(self, text: str, work: Callable[[], object], begun: Callable[[], None] = lambda: None) -> None:
        """Do what may take hours, and say how far it is; ``begun`` is called once the kernel is at it. Raises
        CommandError and OSError."""
        errors: list[CommandError | OSError] = []

        def body() -> None:
            try:
                work()
            except (CommandError, OSError) as e:
                errors.append(e)

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        busy = 0
        while True:
            thread.join(_POLL if busy > _SHORT else _POLL / _SHORT)
            if self.operation() != "none":
                busy += 1
                begun()
            self.tick()
            if not thread.is_alive():
                break
            if not busy:
                continue
            self._say_progress(text)
        if errors:
            raise errors[0]

    def wait(self, text: str) -> None:
        """Wait for what the kernel has begun already. Raises CommandError and OSError."""
        waiting = threading.Event()
        while self.operation() not in ("none", "balance paused"):
            self._say_progress(text)
            self.tick()
            waiting.wait(_POLL)
        self.tick()
