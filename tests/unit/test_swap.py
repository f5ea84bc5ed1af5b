# SPDX-License-Identifier: LGPL-2.1-or-later
"""Switching on the volume's own swap space."""

from __future__ import annotations

from persist.volume.mount import swap


def test_a_disk_that_was_pulled_out() -> None:
    """The kernel keeps its swap space in /proc/swaps; that of the disk in its place is switched on."""
    used = ["/dev/null (deleted)", "/etc/passwd", "/dev/zero"]
    assert swap.still_off(["/dev/zero", "/dev/null"], used) == ["/dev/null"]
