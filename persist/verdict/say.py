# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the verdict, write it down, and say it where people look."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import Any

from persist import log
from persist.boot import paths
from persist.boot.load import Loaded, load
from persist.entries import as_seeded
from persist.errors import PersistError
from persist.system.files import write_atomically
from persist.system.lock import held
from persist.system.run import run
from persist.verdict import judge as v
from persist.volume.outcome import formatted, note_heal

STATE = paths.STATE
LOCK = paths.STATE_LOCK
ONLINE_FLAG = paths.ONLINE
BOOTED_FLAG = paths.BOOTED
CONSOLE = "/dev/console"
NOTICES = ("/run/issue.d/persist.issue", "/run/motd.d/persist")
_MESSAGES = {
    v.ONLINE: "VERDICT_ONLINE",
    v.DEGRADED: "VERDICT_DEGRADED",
    v.VOLATILE: "VERDICT_VOLATILE",
    v.OFF: "VERDICT_OFF",
}
# Of reasons by their code, so that a filter on a MESSAGE_ID sees the verdict's word, too. Nobody but the
# verdict says those of _OWN.
_OWN = {"device-errors": "DEVICE_ERRORS", "space-low": "SPACE_LOW", "metadata-low": "SPACE_LOW"}
_REASONS = _OWN | {
    "member-missing": "MEMBER_MISSING",
    "member-stale": "MEMBER_STALE",
    "member-split": "MEMBER_SPLIT",
    "member-lost": "MEMBER_LOST",
    "reserve-used": "SPACE_RESERVE",
    "heal-failed": "HEAL_FAILED",
    "entry-failed": "ENTRY_FAILED",
}
_PRIORITIES = {v.ONLINE: log.NOTICE, v.DEGRADED: log.WARNING, v.VOLATILE: log.ERR, v.OFF: log.NOTICE}


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as f:
            return f.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""  # an id that cannot be read is left empty in the verdict


def summary(found: v.Verdict) -> str:
    """The verdict in one line."""
    first = found.reasons[0].message if found.reasons else ""
    more = f" (and {len(found.reasons) - 1} more)" if len(found.reasons) > 1 else ""
    match found.verdict:
        case v.ONLINE:
            return (
                f"Persistent state is online ({found.volume.get('device') or found.volume.get('kind', '')})."
            )
        case v.VOLATILE:
            lost = found.volume.get("kind") == "tmpfs" or any(
                found.volume.get(key) for key in ("root_read_only", "root_memory", "memory")
            )
            fate = "is lost at power-off" if lost else "will be out of sight"
            return f"Persistent state is VOLATILE, what is written now {fate}: {first}{more}"
        case v.DEGRADED:
            return f"Persistent state is DEGRADED: {first}{more}"
    return f"Persistent state is off: {first}"


def _notices(found: v.Verdict, *, console: bool) -> None:
    """Console, and the texts before and after login; taken away again when all is well."""
    line = log.safe(summary(found) + " See 'persistctl status'.") + "\n"
    loud = found.verdict in (v.DEGRADED, v.VOLATILE)
    for path in NOTICES:
        try:
            if loud:
                # agetty takes backslashes in an issue file for escapes.
                write_atomically(path, line.replace("\\", "\\\\") if path.endswith(".issue") else line)
            elif os.path.lexists(path):
                os.unlink(path)
        except OSError as e:
            log.log(log.WARNING, f"{path} cannot be kept up to date: {e}", "FAILED", PERSIST_PATH=path)
    if loud and console:
        try:
            with open(CONSOLE, "w", encoding="utf-8") as screen:
                screen.write("\n*** " + line)
        except OSError as e:
            log.log(log.DEBUG, f"No console to write to: {e}", "FAILED")


