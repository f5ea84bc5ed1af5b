# SPDX-License-Identifier: LGPL-2.1-or-later
"""The generator: ``persist-generator NORMAL [EARLY LATE]`` (systemd.generator(7)). Boot-safe.

``PERSIST_GENERATOR_ROOT`` names another root directory: documented, for tests and images.
"""

from __future__ import annotations

import os
import sys

from . import facts
from .plan import GENERATOR, why_nothing

CRIT, ERR, INFO, DEBUG = 2, 3, 6, 7


def _log(level: int, text: str, to_kmsg: bool) -> None:
    """One line to /dev/kmsg when PID 1 runs us (no journal to talk to yet), else to standard error."""
    if to_kmsg:
        try:
            fd = os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            to_kmsg = False  # then standard error, below
        else:
            line = "<%d>%s[%d]: %s" % (level, GENERATOR, os.getpid(), text)
            os.write(fd, line.encode("utf-8", "backslashreplace")[:900])
            os.close(fd)
    if not to_kmsg and level < DEBUG:
        sys.stderr.write("%s: %s\n" % (GENERATOR, text.encode("utf-8", "backslashreplace").decode()))


def _generate(root: str, directory: str, to_kmsg: bool) -> None:
    known = facts.gather(root, os.environ)
    reason = why_nothing(known)
    if reason:
        _log(DEBUG, "Nothing to do: %s." % reason, to_kmsg)
        return
    from .emit import emit
    from .load import Loaded

    loaded = Loaded(root, known, os.environ)
    for problem in loaded.problems:
        _log(problem.level, str(problem), to_kmsg)
    if loaded.plan.reason:
        _log(DEBUG, "Nothing to do: %s." % loaded.plan.reason, to_kmsg)
        return
    problems: list = []  # type: ignore[type-arg]  # of Problem, which is not imported on machines without entries
    emit(loaded.plan, directory, problems)
    for problem in problems:
        _log(problem.level, str(problem), to_kmsg)


def main(argv: list[str]) -> int:
    """Run as a generator; exit status 0 also where files were bad, 1 when nothing could be done at all."""
    if len(argv) not in (2, 4):
        sys.stderr.write("%s: this program takes one or three directories as arguments.\n" % GENERATOR)
        return 1
    to_kmsg = len(argv) == 4 and "SYSTEMD_SCOPE" in os.environ
    try:
        _generate(os.environ.get("PERSIST_GENERATOR_ROOT", "").rstrip("/"), argv[1], to_kmsg)
    except Exception as e:  # noqa: BLE001  # whatever it is, the boot goes on and the verdict says what is missing
        _log(CRIT, "Failed, no entry is kept on this boot: %s: %s. Please report this." % (type(e).__name__, e), to_kmsg)
        return 1
    return 0
