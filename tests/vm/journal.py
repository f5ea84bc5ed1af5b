# SPDX-License-Identifier: LGPL-2.1-or-later
"""The journal gate: what a machine says of us at warning or above is what its test expects, line for line.

    machine.expect("VERDICT_DEGRADED", "member-missing", "state volume mounted degraded")

Of a line its MESSAGE_ID (the name in persist/messages.py), the code of its reason, or, with a blank in it,
a piece of its text. The journal is read before a boot ends; of a machine that died there is the console.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from persist.messages import MESSAGE_IDS

WARNING, INFO = 4, 6
STAGE = "persist-early"
_LEVEL = re.compile("^(error|warning): ")

_NAMES = {number: name for name, number in MESSAGE_IDS.items()}
_READ = (
    "journalctl --sync; journalctl --merge --quiet --all --output=json "
    "--output-fields=MESSAGE,MESSAGE_ID,PRIORITY,UNIT,_SYSTEMD_UNIT,SYSLOG_IDENTIFIER,PERSIST_REASON"
)
_MOUNTS = "cd /run/systemd/generator 2>/dev/null && grep -l persist-generator *.mount 2>/dev/null; echo --; "
# Who speaks of our units and rules by their names, without a field for it while journald is not there yet.
_MANAGERS = ("systemd", "systemd-udevd", "(udev-worker)", "systemd-modules-load")
_OF_US = re.compile(
    r"\b(65-)?persist(?!-test)[\w@.\\-]*\.(service|target|mount|timer|path|rules|conf)\b|/persist\.d/"
)
# The console has no priorities, but for those that the stage before PID 1 writes out.
_CONSOLE = re.compile(
    r"persist-early: (?:error|warning): .*"
    r"|persist-generator\[\d+\]: .*|\[ *(?:FAILED|DEPEND) *\].*\bpersist-(?!test).*"
)


class UnexpectedLines(AssertionError):
    """The journal has lines of ours that the test does not expect, or lacks those that it does."""


@dataclass(frozen=True)
class Line:
    """A record of ours in a journal, or a line on a console."""

    boot: str
    at: str
    priority: int
    who: str
    text: str
    name: str = ""
    reason: str = ""

    def is_one(self, what: str) -> bool:
        """Whether it is what a test has named."""
        return what in (self.name, self.reason) or " " in what and what in self.text

    def __str__(self) -> str:
        names = " ".join(filter(None, (self.name, self.reason)))
        return f"<{self.priority}> {self.who}: {self.text}" + (f" ({names})" if names else "")


def _line(record: dict[str, object], mounts: Iterable[str]) -> Line | None:
    """The line that a record is, None where it is not of us."""
    field = {key: str(value) for key, value in record.items()}
    unit, identifier = field.get("UNIT") or field.get("_SYSTEMD_UNIT", ""), field.get("SYSLOG_IDENTIFIER", "")
    names = (unit, field.get("_SYSTEMD_UNIT", ""), identifier)
    ours = any(n.startswith("persist") and not n.startswith("persist-test") or n in mounts for n in names)
    if not ours and not (identifier in _MANAGERS and _OF_US.search(field.get("MESSAGE", ""))):
        return None
    return Line(
        field["_BOOT_ID"],
        field["__MONOTONIC_TIMESTAMP"],
        int(field["PRIORITY"]),
        identifier if identifier == unit else f"{identifier} [{unit}]",
        field.get("MESSAGE", ""),
        _NAMES.get(field.get("MESSAGE_ID", ""), ""),
        field.get("PERSIST_REASON", ""),
    )


def lines(succeed: Callable[[str], str], priority: int = WARNING, *, this_boot: bool = True) -> list[Line]:
    """What the journal has of us at PRIORITY and above: of our programs, in the initrd too, and of PID 1
    about our units and the mounts of entries."""
    # By its id and not by -b, which looks for those of the machine-id alone.
    boot = " _BOOT_ID=$(tr -d - </proc/sys/kernel/random/boot_id)" if this_boot else ""
    text = succeed(f"{_MOUNTS}{_READ} --priority={priority}{boot}")
    mounts, _, records = text.partition("--\n")
    found = (_line(json.loads(record), mounts.split()) for record in records.split("\n") if record)
    return [line for line in found if line is not None]


def once(said: list[Line]) -> list[Line]:
    """What the stage before PID 1 says is in the kernel's log at once, and in the journal with its names: the
    second of the two counts."""
    named = {line.text for line in said if line.name}
    return [line for line in said if not (line.who.startswith(STAGE) and _LEVEL.sub("", line.text) in named)]


def on_console(text: str) -> list[Line]:
    """What a console has of us that would be warnings in the journal."""
    return [
        Line("", str(n), WARNING, "console", match.group())
        for n, row in enumerate(text.split("\n"))
        if (match := _CONSOLE.search(row))
    ]


class Gate:
    """What one machine has said, and what its test expects of it."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str, str]] = set()
        self._said: list[Line] = []
        self._expected: list[str] = []

    def expect(self, *what: str) -> None:
        """Each of these is said at least once in this test, and nothing else is."""
        self._expected += what

    def take(self, found: Iterable[Line]) -> None:
        """Note lines; a record that was there before, as after a flush or a restore, is none."""
        for line in found:
            key = (line.boot, line.at, line.text)
            if not line.boot or key not in self._seen:
                self._said.append(line)
            self._seen.add(key)

    def forget(self) -> None:
        """A test ends: what the next one finds is its own."""
        self._said, self._expected = [], []

    def judge(self) -> None:
        """Raise UnexpectedLines unless what was said is what is expected; forget both."""
        said, expected = self._said, self._expected
        self.forget()
        said = once(said)
        wrong = [f"not expected: {line}" for line in said if not any(line.is_one(what) for what in expected)]
        wrong += [
            f"expected, and never said: {what}"
            for what in expected
            if not any(line.is_one(what) for line in said)
        ]
        if wrong:
            raise UnexpectedLines("\n".join(("lines of ours at warning and above:", *dict.fromkeys(wrong))))
