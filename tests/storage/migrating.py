# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine with a volume and a migration, for tests in a mount namespace of their own (namespace.py)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from persist import cut
from persist.boot.load import Loaded
from persist.boot.paths import BOOTED, MIGRATED, STORES, VOLUME
from persist.entries import bind
from persist.migrate import at_boot
from persist.note import Note
from persist.services import migrate
from persist.volume.ondisk import store
from persist.volume.outcome import Outcome

from .namespace import kept, kept_overlay, registry, sh

STORE = Path(VOLUME) / ".persist/migrations"
DATA = Path("/srv/data")
UP = Path("/run/up")
# Each of its halves can be told from the other, and from nothing; twice over the same data is a failure.
SCRIPT = """#!/bin/sh
echo "$PERSIST_ID $PERSIST_PATH ${PERSIST_FROM:-none} ${PERSIST_TO:-none}" >>/run/runs
[ "$(cat $PERSIST_PATH/f)" = old ] || { echo not old; exit 3; }
echo half >$PERSIST_PATH/f
[ -e /run/bad ] && exit 7
[ -e /run/cut ] && rm /run/cut && kill -9 $PPID && exit 1
rm -r $PERSIST_PATH/gone
echo added >$PERSIST_PATH/added
echo new >$PERSIST_PATH/f
"""
ENTRY = "[Path]\nPath=/srv/data\nMethod=bind\n"
MIGRATION = "[Migration]\nId=one\nPath=/srv/data\nExec=/run/up\n"
OLD = {"f": "old\n", "gone/g": "old\n"}
NEW = {"f": "new\n", "added": "added\n"}


def btrfs() -> None:
    """The state volume, as formatting makes it."""
    sh(
        f"mkdir -p {VOLUME} /run/top; truncate -s 256M /run/disk; mkfs.btrfs -q -m single /run/disk; "
        "mount -o loop /run/disk /run/top; rm /run/disk; cd /run/top; "
        "for s in @persist-state @persist-data @persist-state-snapshots; do btrfs -q subvolume create $s; "
        "done; "
        f"mount -o subvol=@persist-state $(findmnt -no SOURCE /run/top | sed 's/\\[.*//') {VOLUME}"
    )
    store.make(VOLUME)


def snapshots() -> list[str]:
    """The names of those that there are."""
    return sorted(os.listdir("/run/top/@persist-state-snapshots"))


def tree(top: Path) -> dict[str, str]:
    """The files below a directory."""
    return {str(p.relative_to(top)): p.read_text() for p in sorted(top.rglob("*")) if p.is_file()}


def _quiet(text: str, wait: float = 0) -> None:
    pass


class World:
    """One machine. ``said`` has all notes of its boots."""

    def __init__(self, text: str = ENTRY + MIGRATION) -> None:
        self.said: list[Note] = []
        self.text = text
        UP.write_text(SCRIPT)
        UP.chmod(0o755)
        self.loaded: Loaded | None = None

    def old_data(self, path: str = "/srv/data") -> None:
        """What an image of before has left in a bind entry."""
        kept(path, "old\n")
        (Path(VOLUME + path) / "gone").mkdir()
        (Path(VOLUME + path) / "gone/g").write_text("old\n")
        os.makedirs(path, exist_ok=True)

    def old_overlay(self, path: str, below: str = "") -> None:
        """The same in an overlay, below its top."""
        upper = kept_overlay(path)
        os.makedirs(path + below, exist_ok=True)
        (upper / below.lstrip("/") / "gone").mkdir(parents=True)
        (upper / below.lstrip("/") / "f").write_text("old\n")
        (upper / below.lstrip("/") / "gone/g").write_text("old\n")

    def boot(self, step: str = "") -> None:
        """What persist-volume.service does, on a volume that is mounted; it may be killed after a step."""
        os.environ.pop(cut.KILL, None)
        if step:
            os.environ[cut.KILL] = step
        result = Outcome("btrfs")
        self.loaded = registry(self.text)
        at_boot.begin(result, self.loaded, self.said.append, _quiet)
        Path("/run/persist/mount-entries").touch()
        problems = bind.mount_seeded(self.loaded, [p.path for p in self.loaded.plan.entries])
        assert problems == [], list(map(str, problems))

    def off(self) -> None:
        """All that is mounted on entries goes, and so does what /run knows."""
        for at in [f for f in sh("findmnt -rno TARGET").split() if f.startswith("/srv/")]:
            sh(f"umount {at}")
        sh(f"rm -rf {MIGRATED} {STORES} {BOOTED} /run/persist/migration-snapshot /run/persist/heal")

    def reboot(self, step: str = "") -> None:
        """off() and boot()."""
        self.off()
        self.boot(step)

    def condition(self, id: str = "one") -> bool:
        """Whether PID 1 would start the unit."""
        return not os.path.exists(f"{MIGRATED}/{id}")

    def run(self, id: str = "one", step: str = "") -> int:
        """The unit; its exit status, or -9 where it was killed after a step."""
        if not self.condition(id):
            return 0
        return child(lambda: migrate.main(id), step)

    def records(self) -> list[str]:
        """What the volume knows of migrations."""
        return sorted(os.listdir(STORE))


def child(work: Callable[[], object], step: str = "") -> int:
    """The exit status of something, run in a process that dies after a step."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.environ.pop(cut.KILL, None)
            if step:
                os.environ[cut.KILL] = step
            status = int(work() or 0)  # type: ignore[call-overload]
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return -signal.SIGKILL if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
