# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wait for a disk: by what udev says of it, and where no udev runs by what the kernel says."""

from __future__ import annotations

from collections.abc import Callable

from persist.system import udevd

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import TypeVar

    Found = TypeVar("Found")


def wait_for(look: Callable[[], Found | None], timeout: float) -> Found | None:
    """Call ``look`` now and whenever a block device may have come, until it finds something or ``timeout``
    seconds are over."""
    if udevd.runs():
        from persist.system import udev

        return udev.wait_for(look, timeout)
    from persist.system import uevents

    return uevents.wait_for(look, timeout)
