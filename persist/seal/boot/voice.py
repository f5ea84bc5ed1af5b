# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a seal boot is heard: on the console and on the port of the hypervisor, beside the journal, which is
gone with /run. Neither ever makes it wait: a port that nobody reads blocks whoever writes to it (tried, both
releases)."""

from __future__ import annotations

import os
from contextlib import suppress

from persist.note import safe

CONSOLE = "/dev/console"
PORTS = "/sys/class/virtio-ports"
PORT = "org.persist.seal"
_WRITE = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def port(name: str = PORT, ports: str = PORTS, dev: str = "/dev") -> str:
    """The node of a virtio port, '' where there is none. Not udev's link, which may not be made yet."""
    try:
        found = sorted(os.listdir(ports))
    except FileNotFoundError:
        return ""
    for each in found:
        with suppress(OSError), open(f"{ports}/{each}/name", encoding="ascii", errors="replace") as f:
            if f.read().strip() == name:
                return f"{dev}/{each}"
    return ""


def write(path: str, text: str) -> bool:
    """Write a line to a device; whether all of it went there. Nobody may be listening."""
    try:
        fd = os.open(path, _WRITE)
    except OSError:
        return False
    try:
        data = text.encode("utf-8", "backslashreplace")
        return os.write(fd, data) == len(data)
    except OSError:
        return False
    finally:
        os.close(fd)


class Voice:
    """Console and port. ``console`` and ``port_node`` are their nodes, '' for none."""

    def __init__(self, console: str = CONSOLE, port_node: str | None = None) -> None:
        self.console = console
        self._port = port_node

    def on_console(self, text: str) -> None:
        """Lines for people."""
        for line in text.split("\n"):
            write(self.console, f"persist-seal: {safe(line)}\r\n")

    def on_port(self, text: str) -> None:
        """A line for the hypervisor: "running", "success", "error: …" or "output: …"."""
        if self._port is None:
            self._port = port()
        if self._port:
            write(self._port, safe(text) + "\n")
