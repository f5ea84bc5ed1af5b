# SPDX-License-Identifier: LGPL-2.1-or-later
"""What QEMU says of itself (QMP): why the machine stopped, and that the host's disk is full."""

from __future__ import annotations

import json
from typing import Any

GREETING_ANSWER = b'{"execute": "qmp_capabilities"}\n'


class Events:
    """The events of QEMU that matter here, picked out of its lines."""

    def __init__(self) -> None:
        self.stopped = ""  # the reason of the machine's end, as QEMU names it
        self.disk_error = ""  # why the machine's disk takes no more, in words

    def heard(self, line: bytes) -> bytes:
        """One line; what is to be answered, if anything."""
        try:
            said: Any = json.loads(line)
        except ValueError:
            return b""
        if not isinstance(said, dict):
            return b""
        if "QMP" in said:
            return GREETING_ANSWER
        data = said.get("data", {})
        if said.get("event") == "SHUTDOWN":
            self.stopped = str(data.get("reason", ""))
        elif said.get("event") == "BLOCK_IO_ERROR" and data.get("action") == "stop":
            full = "no space is left on the host's filesystem"
            self.disk_error = full if data.get("nospace") else str(data.get("reason", "")) or "an I/O error"
        return b""


class Lines:
    """Lines out of what comes in pieces. A line that never ends is cut."""

    MOST = 64 << 10

    def __init__(self) -> None:
        self._rest = b""

    def rest(self) -> bytes:
        """What has no end yet."""
        return self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now, without their ends."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-self.MOST :]
        return [line.rstrip(b"\r") for line in whole]
