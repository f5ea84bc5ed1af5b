# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the throw-away machine is asked for, and how it is told: credentials of systemd, in SMBIOS tables or,
where those are too small, in QEMU's fw_cfg."""

from __future__ import annotations

import base64

from persist.errors import PersistError
from persist.record import Record

SEAL, SCRIPT = "persist.seal", "persist.operator-script"
SMBIOS_MOST = 32 << 10  # bytes of a script; QEMU's tables end at 64 KiB, and base64 adds a third
SCRIPT_MOST = 512 << 10  # the guest's PID 1 takes 1 MiB of credentials in all


class Request(Record):
    """One machine that is to seal itself: the SMBIOS UUID that it is given, the id that is honoured once, and
    the operator's script, if any."""

    machine: str
    id: str
    script: bytes = b""

    def word(self) -> str:
        """The credential persist.seal."""
        return f"{self.machine}:{self.id}"


class Handed(Record):
    """How a request gets into the machine: files to be written, each with its content, and QEMU's options,
    in which ``{NAME}`` stands for the path of such a file."""

    files: dict[str, bytes]
    smbios: tuple[str, ...]
    fw_cfg: tuple[str, ...]


def check_script(script: bytes, name: str) -> bytes:
    """The script as it is. Raises PersistError for one that no guest could run."""
    if not script.startswith(b"#!"):
        raise PersistError(
            f"'{name}' does not begin with '#!': no interpreter is named for it.",
            hint="See persist-operator-script(7).",
        )
    if len(script) > SCRIPT_MOST:
        raise PersistError(
            f"'{name}' has {len(script)} bytes; an operator script has at most {SCRIPT_MOST}.",
            hint="What it brings along can be on the disk.",
        )
    return script


def handed(request: Request) -> Handed:
    """The ways for a request: the word as text in the SMBIOS tables, a script there or in fw_cfg."""
    files: dict[str, bytes] = {}
    smbios, fw_cfg = [f"value=io.systemd.credential:{SEAL}={request.word()}"], []
    if request.script and len(request.script) <= SMBIOS_MOST:
        # path=: a word of the command line ends at 128 KiB, and anybody may read it there.
        files["script"] = b"io.systemd.credential.binary:" + SCRIPT.encode() + b"="
        files["script"] += base64.b64encode(request.script)
        smbios.append("path={script}")
    elif request.script:
        files["script"] = request.script
        fw_cfg.append(f"name=opt/io.systemd.credentials/{SCRIPT},file={{script}}")
    return Handed(files, tuple(smbios), tuple(fw_cfg))
