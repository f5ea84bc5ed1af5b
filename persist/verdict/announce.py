# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the verdict, write it down, say it, and start what waits for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from persist import log
from persist.boot import paths
from persist.boot.load import Loaded
from persist.entries.stores import replaced
from persist.errors import PersistError
from persist.note import ERR, WARNING, Note
from persist.system.files import held, write_atomically
from persist.system.run import run
from persist.verdict import judge as v
from persist.verdict import say
from persist.verdict.current import current, failed
from persist.verdict.written import document
from persist.volume.outcome import formatted, note_heal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from persist.note import Say

START = ("systemctl", "--no-block", "start", "persist-online.target")


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
            _remove(paths.ONLINE)
        write_atomically(paths.STATE, json.dumps(document(found), indent=2) + "\n")
        if found.verdict == v.ONLINE:
            write_atomically(paths.ONLINE, "")
    except OSError:
        _remove(paths.ONLINE, paths.STATE)
        raise
    finally:
        # From here on nothing is seeded or mounted any more, whatever became of the verdict: services have
        # their files open.
        write_atomically(paths.BOOTED, "")


def _before() -> tuple[str, list[dict[str, str]]]:
    """Verdict and reasons of the last time, '' and none where there was none in this boot that can be
    read."""
    try:
        with open(paths.STATE, encoding="utf-8") as f:
            old = json.load(f)
        return str(old["verdict"]), list(old["reasons"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", []


class Announcer:
    """Says the verdict everywhere. ``make`` makes it, ``tell`` takes it into the journal, ``console`` is
    where people see it, ``start`` is the command that starts the target that others wait for."""

    def __init__(
        self,
        make: Callable[[], tuple[v.Verdict, Loaded]] = current,
        tell: Say = log.say,
        console: str = say.CONSOLE,
        start: Sequence[str] = START,
    ) -> None:
        self.make, self.tell, self.console, self.start = make, tell, console, start

    def announce(self) -> int:
        """Make the verdict of the boot and say it everywhere. The exit status is 1 when that could not be
        done, or its target not be started."""
        return self._announce(quiet=False)

    def again(self) -> int:
        """Make the verdict anew after the boot, as persist-heal.service does: hourly, and where something
        happened to the volume. The journal and the console hear of it only where it has changed. Returns as
        announce()."""
        return self._announce(quiet=True)

    def _announce(self, *, quiet: bool) -> int:
        with ExitStack() as stack:
            try:
                # Not side by side: who looked first and wrote last would leave an old verdict.
                stack.enter_context(held(paths.STATE_LOCK))
            except OSError as e:
                self.tell(
                    Note(
                        WARNING,
                        f"Failed to lock {paths.STATE_LOCK}, making the verdict without: {e}",
                        "FAILED",
                    )
                )
            return self._alone(quiet)

    def _alone(self, quiet: bool) -> int:
        loaded = None
        old = _before()
        try:
            found, loaded = self.make()
            if _taken_back(loaded, self.tell):
                found, loaded = self.make()
        except Exception as e:  # noqa: BLE001  # whatever it is: a machine without a verdict would pass for one that is well
            found = failed(e)
        status = 0 if loaded is not None else 1
        try:
            _write(found)
        except OSError as e:
            self.tell(Note(ERR, f"Failed to write the verdict: {e}", "FAILED"))
            status = 1
        changed = not quiet or old != (found.verdict, found.as_dict()["reasons"])
        notes = say.notices(found, self.console if changed else "")
        if changed:
            notes += say.records(found, loaded)
        if not quiet:
            notes += _leave_word(found)
        for note in notes:
            self.tell(note)
        return status or self._follow_up(found)

    def _follow_up(self, found: v.Verdict) -> int:
        """Start the target that others wait for. Returns the exit status.

        It is not stopped again: a member that was pulled must not stop what requires it.
        """
        if found.verdict != v.ONLINE:
            return 0
        try:
            run(*self.start)
        except PersistError as e:
            self.tell(Note(ERR, str(e), e.message_id, e.fields))
            return 1
        return 0


def _taken_back(loaded: Loaded, tell: Say) -> bool:
    """Have links that were replaced by files taken back; whether there was one."""
    names = [p.name for p in loaded.plan.entries if p.entry.method == "symlink" and replaced(p.path)]
    for name in names:
        try:
            # Where it was no link when this boot began, its unit is not active, and nothing is done.
            run("systemctl", "try-reload-or-restart", f"persist-link@{name}.service")
        except PersistError as e:
            tell(Note(WARNING, e.message, "ENTRY_FAILED", e.fields))
    return bool(names)


def _leave_word(found: v.Verdict) -> list[Note]:
    """What happened to the members while the machine booted is for persist-heal.service, too; and of a new
    volume it notes the disks."""
    try:
        if formatted() or any(r.code.startswith(("member-", "heal")) for r in found.reasons):
            note_heal()
    except OSError as e:
        return [
            Note(
                WARNING,
                f"Failed to leave word for persist-heal.service: {e}. Run 'systemctl start "
                "persist-heal.service'.",
                "FAILED",
            )
        ]
    return []


def announce() -> int:
    """Run as persist-verify.service."""
    return Announcer().announce()


def again() -> int:
    """Make the verdict anew after the boot."""
    return Announcer().again()
