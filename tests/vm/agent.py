# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's side of the guest agent."""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import MachineError

SLICE_SEC = 0.5
# How much longer than the guest's own time-out the host waits for its answer.
GRACE_SEC = 30.0


@dataclass(frozen=True)
class Result:
    """What a command in the guest did."""

    status: int
    stdout: bytes
    stderr: bytes
    timed_out: bool

    def text(self) -> str:
        """Standard output, then standard error, for messages."""
        return (self.stdout + self.stderr).decode(errors="replace")


class Agent:
    """A connection to the agent's port; WATCH is called often while waiting and raises when all is lost."""

    def __init__(self, path: Path, watch: Callable[[], None]) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._watch = watch
        self._pending = bytearray()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def run(self, command: str, timeout: float, data: bytes = b"") -> Result:
        """Run a shell command in the guest and return what it did."""
        nonce = self.post(command, timeout, data)
        reply = self._await(nonce, timeout + GRACE_SEC)
        if reply is None:
            raise MachineError(f"the agent did not answer in {timeout + GRACE_SEC:g} s: {command}")
        if "error" in reply:
            raise MachineError(f"the agent failed: {reply['error']}: {command}")
        if reply["status"] is None:
            raise MachineError(f"the command cannot be killed: {command}")
        return Result(
            reply["status"],
            base64.b64decode(reply["stdout"]),
            base64.b64decode(reply["stderr"]),
            reply["timed_out"],
        )

    def post(self, command: str, timeout: float = 3600, data: bytes = b"") -> str:
        """Send a command without waiting for its answer; return its nonce."""
        return self._send({"command": command, "timeout": timeout, "stdin": base64.b64encode(data).decode()})

    def boot_id(self, timeout: float, other_than: str | None = None) -> str | None:
        """The id of the boot that answers first and is another one, or None when none does in time."""
        return self._ping("boot_id", timeout, other_than)

    def instance(self, timeout: float, other_than: str | None = None) -> str | None:
        """As boot_id(), of the process in the guest: a soft reboot kills it, and the command that it runs is
        never answered."""
        return self._ping("agent", timeout, other_than)

    def _ping(self, what: str, timeout: float, other_than: str | None) -> str | None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            reply = self._await(self._send({}), min(3.0, max(0.1, deadline - time.monotonic())))
            if reply is not None and reply.get(what) not in (None, other_than):
                return str(reply[what])
        return None

    def _send(self, request: dict[str, Any]) -> str:
        nonce = os.urandom(8).hex()
        line = f"\n{nonce} {base64.b64encode(json.dumps(request).encode()).decode()}\n".encode()
        view = memoryview(line)
        self._socket.setblocking(False)
        while view:
            _, writable, _ = select.select([], [self._socket], [], SLICE_SEC)
            self._watch()
            if writable:
                try:
                    view = view[self._socket.send(view) :]
                except OSError as error:
                    raise MachineError(f"the agent's port is gone: {error}") from error
        return nonce

    def _await(self, nonce: str, timeout: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + timeout
        wanted = nonce.encode()
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            ready, _, _ = select.select([self._socket], [], [], min(SLICE_SEC, left))
            if not ready:
                self._watch()
                continue
            try:
                chunk = self._socket.recv(1 << 20)
            except OSError as error:
                raise MachineError(f"the agent's port is gone: {error}") from error
            if not chunk:
                self._watch()
                raise MachineError("the agent's port was closed")
            start = len(self._pending)
            self._pending += chunk
            if b"\n" not in chunk:
                continue
            end = self._pending.rindex(b"\n", start)
            lines = bytes(self._pending[:end]).split(b"\n")
            del self._pending[: end + 1]
            for line in lines:
                words = line.split()
                if len(words) == 2 and words[0] == wanted:
                    reply: dict[str, Any] = json.loads(base64.b64decode(words[1]))
                    return reply
