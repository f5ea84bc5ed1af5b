# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same for several disks at once, each in a thread: what they wait for is the disk and other programs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import TypeVar

    Item = TypeVar("Item")
    Result = TypeVar("Result")


def attempt(do: Callable[[Item], Result], items: Sequence[Item]) -> list[Result | Exception]:
    """What ``do`` returned for each item, or what it raised. All have ended when this returns."""
    found: dict[int, Result | Exception] = {}

    def one(number: int, item: Item) -> None:
        try:
            found[number] = do(item)
        except Exception as e:  # noqa: BLE001  # whoever called looks at it
            found[number] = e

    threads = [threading.Thread(target=one, args=(number, item)) for number, item in enumerate(items[1:], 1)]
    for thread in threads:
        thread.start()
    if items:
        one(0, items[0])
    for thread in threads:
        thread.join()
    return [found[number] for number in range(len(items))]


def each(do: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """As attempt(), and the first error is raised once all have ended."""
    done = attempt(do, items)
    results: list[Result] = []
    for result in done:
        if isinstance(result, Exception):
            raise result
        results.append(result)
    return results
