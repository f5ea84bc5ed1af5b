# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bind entries, mounted without a unit of their own: by persist-volume.service what is seeded, by
persist-bind@.service the rest.

The kernel's mount is made from open descriptors, each component opened by itself without following a link:
whoever owns a directory on the volume, or above the path, could have put one there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from persist.boot import paths
from persist.boot.load import Loaded
from persist.boot.paths import above
from persist.boot.plan import Planned
from persist.boot.units import lower, overlay_options
from persist.entries import as_seeded, stores
from persist.errors import PersistError
from persist.system import mountinfo, newmount
from persist.system.files import kind as kind_of
from persist.system.safepath import Dir

# Where generators and others put units that systemd ships none of: what mounts a path above an entry need not
# be in fstab.
_UNITS = (
    "/run/systemd/generator",
    "/run/systemd/generator.early",
    "/run/systemd/generator.late",
    "/run/systemd/transient",
)


def error(planned: Planned, message_id: str, message: str, hint: str = "") -> PersistError:
    return PersistError(
        message,
        hint=hint,
        message_id=message_id,
        PERSIST_PATH=planned.path,
        PERSIST_METHOD=planned.entry.method,
        PERSIST_SOURCE=planned.entry.source,
    )


def failure(
    planned: Planned,
    cause: PersistError | OSError,
    what: str = "Failed to mount",
    where: str = "from the state volume",
) -> PersistError:
    """What to log about an entry that failed: what could not be done with its path, and where."""
    if isinstance(cause, PersistError):
        text, hint = cause.message, cause.hint
    else:
        text, hint = f"{cause.strerror or cause}{f' ({cause.filename})' if cause.filename else ''}.", ""
    return error(planned, "ENTRY_FAILED", f"{what} '{planned.path}' {where}: {text}", hint)


def _kind(fd: int) -> str:
    return kind_of(os.fstat(fd).st_mode)


def target(planned: Planned, kind: str) -> int:
    """A descriptor of what an entry is mounted on, made where it is missing. Raises PersistError and
    OSError."""
    with Dir.at("/") as live:
        fd = live.node(planned.path)
        if fd is None:
            from persist.seed.live_path import LivePath  # rare, and heavy

            LivePath(planned.path, live, paths.VOLUME, ()).mount_point(kind)
            fd = live.node(planned.path)
    if fd is None:
        raise PersistError("The mount point was removed again.")
    there = _kind(fd)
    if there != kind:
        os.close(fd)
        raise PersistError(
            f"The path is a {there}, and on the volume it is a {kind}.", hint="Move away what is at the path."
        )
    return fd


def mount_bind(planned: Planned) -> None:
    """Mount the volume's content on a bind entry, unless that is done. Raises PersistError and OSError."""
    with Dir.at(paths.VOLUME) as volume:
        source = volume.node(planned.path)
    if source is None:
        raise PersistError(
            f"{paths.VOLUME}{planned.path} does not exist any more.",
            hint="Restore it, or remove its marker below .persist/seed to seed the path again.",
        )
    try:
        kind = _kind(source)
        if kind not in ("directory", "file"):
            raise PersistError(
                f"{paths.VOLUME}{planned.path} is a {kind}.", hint="Look at where it comes from."
            )
        there = target(planned, kind)
        try:
            if not os.path.samestat(os.fstat(source), os.fstat(there)):
                newmount.attach(source, there, options=planned.entry.options)
        finally:
            os.close(there)
    finally:
        os.close(source)


def lower_there(planned: Planned, loaded: Loaded) -> bool:
    """Whether there is what an overlay entry hides. An image that has nothing there gets an empty directory,
    where it takes one, at each boot that needs one: seeding has made it in a root that is another by now.
    Raises PersistError where it takes none, OSError."""
    fstab = loaded.plan.fstab
    if os.path.isdir(lower(planned, fstab)):
        return True
    if above(planned.path, fstab) or not os.path.ismount(paths.IMAGE):
        return False
    from persist.seed.live_path import LivePath  # rare, and heavy

    with Dir.at(paths.IMAGE) as image:
        LivePath(planned.path, image, paths.VOLUME, ()).mount_point("directory")
    return os.path.isdir(lower(planned, fstab))


def mount_overlay(planned: Planned, loaded: Loaded) -> bool:
    """Mount an overlay entry, which was looked at, as its unit would. False where the unit's other conditions
    do not hold.

    Raises PersistError and OSError.
    """
    read_only = loaded.plan.read_only
    if read_only and not os.path.isdir(f"{paths.BELOW}/{planned.name}"):
        return False
    try:
        if not lower_there(planned, loaded):
            return False
    except PersistError:
        return False  # a root that takes writes only later; mount_seeded() says it
    there = target(planned, "directory")
    try:
        newmount.overlay(there, overlay_options(planned, loaded.plan.fstab, read_only), planned.entry.options)
    finally:
        os.close(there)
    return True


