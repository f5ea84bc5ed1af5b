# SPDX-License-Identifier: LGPL-2.1-or-later
"""One sentence of a verdict."""

from __future__ import annotations

from persist.record import Record


class Reason(Record):
    """One sentence of a verdict: what, and what to do about it. ``code`` is stable."""

    code: str
    message: str
    hint: str = ""
    path: str = ""
