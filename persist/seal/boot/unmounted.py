# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine knows how to mount and has not mounted: a line of fstab with noauto or nofail, a mount unit,
an automount that nobody has touched. What lies there would stay in the image. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from persist.boot.ini import words
from persist.boot.paths import RUNNING
from persist.record import Record
from persist.seal.boot.mounted import NO_FILES
from persist.seal.look.pattern import ESP, ESP_PLACES, HOME, MAGIC

NETWORK = frozenset(
    words("afs ceph cifs smb3 smbfs sshfs ncpfs ncp nfs nfs4 gfs gfs2 glusterfs pvfs2 ocfs2 lustre davfs")
)


class Known(Record):
    """One mount that the service manager knows: what it says of its unit."""

    unit: str
    where: str
    what: str
    fstype: str
    options: str = ""
    active: bool = False

    @property
    def network(self) -> bool:
        """Whether it comes with the network, and so is not in this machine's image."""
        return self.fstype.removeprefix("fuse.") in NETWORK or "_netdev" in self.options.split(",")

    @property
    def bind(self) -> bool:
        """Whether it shows a directory that is somewhere else already."""
        return bool({"bind", "rbind"} & set(self.options.split(",")))


def may_hold(where: str, pattern: str, homes: Sequence[str]) -> bool:
    """Whether what a pattern finds may lie on what is mounted at a place."""
    if pattern.startswith(ESP):
        return where in ESP_PLACES
    starts = [pattern]
    if pattern.startswith(HOME):
        starts = [f"{home}/{pattern[len(HOME) :]}" for home in homes]
    place = [part for part in where.split("/") if part]
    return any(_covers(place, [part for part in start.split("/") if part]) for start in starts)


def _covers(place: list[str], pattern: list[str]) -> bool:
    for number, part in enumerate(pattern):
        if part == "**":
            return True
        if number == len(place):
            return True
        if not (fnmatchcase(place[number], part) if any(c in part for c in MAGIC) else place[number] == part):
            return False
    return False  # the pattern ends above what is mounted there, or names the mount point itself


def judge(
    known: Iterable[Known], mounted: Iterable[str], patterns: Iterable[str], homes: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Errors for what is not mounted and may hold what is to be wiped; notices for the rest."""
    there, every = set(mounted), list(patterns)
    errors, notes = [], []
    for mount in sorted(known, key=lambda m: m.where):
        skipped = mount.network or mount.bind or mount.fstype in NO_FILES or mount.fstype == "overlay"
        if mount.where in there or skipped or "/" + mount.where.split("/")[1] in RUNNING:
            continue
        what = f"'{mount.where}' ({mount.what}, {mount.unit}) is not mounted"
        if any(may_hold(mount.where, pattern, homes) for pattern in every):
            errors.append(f"{what}, and may hold what is to be wiped. Mount it, or take it out of fstab.")
        else:
            notes.append(f"{what}: what is on it was not looked at.")
    return errors, notes
