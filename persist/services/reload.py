# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-reload.service: PID 1 reads its configuration again after /etc came late, this boot's target gets
its new members, and the journal its place."""

from __future__ import annotations

from persist import log
from persist.boot.facts import Facts, gather
from persist.boot.paths import IMAGE
from persist.errors import CommandError, PersistError
from persist.seed import machine_id
from persist.system.run import run

# Words of kernel-command-line(7) that ask for a boot of a certain kind, whose members /etc does not add to.
_OTHER_BOOTS = ("single", "s", "S", "1", "rescue", "emergency", "-b")


def target(facts: Facts) -> str:
    """What to start again, '' for nothing: a rescue boot must stay one."""
    if any(facts.option(word) is not None for word in _OTHER_BOOTS):
        return ""
    return facts.option("systemd.unit") or "default.target"


def journal(root: str = "", image: str = IMAGE) -> None:
    """Have journald write where journalctl(1) reads: it began under the id that PID 1 had before /etc came,
    unless this is the first boot.

    What it has in /run until then goes to /var with the rest: a flush takes all that is there. Raises
    PersistError and OSError.
    """
    before, kept = machine_id.running_id(root, image), machine_id.kept_id(root)
    if not before or not kept or before == kept:
        return
    run("systemctl", "restart", "systemd-journald.service")
    log.log(
        log.NOTICE,
        f"/etc was mounted late and has the machine-id {kept}, under which this boot's journal is now kept. "
        f"PID 1 has {before} until the next boot.",
        "RELOADED",
    )


def main() -> int:
    """Reload, then queue the target of this boot. Exit status 1 when the reload failed, or the journal is out
    of sight."""
    status = 0
    try:
        journal()
    except (PersistError, OSError) as e:
        log.log(
            log.WARNING,
            f"Failed to restart journald under the machine-id of /etc: {e} Use 'journalctl --merge' for this "
            "boot.",
            "FAILED",
        )
        status = 1
    try:
        run("systemctl", "daemon-reload")
        again = target(gather("", {}))
        if again:
            try:
                # fail: what is queued already and conflicts (rescue.target) stays.
                run("systemctl", "--no-block", "--job-mode=fail", "start", again)
            except CommandError as e:
                log.log(log.NOTICE, f"Failed to start {again} again: {e}", "RELOADED")
                return status
        log.log(
            log.NOTICE,
            f"Reloaded the service manager{f' and started {again} again' if again else ''}.",
            "RELOADED",
        )
    except PersistError as e:
        log.log_error(e)
        return 1
    return status
