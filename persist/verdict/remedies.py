# SPDX-License-Identifier: LGPL-2.1-or-later
"""What to do about what is wrong with an entry, made from the case at hand: nobody is told what cannot
help."""

from __future__ import annotations

import shlex

from persist.boot import paths
from persist.boot.accept import Outside
from persist.boot.ini import Problem
from persist.boot.plan import Planned
from persist.reason import Reason

VENDOR = ("/usr/lib/", "/usr/local/lib/", "/lib/")
LOCAL = "/etc/persist.d/00-local.conf"  # sorts before what packages ship
_PRESET = "/etc/persist.d/zz-preset-"  # a link to a file of the vendor's (persistctl preset enable)


def command(*words: str) -> str:
    """A command between quotes, as a shell takes it: the backslashes of an escaped name survive."""
    text = shlex.join(words)
    return f'"{text}"' if "'" in text else f"'{text}'"


def _file(source: str) -> str:
    file, _, line = source.rpartition(":")
    return file if file and line.isascii() and line.isdigit() else source


def vendors(source: str) -> bool:
    """Whether a file, or ``file:line``, comes with a package, so that a correction in it is lost with the
    next update."""
    return source.startswith((*VENDOR, _PRESET))


def without(path: str, source: str) -> str:
    """How to do without an entry: the end of a sentence."""
    if vendors(source):
        return f"take {path} out with Method=none in {LOCAL} (persist.d(5))"
    return f"remove the entry ({source})"


def correct(problem: Problem) -> str:
    """What to do about a mistake in a registry or configuration file."""
    file = _file(problem.where)
    if not file:
        return ""
    if "/persist.d" not in file:
        return (
            "Correct the file in the image, then restart the machine."
            if vendors(file)
            else "Correct the file, then restart the machine."
        )
    name = file.rpartition("/")[2]
    if file.startswith(_PRESET) and problem.path:
        how = f"The file belongs to a package: {without(problem.path, problem.where)}"
    elif vendors(file) and name.endswith(".conf"):
        how = (
            f"The file belongs to a package: put a corrected copy at /etc/persist.d/{name}, which takes "
            "precedence"
        )
        if problem.path:
            how += f", or {without(problem.path, problem.where)}"
    elif problem.code == "ENTRY_REFUSED":
        how = f"Change or {without(problem.path, problem.where)}"
    else:
        how = f"Correct {problem.where}"
    return how + ", then restart the machine."


def not_mounted(planned: Planned) -> str:
    """Where it is told why something that is seeded is not mounted."""
    if planned.before_pid1:
        return "See 'journalctl -b -k'."
    # Where a condition was not met there is nothing in the journal, and the status names the condition.
    status = f"See {command('systemctl', 'status', planned.unit)}"
    return (
        f"{status}."
        if planned.entry.method == "tmpfs"
        else f"{status} and 'journalctl -b -u persist-volume.service'."
    )


def not_seeded(planned: Planned, asked: bool) -> str:
    """Where it is told why an entry was not seeded. ``asked``: PID 1 was told of the entry when this boot
    began."""
    if not asked:
        return "The entry was added after this boot had begun: restart the machine."
    return f"See {command('systemctl', 'status', f'persist-seed@{planned.name}.service')}."


def link(planned: Planned, there: bool, writable: bool) -> str:
    """What to do where the image has no link, or (``there``) something else, for Method=symlink.
    ``writable``: it can be made now."""
    make = command("ln", "-s", paths.VOLUME + planned.path, planned.path)
    where = "here" if writable else "when the image is built"
    if there:
        return f"Remove what is there and run {make} {where}, or use Method=bind."
    return f"Put the link into the image: run {make} {where}."


def foreign(planned: Planned, unit: str) -> str:
    """What to do where something else is mounted on an entry: ``unit`` says so at each boot, '' where nobody
    knows who does."""
    entry = planned.entry
    if unit:
        return f"Remove that mount, or {without(entry.path, entry.source)}."
    return f"Unmount it with {command('umount', planned.path)}, or {without(entry.path, entry.source)}."


def elsewhere(out: Outside, mounted: bool) -> str:
    """What to do where somebody else says that he mounts an entry's path, and what is there (``mounted``:
    something is) does not keep it."""
    entry = out.entry
    look = (
        "Remove that mount"
        if mounted and entry.method != "tmpfs"
        else f"See {command('systemctl', 'status', f'{paths.escape(out.real)}.mount')}"
    )
    return f"{look}, or {without(entry.path, entry.source)}."


def kept_form(path: str, form: str, says: str) -> Reason:
    """The notice of an entry that keeps the form that the volume has."""
    return Reason(
        "method",
        f"{path} was seeded for Method={form} and stays so; Method={says} in its entry has no effect.",
        f"Say Method={form} in an entry of your own ({LOCAL}), or convert it by hand (persist.d(5)).",
        path,
    )


def in_snapshots(path: str) -> Reason:
    """The notice of an entry with Snapshot=no that was seeded without."""
    return Reason(
        "snapshot",
        f"{path} was seeded into a plain directory of the state volume, which snapshots include; "
        "Snapshot=no in its entry has no effect.",
        "Convert it by hand (persist.d(5)), or leave it so.",
        path,
    )


def options(planned: Planned) -> str:
    """How a mount gets the options of its entry."""
    return (
        f"Run {command('mount', '-o', 'remount,bind,' + planned.entry.options, planned.path)}, or restart "
        "the machine."
    )


def hidden(by: str) -> str:
    """What to do where something is mounted above an entry after it: ``by`` is where."""
    return f"Mount {by} from fstab(5), so that entries wait for it. See 'findmnt {shlex.quote(by)}'."
