# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each system call of persist-volume.service and of the verdict fails once, and is the last one once. The
verdict is never better than the truth, which the test finds out by itself: what is written to an entry now is
on the filesystem of the volume, or it is not."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from persist.boot import paths
from persist.boot.paths import BOOTED, PRIVATE, RESCUE, VOLUME
from persist.services import volume as volume_service
from persist.system import mountinfo
from persist.verdict import announce, current
from persist.verdict import judge as v
from persist.volume.find import search
from persist.volume.heal import health

from . import faults
from .conftest import Make
from .faults import KILL, KILLED, Faults, Site
from .namespace import _libc, kept, kept_overlay, sh
from .own_root import own_root

_CLONE_NEWNS = 0x20000
REGISTRY = """
[Path]
Path=/srv
Method=overlay

[Path]
Path=/srv/data
Method=bind

[Path]
Path=/opt/data
Method=bind

[Path]
Path=/opt/link
Method=symlink
"""
# Where the probe of each entry has to be on the volume.
STORES = {
    "/srv": ".persist/overlay/srv/upper",
    "/srv/data": "srv/data",
    "/opt/data": "opt/data",
    "/opt/link": "opt/link",
}
PLACES = {
    VOLUME,
    "/mnt/state",
    "/srv",
    "/srv/data",
    "/opt/data",
    f"{PRIVATE}/image",
    f"{PRIVATE}/lower",
    f"{PRIVATE}/rescue",
}
CHECK = "/run/check"
STARTED = "/run/started"  # what systemctl was told


class Child:
    """Work in a process of its own, which shares nothing that it changes; ``said`` is what it returned, or
    how it ended instead."""

    def __init__(self, work: Callable[[], str]) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(read)
                sys.stderr = io.StringIO()
                said = work()
                status = 0
                assert isinstance(said, str)
            except BaseException:  # noqa: BLE001  # the parent shows it
                said = traceback.format_exc()
            finally:
                os.write(write, said.encode("utf-8", "backslashreplace"))
                os._exit(status)
        os.close(write)
        self.read = read

    def wait(self) -> str:
        """What it said; KILLED where it was."""
        with open(self.read, encoding="utf-8") as f:
            said = f.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return str(KILLED) if status == KILLED else said


class Machine:
    """A process with a mount namespace, all modules loaded, and a formatted disk; each boot of it is a
    process below with a namespace of its own."""

    def __init__(self, node: str, top: Path) -> None:
        self.node = node
        self.top = top  # a directory on a disk
        os.environ["SYSTEMD_PROC_CMDLINE"], os.environ["SYSTEMD_FSTAB"] = "", "/dev/null"
        self.others: list[str] = []  # what the machine of the tests has mounted already
        assert search and health, "loaded before the forks"

    def namespace(self) -> None:
        """Fresh, empty directories in a namespace of this process."""
        if _libc.unshare(_CLONE_NEWNS) != 0:
            raise OSError("unshare")
        sh("mount --make-rprivate /")
        own_root(tempfile.mkdtemp(dir=self.top))
        sh("mount -t tmpfs none /opt; mount -t tmpfs none /usr/local/sbin")
        for name, script in (("systemctl", f'echo "$@" >>{STARTED}'), ("systemd-detect-virt", "echo none")):
            program = Path("/usr/local/sbin", name)
            program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            program.chmod(0o755)
        for path in (
            "/opt/data",
            "/run/persist.d",
            "/run/systemd/system/local-fs.target.wants",
            CHECK,
        ):
            os.makedirs(path)
        os.symlink(
            "/usr/lib/systemd/system/persist-setup.target",
            "/run/systemd/system/local-fs.target.wants/persist-setup.target",
        )
        os.symlink(f"{VOLUME}/opt/link", "/opt/link")
        self.others = _points()
        Path("/run/persist.d/t.conf").write_text(REGISTRY, encoding="utf-8")
        # No stand-in is mounted, so that a second run finds the volume.
        os.makedirs("/run/persist")
        conf = f"[Volume]\nDevice={self.node}p1\nMemberTimeoutSec=0\nFallback=none\n"
        Path("/run/persist/persist.conf").write_text(conf, encoding="utf-8")

    def fill(self) -> str:
        """The volume as after its first boot."""
        self.namespace()
        sh(f"mount -o subvol=@persist-state {self.node}p1 {CHECK}")
        for path in ("/srv/data", "/opt/data", "/opt/link"):
            kept(path, "kept", CHECK)
        kept_overlay("/srv", CHECK)
        (Path(CHECK) / ".persist/overlay/srv/upper/data").mkdir()
        # Without a reserve: what one boot spends would be spent in all boots to come.
        sh(f"btrfs filesystem resize max {CHECK}; rm {CHECK}/.persist/volume.json; umount {CHECK}")
        assert volume_service.volume_main() == 0, "what is done once for a volume is done"
        return ""

    def truth(self) -> dict[str, bool]:
        """For each entry, whether what is written to it now is on the volume."""
        probe = f"probe.{time.monotonic_ns()}"
        wrote = {}
        for path in STORES:
            try:
                Path(path, probe).write_text(path, encoding="utf-8")
                wrote[path] = True
            except OSError:
                wrote[path] = False
        if mountinfo.at(RESCUE) is not None and mountinfo.at(VOLUME) is None:
            return dict.fromkeys(STORES, False)  # the volume did not mount, and nobody writes to it
        sh(f"mount -o subvol=@persist-state {self.node}p1 {CHECK}")
        try:
            return {
                path: wrote[path] and Path(CHECK, store, probe).exists() for path, store in STORES.items()
            }
        finally:
            sh(f"umount {CHECK}")


