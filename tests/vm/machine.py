# SPDX-License-Identifier: LGPL-2.1-or-later
"""A virtual machine under test.

    with Machine(image) as machine:
        machine.add_disk("state", "2G", header=b"persist-please-format-me")
        machine.start()
        machine.wait_for_boot()
        assert "state" in machine.succeed("lsblk -no SERIAL")

Nothing here takes the end of QEMU for success: reboot and power-off are believed when QMP says that the guest
asked for them, and every verdict on a command is an answer of the agent to the question just asked.
"""

from __future__ import annotations

import os
import shutil
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from . import accel, disks
from .agent import Result
from .cache import WorkDir
from .disks import Attachment, Bus, Disk
from .errors import EmergencyMode, MachineError
from .image import Image
from .journal import Gate, lines, on_console
from .progress import note, step
from .qemu import Settings, clean
from .storage import Storage
from .system import COMMAND_SEC, GO, System

BOOT_SEC = 300.0
ANSWER_SEC = 30.0

_TRACES = {
    "journal": "journalctl -b -o short-monotonic --no-pager",
    "units": "systemctl --failed --no-pager; systemctl list-jobs --no-pager; findmnt",
}


def artifacts_dir() -> Path:
    """Where the traces of failures go."""
    default = Path(__file__).resolve().parents[2] / "build" / "vm-artifacts"
    return Path(os.environ.get("PERSIST_TEST_ARTIFACTS") or default)


