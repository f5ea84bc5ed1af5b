# SPDX-License-Identifier: LGPL-2.1-or-later
"""UUIDs as the standard library has them."""

from __future__ import annotations

import uuid

from persist.system import uuids


def test_new() -> None:
    """Random ones of version 4, no two alike."""
    made = [uuids.new() for _ in range(100)]
    assert len(set(made)) == 100 and all(uuids.valid(text) for text in made)
    assert all(
        (found := uuid.UUID(text)).version == 4 and found.variant == uuid.RFC_4122 and str(found) == text
        for text in made
    )


def test_valid() -> None:
    """What is written in another way is not ours."""
    good = uuids.new()
    assert not any(
        uuids.valid(text)
        for text in (
            "",
            good.upper().replace("4", "A"),
            good[:-1],
            f"{good}0",
            f"{{{good}}}",
            good.replace("-", ""),
            f"{good}\n",
        )
    )


def test_beside() -> None:
    """Each of them is another one, and the way back is the same."""
    one = uuids.new()
    others = {uuids.beside(one, number) for number in range(1, 16)}
    assert len(others | {one}) == 16 and all(uuids.valid(text) for text in others)
    assert uuids.beside(uuids.beside(one, 2), 2) == one
