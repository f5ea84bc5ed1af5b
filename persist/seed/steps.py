# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps of seeding at which tests cut the power."""

from __future__ import annotations

from persist import cut

STEPS = (
    "store",
    "work",
    "parents",
    "copied",
    "synced",
    "intent",
    "near",
    "placed",
    "link-aside-copied",
    "link-aside",
    "linked",
    "unlinked",
    "link-back",
    "said-anew",
    "taken-copied",
    "taken-aside",
    "taken-placed",
    "taken-linked",
    "manifest",
    "marker",
    "done",
)


def step(name: str) -> None:
    """Note that a step is done (persist/cut.py)."""
    assert name in STEPS, name
    cut.after(name)
