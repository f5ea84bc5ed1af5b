# SPDX-License-Identifier: LGPL-2.1-or-later
"""The master switch of a machine or an image: whether persist is there and persist-setup.target enabled, what
to do where not, and what would be kept if it were."""

from __future__ import annotations

import os

from persist.boot.facts import UNIT_DIRECTORIES, enabled, gather
from persist.boot.load import Loaded
from persist.foresee.image import Image

_TARGET = "/persist-setup.target"


def why_off(image: Image) -> tuple[str, str]:
    """Why nothing of the registry takes effect, and what to do about it, as a sentence; two empty strings
    where it does."""
    if enabled(image.root):
        return "", ""
    there = [base for base in UNIT_DIRECTORIES if os.path.lexists(image.root + base + _TARGET)]
    masked = [base for base in there if image.link(base + _TARGET) == "/dev/null"]
    if there == masked:
        where = f"in {image.root}" if image.root else "on this machine"
        return (
            f"persist is not installed {where} ({UNIT_DIRECTORIES[3]}{_TARGET} is not there)",
            "Install the package persist there.",
        )
    if there[0] in masked:
        option = "--runtime " if there[0].startswith("/run/") else ""
        return (
            f"persist-setup.target is masked ({there[0]}{_TARGET})",
            f"Run 'systemctl {image.option()}{option}unmask persist-setup.target'.",
        )
    return (
        "persist-setup.target is not enabled",
        f"Run 'systemctl {image.option()}enable persist-setup.target'.",
    )


def as_if_on(root: str) -> Loaded:
    """What the registry asks for, as if it were switched on, whatever the command line of this boot says."""
    facts = gather(root, {"SYSTEMD_PROC_CMDLINE": ""})
    facts.enabled = True
    return Loaded(root, facts, {}, wanted=True)