def _journal(found: v.Verdict, loaded: Loaded | None) -> None:
    for problem in loaded.problems if loaded is not None else ():
        if problem.code != "ENTRY_ELSEWHERE":  # the verdict has looked, and says more
            log.log(
                problem.level,
                str(problem),
                problem.code,
                PERSIST_SOURCE=problem.where,
                PERSIST_PATH=problem.path,
            )
    for notice in found.notices:
        log.log(
            log.NOTICE,
            notice.message,
            "ENTRY_ADOPTED" if notice.code == "method" else "ENTRY_ELSEWHERE",
            PERSIST_PATH=notice.path,
            PERSIST_SOURCE=next((e.source for e in found.entries if e.path == notice.path), ""),
        )
    log.log(
        _PRIORITIES[found.verdict],
        summary(found),
        _MESSAGES[found.verdict],
        PERSIST_VERDICT=found.verdict,
        PERSIST_DEVICE=str(found.volume.get("device", "")),
        PERSIST_REASON=found.reasons[0].code if found.reasons else "",
    )
    for number, reason in enumerate(found.reasons):
        if reason.code in _OWN or number and reason.code != "registry":
            log.log(
                log.WARNING,
                f"{reason.message} {reason.hint}".rstrip(),
                _REASONS.get(reason.code, "FAILED"),
                PERSIST_PATH=reason.path,
                PERSIST_REASON=reason.code,
            )
    if loaded is None:
        return
    for name in v.stale_early(loaded):
        try:
            path = paths.unescape(name)
        except ValueError:
            path = name  # nothing of ours has such a name
        log.log(
            log.WARNING,
            f"The initrd mounted {path}, which the registry does not ask for. Run 'update-initramfs -u'.",
            "REGISTRY_PROBLEM",
            PERSIST_PATH=path,
        )
    missing = v.initrd_stage_missing(loaded, loaded.facts)
    if missing:
        log.log(log.WARNING, missing, "REGISTRY_PROBLEM")


def _environment() -> dict[str, str]:
    """What PID 1 tells its generators and not its services, as far as a plan needs it."""
    try:
        kind = run("systemd-detect-virt", "--container", ok=(0, 1)).strip()
    except PersistError:
        kind = "none"
    return {} if kind in ("", "none") else {"SYSTEMD_VIRTUALIZATION": f"container:{kind}"}


def _health(volume: dict[str, Any], look: v.Look) -> list[v.Reason]:
    """What is not well with the volume itself, where one is mounted."""
    at = look.mount(paths.VOLUME)
    if volume.get("kind") != "btrfs" or at is None or at.fstype != "btrfs":
        return []
    from persist.system.btrfs import filesystem_uuid
    from persist.volume.heal.health import examine

    try:
        return examine(filesystem_uuid(paths.VOLUME))
    except OSError as e:
        return [
            v.Reason(
                "health-unknown",
                f"The health of the state volume is not known: {e}.",
                "See 'journalctl -b -k'.",
            )
        ]


def current() -> tuple[v.Verdict, Loaded]:
    """The verdict of this moment."""
    loaded = load("", _environment())
    settled = as_seeded.settle(loaded)
    volume, look = v.read_volume(), v.Look()
    found = v.judge(loaded, volume, look, _health(volume, look))
    found.notices += [
        v.Reason(
            "method",
            f"{path} was seeded for Method=overlay and stays one, although its entry says Method=bind now.",
            "",
            path,
        )
        for path in settled
    ]
    return found, loaded


def document(found: v.Verdict) -> dict[str, Any]:
    """The content of state.json."""
    return found.as_dict() | {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "uptime": round(time.clock_gettime(time.CLOCK_BOOTTIME), 3),
        "boot_id": _text("/proc/sys/kernel/random/boot_id").replace("-", ""),
        "machine_id": _text("/etc/machine-id"),
    }


def _failed(error: Exception) -> v.Verdict:
    text = str(error) if isinstance(error, PersistError) else f"{type(error).__name__}: {error}."
    return v.Verdict(
        v.DEGRADED,
        {"kind": "none"},
        reasons=[
            v.Reason(
                "verify-failed",
                f"Nobody knows what this boot keeps, the verdict could not be made: {text}",
                "Please report this.",
            )
        ],
    )


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
        found = _failed(e)
    status = 0 if loaded is not None else 1
    try:
        _write(found)
    except OSError as e:
        log.log(log.ERR, f"The verdict cannot be written: {e}", "FAILED")
        status = 1
    changed = not quiet or old != (found.verdict, found.as_dict()["reasons"])
    _notices(found, console=changed)
    if changed:
        _journal(found, loaded)
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
