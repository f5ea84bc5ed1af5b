# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict as it was written down: for users, who cannot look into the volume and would take everything on
it for missing."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from persist.boot import paths
from persist.errors import PersistError
from persist.reason import Reason
from persist.verdict.entry_state import EntryState
from persist.verdict.judge import Verdict
from persist.volume import outcome

STATE = paths.STATE


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as f:
            return f.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""  # an id that cannot be read is left empty in the verdict


def document(found: Verdict) -> dict[str, Any]:
    """The content of state.json."""
    return found.as_dict() | {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "uptime": round(time.clock_gettime(time.CLOCK_BOOTTIME), 3),
        "boot_id": _text("/proc/sys/kernel/random/boot_id").replace("-", ""),
        "machine_id": _text("/etc/machine-id"),
    }


def read(path: str = STATE) -> tuple[Verdict, dict[str, Any]]:
    """The verdict that was made last, and the content of state.json. Raises PersistError where there is none
    that can be read."""
    try:
        with open(path, encoding="utf-8") as f:
            found = json.load(f)
        return Verdict(
            found["verdict"],
            outcome.of(found["volume"]),
            [EntryState(**e) for e in found["entries"]],
            [Reason(**r) for r in found["reasons"]],
        ), found
    except FileNotFoundError as e:
        raise PersistError(
            "No verdict of this boot has been written yet.",
            hint="See 'systemctl status persist-verify.service', or run it as root.",
        ) from e
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise PersistError(f"Failed to read {path}: {e}.", hint="Run it as root.") from e
