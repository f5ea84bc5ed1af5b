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
_SHOWN = "Id,ActiveState,Result,AssertResult,AssertTimestampMonotonic"
_LOCAL_FS = "local-fs.target"
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
        # Of a unit that was never tried, for what it requires was not there, the result is "no", too.
        tried = fields.get("AssertTimestampMonotonic", "0") != "0"
        if tried and fields.get("AssertResult") == "no":
            found.append(f"{name} was not started: an assertion of its unit failed.")
        elif fields.get("ActiveState") == "failed" or result != "success":
            found.append(f"{name} failed ({result}).")
    return found


def parse_mounts(text: str) -> list[str]:
    """A sentence for each mount that is not there, by what 'systemctl show' prints."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.partition("=")[::2] for line in block.split("\n") if "=" in line)
        if fields.get("Where") and fields.get("ActiveState") != "active":
            what = fields.get("What") or "of nothing that is known"
            found.append(f"'{fields['Where']}' ({what}, {fields.get('Id', '')}) is not mounted.")
    return found


def _not_mounted() -> list[str]:
    """What the boot waited for and has not got: a disk of fstab that is not there fails no unit, only the
    jobs of those that need it. Raises CommandError."""
    shown = run("systemctl", "show", "--property=Requires", "--value", "--", _LOCAL_FS).strip()
    mounts = [unit for unit in words(shown) if unit.endswith(".mount")]
    asked = "--property=Id,ActiveState,Where,What"
    return parse_mounts(run("systemctl", "show", asked, "--", *mounts)) if mounts else []


def why_not() -> list[str]:
    """Why this boot did not seal, by the units of it that failed."""
    try:
        names = run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full")
        failed = [words(line)[0] for line in names.split("\n") if words(line)]
        every = sorted({*UNITS, *failed, _LOCAL_FS})
        found = parse_units(run("systemctl", "show", f"--property={_SHOWN}", "--", *every))
        found += _not_mounted()
    except CommandError as e:
        return [e.message]
    return found or [_NOTHING]
