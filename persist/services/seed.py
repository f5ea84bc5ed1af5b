# SPDX-License-Identifier: LGPL-2.1-or-later
"""What persist-seed@.service runs: find the entry of an instance name, seed it, log what happened. And what
persist-link@.service does when it stops."""

from __future__ import annotations

import os

from persist.boot.load import Loaded
from persist.boot.paths import MOUNT_ENTRIES, VOLUME, unescape
from persist.boot.plan import Planned
from persist.entries import as_seeded, stores
from persist.entries.bind import failure, mount_bind, mount_overlay
from persist.entries.seeding import request, told
from persist.errors import PersistError
from persist.log import DEBUG, log, log_error, notify_status, say
from persist.migrate import seeded
from persist.seed.request import Roots, fields, image_version
from persist.seed.seed import seed
from persist.seed.store import explain
from persist.seed.tree import Progress
from persist.services.running import root_kept, running
from persist.system import mountinfo
from persist.system.safepath import Dir


def find(loaded: Loaded, escaped_name: str) -> Planned:
    """The entry whose unit has this instance name. Raises PersistError when there is none.

    The same plan as the generator's says so; entries that it refused are not seeded. What is wrong with other
    entries is not said here; the verdict says it.
    """
    for planned in loaded.plan.entries:
        if planned.name == escaped_name:
            return planned
    raise PersistError(
        f"No entry of the registry has the name '{escaped_name}'.",
        hint="Its file was changed or removed since PID 1 read it: run 'systemctl daemon-reload'.",
        message_id="SEED_FAILED",
    )


def _note(planned: Planned, name: str) -> None:
    """Have the entry mounted: what was seeded is as it should be, and what is there from before, or was
    adopted, is looked at. Raises PersistError."""
    try:
        with Dir.at(VOLUME) as volume:
            stores.note(volume, planned.path, name, planned.entry.method)
    except (PersistError, OSError) as e:
        error = (
            e if isinstance(e, PersistError) else explain(e, f"Failed to write the flag of '{planned.path}'")
        )
        raise PersistError(
            f"Refused to use '{planned.path}' on the state volume: {error.message}",
            hint=error.hint,
            message_id="ENTRY_FAILED",
            PERSIST_PATH=planned.path,
            PERSIST_METHOD=planned.entry.method,
            PERSIST_SOURCE=planned.entry.source,
        ) from e


def _convert(planned: Planned, loaded: Loaded, roots: Roots) -> None:
    """Give a bind or symlink entry the form that it says; else it keeps the one that it has. Raises
    PersistError and OSError."""
    says = planned.entry.method
    wanted = request(planned, loaded.plan)
    try:
        for note in told(wanted, seed(wanted, roots, Progress(notify_status))):
            say(note)
    except PersistError as e:
        # It may have failed before the path was changed, or after that, at the marker.
        planned.entry.method = "symlink" if as_seeded.link(planned.path, loaded.config.mount) else "bind"
        was = "is as its entry says" if planned.entry.method == says else "stays as it was seeded"
        error = PersistError(
            f"'{planned.path}' {was} (Method={planned.entry.method}): {e.message}",
            hint=e.hint,
            message_id="ENTRY_AS_SEEDED",
            **fields(wanted),
        )
        log_error(error)


def _as_seeded(planned: Planned, loaded: Loaded) -> None:
    """Bring into place what keeps another form than its entry says, where no unit does. Raises
    PersistError."""
    method = planned.entry.method
    try:
        if method == "bind" and not planned.unit.startswith("persist-bind@"):
            mount_bind(planned)
        elif method == "overlay" and not planned.unit and mountinfo.at(planned.path) is None:
            mount_overlay(planned, loaded)
    except (PersistError, OSError) as e:
        raise failure(planned, e) from e
    if method != "symlink" or not planned.unit.endswith(".mount"):
        _note(planned, planned.name)


def _seed(escaped_name: str) -> None:
    """Raises PersistError and OSError."""
    loaded = running()
    settled = as_seeded.settle(loaded, root_kept=root_kept())
    planned = find(loaded, escaped_name)
    entry = request(planned, loaded.plan)
    if entry.method not in ("overlay", "bind", "symlink"):
        return
    if entry.method != "symlink" and not os.path.lexists(MOUNT_ENTRIES):
        # The mount units want their seeds whether they mount or not.
        log(
            DEBUG,
            f"'{entry.path}' is not seeded: overlays and binds are not mounted on this boot.",
            "FALLBACK",
            **fields(entry),
        )
        return
    if not os.path.ismount(VOLUME):
        raise PersistError(
            f"No state volume is mounted at {VOLUME}.",
            message_id="SEED_FAILED",
            hint="See 'systemctl status persist-volume.service'.",
            PERSIST_PATH=entry.path,
        )
    version = image_version("/")
    roots = Roots(
        image_version=version,
        mounts=(loaded.config.mount,),
        stamp=lambda path: seeded.stamp(loaded.plan, escaped_name, version),
    )
    if planned.path in settled.convert:
        _convert(planned, loaded, roots)
        _as_seeded(planned, loaded)
    elif planned.path in settled.kept:
        _as_seeded(planned, loaded)
    else:
        for note in told(entry, seed(entry, roots, Progress(notify_status))):
            say(note)
        _note(planned, escaped_name)


def main(escaped_name: str) -> int:
    """Seed the entry with this escaped path; returns the exit status of the service."""
    try:
        _seed(escaped_name)
    except PersistError as e:
        e.message = "; ".join([e.message, *getattr(e, "__notes__", [])])
        log_error(e)
        return 1
    return 0


def link_main(escaped_name: str) -> int:
    """Take back the path of a symlink entry, where a file is in the place of its link."""
    try:
        entries = running().plan.entries
        planned = next((p for p in entries if p.name == escaped_name and p.entry.method == "symlink"), None)
        if planned is None:
            return 0  # its entry has gone, or says something else by now
        from persist.entries.take_back import TakeBack  # rare
        from persist.volume.root_kept import lost

        # Not by our flags: a soft reboot takes them away before this.
        volume = mountinfo.at(VOLUME)
        if volume is None:
            if not stores.replaced(planned.path):
                return 0
            raise PersistError(
                f"no state volume is mounted at {VOLUME} any more, and the file stays where it is.",
                hint="Copy it to a safe place, if the root filesystem does not keep it.",
            )
        if lost(volume, files=False):
            return 0  # and the root filesystem may keep the file
        last = "SERVICE_RESULT" in os.environ  # PID 1 says it to ExecStop=, not to ExecReload=
        note = TakeBack(planned.path, Progress(notify_status), last=last).run()
        if note is not None:
            say(note)
    except (PersistError, OSError) as e:
        text = str(e) if isinstance(e, OSError) else e.message
        hint = e.hint if isinstance(e, PersistError) else ""
        error = PersistError(f"Failed to take back '{unescape(escaped_name)}': {text}", hint=hint)
        error.message_id = "ENTRY_FAILED"
        log_error(error)
        return 1
    return 0
