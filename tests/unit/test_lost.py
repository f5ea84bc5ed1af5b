# SPDX-License-Identifier: LGPL-2.1-or-later
"""Members that went away while the volume was in use, and those that only seem to have."""

from __future__ import annotations

import pytest

from persist.volume.members import in_kernel, lost
from persist.volume.members.in_kernel import LiveDevice
from persist.volume.ondisk.degraded_mark import DegradedMark


@pytest.mark.parametrize(
    ("state", "mark", "said"),
    [("lost", "", True), ("behind", "a", True), ("behind", "b", False), ("behind", "", False)],
)
def test_a_member_that_was_away_at_the_mount_did_not_go_while_it_was_in_use(
    state: in_kernel.State, mark: str, said: bool
) -> None:
    """The others have a mark that it does not have: they were written without it before."""
    marks = {name: DegradedMark("uuid", 1, name * 16) for name in "ab"}
    used = LiveDevice(1, "uuid-1", "/dev/vd1", 1, 0, "ok", None, marks["a"])
    gone = LiveDevice(2, "uuid-2", "/dev/vd2", 1, 0, state, None, marks.get(mark))
    assert lost.were_in_use([gone], [used, gone]) == ([gone] if said else [])
    unmarked = LiveDevice(1, "uuid-1", "/dev/vd1", 1, 0, "ok")
    assert lost.were_in_use([gone], [unmarked, gone]) == [gone]
