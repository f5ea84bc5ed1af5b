# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which entries that PID 1 reads the stage has not mounted, and why: for the verdict, which cannot see it any
more."""

from __future__ import annotations

import json
from collections.abc import Mapping

from persist.boot import paths
from persist.system.files import write_atomically


def note(why: Mapping[str, str]) -> None:
    """Write it down: path to a sentence. An empty one stands for a stage that has mounted all of them. Raises
    OSError."""
    write_atomically(paths.LEFT, json.dumps(dict(why)) + "\n")


def read(root: str = "") -> dict[str, str] | None:
    """What the stage of this boot has left; None where there was none. Raises OSError."""
    try:
        with open(root + paths.LEFT, encoding="ascii", errors="replace") as f:
            found = json.load(f)
    except FileNotFoundError:
        return None
    except ValueError:
        return {}  # not ours; there was a stage all the same
    return {str(path): str(why) for path, why in found.items()} if isinstance(found, dict) else {}
