# SPDX-License-Identifier: LGPL-2.1-or-later
"""What became of a seal boot, for who comes after it: the console, the hypervisor, and the next boot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from persist.boot.ini import words
from persist.errors import CommandError
from persist.seal.boot.script import MOST_OUTPUT
from persist.seal.look.traces import Old
from persist.seal.report import text
from persist.system.run import run

FAILED = "seal-failed"  # in /var/lib/persist: the ID, and a line for each reason
UNITS = (
    "persist-seal-begin.service",
    "persist-seal.service",
    "persist-operator-script.service",
    "persist-seal-end.service",
)
_SHOWN = "Id,ActiveState,Result,AssertResult"
_NOTHING = "It did not come to the end, and nothing says why."


def document(report: dict[str, Any], request_id: str, output: str | None, old: Old) -> bytes:
    """The report that stays in the image: of the wipe, whose request it was, and what the script printed,
    without the ids that it may have named."""
    said = {**report, "request": request_id}
    if output is not None:
        said["operator_script"] = {"output": old.without(output[-MOST_OUTPUT:])}
    return text(said)


def failure(request_id: str, reasons: Sequence[str]) -> bytes:
    """The text of FAILED."""
    return ("\n".join([request_id, *(" ".join(r.split("\n")) for r in reasons)]) + "\n").encode(
        "utf-8", "backslashreplace"
    )


def parse_units(text: str) -> list[str]:
    """A sentence for each unit that did not do its work, by what 'systemctl show' prints."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.partition("=")[::2] for line in block.split("\n") if "=" in line)
        name, result = fields.get("Id", ""), fields.get("Result", "success")
        if fields.get("AssertResult") == "no":
            found.append(f"{name} was not started: an assertion of its unit failed.")
        elif fields.get("ActiveState") == "failed" or result != "success":
            found.append(f"{name} failed ({result}).")
    return found


def why_not() -> list[str]:
    """Why this boot did not seal, by the units of it that failed."""
    try:
        names = run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full")
        failed = [words(line)[0] for line in names.split("\n") if words(line)]
        every = sorted({*UNITS, *failed, "local-fs.target"})
        found = parse_units(run("systemctl", "show", f"--property={_SHOWN}", "--", *every))
    except CommandError as e:
        return [e.message]
    return found or [_NOTHING]
