# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop of persist-heal.service beside persist-heal.path, as systemd treats PathExists=: word that is left
at any moment is looked at."""

from __future__ import annotations

import itertools

import pytest

from persist.volume.heal.loop import Act, work


class Model:
    """A machine with a volume that takes some steps to be whole. ``at``: after how many things that happen
    word is left.

    ``seen``: the number of the last look that began after word was left; ``said``: what the last verdict has
    seen.
    """

    def __init__(self, steps: int, at: tuple[int, ...], fails: int = 0) -> None:
        self.steps, self.at, self.fails = steps, set(at), fails
        self.clock = 0
        self.word = False
        self.left_at = self.looked_at = self.said_at = -1
        self.looks = self.starts = 0

    def happens(self) -> int:
        """Something happens, and just before it somebody may have left word."""
        self.clock += 1
        if self.clock in self.at:
            self.word, self.left_at = True, self.clock
        return self.clock

    def take(self) -> bool:
        """Take the word away."""
        self.happens()
        was, self.word = self.word, False
        return was

    def left(self) -> bool:
        """Whether there is word."""
        self.happens()
        return self.word

    def look(self) -> Act | None:
        """A look at the disks; what is left to do."""
        self.looked_at = self.happens()
        self.looks += 1
        self.happens()
        return self.step if self.steps else None

    def step(self) -> None:
        """One step of healing, during which word may come too."""
        self.happens()
        if self.fails:
            self.fails -= 1
            raise OSError("no")
        self.steps -= 1
        self.happens()

    def verdict(self) -> None:
        """It shows what the last look has seen."""
        self.happens()
        self.said_at = self.looked_at

    def service(self) -> None:
        """One run, as heal_main() does it."""
        self.starts += 1
        self.take()
        try:
            work(self.take, self.left, self.look, self.verdict)
        except OSError:
            self.verdict()
        self.happens()

    def path(self) -> None:
        """persist-heal.path: the file is there and the service is not running."""
        for _ in range(50):
            if not self.word:
                if self.clock >= max(self.at, default=0):
                    return
                self.happens()
                continue
            self.service()
        raise AssertionError("it spins")


MOMENTS = range(1, 30)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("fails", [0, 1])
def test_word_that_is_left_at_any_moment_is_looked_at(steps: int, fails: int) -> None:
    """Once, and twice: a look begins after it, and a verdict is made after that look."""
    for at in itertools.chain(((n,) for n in MOMENTS), itertools.combinations(MOMENTS, 2)):
        machine = Model(steps, (1, *at), fails)
        machine.path()
        assert not machine.word
        assert machine.looked_at >= machine.left_at, at
        assert machine.said_at == machine.looked_at, at


def test_a_step_that_fails_does_not_spin() -> None:
    """The word is gone by then: it is tried again when there is word again, or by the timer."""
    machine = Model(1, (1,), fails=9)
    machine.path()
    assert (machine.starts, machine.looks, machine.steps) == (1, 1, 1)


def test_the_verdict_comes_before_a_step_that_takes_hours() -> None:
    order: list[str] = []
    steps = [lambda: order.append("step"), None]

    def look() -> Act | None:
        order.append("look")
        return steps.pop(0)

    assert work(lambda: False, lambda: False, look, lambda: order.append("verdict")) == 1
    assert order == ["look", "verdict", "step", "look", "verdict"]
