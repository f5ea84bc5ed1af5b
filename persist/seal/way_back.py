# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a clone gets back what seal takes away, and the list of what it has to make itself.

An identity that nobody makes again is worse than a shared one: sshd without host keys does not start, and
nobody can log in to see why.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Sequence
from functools import lru_cache

from persist.boot.ini import boolean
from persist.boot.load import Loaded, load
from persist.foresee.image import Image
from persist.foresee.unit_files import Unit, Units
from persist.foresee.waits import kept_at
from persist.seal import again
from persist.seal.again import OUR_UNIT, Again
from persist.seal.section import KEPT_BY_ALL, NOBODY, Item, arguments

UNINITIALIZED = "uninitialized"  # [Seal] MachineId=: PID 1 takes the next boot for the first one
_NEEDS_A_WAY_BACK = ("identity", "secret")
_EDITS = ("run", "write")  # the file stays, with something in it
# A program that a command hands to another one, such as a shell.
_PROGRAM = re.compile(r"(?<![\w./-])/(?:usr/)?(?:local/)?s?bin/[\w.+-]+")


@lru_cache(maxsize=1)
def _units(root: str) -> Units:
    """An image is read once in a process: all items ask about the same one."""
    return Units(Image(root))


def judge(item: Item, matched: Sequence[str], root: str, machine_id: str) -> str:
    """Why a clone would not get back what matches an item, as a sentence, or ''.

    ``root`` is the tree; ``machine_id`` the word of ``[Seal] MachineId=``: with any other than
    ``uninitialized`` the clone has no first boot.
    """
    if not matched or _wipes_nothing(item) or item.regenerated_by == NOBODY:
        return ""
    units, why_not = _units(root), []
    if item.regenerate:
        image = Image(root)
        why_not.append(_why_not_run(item.regenerate, units, image) or _why_not_written(matched, image))
    if item.regenerated_by:
        why_not.append(_why_not_started(item.regenerated_by, units, machine_id))
    if not why_not and item.cls in _NEEDS_A_WAY_BACK:
        why_not.append("The section has neither RegeneratedBy= nor Regenerate=.")
    if not why_not or "" in why_not:
        return ""
    return " ".join([*why_not, f"Nobody would make {matched[0]} anew."])


def _wipes_nothing(item: Item) -> bool:
    return item.action == "report" or item.cls == KEPT_BY_ALL


def _why_not_started(name: str, units: Units, machine_id: str) -> str:
    """Why a unit makes nothing on the first boot of a clone."""
    unit = units.find(name)
    if unit is None:
        what = "is masked" if units.masked(name) else "is not there"
        return f"RegeneratedBy={name} {what}."
    if not units.is_started(name):
        return f"RegeneratedBy={name} is not enabled, and nothing that is enabled starts it ({unit.file})."
    for kind in ("Condition", "Assert"):
        if not _first_boot_holds(unit, kind, machine_id):
            says = f"RegeneratedBy={name} has {kind}FirstBoot={unit.last('Unit', kind + 'FirstBoot')}"
            if machine_id == UNINITIALIZED:
                return f"{says} ({unit.file}), and so is not run on the first boot of a clone."
            return f"{says} ({unit.file}), and a machine whose machine-id was emptied has no first boot."
    return ""


def _first_boot_holds(unit: Unit, kind: str, machine_id: str) -> bool:
    """Whether ConditionFirstBoot= or AssertFirstBoot= of a unit lets it start; of those with a pipe one has
    to hold, and nobody knows of the others (systemd.unit(5))."""
    triggering = []
    for value in unit.all("Unit", f"{kind}FirstBoot"):
        word = value.lstrip("|! ")
        negated = "!" in value[: len(value) - len(word)]
        holds = (boolean(word) is True) == ((machine_id == UNINITIALIZED) != negated)
        if value.startswith("|"):
            triggering.append(holds)
        elif not holds:
            return False
    others = [
        value
        for (section, key), values in unit.settings.items()
        if section == "Unit" and key.startswith(kind) and key != f"{kind}FirstBoot"
        for value in values
    ]
    return not triggering or any(triggering) or any(value.startswith("|") for value in others)


def _why_not_run(line: str, units: Units, image: Image) -> str:
    """Why persist-regenerate.service does not run a command on a clone: it, or a program that it names by its
    whole path, is not there."""
    if units.find(OUR_UNIT) is None:
        what = "is masked" if units.masked(OUR_UNIT) else "is not installed"
        return f"Regenerate= is run by {OUR_UNIT}, which {what}."
    if not units.is_started(OUR_UNIT):
        return f"Regenerate= is run by {OUR_UNIT}, which nothing starts."
    words = arguments(line)
    for program in (words[0], *_PROGRAM.findall(" ".join(words[1:]))):
        if not _executable(image, program):
            return f"{program} of Regenerate= is not there, or no program."
    return ""


@lru_cache(maxsize=1)
def _kept(root: str) -> Loaded:
    return load(root, {"SYSTEMD_PROC_CMDLINE": ""}, wanted=True)


def _why_not_written(matched: Sequence[str], image: Image) -> str:
    """Why a command cannot write on a clone what it is to make."""
    for path in matched:
        try:
            real = image.behind(path)
        except OSError:
            continue  # a loop of links: the plan has said so
        at = image.mounted_read_only(real)
        if at and kept_at(real, _kept(image.root)) is None:
            return (
                f"fstab mounts '{at}' read-only, and no entry of the registry keeps {path}, so Regenerate= "
                "could not write there: keep it with a [Path] section, or mount that with 'rw'."
            )
    return ""


def _executable(image: Image, path: str) -> bool:
    try:
        st = image.lstat(image.behind(path))
    except OSError:
        return False  # a loop of links
    return st is not None and stat.S_ISREG(st.st_mode) and bool(st.st_mode & 0o111)


def regenerate_list(wiped: Iterable[tuple[Item, Sequence[str]]], before: bytes = b"") -> bytes:
    """What /var/lib/persist/regenerate has to say: each item with Regenerate= that matched something, with
    the names that matched. b'' where there is none.

    ``before`` is a list that is there already, of a run that was interrupted, or of a seal that no clone has
    worked off: what it asks for is gone from the tree and does not match any more. It stays.
    """
    items = again.parse(before)[0]
    for item, matched in wiped:
        if item.regenerate and matched and not _wipes_nothing(item):
            command = tuple(arguments(item.regenerate))
            items.append(Again(tuple(matched), command, item.source, item.action in _EDITS))
    return again.dump(again.merge(items))
