# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a boot's mounts is for root alone: a second way to a file outlives the mode, the parent and the removal that closed the first one."""

from __future__ import annotations

import os

from ..boot.paths import PRIVATE


def private() -> None:
    """Make /run/persist/private, which only root enters; the initrd may have made it with another mode. Raises OSError."""
    os.makedirs(PRIVATE, 0o700, exist_ok=True)
    os.chmod(PRIVATE, 0o700)  # not a volume's: a directory of /run
