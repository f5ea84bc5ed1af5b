# SPDX-License-Identifier: LGPL-2.1-or-later
"""A volume whose store is not root's own: it is not used. A volume is data, and this one somebody else may
have written."""

from __future__ import annotations

from persist.boot.paths import READONLY, VOLUME
from persist.errors import PersistError
from persist.note import WARNING, Note, Say, of
from persist.system.run import run
from persist.volume import outcome
from persist.volume.find.decision import Known
from persist.volume.ondisk import store
from persist.volume.outcome import Outcome

STRANGE = "strange-store"  # the reason in the verdict


def check(at: str, device: str, uuid: str, say: Say) -> None:
    """Look at the store of what is mounted at a path. Raises PersistError, VOLUME_STRANGE or VOLUME_BROKEN,
    for one that must not be used."""
    fields = {"PERSIST_DEVICE": device, "PERSIST_UUID": uuid}
    try:
        note = store.check(at)
    except PersistError as e:
        raise PersistError(
            f"The state volume on {device} is not used: {e.message}",
            message_id="VOLUME_STRANGE",
            PERSIST_REASON=STRANGE,
            **fields,
            hint="It is left as it is. Look at where it comes from; what was named has to be root's, and a "
            "directory that only root can "
            "write, or a regular file.",
        ) from e
    except OSError as e:
        raise PersistError(
            f"The state volume on {device} cannot be read: {e}.",
            message_id="VOLUME_BROKEN",
            PERSIST_REASON="broken",
            **fields,
            hint="It is left as it is. See 'journalctl -b -k'.",
        ) from e
    if note:
        say(Note(WARNING, note, "FAILED", fields))


def put_down(result: Outcome, told: Known, say: Say) -> None:
    """Let go of a volume that the initrd, or an earlier run, has mounted and that must not be used; the
    result says why. Raises PersistError.

    Where the machine was ``told`` of a volume it does without it then.

    What was mounted from it stays, for it cannot be taken away under PID 1, and the verdict says so.
    """
    at = VOLUME if result.kind in outcome.REAL else READONLY if result.read_only_below else ""
    if not at:
        return
    try:
        check(at, result.device, result.uuid, say)
    except PersistError as e:
        say(of(e))
        run("umount", "--lazy", at)
        result.read_only_below = False
        if at == VOLUME:
            result.kind, result.read_only, result.expected = "none", False, bool(told.known)
        result.because(e.fields["PERSIST_REASON"], e.message, e.hint)