def _better(truth: dict[str, bool], found: dict[str, Any]) -> list[str]:
    """Where a verdict is better than the truth."""
    wrong = [] if all(truth.values()) or found["verdict"] != v.ONLINE else ["online"]
    at = mountinfo.at(VOLUME)
    if at is not None and at.fstype == "tmpfs" and found["verdict"] != v.VOLATILE:
        wrong.append(f"{found['verdict']} in memory")
    return wrong + [
        f"{e['path']} {e['state']}"
        for e in found["entries"]
        if e["state"] in ("mounted", "linked", "early") and not truth[e["path"]]
    ]


def _started() -> str:
    return Path(STARTED).read_text(encoding="utf-8")


def _announce() -> int:
    return announce.Announcer(console="/dev/null").announce()


def _judged() -> dict[str, Any]:
    return current.current()[0].as_dict()


def _points() -> list[str]:
    return [m.mount_point for m in mountinfo.mounts()]


def _mounted(machine: Machine) -> list[str]:
    """What is mounted where nothing of ours belongs, or twice."""
    points = [p for p in _points() if p not in machine.others]
    return [f"mounted: {p}" for p in points if p not in PLACES] + [
        f"mounted twice: {p}" for p in set(points) if points.count(p) > 1
    ]


def _boot(machine: Machine, site: Site, code: int) -> str:
    """One boot with a fault in persist-volume.service; what is wrong afterwards, or ''."""

    def service() -> str:
        injected = Faults(site, code)
        return f"{volume_service.volume_main()} {injected.struck}"

    machine.namespace()
    said = Child(service).wait()
    wrong = [] if said in (str(KILLED), "0 True", "1 True") else [f"the service: {said}"]
    wrong += [f"after the fault: {w}" for w in _better(machine.truth(), _judged()) + _mounted(machine)]
    said = Child(lambda: str(volume_service.volume_main())).wait()
    found, truth = _judged(), machine.truth()
    wrong += [f"after the second run: {w}" for w in _better(truth, found) + _mounted(machine)]
    if said != "0" or found["verdict"] != v.ONLINE or not all(truth.values()):
        wrong.append(
            f"after the second run: {said}, {found['verdict']}, {truth}, "
            f"{[r['message'] for r in found['reasons']]}"
        )
    return "; ".join(wrong)


def _verdict(machine: Machine, site: Site, code: int) -> str:
    """One verdict with a fault, of a machine that has just lost an entry; what is wrong afterwards, or ''."""
    machine.namespace()
    volume_service.volume_main()
    if code != KILL:
        _announce()  # online, and what it left must not stay
    sh("umount /opt/data")
    Path(STARTED).write_text("", encoding="utf-8")

    def verify() -> str:
        injected = Faults(site, code)
        status = _announce()
        return f"{status} {injected.struck} {'persist-online.target' in _started()}"

    said = Child(verify).wait()
    wrong = [] if said in (str(KILLED), "0 True False", "1 True False") else [f"the service: {said}"]
    if os.path.exists(paths.ONLINE):
        wrong.append("the flag online is there")
    if os.path.exists(paths.STATE):
        wrong += _better(machine.truth(), json.loads(Path(paths.STATE).read_text(encoding="utf-8")))
    if said != str(KILLED) and not os.path.exists(BOOTED):
        wrong.append("the boot is not over")
    return "; ".join(wrong)


def _sites(machine: Machine, work: Callable[[], object]) -> str:
    """The calls of one run, of which nothing fails, as JSON."""

    def dry() -> str:
        injected = Faults()
        work()
        return json.dumps(list(injected.seen))

    machine.namespace()
    if work is _announce:
        volume_service.volume_main()
        sh("umount /opt/data")
    return Child(dry).wait()


def _half(node: str, which: int, top: Path) -> str:
    """Every other fault, on one disk; what was wrong, a line each."""
    machine = Machine(node, top)
    assert not Child(machine.fill).wait()
    wrong, count = [], 0
    for work, one in ((volume_service.volume_main, _boot), (_announce, _verdict)):
        sites = json.loads(Child(partial(_sites, machine, work)).wait())
        for number, site in enumerate(map(tuple, sites)):
            for code in faults.errors(site, number):
                count += 1
                if count % 2 == which:
                    said = Child(partial(one, machine, site, code)).wait()
                    if said:
                        wrong.append(f"{' '.join(site)} {os.strerror(code) if code else 'killed'}: {said}")
    return json.dumps([count, wrong])


def test_the_verdict_is_never_better_than_the_truth(make_disk: Make, tmp_path: Path) -> None:
    disks = [make_disk(300), make_disk(300)]
    for disk in disks:
        assert disk.format().returncode == 0
    halves = [Child(partial(_half, disk.node, which, tmp_path)) for which, disk in enumerate(disks)]
    found = [half.wait() for half in halves]
    wrong = []
    for said in found:
        assert said.startswith("["), said
        count, some = json.loads(said)
        assert count > 100
        wrong += some
    assert not wrong, "\n".join(wrong)
