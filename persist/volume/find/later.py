# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which words of Device= only a running system can make true: what udev links, and what crypttab(5), md, LVM
and multipath open. Pure. The stage before PID 1 does not wait for these."""

from __future__ import annotations

import re
from collections.abc import Iterable

from persist.system.blockdev import number_of
from persist.volume.find.around import Around
from persist.volume.find.choose import Resolve, matches
from persist.volume.find.decision import FILESYSTEM
from persist.volume.find.named import not_open

# Directories of devtmpfs, where the kernel makes nodes of disks itself; all others are udev's, or a volume
# group's.
_OF_THE_KERNEL = ("cciss", "ida", "rd")
# Nodes that the kernel has only once somebody has put something together.
_ASSEMBLED = re.compile(r"(dm-|md|bcache|drbd|nbd|rbd)[_d]*\d.*")


def _made_later(path: str) -> bool:
    """Whether the kernel does not make a node of this name by itself."""
    if not path.startswith("/dev/"):
        return True  # a link of somebody's
    first, _, rest = path[len("/dev/") :].partition("/")
    return first not in _OF_THE_KERNEL if rest else _ASSEMBLED.fullmatch(first) is not None


def comes_later(
    spec: str, around: Around, *, allow_removable: bool = False, resolve: Resolve = number_of
) -> bool:
    """Whether a word of Device= leads nowhere now, and may once the system runs.

    A path that is not there is one that udev or a tool makes. An id or a label is in a filesystem, so what is
    closed may have it; 'auto' means no such filesystem unless ``allow_removable``.
    """
    if spec.startswith("/"):
        return not resolve(spec) and _made_later(spec)
    if any(c.usage == FILESYSTEM and matches(spec, c, resolve) for c in around.every):
        return False
    if spec.startswith(("PARTUUID=", "PARTLABEL=")) or (spec == "auto" and not allow_removable):
        return False
    return not_open(around) is not None or bool(around.crypttab)


def words(
    device: Iterable[str], around: Around, *, allow_removable: bool = False, resolve: Resolve = number_of
) -> list[str]:
    """Those of the words of Device= that the stage leaves to persist-volume.service, in their order."""
    return [w for w in device if comes_later(w, around, allow_removable=allow_removable, resolve=resolve)]
