# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the machine shows now, as the verdict asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..boot import paths
from ..volume.mountinfo import Mount, mounts


class Look:
    """What the machine shows now. Raises OSError where /proc is not mounted."""

    def __init__(self, root: str = "", every: Iterable[Mount] | None = None) -> None:
        self.root = root
        self.every = found = list(mounts() if every is None else every)
        self._by_id = {m.mount_id: m for m in found}
        below = {m.parent_id for m in found if m.mount_id != m.parent_id and m.mount_point == self._point(m.parent_id)}
        self._at = {m.mount_point: m for m in found if m.mount_id not in below}

    def _point(self, mount_id: int) -> str:
        found = self._by_id.get(mount_id)
        return found.mount_point if found is not None else ""

    def mount(self, path: str) -> Mount | None:
        """The uppermost mount on exactly this path."""
        return self._at.get(path)

    def hidden_by(self, path: str) -> str:
        """Where something was mounted above a path after what is mounted on it, so that nobody sees that, or ''."""
        at = self.mount(path)
        while at is not None and at.mount_point == path:
            lowest = at
            at = self._by_id.get(at.parent_id)
        if at is None:
            return ""
        for parent in paths.parents(path):
            above = self.mount(parent)
            if above is not None:
                return "" if above.mount_id == lowest.parent_id else parent
        return ""

    def seeded(self, name: str) -> bool:
        """Whether an entry has its marker."""
        return os.path.lexists(f"{self.root}{paths.STORE}/seed/{name}.json")

    def exists(self, path: str) -> bool:
        """Whether the running system shows something at a path."""
        return os.path.lexists(self.root + path)

    def link(self, path: str) -> str:
        """The target of a symbolic link, '' for anything else."""
        try:
            return os.readlink(self.root + path)
        except OSError:
            return ""

    def writable(self, path: str) -> bool:
        """Whether the filesystem at a path takes writes (not whether we may)."""
        try:
            return not os.statvfs(self.root + path).f_flag & os.ST_RDONLY
        except OSError:
            return False
