# SPDX-License-Identifier: LGPL-2.1-or-later
"""The throw-away machine while it runs: one QEMU, heard on three sockets that nobody else has."""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from persist.errors import PersistError
from persist.image.control import Events, Lines
from persist.image.machine import Machine, Sockets, command_line
from persist.image.waits import BOOT, DONE, STOP, WORK, Waits
from persist.system import run

_TAIL = 20  # lines of the console that are shown when something went wrong
_EVERY = 0.5
_DOING = {BOOT: "starting", WORK: "sealing", STOP: "powering off"}
# What a terminal would obey: colours, cursor, titles.
_ESCAPES = re.compile(r"\x1b(\[[0-9;?=]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][0-9A-B]|[=>c78M])|\r")
# (What is shown, whether it stays: else it is the state of a wait.)
Show = Callable[[str, bool], None]


class Guest:
    """A machine that has been started. close() ends it in any case. Raises CommandError without QEMU."""

    def __init__(self, machine: Machine, log: Path, waits: Waits, show: Show) -> None:
        self._waits, self._show, self._log = waits, show, log
        self._events = Events()
        self._console: deque[str] = deque(maxlen=_TAIL)
        self._console_lines = Lines()
        self._selector = selectors.DefaultSelector()
        pairs = {name: socket.socketpair() for name in ("port", "console", "control")}
        try:
            ends = Sockets(**{name: pair[1].fileno() for name, pair in pairs.items()})
            with log.open("wb") as out:
                fds = (ends.port, ends.console, ends.control)
                self._child = run.Child(*command_line(machine, ends), log=out.fileno(), pass_fds=fds)
        except BaseException:
            for ours, _ in pairs.values():
                ours.close()
            raise
        finally:
            for _, theirs in pairs.values():
                theirs.close()
        for name, (ours, _) in pairs.items():
            ours.setblocking(False)
            hear = {"port": self._port, "console": self._said, "control": self._control}[name]
            self._selector.register(
                ours, selectors.EVENT_READ, (hear, self._console_lines if name == "console" else Lines())
            )
        self._answer = pairs["control"][0]

    def watch(self) -> None:
        """Until the machine has powered off as it should. Raises GuestError where it does not, PersistError
        where QEMU or the host's disk fails."""
        while self._waits.state != DONE:
            ended = self._child.status() is not None
            self._hear(0 if ended else _EVERY)
            now = time.monotonic()
            if self._events.disk_error:
                raise PersistError(f"The machine cannot write to its disk: {self._events.disk_error}.")
            if ended:
                while self._hear(0):  # what it said last
                    pass
                self._ended(time.monotonic())
                return
            self._waits.check(now)
            doing = f"{_DOING[self._waits.state]}, {self._waits.waited(now):.0f} s"
            self._show(f"{doing}: {self._console[-1]}" if self._console else doing, False)

    def _ended(self, now: float) -> None:
        if not self._events.stopped:
            words = self._log.read_text(encoding="utf-8", errors="replace").strip().split("\n")[-1]
            raise PersistError(f"QEMU ended with status {self._child.status()}: {words or 'it said nothing'}")
        self._waits.gone(self._events.stopped, now)

    def _hear(self, wait: float) -> bool:
        """Take what has come; whether there was anything."""
        heard = False
        for key, _ in self._selector.select(wait):
            ours = key.fileobj
            assert isinstance(ours, socket.socket)
            try:
                data = ours.recv(65536)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                self._selector.unregister(ours)
                ours.close()
                continue
            heard = True
            hear, lines = key.data
            for line in lines.feed(data):
                hear(line)
        return heard

    def _port(self, line: bytes) -> None:
        shown = self._waits.heard(line.decode("utf-8", "replace"), time.monotonic())
        if shown:
            self._show(shown, True)

    def _said(self, line: bytes) -> None:
        text = _ESCAPES.sub("", line.decode("utf-8", "replace")).strip()
        if text:
            self._console.append(text)

    def _control(self, line: bytes) -> None:
        answer = self._events.heard(line)
        if answer:
            with suppress(OSError):  # QEMU has ended: its status tells
                self._answer.send(answer)

    def tail(self) -> list[str]:
        """The last lines of the console, also the one that has no end yet."""
        self._said(self._console_lines.rest())
        return list(self._console)

    def close(self) -> None:
        """SIGKILL to this QEMU, and its sockets closed: its disk is thrown away, or was written out."""
        self._child.end()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
