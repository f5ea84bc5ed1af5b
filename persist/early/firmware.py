# SPDX-License-Identifier: LGPL-2.1-or-later
"""Credentials that the firmware has for PID 1, which imports them after the stage (systemd.exec(5),
"CREDENTIALS"; the SMBIOS strings of type 11 and QEMU's fw_cfg)."""

from __future__ import annotations

import os

from persist.volume.find.search import CREDENTIAL

# What they say decides where things are mounted: by us, and by systemd-fstab-generator(8).
NAMES = (CREDENTIAL, "fstab.extra")
_PREFIXES = (b"io.systemd.credential:", b"io.systemd.credential.binary:")
_LONGEST = 1 << 20


def credentials(sys: str = "/sys") -> list[str]:
    """Those of NAMES that the firmware has. Whether PID 1 believes them is for PID 1: in a confidential
    virtual machine it does not."""
    found = {name for name in NAMES if os.path.exists(f"{sys}/{_FW_CFG}/{name}")}
    for text in _strings(sys):
        for prefix in _PREFIXES:
            if text.startswith(prefix):
                name = text.removeprefix(prefix).partition(b"=")[0].decode("ascii", "replace")
                found |= {name} & set(NAMES)
    return sorted(found)


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
