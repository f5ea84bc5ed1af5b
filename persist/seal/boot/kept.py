# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the services of one seal boot leave for the next of them, in memory and for root alone: the ids that
were wiped are among it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from persist.boot.paths import SEALING
from persist.system.files import write_atomically

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from persist.seal.look.traces import Old

WIPED = "wiped"  # the wipe has ended well: asserted by the units that come after it
SEALED = "sealed"
SAID = "said"  # the end was told
_OLD, _REPORT, _ERRORS, _SCRIPT = "old.json", "report.json", "errors.json", "script.json"


class Kept:
    """The directory."""

    def __init__(self, directory: str = SEALING) -> None:
        self.directory = directory

    def _path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def _write(self, name: str, value: object) -> None:
        import json  # with re(3) a fifth of what the last unit loads, which needs none of it

        os.makedirs(self.directory, 0o700, exist_ok=True)
        os.chmod(self.directory, 0o700)
        write_atomically(self._path(name), json.dumps(value))

    def _read(self, name: str, default: Any) -> Any:
        import json

        try:
            with open(self._path(name), encoding="utf-8") as f:
                return json.load(f)
        except FileNotFoundError:
            return default

    def mark(self, name: str) -> None:
        """Note that something is done. Raises OSError."""
        self._write(name, True)

    def marked(self, name: str) -> bool:
        """Whether it is."""
        return os.path.exists(self._path(name))

    def sealed(self, then: str) -> None:
        """Note that the machine is sealed, and what it does then. Raises OSError."""
        self._write(SEALED, then)

    def then(self) -> str:
        """What a sealed machine does. Raises OSError."""
        with open(self._path(SEALED), encoding="utf-8") as f:
            return f.read().strip().strip('"')

    def wiped(self, report: dict[str, Any], old: Old) -> None:
        """What persist-seal.service has come to. Raises OSError."""
        self._write(_OLD, {kind: list(names) for kind, names in old.words.items()})
        self._write(_REPORT, report)
        self.mark(WIPED)

    def old(self) -> Old:
        """The ids that were there. Raises OSError, ValueError."""
        from persist.seal.look.traces import Old  # with all that looks into initrds

        return Old({str(kind): tuple(names) for kind, names in self._read(_OLD, {}).items()})

    def report(self) -> dict[str, Any]:
        """The report that is to be written last. Raises OSError, ValueError."""
        found: dict[str, Any] = self._read(_REPORT, {})
        return found

    def failed(self, errors: Iterable[str]) -> None:
        """Why this boot does not seal, added to what is known. Raises OSError."""
        self._write(_ERRORS, [*self.errors(), *errors])

    def errors(self) -> list[str]:
        """Why this boot does not seal."""
        return [str(error) for error in self._read(_ERRORS, [])]

    def script(self, output: str) -> None:
        """What the operator script has printed. Raises OSError."""
        self._write(_SCRIPT, output)

    def script_output(self) -> str | None:
        """That; None where there was none."""
        found: str | None = self._read(_SCRIPT, None)
        return found
