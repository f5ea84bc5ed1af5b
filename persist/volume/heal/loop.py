# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one loop of persist-heal.service. Pure: what it looks at and does is handed in.

Whoever has seen something leaves word: a file, which persist-heal.path turns into a start of the service when
that is not running. Nobody starts it in another way but the timer and the administrator, so there is nothing
that could be lost in between two services.
"""

from __future__ import annotations

from collections.abc import Callable

Act = Callable[[], None]


def work(
    take: Callable[[], bool], left: Callable[[], bool], look: Callable[[], Act | None], verdict: Act
) -> int:
    """Look, and do what that shows to be the next step, until nothing is left; returns how many steps were
    done. Passes on what these raise.

    ``take`` takes the word away, before each look: word that comes after it is of what this look may not have
    seen. ``left`` is whether there is word again.
    ``look`` marks, makes room, and returns the step to do. ``verdict`` makes the verdict anew: before each
    step, which may take hours, and after the last look. Word that comes after the last ``left`` is there when
    the service ends, and persist-heal.path starts it again.
    """
    count = 0
    while True:
        take()
        act = look()
        verdict()
        if act is not None:
            act()
            count += 1
        elif not left():
            return count
