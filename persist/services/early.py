# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the glue of an initrd runs in a chroot in the mounted root, and persist-init in place: all that can be
done before PID 1 starts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack

from persist.boot import facts, paths
from persist.early import coldplug, supervisor
from persist.early.enter import entered
from persist.early.said import Said
from persist.errors import PersistError
from persist.note import INFO, WARNING, Note, Say, of

# Seconds for what nobody speaks of, and for a mount after what was waited for by request (system/run.py gives
# each program 300). coreutils' timeout of the glue comes last, after 900.
_SECONDS, _REST = 120.0, 330.0


def _end(number: int, frame: object) -> None:
    """timeout(1) of the glue, or a unit that is stopped: what was put into place is taken away."""
    raise SystemExit(128 + number)


def _filesystems(environ: Mapping[str, str]) -> coldplug.Filesystems | None:
    """Have the modules of filesystems loaded while Python loads its own, which takes as long; not where it is
    plain that no disk is looked at."""
    if any(os.path.lexists(p) for p in (paths.STAGED, paths.BOOTED)):
        return None
    machine = facts.gather("", environ)
    off = facts.why_nothing(machine) or environ.get("container") or not facts.any_fragments("")
    return None if off else coldplug.filesystems()


def _work(where: str, say: Say, extend: supervisor.Extend) -> int:
    """Run the stage, in a child; returns an exit status, 1 after the unexpected. Never raises."""
    filesystems = _filesystems(os.environ)
    # Not before: these are most of our modules.
    from persist.early import swap_unit
    from persist.early.stage import Stage

    def status(text: str, seconds: float = 0) -> None:
        if seconds and text:
            say(Note(INFO, text, "EARLY"))
        extend(seconds + _REST)

    stage = None
    try:
        os.makedirs("/run/persist", 0o755, exist_ok=True)
        stage = Stage(os.environ, say, status, swap_unit.leave if where == "chroot" else None, filesystems)
        stage.run()
        return 0
    except PersistError as e:
        note = of(e)
    except Exception as e:  # noqa: BLE001  # whatever it is, it is said, and the boot goes on
        note = Note(WARNING, f"The stage before PID 1 failed: {type(e).__name__}: {e}.", "FAILED")
    finally:
        if filesystems is not None:
            filesystems(say)  # where nobody has asked for them
    say(note)
    if stage is not None:
        stage.failed(note.message)
    return 1


def main(where: str) -> int:
    """Run the stage; ``where`` is ``chroot`` (the glue has opened the trees of the initrd) or ``here``. The
    exit status is 0 where the stage has said for itself what it did; else the glue says it, for there is no
    kernel log without /dev."""
    if where not in ("chroot", "here"):
        print("persist-service early: expected chroot or here", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _end)
    with ExitStack() as stack:
        try:
            if where == "chroot":
                stack.enter_context(entered())
            os.makedirs(os.path.dirname(paths.SAID), 0o755, exist_ok=True)
        except (PersistError, OSError) as e:
            print(f"persist-early: {e}", file=sys.stderr)
            return 1
        say = Said(paths.SAID)

        ended = supervisor.supervised(lambda extend: _work(where, say, extend), _SECONDS)
        if ended.status == 124:
            left = f" Process {ended.left} could not be ended." if ended.left else ""
            say(Note(WARNING, f"The stage before PID 1 did not end in time.{left}", "FAILED"))
        elif ended.status > 1:
            say(Note(WARNING, f"The stage before PID 1 ended with status {ended.status}.", "FAILED"))
    return 0
