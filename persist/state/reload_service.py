# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-reload.service: PID 1 reads its configuration again after /etc came late, and this boot's target gets its new members."""

from __future__ import annotations

from .. import log
from ..boot.facts import Facts, gather
from ..errors import CommandError, PersistError
from ..run import run

# Words of kernel-command-line(7) that ask for a boot of a certain kind, whose members /etc does not add to.
_OTHER_BOOTS = ("single", "s", "S", "1", "rescue", "emergency", "-b")


def target(facts: Facts) -> str:
    """What to start again, '' for nothing: a rescue boot must stay one."""
    if any(facts.option(word) is not None for word in _OTHER_BOOTS):
        return ""
    return facts.option("systemd.unit") or "default.target"


def main() -> int:
    """Reload, then queue the target of this boot. Exit status 1 when the reload failed."""
    try:
        run("systemctl", "daemon-reload")
        again = target(gather("", {}))
        if again:
            try:
                # fail: what is queued already and conflicts (rescue.target) stays.
                run("systemctl", "--no-block", "--job-mode=fail", "start", again)
            except CommandError as e:
                log.log(log.NOTICE, f"{again} was not queued again: {e}", "RELOADED")
                return 0
        log.log(log.NOTICE, f"The service manager has read its configuration again{', ' + again + ' is queued again' if again else ''}.", "RELOADED")
    except PersistError as e:
        log.log_error(e)
        return 1
    return 0
