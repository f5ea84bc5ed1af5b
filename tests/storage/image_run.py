# SPDX-License-Identifier: LGPL-2.1-or-later
"""'persistctl image create' as a process of its own, with a guest of tests/storage/boot_sector.py.

/usr/bin/python3 -m tests.storage.image_run SOURCE OUTPUT TIMEOUT
"""

from __future__ import annotations

import sys

from persist.cli.image import make
from persist.errors import PersistError
from persist.image.create import Wish
from tests.storage.boot_sector import PORT


def main(source: str, output: str, timeout: str) -> int:
    """The exit status, as persistctl's main() makes it."""
    try:
        return make(Wish(source, output, timeout=float(timeout), accelerator="tcg", port_device=PORT))
    except PersistError as e:
        print(f"persistctl: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
