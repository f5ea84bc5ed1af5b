# SPDX-License-Identifier: LGPL-2.1-or-later
"""A booted container: systemd-nspawn in namespaces of its own, so that nothing of it outlives this process.

    with Container(tree, "name", files={...}) as one:
        one.start()
        one.wait_for_boot()
        one.succeed("persistctl status")

With ``machine=True`` the system is not told that it is in a container, for persist does nothing in one: an
init of ours takes the signs away, runs the stage before PID 1 as persist-init does (with ``stage=False`` it
does not), and becomes PID 1. The kernel command line is the test's. There is no udev either way: /sys is
read-only, for it is that of the whole machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.vm.agent import Result
from tests.vm.cache import WorkDir
from tests.vm.errors import EmergencyMode, MachineError
from tests.vm.machine import artifacts_dir
from tests.vm.progress import note
from tests.vm.qemu import clean
from tests.vm.system import COMMAND_SEC, GO, System

from .cgroups import Cgroups
from .tree import write

BOOT_SEC = 60.0
OFF_SEC = 60.0
GRACE_SEC = 15.0
ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb")
OURS = "usr/lib/persist-test"
CREDENTIALS = f"{OURS}/credentials"  # files there are credentials of the system

# PID 1 takes a variable that is empty for "no container" (tried, 252 and 257). Others only see that it is
# there, or ask systemd-detect-virt.
INIT = """#!/bin/sh
umount -R /run/host
rm -rf /run/host
cp /usr/lib/persist-test/cmdline /run/persist-test-cmdline
mount --bind /run/persist-test-cmdline /proc/cmdline
ln -s console /dev/kmsg
{stage}
rm /dev/kmsg
given=/usr/lib/persist-test/credentials
[ ! -d $given ] || credentials=CREDENTIALS_DIRECTORY=$given
PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb
exec env -i container= $credentials "PATH=$PATH" "LANG=$LANG" "TERM=$TERM" /usr/lib/systemd/systemd
"""
STAGE = "env -u container /usr/lib/persist/persist-service early here"
# Its uptime is that of the whole machine, which may have been on for longer than OnBootSec= says.
TIMER = "[Timer]\nOnBootSec=\nOnActiveSec=15min\nOnUnitInactiveSec=1h\n"
NO_CONTAINER = """#!/bin/sh
echo none
exit 1
"""
# A /run of its own is for what nspawn leaves in there.
START = """
work=$1 tree=$2
shift 2
while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs"; shift; done
shift
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t overlay -o "lowerdir=$tree,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
exec systemd-nspawn --quiet --register=no --keep-unit --console=read-only --resolv-conf=off --timezone=off \\
    --link-journal=no --machine=persist-test --directory="$work/root" "$@"
