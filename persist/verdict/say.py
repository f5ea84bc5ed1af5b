# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict where people look: the journal, the console, and the texts before and after login."""

from __future__ import annotations

import os
from collections.abc import Sequence

from persist.boot.load import Loaded
from persist.log import safe
from persist.note import DEBUG, ERR, NOTICE, WARNING, Note
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
_OWN = {
    "device-errors": "DEVICE_ERRORS",
    "space-low": "SPACE_LOW",
    "metadata-low": "SPACE_LOW",
    "not-before-pid1": "ENTRY_NOT_IN_TIME",
    "seal-refused": "SEAL_REFUSED",
    "seal-begun": "SEAL_BEGUN",
}
_REASONS = _OWN | {
    "member-missing": "MEMBER_MISSING",
    "member-stale": "MEMBER_STALE",
    "member-split": "MEMBER_SPLIT",
    "member-lost": "MEMBER_LOST",
    "reserve-used": "SPACE_RESERVE",
    "heal-failed": "HEAL_FAILED",
    "entry-failed": "ENTRY_FAILED",
    "migration-failed": "MIGRATION_FAILED",
    "migration-held": "MIGRATION_FAILED",
}
_NOTICES = {
    "method": "ENTRY_AS_SEEDED",
    "snapshot": "ENTRY_AS_SEEDED",
    "seal-refused": "SEAL_REFUSED",
    "migration-waiting": "MIGRATION_BEGUN",
}
_PRIORITIES = {v.ONLINE: NOTICE, v.DEGRADED: WARNING, v.VOLATILE: ERR, v.OFF: NOTICE}


def summary(found: v.Verdict) -> str:
    """The verdict in one line."""
    first = found.reasons[0].message if found.reasons else ""
    more = f" (and {len(found.reasons) - 1} more)" if len(found.reasons) > 1 else ""
    match found.verdict:
        case v.ONLINE:
            return f"Persistent state is online ({found.volume.device or found.volume.kind})."
        case v.VOLATILE:
            volume = found.volume
            lost = volume.kind == "tmpfs" or not volume.root_kept or bool(volume.memory)
            fate = "is lost at power-off" if lost else "will be hidden by the volume later"
            return f"Persistent state is VOLATILE, what is written now {fate}: {first}{more}"
        case v.DEGRADED:
            return f"Persistent state is DEGRADED: {first}{more}"
    return f"Persistent state is off: {first}"


def notices(found: v.Verdict, console: str, texts: Sequence[str] = NOTICES) -> list[Note]:
    """Show the verdict in the texts before and after login, which are taken away again when all is well, and
    on ``console``, where that is not ''. Returns what could not be done."""
    notes = []
    seal = next((r.message for r in found.reasons if r.code.startswith("seal-")), "")
    loud = found.verdict in (v.DEGRADED, v.VOLATILE) or bool(seal)
    text = seal if found.verdict == v.OFF else summary(found)
    line = safe(text + " See 'persistctl status'.") + "\n"
    for path in texts:
        try:
            if loud:
                # agetty takes backslashes in an issue file for escapes.
                write_atomically(path, line.replace("\\", "\\\\") if path.endswith(".issue") else line)
            elif os.path.lexists(path):
                os.unlink(path)
        except OSError as e:
            notes.append(Note(WARNING, f"Failed to update {path}: {e}", "FAILED", {"PERSIST_PATH": path}))
    if loud and console:
        try:
            with open(console, "w", encoding="utf-8") as screen:
                screen.write("\n*** " + line)
        except OSError as e:
            notes.append(Note(DEBUG, f"Failed to write to {console}: {e}", "FAILED"))
    return notes


def _of_registry(loaded: Loaded) -> list[Note]:
    return [
        Note(
            problem.level,
            str(problem),
            problem.code,
            {"PERSIST_SOURCE": problem.where, "PERSIST_PATH": problem.path},
        )
        for problem in loaded.problems
        # Of these the verdict has looked at the path, and says more.
        if problem.code not in ("ENTRY_ELSEWHERE", "ENTRY_NOT_IN_TIME")
    ]


def records(found: v.Verdict, loaded: Loaded | None) -> list[Note]:
    """What the journal gets: what is wrong with the registry, the verdict, and its reasons. ``loaded`` is
    None where no verdict could be made."""
    notes = _of_registry(loaded) if loaded is not None else []
    for notice in found.notices:
        source = next((e.source for e in found.entries if e.path == notice.path), "")
        name = _NOTICES.get(notice.code, "ENTRY_ELSEWHERE")
        notes.append(
            Note(
                NOTICE,
                f"{notice.message} {notice.hint}".rstrip(),
                name,
                {"PERSIST_PATH": notice.path, "PERSIST_SOURCE": source},
            )
        )
    fields = {
        "PERSIST_VERDICT": found.verdict,
        "PERSIST_DEVICE": found.volume.device,
        "PERSIST_REASON": found.reasons[0].code if found.reasons else "",
    }
    notes.append(Note(_PRIORITIES[found.verdict], summary(found), _MESSAGES[found.verdict], fields))
    for number, reason in enumerate(found.reasons):
        if reason.code in _OWN or number and reason.code != "registry":
            notes.append(
                Note(
                    WARNING,
                    f"{reason.message} {reason.hint}".rstrip(),
                    _REASONS.get(reason.code, "FAILED"),
                    {"PERSIST_PATH": reason.path, "PERSIST_REASON": reason.code},
                )
            )
    return notes