class Machine(Storage, System):
    """One machine: its disks and console outlive its boots, until close()."""

    every: ClassVar[weakref.WeakSet[Machine]] = weakref.WeakSet()

    def __init__(
        self,
        image: Image,
        name: str = "machine",
        *,
        memory_mib: int = 1024,
        cpus: int = 1,
        command_line: str = "",
        credentials: Mapping[str, str] | None = None,
        extra: Sequence[str] = (),
        accelerator: str = "",
        buses: Sequence[Bus] = (),
    ) -> None:
        self.image = image
        self.name = name
        self._work = WorkDir(name)
        self.console_log = self._work.path / "console.log"
        self._settings = Settings(
            image.kernel,
            image.initrd,
            accelerator or accel.choose(image.kernel),
            command_line,
            memory_mib,
            cpus,
            dict(credentials or {}),
            tuple(extra),
            tuple(buses),
        )
        root = Disk("root", image.root, "raw")
        if image.variant == "rw":
            root = Disk("root", self._work.path / "root.qcow2")
            disks.create(root.path, "", backing=image.root)
        read_only = image.variant == "ro"
        super().__init__(self._work.path, Attachment(root, "virtio", disks.SLOT_ROOT, read_only, "root"))
        self._boot_id: str | None = None
        self._watch_emergency = True
        self._gate = Gate()
        self._read = 0  # of the console, by the gate
        self.every.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Exception):
                self.save_artifacts(self.name)
            elif error is None:
                self.judge()
        finally:
            self.close()

    # -- power

    def start(
        self,
        command_line: str = "",
        *,
        wait: bool = True,
        credentials: Mapping[str, str] | None = None,
        expect_emergency: bool = False,
        timeout: float = BOOT_SEC,
    ) -> None:
        """Switch on, and with WAIT stay until the agent answers.

        COMMAND_LINE and CREDENTIALS are added for this start only.
        """
        if self._qemu is not None:
            raise MachineError("the machine is already running")
        own = self._settings
        settings = replace(
            own,
            command_line=f"{own.command_line} {command_line}".strip(),
            credentials={**own.credentials, **(credentials or {})},
        )
        note(f"{self.name}: start ({settings.accel}) {settings.command_line}".rstrip())
        self._started_with = settings
        self._boot_id = None
        self._watch_emergency = not expect_emergency
        self._qemu = self._launch(settings)
        self._qemu.mark_boot(self._watch_emergency)
        if wait:
            self.wait_for_agent(timeout)

    def wait_for_agent(self, timeout: float = BOOT_SEC) -> None:
        """Wait until the agent of this boot answers: udev is up, the file systems may not be."""
        with step(f"{self.name}: waiting for the agent"):
            boot = self.qemu.agent.boot_id(timeout, self._boot_id)
        if boot is None:
            raise MachineError(f"no agent after {timeout:g} s\n{self.qemu.tail()}")
        self._boot_id = boot

    def wait_for_console(self, text: str, timeout: float = BOOT_SEC) -> None:
        """Wait until the console says something in this start, from before anybody else in the guest can."""
        deadline = time.monotonic() + timeout
        with step(f"{self.name}: waiting for '{text}' on the console"):
            while text not in self.qemu.console_text():
                self.qemu.check()
                if time.monotonic() > deadline:
                    raise MachineError(f"'{text}' was not said in {timeout:g} s\n{self.qemu.tail()}")
                time.sleep(0.1)

    def wait_for_boot(self, timeout: float = BOOT_SEC) -> str:
        """Wait until systemd has no job left and multi-user.target is up; return "running" or "degraded"."""
        deadline = time.monotonic() + timeout
        with step(f"{self.name}: waiting for multi-user.target"):
            while (left := deadline - time.monotonic()) > 0:
                # Not asked again and again: in software emulation each time costs what a service costs to
                # start.
                state = self.execute("systemctl is-system-running --wait", left)[1].strip()
                if state == "maintenance":
                    raise EmergencyMode(f"the machine is in maintenance mode\n{self.qemu.tail()}")
                if state in ("running", "degraded"):
                    self.succeed("systemctl is-active multi-user.target")
                    return state
                time.sleep(0.5)
        jobs = self.execute("systemctl list-jobs --no-pager")[1]
        raise MachineError(f"the boot did not end in {timeout:g} s; jobs:\n{jobs}\n{self.qemu.tail()}")

    def reboot(self, timeout: float = BOOT_SEC) -> None:
        """A clean reboot by the guest; returns when the agent of the new boot answers."""
        with step(f"{self.name}: reboot"):
            self.look()
            self.qemu.qmp.forget_events()
            self.succeed(GO.format("reboot"))
            self.wait_for_reset(timeout)
        self.wait_for_agent(timeout)

    def soft_reboot(self, timeout: float = BOOT_SEC) -> None:
        """PID 1 and all below it start anew, the kernel does not (systemd 254 and later)."""
        with step(f"{self.name}: soft reboot"):
            self.look()
            old = self.qemu.agent.instance(ANSWER_SEC)
            self.succeed("systemctl --no-block soft-reboot")
            if self.qemu.agent.instance(timeout, old) is None:
                raise MachineError(f"no other agent in {timeout:g} s\n{self.qemu.tail()}")
        count = self.succeed("systemctl show -p SoftRebootsCount --value").strip()
        assert count != "0", "the agent was started anew, PID 1 was not"

    def wait_for_reset(self, timeout: float = BOOT_SEC) -> None:
        """Wait until the guest resets the machine, whoever asked it to, and start it again.

        In a new QEMU: after a reset within one, software emulation takes twice as long to boot, and now and
        then the guest's kernel never gets past its clocks (seen with QEMU 7.2 and Debian 12's kernel).
        """
        self._power_event("guest-reset", timeout)
        self._end()
        assert self._started_with is not None
        self._qemu = self._launch(self._started_with)
        self._qemu.mark_boot(self._watch_emergency)

    def shutdown(self, timeout: float = BOOT_SEC) -> None:
        """A clean power-off by the guest; returns when QEMU has ended."""
        with step(f"{self.name}: power-off"):
            self.look()
            self.qemu.qmp.forget_events()
            self.succeed(GO.format("poweroff"))
            self.wait_for_poweroff(timeout)

    def wait_for_poweroff(self, timeout: float = BOOT_SEC) -> None:
        """Wait until the guest powers off, whoever asked it to, and let QEMU end."""
        self._power_event("guest-shutdown", timeout)
        self._end()

    def _end(self) -> None:
        status = self.qemu.quit()
        self._qemu = None
        if status != 0:
            raise MachineError(f"QEMU ended with status {status}")

    def _power_event(self, reason: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            event = self.qemu.qmp.take_event(lambda event: event["event"] == "SHUTDOWN", 0.5)
            if event is not None:
                data = event.get("data", {})
                if data.get("reason") != reason:
                    raise MachineError(f"waited for {reason}, got {data}\n{self.qemu.tail()}")
                return
            self.qemu.check()
        raise MachineError(f"no {reason} in {timeout:g} s\n{self.qemu.tail()}")

    def crash(self) -> None:
        """A power cut: QEMU is killed; what the guest had flushed is in the disks."""
        self.look()
        self._cut()

    def _cut(self) -> None:
        self.qemu.kill()
        self._qemu = None
        note(f"{self.name}: power cut")

    def kill_after(self, milliseconds: float, command: str = "") -> None:
        """A power cut MILLISECONDS from now, with COMMAND (if any) sent just before and not waited for."""
        if command:
            self.qemu.agent.post(command)
        time.sleep(milliseconds / 1000)
        self._cut()
        self._look_at_console()

    def snapshot(self, name: str, *, look: bool = True) -> None:
        """As Storage's. LOOK costs a second; without it what was said before counts after a restore."""
        if look:
            self.look()
        super().snapshot(name)

    def restore(self, name: str) -> None:
        """As Storage's."""
        if self.running:
            self.look()
        super().restore(name)
        self._read = len(self.console_text())

    # -- the journal gate -----------------------------------------------------------------------------------

    def expect(self, *what: str) -> None:
        """At the end of the test each of these was said, and no other warning of ours (journal.py)."""
        self._gate.expect(*what)

    def look(self) -> None:
        """Take in what the journal has of us at warning and above; of a dead machine the console."""
        try:
            answers = self.qemu.agent.boot_id(ANSWER_SEC) is not None
        except MachineError:
            answers = False
        if answers:
            self._gate.take(lines(self.succeed, this_boot=False))
            self._read = len(self.console_text())
        else:
            self._look_at_console()

    def _look_at_console(self) -> None:
        text = self.console_text()
        self._gate.take(on_console(text[self._read :]))
        self._read = len(text)

    def judge(self) -> None:
        """Raise UnexpectedLines unless the warnings of ours since the last time are the expected ones."""
        if self.running:
            self.look()
        self._gate.judge()

    def forget(self) -> None:
        """A test has failed: nothing of what was said until now counts."""
        self._gate.forget()

    # -- commands

    def run(self, command: str, timeout: float = COMMAND_SEC, data: bytes = b"") -> Result:
        """Run a command under bash in the guest, with DATA as its standard input, and return all about it."""
        return self.qemu.agent.run(command, timeout, data)

    # -- traces

    def console_text(self) -> str:
        """All that the console ever said, over all starts, without terminal escapes."""
        if not self.console_log.exists():
            return ""
        return clean(self.console_log.read_bytes())

    def save_artifacts(self, label: str) -> Path:
        """Save console, QEMU's messages and, if the agent still answers, the journal; say where."""
        target = artifacts_dir() / label
        target.mkdir(parents=True, exist_ok=True)
        for name in ("console.log", "qemu.log"):
            if (self._work.path / name).exists():
                shutil.copyfile(self._work.path / name, target / name)
        if self._qemu is not None and self._qemu.process.poll() is None:
            self._qemu.mark_boot(False)
            for name, command in _TRACES.items():
                try:
                    answers = self._qemu.agent.boot_id(5) is not None
                    text = self._qemu.agent.run(command, 20).text() if answers else "no agent\n"
                except MachineError as error:
                    text = f"not to be had: {error}\n"
                (target / f"{name}.txt").write_text(text, encoding="utf-8")
        note(f"{self.name}: traces of the failure are in {target}")
        return target

    def close(self) -> None:
        """Kill what runs and remove what is temporary."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu = None
        self.every.discard(self)
        self._work.close()
