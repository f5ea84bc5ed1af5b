# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is here beside the seal boot itself. Whatever runs may write what is wiped, and whatever has run may
have made an identity that no catalogue knows: with one of them nothing is wiped.

Judged by control groups and by what the service manager has started, not by names of programs. The list of
services that may run is the fence that the generator has put around this boot.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from persist.boot.ini import words
from persist.errors import PersistError
from persist.record import Record
from persist.seal.boot.manager import Manager

EARLY = "/run/systemd/generator.early"
DROP_IN = "50-persist-seal.conf"
_SERVICE = ".service"
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD (linux/sched.h), in the ninth field of /proc/PID/stat


class Process(Record):
    """One process: its control group as /proc has it, its command, and whether it is the kernel's own or of a
    storage daemon of the initrd's (argv[0] begins with @, systemd's rule for those that stay)."""

    pid: int
    group: str
    command: str
    kernel: bool = False
    of_storage: bool = False


def may_run(service: str, fence: Iterable[str]) -> bool:
    """Whether a service is one that the fence lets through. It has names, templates (``fsck@``) and prefixes
    that end in a dash, as directories of drop-ins have them (systemd.unit(5))."""
    stem = service.removesuffix(_SERVICE)
    template = stem.partition("@")[0] + "@" if "@" in stem else ""
    return any(
        allowed in (stem, template) or (allowed.endswith("-") and stem.startswith(allowed))
        for allowed in fence
    )


def service_of(group: str) -> str:
    """The service that a control group belongs to, '' for none. Services have groups of their own below
    theirs (systemd-udevd.service/udev, 257)."""
    return next((part for part in group.split("/") if part.endswith(_SERVICE)), "")


def strangers(processes: Iterable[Process], started: Iterable[str], fence: Iterable[str]) -> list[str]:
    """A sentence for each process and each service that is not of a seal boot. Pure."""
    allowed = sorted(fence)
    found = []
    running = set()
    for process in processes:
        service = service_of(process.group)
        if process.pid == 1 or process.kernel or process.of_storage or may_run(service, allowed):
            continue
        running.add(service)
        where = service or process.group or "no control group"
        found.append(f"Process {process.pid} ({process.command}) of {where} runs.")
    for service in started:
        if service not in running and not may_run(service, allowed):
            found.append(f"{service} was started in this boot.")
    return found


def fence(early: str = EARLY) -> list[str]:
    """The services that may run in this boot, by the links that the generator has made. Raises OSError."""
    found = []
    for name in os.listdir(early):
        stem = name.removesuffix(_SERVICE + ".d")
        if stem != name and os.path.islink(f"{early}/{name}/{DROP_IN}"):
            found.append(stem)
    return sorted(found)


def _group(text: str) -> str:
    """The group of the unified hierarchy, or of systemd's own where that has none but the top one."""
    groups = {}
    for line in text.split("\n"):
        if not line:
            continue
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        groups["" if number == "0" else controllers] = path
    return next((g for g in (groups.get("", ""), groups.get("name=systemd", "")) if g.strip("/")), "/")


def process_at(directory: str, pid: int) -> Process | None:
    """One process as /proc has it, None for one that has ended."""
    try:
        with open(f"{directory}/stat", encoding="utf-8", errors="replace") as f:
            before, _, after = f.read().rpartition(")")
        with open(f"{directory}/cgroup", encoding="utf-8", errors="replace") as f:
            group = _group(f.read())
        with open(f"{directory}/cmdline", "rb") as f:
            first = f.read(1)
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = words(after)
    if fields[0] in ("Z", "X"):
        return None
    kernel = bool(int(fields[6]) & _KERNEL_THREAD)
    return Process(pid, group, before.partition("(")[2], kernel, first == b"@")


def processes(proc: str = "/proc") -> list[Process]:
    """All processes. Raises OSError."""
    pids = sorted(int(name) for name in os.listdir(proc) if name.isascii() and name.isdigit())
    return [found for pid in pids if (found := process_at(f"{proc}/{pid}", pid)) is not None]


def since(units: Iterable[tuple[str, object]], when: object) -> list[str]:
    """The services that were started, by when each has left the state "inactive" last: one that has ended
    leaves no process, but it has done that. What the initrd's service manager has started before ``when`` was
    no service of this system. Pure; raises PersistError for what is no time."""
    found = []
    for name, left in units:
        if not isinstance(left, int) or not isinstance(when, int):
            raise PersistError(f"The service manager does not say whether {name} was started.")
        if left > when:
            found.append(name)
    return found


def started(fence: Iterable[str] = ()) -> list[str]:
    """The services that this boot has started so far, but for those that may run. Raises OSError,
    PersistError."""
    allowed = sorted(fence)
    with Manager() as manager:
        units = [u for u in manager.listed(_SERVICE) if not may_run(u.name, allowed)]
        times = manager.properties([(u.path, "Unit", "InactiveExitTimestampMonotonic") for u in units])
        when = manager.of_manager("UserspaceTimestampMonotonic")
    return since(zip((u.name for u in units), times, strict=True), when)


def look() -> list[str]:
    """strangers() on this machine. Raises OSError, PersistError."""
    allowed = fence()
    return strangers(processes(), started(allowed), allowed)
