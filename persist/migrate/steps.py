# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps of a migration at which tests cut the power (docs/migrations.md has what each cut leaves)."""

from __future__ import annotations

from persist import cut

RUN = ("snapshot", "begun", "executed", "synced", "stamped", "run-done")
RESTORE = ("restore-copied", "restore-placed", "restore-noted", "restore-done")
OTHERS = ("failed", "seed-stamped")


def step(name: str) -> None:
    """Note that a step is done (persist/cut.py)."""
    assert name in (*RUN, *RESTORE, *OTHERS), name
    cut.after(name)