"""
TRACES = {
    "journal": "journalctl -b -o short-monotonic --no-pager",
    "units": "systemctl --failed --no-pager; systemctl list-jobs --no-pager; findmnt",
}


class Container(System):
    """One system: what it writes to its root outlives its boots, until close().

    FILES are absolute paths with their text, as in tree.write().
    """

    def __init__(
        self,
        tree: Path,
        name: str,
        *,
        files: Mapping[str, str] | None = None,
        machine: bool = True,
        stage: bool = True,
        read_only: bool = False,
    ) -> None:
        self.name = name
        self._tree, self._is_machine, self._read_only = tree, machine, read_only
        self._work = WorkDir(f"nspawn-{name}")
        self.console_log = self._work.path / "console.log"
        for part in ("upper", "work", "root"):
            (self._work.path / part).mkdir(mode=0o755)
        self.stage = stage  # may be another at the next start
        signs = {"usr/bin/systemd-detect-virt": NO_CONTAINER} if machine else {}
        timer = {"etc/systemd/system/persist-heal.timer.d/uptime.conf": TIMER}
        write(self.own, {**signs, **timer, **(files or {})})
        self._process: subprocess.Popen[bytes] | None = None
        self._cgroups: Cgroups | None = None
        self._console: IO[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def own(self) -> Path:
        """What it has written to its root, and FILES: what a test may change while it is off."""
        return self._work.path / "upper"

    @property
    def running(self) -> bool:
        """Whether it is on."""
        return self._process is not None and self._process.poll() is None

    # -- power

    def start(self, command_line: str = "", devices: Sequence[str] = ()) -> None:
        """Switch on, and return at once. COMMAND_LINE, of a machine, and nodes in /dev are for this start."""
        if self._process is not None:
            raise MachineError("it is running already")
        init = INIT.format(stage=STAGE if self.stage else ":")
        cmdline = f"quiet systemd.show_status=1 {command_line}\n"
        write(self.own, {f"{OURS}/init": init, f"{OURS}/cmdline": cmdline})
        what = [f"/{OURS}/init"] if self._is_machine else ["--boot"]
        options = [*(["--read-only"] if self._read_only else []), *(f"--bind={node}" for node in devices)]
        self._cgroups = Cgroups(self._work.path.name)
        self._console = self.console_log.open("ab")
        # Should this process be killed, unshare goes with it, and the whole process namespace with that.
        argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--net", "--fork"]
        argv += ["--kill-child=KILL", "--mount-proc", "--propagation", "private", "sh", "-ec", START, "sh"]
        argv += [
            str(self._work.path),
            str(self._tree),
            *map(str, self._cgroups.groups),
            "--",
            *options,
            *what,
        ]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=self._console, stderr=subprocess.STDOUT
        )
        self._leader = 0

    def wait_for_boot(self, timeout: float = BOOT_SEC) -> str:
        """Wait until systemd has no job left and multi-user.target is up; return "running" or "degraded"."""
        deadline = time.monotonic() + timeout
        self._wait_for_leader(deadline)
        while (left := deadline - time.monotonic()) > 0:
            state = self.execute("systemctl is-system-running --wait", left)[1].strip()
            if state == "maintenance":
                raise EmergencyMode(f"{self.name} is in maintenance mode\n{self.tail()}")
            if state in ("running", "degraded"):
                self.succeed("systemctl is-active multi-user.target")
                return state
            time.sleep(0.1)
        jobs = self.execute("systemctl list-jobs --no-pager")[1]
        raise MachineError(f"the boot did not end in {timeout:g} s; jobs:\n{jobs}\n{self.tail()}")

    def boot(self, command_line: str = "", devices: Sequence[str] = ()) -> str:
        """start() and wait_for_boot()."""
        self.start(command_line, devices)
        return self.wait_for_boot()

    def shutdown(self) -> None:
        """A clean power-off by PID 1; returns when all of it has ended."""
        assert self._process is not None
        self.succeed(GO.format("poweroff"))
        try:
            status = self._process.wait(OFF_SEC)
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"{self.name} does not power off\n{self.tail()}") from error
        self._ended()
        if status != 0:
            raise MachineError(f"systemd-nspawn ended with status {status}\n{self.tail()}")

    def wait_for_off(self, timeout: float = BOOT_SEC) -> int:
        """Wait until it has switched itself off; returns the status of systemd-nspawn, 0 for a power-off."""
        assert self._process is not None
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"{self.name} did not power off in {timeout:g} s\n{self.tail()}") from error
        self._ended()
        return status

    def crash(self) -> None:
        """Kill all of it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._ended()

    def _ended(self) -> None:
        assert self._cgroups is not None and self._console is not None
        self._process = None
        self._leader = 0
        self._console.close()
        self._cgroups.remove()

    def _wait_for_leader(self, deadline: float) -> None:
        """Find PID 1, once it listens in its own root: before that its root is that of this machine."""
        while self.running and time.monotonic() < deadline:
            pid = self._find_leader()
            root = Path(f"/proc/{pid}/root")
            if pid and (root / OURS).is_dir() and (root / "run/systemd/private").exists():
                self._leader = pid
                return
            time.sleep(0.02)
        raise MachineError(f"{self.name} did not start\n{self.tail()}")

    def _find_leader(self) -> int:
        """The process below ours that is number 1 of the second process namespace, 0 if none is yet."""
        assert self._process is not None
        parents, numbers = {}, {}
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                fields = dict(
                    line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line
                )
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            pid = int(fields["Pid"])
            parents[pid], numbers[pid] = int(fields["PPid"]), fields["NSpid"].split()
        own = len(numbers.get(self._process.pid, []))
        for pid, number in numbers.items():
            if (
                len(number) == own + 2
                and number[-1] == "1"
                and parents.get(parents[pid]) == self._process.pid
            ):
                return pid
        return 0

    # -- commands

    def run(self, command: str, timeout: float = COMMAND_SEC, data: bytes = b"") -> Result:
        """Run a command under bash in the container's namespaces, with DATA as its standard input."""
        if not self.running or not self._leader:
            raise MachineError(f"{self.name} is off\n{self.tail()}")
        enter = [
            "nsenter",
            "--target",
            str(self._leader),
            "--all",
            "--root",
            "--wd",
            "env",
            "-i",
            *ENVIRONMENT,
        ]
        argv = [*enter, "timeout", "--kill-after=5", f"{max(timeout, 0.1):.1f}", "bash", "-c", command]
        try:
            done = subprocess.run(
                argv, input=data, capture_output=True, timeout=timeout + GRACE_SEC, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"no answer in {timeout + GRACE_SEC:g} s: {command}\n{self.tail()}") from error
        return Result(done.returncode, done.stdout, done.stderr, done.returncode in (124, 137))

    def has(self, path: str) -> bool:
        """Whether PATH, no link, is there, looked for from outside: nothing runs in the container for it."""
        return os.path.lexists(f"/proc/{self._leader}/root{path}")

    # -- traces

    def console_text(self) -> str:
        """All that the console ever said, over all starts, without terminal escapes."""
        return clean(self.console_log.read_bytes()) if self.console_log.exists() else ""

    def tail(self) -> str:
        """The end of that, for messages."""
        return "console:\n" + "\n".join(self.console_text().splitlines()[-40:])

    def save_artifacts(self, label: str) -> None:
        """Save the console and, if it still runs, the journal; say where, and show the end of the console."""
        target = artifacts_dir() / label
        target.mkdir(parents=True, exist_ok=True)
        if self.console_log.exists():
            shutil.copyfile(self.console_log, target / "console.log")
        for name, command in TRACES.items() if self.running and self._leader else ():
            try:
                text = self.run(command, 20).text()
            except MachineError as error:
                text = f"not to be had: {error}\n"
            (target / f"{name}.txt").write_text(text, encoding="utf-8")
        note(f"{self.name}: traces of the failure are in {target}")
        print(self.tail())

    def close(self) -> None:
        """Kill what runs and remove what is temporary."""
        try:
            self.crash()
        finally:
            self._work.close()


def needed() -> list[str]:
    """The tools that are missing, "root" among them where it is not root."""
    tools = ("systemd-nspawn", "nsenter", "unshare", "setpriv", "mmdebstrap", "mkfs.btrfs", "losetup")
    return [t for t in tools if shutil.which(t) is None] + (["root"] if os.geteuid() != 0 else [])