class Places:
    """What is mounted where, and what is going to be. ``early``: before PID 1, which mounts nothing of fstab
    once more that the initrd has mounted."""

    def __init__(self, loaded: Loaded, *, early: bool = False) -> None:
        self.loaded, self.early = loaded, early
        self.entries = {p.path: p for p in loaded.plan.entries}
        self.look()

    def look(self) -> None:
        """Look again, after something was mounted. Raises OSError where /proc is not mounted."""
        self.at = {m.mount_point: m for m in mountinfo.mounts()}
        volume = self.at.get(paths.VOLUME)
        self.writable = volume is not None and not volume.read_only
        self.persistent = volume is not None and volume.fstype != "tmpfs"

    def waits(self, path: str) -> str:
        """The mount of fstab that a path waits for, or lies below for good; '' for none."""
        mount = above(path, self.loaded.plan.fstab)
        return "" if self.early and mount in self.at else mount

    def later(self, path: str) -> str:
        """The nearest place above a path that a unit of somebody else is yet going to mount, '' for none."""
        fstab, shipped = self.loaded.plan.fstab, self.loaded.facts.shipped
        for parent in paths.parents(path):
            if parent in self.entries or parent in self.at:
                continue
            unit = f"{paths.escape(parent)}.mount"
            if parent in fstab or unit in shipped or any(os.path.exists(f"{d}/{unit}") for d in _UNITS):
                return parent
        return ""


def _needed(entries: Iterable[Planned], ours: Iterable[str]) -> set[str]:
    """The paths of bind entries, of those in ``ours``, and of the entries above them."""
    every = list(entries)
    by_path = {p.path: p for p in every}
    found = set()
    for planned in every:
        if planned.entry.method == "bind" or planned.path in ours:
            path = planned.path
            while path and path not in found:
                found.add(path)
                path = by_path[path].parent
    return found


def place(planned: Planned, places: Places) -> bool:
    """Bring one entry into place. False where it is not its time, or not for us. Raises PersistError and
    OSError."""
    method, path = planned.entry.method, planned.path
    if method == "tmpfs" or planned.before_pid1 and not places.early:
        return path in places.at
    if places.waits(path) or places.later(path) or not stores.flag(planned.name):
        return False
    if planned.entry.required != "no" and not places.persistent:
        return False
    if method == "bind":
        mount_bind(planned)
        return True
    # One that is there: of an earlier run, or somebody else's, which the verdict says.
    return method == "overlay" and (path in places.at or mount_overlay(planned, places.loaded))


def note_stores(
    loaded: Loaded, methods: Iterable[str] = stores.METHODS, but: Iterable[str] = ()
) -> list[PersistError]:
    """Look at the places on the volume of all entries that are seeded, those too that are mounted already,
    and write their flags. ``but``: paths that are seeded once more.

    For persist-volume.service, before anything is mounted from there: the units of entries have a condition
    on their flag. An entry whose place is not as it should be has no flag and is in the result. Raises
    OSError.
    """
    problems: list[PersistError] = []
    if not os.path.isdir(paths.VOLUME):
        return problems
    with Dir.at(paths.VOLUME) as volume:
        for planned in loaded.plan.entries:
            if planned.entry.method not in methods or planned.path in but:
                continue
            if as_seeded.waits_for_its_seed(planned, loaded):
                continue
            try:
                if stores.seeded(volume, planned.name):
                    stores.note(volume, planned.path, planned.name, planned.entry.method)
            except (PersistError, OSError) as e:
                problems.append(failure(planned, e, "Refused to use", "on the state volume"))
    return problems


def mount_seeded(loaded: Loaded, ours: Iterable[str] = (), but: Iterable[str] = ()) -> list[PersistError]:
    """Look at the places of all seeded entries; mount the binds among them that lie on the root filesystem or
    below entries there, and the overlays above.

    For persist-volume.service, once the volume is there. What has its time later (it is not seeded, or below
    a mount of fstab) is left to its unit. ``ours``: overlays that have no unit; ``but``: what is converted
    first (as_seeded.py).
    An entry that fails costs that entry and those below it: it is in the result. Raises OSError where /proc
    is not mounted.
    """
    problems = note_stores(loaded, but=but)
    for planned in loaded.plan.entries:
        if planned.entry.method == "overlay" and stores.flag(planned.name):
            try:
                lower_there(planned, loaded)
            except (PersistError, OSError) as e:
                problems.append(failure(planned, e))
    needed = _needed(loaded.plan.entries, ours)
    if not needed:
        return problems
    places = Places(loaded)
    if not places.writable:
        return problems
    ok: dict[str, bool] = {"": True}
    for planned in loaded.plan.entries:  # parents first
        if planned.path not in needed:
            continue
        ok[planned.path] = False
        if not ok[planned.parent]:
            continue
        try:
            ok[planned.path] = place(planned, places)
        except (PersistError, OSError) as e:
            problems.append(failure(planned, e))
    return problems
