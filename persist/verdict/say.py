# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict where people look: the journal, the console, and the texts before and after login."""

from __future__ import annotations

import os

from persist import log
from persist.boot import paths
from persist.boot.load import Loaded
from persist.system.files import write_atomically
from persist.verdict import judge as v

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


def notices(found: v.Verdict, *, console: bool) -> None:
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


def journal(found: v.Verdict, loaded: Loaded | None) -> None:
    """The verdict with its reasons, and what is wrong with the registry; ``loaded`` is None where nobody
    could read that."""
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
