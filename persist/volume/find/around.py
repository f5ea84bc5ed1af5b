# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is on a machine that has no volume, for a word on what helps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from persist.boot.config import Config
from persist.boot.ini import words
from persist.record import Record
from persist.volume.find import candidates, unreadable
from persist.volume.find.decision import Candidate
from persist.volume.find.unreadable import Unreadable

CRYPTTAB = "/etc/crypttab"


class Around(Record):
    """What is on the machine: all block devices, disks of ours that cannot be read, and what crypttab(5)
    opens.

    ``held``: whether anything uses a device (its holders): one that is open, or assembled.
    """

    every: tuple[Candidate, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    crypttab: tuple[str, ...] = ()
    held: Callable[[str], bool] = lambda node: False


def _crypttab() -> tuple[str, ...]:
    try:
        with open(CRYPTTAB, encoding="utf-8", errors="surrogateescape") as f:
            lines = [words(line) for line in f.read().split("\n")]
    except OSError:
        return ()  # nothing is encrypted here
    return tuple(w[0] for w in lines if w and not w[0].startswith("#"))


def gather(config: Config, every: Iterable[Candidate]) -> Around:
    """Look at the machine, of which all block devices are known. Raises CommandError and OSError."""
    return Around(tuple(every), tuple(unreadable.find(config)), _crypttab(), candidates.held)
