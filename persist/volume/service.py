# SPDX-License-Identifier: LGPL-2.1-or-later
"""What persist-service calls. Each imports only what it needs: the volume service runs at each boot."""

from __future__ import annotations


def format_main() -> int:
    """Run as persist-format.service; see format_service."""
    from .format_service import format_main as main

    return main()


def volume_main() -> int:
    """Run as persist-volume.service; see volume_service."""
    from .volume_service import volume_main as main

    return main()
