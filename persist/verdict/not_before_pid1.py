# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries that PID 1 reads and that were not mounted before it, with what lies below: why, and what to do.
They are as the image has them on this boot, and are not seeded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from persist.boot.accept import Outside
from persist.boot.load import Loaded
from persist.boot.paths import above
from persist.reason import Reason
from persist.verdict import remedies
from persist.verdict.entry_state import EntryState
from persist.verdict.look import Look

STATE = "not-before-pid1"
# What a package installs that puts the stage into an initrd, and the command that makes that anew.
_TOOLS = (
    ("/usr/share/initramfs-tools/hooks/persist", "update-initramfs -u"),
    ("/usr/lib/dracut/modules.d/90persist", "dracut -f"),
)
INIT = "/usr/lib/persist/persist-init"
_INSTALL = (
    "Install persist-initramfs-tools or persist-dracut, whichever makes the initrd here, or boot with "
    f"init={INIT}."
)
_SEE = "See 'journalctl -k -b -t persist-early'."


def rebuild(exists: Callable[[str], bool]) -> str:
    """The command that brings the stage into the initrd, '' where no package for that is installed.
    ``exists``: whether the machine has a path."""
    return "' or '".join(command for file, command in _TOOLS if exists(file))


def missing(loaded: Loaded, exists: Callable[[str], bool]) -> str:
    """What to do where entries have to be mounted before PID 1 and nothing on the machine does that, or
    ''."""
    wanted = [p.path for p in loaded.plan.entries if p.before_pid1]
    if not wanted or rebuild(exists) or loaded.facts.option("init") == INIT:
        return ""
    return f"{' '.join(wanted)} must be mounted before PID 1 starts, and nothing here does that. {_INSTALL}"


def _why(path: str, told: dict[str, str]) -> str | None:
    """What the stage said of an entry or of the nearest one above, None where it knew of none."""
    at = path if path in told else above(path, told)
    return told[at] if at else None


def _reason(out: Outside, loaded: Loaded, look: Look, kind: str, told: dict[str, str] | None) -> Reason:
    path, source = out.entry.path, out.entry.source
    without = remedies.without(path, source)
    message = f"{path} is as the image has it on this boot: {out.why}."
    mounted = above(out.real, loaded.facts.fstab)
    command = rebuild(look.exists)
    why = None if told is None else _why(out.real, told)
    message += f" {why}" if why else ""
    if mounted and mounted != "/usr":
        hint = f"Have the initrd mount {mounted}, or {without}."
    elif kind == "native":
        hint = (
            "Before PID 1 only volumes made by persist (btrfs) are mounted. Claim a disk ('persistctl "
            f"claim'), or {without}."
        )
    elif told is not None:
        hint = (
            _SEE if why is not None else "The entry was added after this boot had begun: restart the machine."
        )
    elif loaded.facts.option("init") == INIT:
        hint = _SEE
    else:
        done = "restart the machine; if that was done already, see 'journalctl -k -b -t persist-early'."
        hint = f"Run '{command}' and {done}" if command else _INSTALL
    return Reason(STATE, message, hint, path)


def reasons(loaded: Loaded, states: Iterable[EntryState], look: Look, kind: str) -> Iterator[Reason]:
    """A reason for each of them, but for holes in what is not kept. ``states`` as judged, ``kind`` as in
    volume.json. Raises OSError."""
    late = {e.source for e in states if e.state == STATE and e.method != "image"}
    if late:
        told = look.left()
        for out in loaded.plan.outside:
            if out.state == STATE and out.entry.source in late:
                yield _reason(out, loaded, look, kind, told)
