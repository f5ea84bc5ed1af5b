# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the verdict, write it down, say it, and start what waits for it."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, suppress

from persist import log
from persist.boot import paths
from persist.errors import PersistError
from persist.system.files import write_atomically
from persist.system.lock import held
from persist.system.run import run
from persist.verdict import judge as v
from persist.verdict.current import current, failed
from persist.verdict.say import journal, notices
from persist.verdict.written import document
from persist.volume.outcome import formatted, note_heal

STATE = paths.STATE
LOCK = paths.STATE_LOCK
ONLINE_FLAG = paths.ONLINE
BOOTED_FLAG = paths.BOOTED


def _remove(*files: str) -> None:
    for path in files:
        # Not lexists(), which takes any error for an absence.
        with suppress(FileNotFoundError):
            os.unlink(path)


def _write(found: v.Verdict) -> None:
    """state.json and the flag. An old flag or an old verdict never stands where the new one could not be
    written. Raises OSError."""
    try:
        if found.verdict != v.ONLINE:
            _remove(ONLINE_FLAG)
        write_atomically(STATE, json.dumps(document(found), indent=2) + "\n")
        if found.verdict == v.ONLINE:
            write_atomically(ONLINE_FLAG, "")
    except OSError:
        _remove(ONLINE_FLAG, STATE)
        raise
    finally:
        # From here on nothing is seeded or mounted any more, whatever became of the verdict: services have
        # their files open.
        write_atomically(BOOTED_FLAG, "")


def _before() -> tuple[str, list[dict[str, str]]]:
    """Verdict and reasons of the last time, '' and none where there was none in this boot that can be
    read."""
    try:
        with open(STATE, encoding="utf-8") as f:
            old = json.load(f)
        return str(old["verdict"]), list(old["reasons"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", []


def _follow_up(found: v.Verdict) -> int:
    """Start the target that others wait for. Returns the exit status.

    It is not stopped again: a member that was pulled must not stop what requires it.
    """
    if found.verdict != v.ONLINE:
        return 0
    try:
        run("systemctl", "--no-block", "start", "persist-online.target")
    except PersistError as e:
        log.log_error(e)
        return 1
    return 0


def _leave_word(found: v.Verdict) -> None:
    """What happened to the members while the machine booted is for persist-heal.service, too; and of a new
    volume it notes the disks."""
    try:
        if formatted() or any(r.code.startswith(("member-", "heal")) for r in found.reasons):
            note_heal()
    except OSError as e:
        log.log(
            log.WARNING,
            f"Failed to leave word for persist-heal.service: {e}. Run 'systemctl start "
            "persist-heal.service'.",
            "FAILED",
        )


def _announce(*, quiet: bool) -> int:
    """Make the verdict and say it everywhere; with ``quiet`` the journal and the console hear of it only
    where it has changed."""
    with ExitStack() as stack:
        try:
            # Not side by side: who looked first and wrote last would leave an old verdict.
            stack.enter_context(held(LOCK))
        except OSError as e:
            log.log(log.WARNING, f"The verdict is made without its lock: {e}", "FAILED")
        return _announce_alone(quiet)


def _announce_alone(quiet: bool) -> int:
    loaded = None
    old = _before()
    try:
        found, loaded = current()
    except Exception as e:  # noqa: BLE001  # whatever it is: a machine without a verdict would pass for one that is well
        found = failed(e)
    status = 0 if loaded is not None else 1
    try:
        _write(found)
    except OSError as e:
        log.log(log.ERR, f"The verdict cannot be written: {e}", "FAILED")
        status = 1
    changed = not quiet or old != (found.verdict, found.as_dict()["reasons"])
    notices(found, console=changed)
    if changed:
        journal(found, loaded)
    if not quiet:
        _leave_word(found)
    return status or _follow_up(found)


def announce() -> int:
    """Make the verdict of the boot and say it everywhere. The exit status is 1 when that could not be done,
    or its target not be started."""
    return _announce(quiet=False)


def again() -> int:
    """Make the verdict anew after the boot, as persist-heal.service does: hourly, and where something
    happened to the volume. Returns as announce()."""
    return _announce(quiet=True)
