# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine that runs, as each service sees it."""

from __future__ import annotations

import os

from persist.boot.load import Loaded, load


def running() -> Loaded:
    """Its configuration, what is known of it (``facts.mode`` is what this boot was asked for), and the plan.
    What is wrong with them is for the verdict to say."""
    return load("", os.environ)
