# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-verify.service: the verdict at the end of the boot."""

from __future__ import annotations

from persist.services.running import say_early
from persist.verdict.announce import announce


def main() -> int:
    """Run as persist-verify.service. Exit status 1 when the verdict could not be made or written, or its
    target not be started."""
    say_early()
    return announce()
