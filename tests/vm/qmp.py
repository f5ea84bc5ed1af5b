# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small synchronous QMP client."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import MachineError

Event = dict[str, Any]


class Qmp:
    """One QMP connection; events are collected while answers are awaited."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._pending = b""
        self._events: list[Event] = []
        self._closed = False

    def handshake(self) -> None:
        """Read the greeting and leave the negotiation mode."""
        self._read(lambda message: "QMP" in message, 20)
        self.command("qmp_capabilities")

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
        self._closed = True

    def command(self, name: str, timeout: float = 60, **arguments: Any) -> Any:
        """Send a command and return its value; names of arguments may write _ for -."""
        wanted = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            self._socket.sendall(json.dumps({"execute": name, "arguments": wanted}).encode() + b"\n")
        except OSError as error:
            raise MachineError(f"QMP {name}: QEMU is gone ({error})") from error
        reply = self._read(lambda message: "return" in message or "error" in message, timeout)
        if reply is None:
            raise MachineError(f"QMP {name}: no answer in {timeout:g} s")
        if "error" in reply:
            raise MachineError(f"QMP {name}: {reply['error'].get('desc', reply['error'])}")
        return reply["return"]

    def take_event(self, wanted: Callable[[Event], bool], timeout: float) -> Event | None:
        """Take the first event that fits, waiting for it at most TIMEOUT seconds."""
        deadline = time.monotonic() + timeout
        while True:
            for index, event in enumerate(self._events):
                if wanted(event):
                    return self._events.pop(index)
            left = deadline - time.monotonic()
            if left < 0 and timeout > 0:
                return None
            count = len(self._events)
            self._read(lambda message: "event" in message, max(left, 0), quiet=True)
            if len(self._events) == count and (timeout <= 0 or self._closed):
                return None

    def forget_events(self) -> None:
        """Drop what happened until now."""
        self.take_event(lambda event: False, 0)
        self._events.clear()

    def _read(self, wanted: Callable[[Event], bool], timeout: float, quiet: bool = False) -> Event | None:
        """The next message that fits; events are queued on the way. QUIET: the end of QEMU is no error."""
        deadline = time.monotonic() + timeout
        while True:
            while b"\n" in self._pending:
                line, self._pending = self._pending.split(b"\n", 1)
                message: Event = json.loads(line)
                if "event" in message:
                    self._events.append(message)
                if wanted(message):
                    return message
            ready, _, _ = select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            try:
                chunk = self._socket.recv(65536)
            except OSError:
                chunk = b""
            if not chunk:
                self._closed = True
                if quiet:
                    return None
                raise MachineError("QEMU closed its QMP connection")
            self._pending += chunk
