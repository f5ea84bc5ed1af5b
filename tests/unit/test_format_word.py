# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop of persist-format.service beside persist-format.path: a disk that udev tags at any moment is
looked at, and a failure does not spin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from persist.services.format import work

HEAD = b"persist-please-format-me"


class FakeDisk:
    """What the loop asks of a disk; ``head`` is its header."""

    def __init__(self, name: str, head: bytes = HEAD) -> None:
        self.node, self.diskseq, self.head = f"/dev/{name}", name, head


class Machine:
    """udev, the formatter and systemd. ``steps``: how many things happen before ``event`` does."""

    def __init__(self, word: Path) -> None:
        self.word = word
        self.disks = [FakeDisk("one")]
        self.looks: list[list[tuple[str, bytes]]] = []
        self.fails = False
        self.steps = -1
        self.event: Callable[[], None] = lambda: None

    def step(self) -> None:
        self.steps -= 1
        if self.steps == 0:
            self.event()
            self.word.touch()

    def plug(self) -> None:
        self.disks.append(FakeDisk("two"))

    def claim_anew(self) -> None:
        self.disks[0].head = HEAD + b"\nlayout=single"

    def tagged(self) -> list[FakeDisk]:
        self.step()
        found = list(self.disks)
        self.step()
        return found

    def format(self, disks: list[FakeDisk]) -> int:
        self.step()
        self.looks.append([(d.diskseq, d.head) for d in disks])
        if self.fails:
            self.word.touch()  # each close of what could write is an event
        self.step()
        return int(self.fails)

    def settle(self) -> None:
        self.word.touch()  # the events come in now

    def look(self) -> tuple[list[FakeDisk], set[tuple[str, bytes]]]:
        found = self.tagged()
        return found, {(d.diskseq, d.head) for d in found}

    def take(self) -> None:
        self.word.unlink(missing_ok=True)

    def service(self) -> int:
        """As systemd runs it: again where word is there when it has ended. Returns how often it ran."""
        for count in range(1, 10):
            work(self.take, self.look, self.format, self.settle)
            self.step()
            if not self.word.exists():
                return count
        raise AssertionError("it runs for ever")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "format")


@pytest.mark.parametrize("steps", range(1, 8))
@pytest.mark.parametrize("event", ["plug", "claim_anew"])
def test_what_comes_at_any_moment_is_looked_at(machine: Machine, steps: int, event: str) -> None:
    machine.steps, machine.event = steps, getattr(machine, event)
    machine.service()
    assert machine.steps <= 0, "it did come"
    seen = {found for look in machine.looks for found in look}
    assert {(d.diskseq, d.head) for d in machine.disks} <= seen


def test_a_disk_that_fails_is_tried_once(machine: Machine) -> None:
    """Its own events leave word, and would start the service again and again."""
    machine.fails = True
    assert machine.service() == 1 and len(machine.looks) == 1 and not machine.word.exists()


def test_nothing_more_is_one_look(machine: Machine) -> None:
    machine.word.touch()
    assert machine.service() == 1 and machine.looks == [[("one", HEAD)]]
