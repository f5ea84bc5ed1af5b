# SPDX-License-Identifier: LGPL-2.1-or-later
"""A booted system that a test runs commands in, whatever it runs on: a virtual machine or a container."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import chain, repeat

from .agent import Result
from .errors import CommandFailed

COMMAND_SEC = 60.0
# A look costs the guest up to 0.2 s: asked again and again it would take the machine away from what is waited
# for.
POLL_SEC = (0.3, 0.5, 0.7, 1.0)
# What logind does when it is asked; systemctl asks logind first, and waits for it long where it cannot start.
GO = "systemctl --no-block --job-mode=replace-irreversibly start {}.target"


class System(ABC):
    """What tests ask of a booted system. All of it is made of run()."""

    @abstractmethod
    def run(self, command: str, timeout: float = COMMAND_SEC, data: bytes = b"") -> Result:
        """Run a command under bash, with DATA as its standard input, and return all about it."""

    @abstractmethod
    def wait_for_boot(self) -> str:
        """Wait until the boot has ended, with a bound; return "running" or "degraded"."""

    @abstractmethod
    def shutdown(self) -> None:
        """A clean power-off; returns when it is off."""

    @abstractmethod
    def console_text(self) -> str:
        """All that the console ever said, over all starts, without terminal escapes."""

    def execute(self, command: str, timeout: float = COMMAND_SEC) -> tuple[int, str]:
        """Exit status and standard output of a command; status 124 when it was killed for its time."""
        result = self.run(command, timeout)
        return result.status, result.stdout.decode(errors="replace")

    def succeed(self, command: str, timeout: float = COMMAND_SEC) -> str:
        """The standard output of a command that must end with status 0."""
        result = self.run(command, timeout)
        if result.timed_out:
            raise CommandFailed(f"not done in {timeout:g} s: {command}\n{result.text()}")
        if result.status != 0:
            raise CommandFailed(f"status {result.status}: {command}\n{result.text()}")
        return result.stdout.decode(errors="replace")

    def fail(self, command: str, timeout: float = COMMAND_SEC) -> str:
        """Everything a command said that must end, and with another status than 0."""
        result = self.run(command, timeout)
        if result.timed_out or result.status == 0:
            verdict = "timed out" if result.timed_out else "succeeded"
            raise CommandFailed(f"{verdict}: {command}\n{result.text()}")
        return result.text()

    def wait_until(self, what: str, condition: Callable[[], bool], timeout: float = COMMAND_SEC) -> None:
        """Ask CONDITION again and again until it holds."""
        deadline = time.monotonic() + timeout
        pauses = chain(POLL_SEC, repeat(POLL_SEC[-1]))
        while not condition():
            if time.monotonic() > deadline:
                raise CommandFailed(f"not in {timeout:g} s: {what}")
            time.sleep(next(pauses))

    def wait_until_succeeds(self, command: str, timeout: float = COMMAND_SEC) -> str:
        """Run a command until it succeeds; its standard output then."""
        deadline = time.monotonic() + timeout
        pauses = chain(POLL_SEC, repeat(POLL_SEC[-1]))
        while True:
            result = self.run(command, max(1.0, deadline - time.monotonic()))
            if result.status == 0:
                return result.stdout.decode(errors="replace")
            if time.monotonic() > deadline:
                raise CommandFailed(f"no success in {timeout:g} s: {command}\n{result.text()}")
            time.sleep(next(pauses))

    def wait_for_unit(self, unit: str, timeout: float = COMMAND_SEC) -> None:
        """Wait until a unit is active; an error at once when it failed, or is inactive without a job."""
        deadline = time.monotonic() + timeout
        while True:
            show = self.succeed(f"systemctl show -p ActiveState,SubState,Result,Job,LoadState -- '{unit}'")
            state = dict(line.split("=", 1) for line in show.splitlines() if "=" in line)
            if state["ActiveState"] == "active":
                return
            hopeless = state["ActiveState"] == "inactive" and state.get("Job", "") in ("", "0")
            if state["ActiveState"] == "failed" or hopeless or time.monotonic() > deadline:
                status = self.execute(f"systemctl status -n 20 --no-pager -l -- '{unit}'")[1]
                raise CommandFailed(f"{unit} is {state['ActiveState']}:\n{status}")
            time.sleep(0.3)

    def write_file(self, path: str, data: bytes) -> None:
        """Write a file in the guest."""
        result = self.run(f"cat >'{path}'", COMMAND_SEC, data)
        if result.status != 0:
            raise CommandFailed(f"write {path}: {result.text()}")

    def read_file(self, path: str) -> bytes:
        """Read a file of the guest."""
        result = self.run(f"cat -- '{path}'")
        if result.status != 0:
            raise CommandFailed(f"read {path}: {result.text()}")
        return result.stdout
