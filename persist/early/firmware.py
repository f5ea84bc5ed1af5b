# SPDX-License-Identifier: LGPL-2.1-or-later
"""Credentials that the firmware has for PID 1, which imports them after the stage (systemd.exec(5),
"CREDENTIALS"; the SMBIOS strings of type 11 and QEMU's fw_cfg)."""

from __future__ import annotations

import os
from binascii import a2b_base64
from collections.abc import Sequence
from contextlib import suppress

from persist.boot import paths
from persist.volume.find.search import CREDENTIAL

# What they say decides where things are mounted: by us, and by systemd-fstab-generator(8).
NAMES = (CREDENTIAL, "fstab.extra")
SEAL = "persist.seal"  # that this machine be sealed: boot/seal/request.py
_BINARY = b"io.systemd.credential.binary:"
_PREFIXES = (b"io.systemd.credential:", _BINARY)
_LONGEST = 1 << 20


def credentials(sys: str = "/sys") -> list[str]:
    """Those of NAMES and SEAL that the firmware has. Whether PID 1 believes them is for PID 1: in a
    confidential virtual machine it does not."""
    names = {*NAMES, SEAL}
    found = {name for name in names if os.path.exists(f"{sys}/{_FW_CFG}/{name}")}
    for text in _strings(sys):
        for prefix in _PREFIXES:
            if text.startswith(prefix):
                name = text.removeprefix(prefix).partition(b"=")[0].decode("ascii", "replace")
                found |= {name} & names
    return sorted(found)


def seal_asked(cmdline: str, told: Sequence[str]) -> bool:
    """Whether anything may ask that this machine be sealed; ``told``: credentials(). sealing.py says what of
    it."""
    asks = any(SEAL in text for text in (cmdline, *told))
    return asks or any(map(os.path.lexists, (paths.SEAL_REQUEST, paths.SEAL_BEGUN)))


def values(name: str, sys: str = "/sys") -> list[bytes]:
    """What the firmware has for one name; whose of two PID 1 takes is for PID 1."""
    found = []
    for text in _strings(sys):
        for prefix in _PREFIXES:
            if text.startswith(prefix + name.encode() + b"="):
                value = text.partition(b"=")[2]
                found.append(decoded(value) if prefix == _BINARY else value)
    with suppress(OSError), open(f"{sys}/{_FW_CFG}/{name}/raw", "rb") as f:
        found.append(f.read(_LONGEST))  # where it is there, and a driver for it
    return found


def decoded(text: bytes) -> bytes:
    """What is written in base64, nothing where that is not."""
    try:
        return a2b_base64(text)
    except ValueError:
        return b""


_FW_CFG = "firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials"


def _strings(sys: str) -> list[bytes]:
    """The strings of all SMBIOS structures of type 11 (DSP0134, "OEM Strings")."""
    directory = f"{sys}/firmware/dmi/entries"
    found = []
    try:
        names = sorted(name for name in os.listdir(directory) if name.startswith("11-"))
    except OSError:
        return []  # no SMBIOS on this machine
    for name in names:
        try:
            with open(f"{directory}/{name}/raw", "rb") as f:
                data = f.read(_LONGEST)
        except OSError:
            continue  # PID 1 cannot read it either
        if len(data) > 1:
            found += data[data[1] :].split(b"\0")  # the second byte is the length of the fixed part
    return found
