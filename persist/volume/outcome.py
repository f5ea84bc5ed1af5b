# SPDX-License-Identifier: LGPL-2.1-or-later
"""What persist-volume.service came to: /run/persist/volume.json for the verdict, and the flags that unit
conditions look at."""

from __future__ import annotations

import contextlib
import json
import os
import time

from persist.boot import paths
from persist.boot.paths import MOUNT_ENTRIES, PERSISTENT
from persist.reason import Reason
from persist.record import Record, as_dict, made, replace
from persist.system.files import write_atomically
from persist.volume.root_kept import Root

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal["btrfs", "native", "tmpfs", "root", "none"]
else:
    Kind = str
KINDS: tuple[Kind, ...] = ("btrfs", "native", "tmpfs", "root", "none")
REAL: tuple[Kind, ...] = ("btrfs", "native")  # a volume, and not what stands in for one
RECORD = paths.RECORD
BEFORE = (
    f"{RECORD}.before"  # the record of an earlier run while another one goes on: nobody shall believe it then
)
HEAL = paths.HEAL
FORMATTED = paths.FORMATTED


class Outcome(Record, frozen=False):
    """The content of volume.json. ``reason`` is a stable code, '' when all is well; ``time`` is ISO 8601 in
    UTC.

    ``expected``: this machine had a volume (find/remembered.py) and does without it, so what its root keeps
    now will be out of sight.
    ``root``: the root filesystem for people; ``root_memory``: why what is written to it is lost at power-off
    (root_kept.py), '' where it is kept.
    ``memory``: the same of the volume. ``degraded``: mounted without a member. ``read_only_below``: the
    volume is below memory (persist=ro).
    ``rescue``: where a volume that does not mount is shown read-only, '' where nowhere. ``others``:
    ``device`` and
    ``uuid`` of each filesystem that could be the volume, too, and is not used.
    """

    kind: Kind = "none"
    device: str = ""
    uuid: str = ""
    reason: str = ""
    message: str = ""
    hint: str = ""
    read_only: bool = False
    root: str = ""
    root_read_only: bool = False
    root_memory: str = ""
    memory: str = ""
    expected: bool = False
    degraded: bool = False
    read_only_below: bool = False
    rescue: str = ""
    others: list[dict[str, str]] = made(list)
    time: str = ""

    @property
    def root_kept(self) -> bool:
        """Whether what is written to the root filesystem now is there after the next power-off."""
        return not self.root_read_only and not self.root_memory

    def on_root(self, root: Root) -> None:
        """Take down what the root filesystem is."""
        self.root, self.root_read_only, self.root_memory = root.shown, root.read_only, root.memory

    def because(self, reason: str, message: str, hint: str) -> None:
        """Say why this boot has no volume, or not as it should have."""
        self.reason, self.message, self.hint = reason, message, hint

    def because_of(self, why: Reason) -> None:
        """As because()."""
        self.because(why.code, why.message, why.hint)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _flag(path: str, wanted: bool) -> None:
    if wanted:
        write_atomically(path, "")
    else:
        _remove(path)


def begin() -> None:
    """Put the record of an earlier run aside: one that is killed must not leave behind what another one said.
    Raises OSError."""
    # Not lexists(), which takes any error for an absence.
    with contextlib.suppress(FileNotFoundError):
        os.replace(RECORD, BEFORE)


def write(outcome: Outcome) -> None:
    """Write the flags (entries may be mounted, and what they write stays), and last of all volume.json: it
    says that all of it is done. Raises OSError."""
    outcome.time = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    # An overlay whose upper cannot be written fails to mount, and what requires the path would fail with it.
    kept = (outcome.kind in REAL and not outcome.memory) or (outcome.kind == "root" and outcome.root_kept)
    _flag(PERSISTENT, kept and not outcome.read_only)
    _flag(MOUNT_ENTRIES, outcome.kind in (*REAL, "tmpfs") and not outcome.read_only)
    write_atomically(RECORD, json.dumps({"version": 1} | as_dict(outcome), indent=2) + "\n")
    _remove(BEFORE)


def of(found: object) -> Outcome:
    """A record from what JSON has of it: what is left out has its default, and what is not known is left out.
    Raises ValueError."""
    if not isinstance(found, dict) or "kind" not in found:
        raise ValueError("it is not the record of a volume")
    default = Outcome()
    known = {}
    for key, value in as_dict(default).items():
        if key in found:
            if type(found[key]) is not type(value):
                raise ValueError(f"'{key}' has the wrong type")
            known[key] = found[key]
    result = replace(default, **known)
    if result.kind not in KINDS:
        raise ValueError("its kind is not known")
    if not all(isinstance(o, dict) and all(isinstance(v, str) for v in o.values()) for o in result.others):
        raise ValueError("'others' has the wrong type")
    return result


def load(path: str = RECORD) -> Outcome:
    """A record that was written. Raises OSError, and ValueError for one that is not ours."""
    with open(path, encoding="utf-8") as f:
        try:
            return of(json.load(f))
        except RecursionError as e:
            raise ValueError("it goes too deep") from e


def read() -> Outcome | None:
    """What an earlier run of this boot wrote, or None."""
    for path in (RECORD, BEFORE):
        try:
            return load(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return None  # not ours to trust any more; it is written again
    return None


def note_heal() -> None:
    """Leave word for persist-heal.service, which looks at the volume once the boot is over, and again where
    it is at work now. Raises OSError."""
    write_atomically(HEAL, "")


def heal_noted() -> bool:
    """Whether somebody has left word since it was taken away."""
    return os.path.lexists(HEAL)


def take_heal() -> bool:
    """Take the word away; whether there was any. Raises OSError."""
    try:
        os.unlink(HEAL)
    except FileNotFoundError:
        return False
    return True


def note_formatted(uuid: str) -> None:
    """Remember that this boot made a volume, so that persist-volume.service waits for udev to see it. Raises
    OSError."""
    write_atomically(FORMATTED, uuid + "\n")


def formatted() -> str:
    """The UUID of the volume that this boot has made, '' where it has made none."""
    try:
        with open(FORMATTED, encoding="ascii", errors="replace") as f:
            return f.read(100).strip().lower()
    except FileNotFoundError:
        return ""
