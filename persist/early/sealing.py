# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the boot that begins may seal this machine: then the stage leaves all as it was. The generator
decides (boot/seal/decide.py), and knows more by then: the credentials that PID 1 has taken, and the
machine-id that it has made. So this asks for less, and says for the verdict what it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from persist.boot import paths
from persist.boot.facts import Facts, words
from persist.boot.ini import boolean
from persist.boot.seal.decide import SEAL, decide
from persist.boot.seal.look import look
from persist.boot.seal.request import KEY, NAMES
from persist.early import firmware
from persist.system.files import write_atomically


def credentials(cmdline: str, sys: str = "/sys") -> list[bytes]:
    """What PID 1 may take for the credential: of the firmware, or of the command line (systemd.exec(5),
    kernel-command-line(7))."""
    found = firmware.values(KEY, sys)
    for word in words(cmdline):
        name, _, value = word.partition("=")
        if name == "systemd.import_credentials" and boolean(value) is False:
            return []
        if name == "systemd.set_credential" and value.startswith(KEY + ":"):
            found.append(value.partition(":")[2].encode("utf-8", "surrogateescape"))
        if name == "systemd.set_credential_binary" and value.startswith(KEY + ":"):
            found.append(firmware.decoded(value.partition(":")[2].encode("utf-8", "surrogateescape")))
    return found


def asks(known: Facts, environ: Mapping[str, str], values: Sequence[bytes]) -> str:
    """Who asks that this machine be sealed, where that is not refused by what is known already; else ''.
    ``values`` as credentials() has them."""
    seen = look(known, environ)
    seen.before_pid1 = True
    for value in values or (None,):
        seen.credential = value
        answer = decide(seen)
        if answer.kind == SEAL:
            name = "" if answer.request is None else f" (ID {answer.request.id})"
            return f"{NAMES[answer.source]}{name}"
    return ""


def noted(known: Facts, environ: Mapping[str, str]) -> str:
    """Who asks(), with the word that this was taken for a boot that seals. Raises OSError."""
    who = asks(known, environ, credentials(known.cmdline))
    if who:
        write_atomically(paths.SEAL_SEEN, who + "\n")
    return who
