# SPDX-License-Identifier: LGPL-2.1-or-later
"""The format of SOURCE, which nobody guesses from its bytes: a guest may write the header of another one into
its raw disk, and have QEMU open any file of the host by it."""

from __future__ import annotations

import os

from persist.errors import PersistError

FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc")  # as qemu-img calls them
_SUFFIXES = {
    ".raw": "raw",
    ".qcow2": "qcow2",
    ".vmdk": "vmdk",
    ".vdi": "vdi",
    ".vhdx": "vhdx",
    ".vhd": "vpc",
}


def format_of(source: str, wanted: str = "") -> str:
    """The format: what is wanted, else what the name says.

    Raises PersistError where the name says nothing. ``.img`` is such a name: it stands for raw and for qcow2.
    """
    if wanted:
        return wanted
    found = _SUFFIXES.get(os.path.splitext(source)[1].lower(), "")
    if not found:
        raise PersistError(
            f"The name of '{source}' does not tell its format, and its content is not asked.",
            hint=f"Say it: --format={'|'.join(FORMATS)}.",
        )
    return found
