# SPDX-License-Identifier: LGPL-2.1-or-later
"""One QEMU process: its command line, its sockets, its console."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import accel, disks
from .agent import Agent
from .disks import Attachment, Bus
from .errors import EmergencyMode, MachineError
from .qmp import Qmp

# Security modules as Debian has them, but for those that no unit here asks for: for bpf alone systemd 257
# loads a program at each boot. A dumb terminal is sent no sequences, and is asked nothing.
COMMAND_LINE = (
    "root=/dev/vda ro console=ttyS0,115200 printk.devkmsg=on loglevel=7 panic=0 mitigations=off TERM=dumb "
    "lsm=lockdown,capability,landlock,yama,apparmor,integrity,ima,evm "
    "systemd.show_status=1 systemd.log_color=0 systemd.log_location=0"
)

_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][0-9A-B]|[=>c78M])|\r")
_PANIC = re.compile(r"Kernel panic - not syncing.*")
_EMERGENCY = re.compile(
    r"You are in (emergency|rescue) mode|Cannot open access to console|\(initramfs\)|"
    r"Reached target .*(emergency|rescue)\.target|Reached target .*(Emergency|Rescue) Mode|"
    r"Press Enter for (emergency shell|maintenance)|dracut:/#"
)


@dataclass
class Settings:
    """What one start of QEMU is made of."""

    kernel: Path
    initrd: Path
    accel: str
    command_line: str = ""
    memory_mib: int = 1024
    cpus: int = 1
    credentials: dict[str, str] = field(default_factory=dict)
    extra: Sequence[str] = ()
    buses: Sequence[Bus] = ()


class Qemu:
    """A running QEMU; made of settings and what is plugged in at the start."""

    def __init__(
        self,
        settings: Settings,
        plugged: Sequence[Attachment],
        vmstate: Path,
        directory: Path,
        console: Path,
        paused: bool = False,
    ) -> None:
        self._directory = directory
        self._console = console
        self._console_start = console.stat().st_size if console.exists() else 0
        self._watch_emergency = False
        self._scanned = self._console_start
        for name in ("qmp", "agent", "console"):
            (directory / name).unlink(missing_ok=True)
        self._log = directory / "qemu.log"
        with self._log.open("ab") as log:
            # Should this process be killed, QEMU goes with it.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", accel.QEMU, *self._arguments(settings, plugged, vmstate)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_for_sockets()
            self.qmp = Qmp(directory / "qmp")
            self.qmp.handshake()
            self.agent = Agent(directory / "agent", self.check)
            if not paused:
                self.qmp.command("cont")
        except BaseException:
            self.kill()
            raise

    def _arguments(self, settings: Settings, plugged: Sequence[Attachment], vmstate: Path) -> list[str]:
        directory = self._directory
        sockets = ",server=on,wait=off"
        arguments = [
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "pc,usb=off,vmport=off",
            *accel.arguments(settings.accel),
            "-m",
            str(settings.memory_mib),
            "-smp",
            str(settings.cpus),
            "-action",
            "shutdown=pause,reboot=shutdown,panic=pause",
            "-S",
            "-kernel",
            str(settings.kernel),
            "-initrd",
            str(settings.initrd),
            "-append",
            f"{COMMAND_LINE} {settings.command_line}".strip(),
            "-qmp",
            f"unix:{directory / 'qmp'}{sockets}",
            "-chardev",
            f"socket,id=console,path={directory / 'console'}{sockets},logfile={self._console},logappend=on",
            "-serial",
            "chardev:console",
            "-device",
            f"virtio-serial-pci,id=ports,addr={disks.SLOT_SERIAL:#x}",
            "-chardev",
            f"socket,id=agent,path={directory / 'agent'}{sockets}",
            "-device",
            "virtserialport,bus=ports.0,chardev=agent,name=persist.agent",
            "-object",
            "rng-random,id=random,filename=/dev/urandom",
            "-device",
            f"virtio-rng-pci,rng=random,addr={disks.SLOT_RNG:#x}",
            "-blockdev",
            f"driver=qcow2,node-name=vmstate,file.driver=file,file.filename={vmstate}",
        ]
        for bus in settings.buses:
            arguments += ["-device", disks.CONTROLLERS[bus]]
        for attachment in plugged:
            arguments += ["-blockdev", json.dumps(attachment.blockdev())]
            arguments += ["-device", json.dumps(attachment.qdev())]
        for name, value in settings.credentials.items():
            escaped = f"io.systemd.credential:{name}={value}".replace(",", ",,")
            arguments += ["-smbios", f"type=11,value={escaped}"]
        return [*arguments, *settings.extra]

    def _wait_for_sockets(self) -> None:
        deadline = time.monotonic() + 20
        while not all((self._directory / name).exists() for name in ("qmp", "agent", "console")):
            self.check()
            if time.monotonic() > deadline:
                raise MachineError("QEMU does not open its sockets")
            time.sleep(0.02)

    def console_text(self, all_boots: bool = False) -> str:
        """What the console said since this QEMU was started, or since the machine was made."""
        if not self._console.exists():
            return ""
        with self._console.open("rb") as file:
            file.seek(0 if all_boots else self._console_start)
            return clean(file.read())

    def mark_boot(self, watch_emergency: bool) -> None:
        """A boot begins: from here the console is watched for panics, and for emergency mode if asked."""
        self._watch_emergency = watch_emergency
        self._scanned = self._console.stat().st_size if self._console.exists() else 0

    def check(self) -> None:
        """Raise when QEMU died, the kernel panicked, or the boot ended in emergency mode."""
        status = self.process.poll()
        if status is not None:
            said = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise MachineError(f"QEMU ended by itself with status {status}\n{said}\n{self.tail()}")
        if not self._console.exists():
            return
        size = self._console.stat().st_size
        if size <= self._scanned:
            return
        with self._console.open("rb") as file:
            file.seek(max(0, self._scanned - 200))
            text = clean(file.read(size - file.tell()))
        self._scanned = size
        panic = _PANIC.search(text)
        if panic:
            raise MachineError(f"{panic.group(0)}\n{self.tail()}")
        trouble = _EMERGENCY.search(text)
        if trouble and self._watch_emergency:
            raise EmergencyMode(f"the boot failed: {trouble.group(0)}\n{self.tail()}")

    def tail(self, lines: int = 40) -> str:
        """The end of the console, for messages."""
        return "console:\n    " + "\n    ".join(self.console_text().splitlines()[-lines:])

    def kill(self) -> None:
        """SIGKILL to this QEMU, and to nothing else."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for name in ("qmp", "agent"):
            connection = getattr(self, name, None)
            if connection is not None:
                connection.close()

    def quit(self, timeout: float = 20) -> int:
        """Let QEMU write out what it holds and end; its status."""
        try:
            self.qmp.command("quit")
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise MachineError("QEMU does not quit") from error
        finally:
            self.kill()


def clean(data: bytes) -> str:
    """Console bytes as text without terminal escapes."""
    return _ESCAPES.sub("", data.decode("utf-8", errors="replace"))
