# SPDX-License-Identifier: LGPL-2.1-or-later
"""What persist-seed@.service runs: find the entry of an instance name, seed it, log what happened."""

from __future__ import annotations

import os

from persist.boot.load import Loaded
from persist.boot.paths import MOUNT_ENTRIES, VOLUME
from persist.entries import stores
from persist.entries.seeding import request, told
from persist.errors import PersistError
from persist.log import DEBUG, log, log_error, notify_status, say
from persist.seed.request import Roots, SeedRequest, fields, image_version
from persist.seed.seed import seed
from persist.seed.store import explain
from persist.seed.tree import Progress
from persist.services.running import running
from persist.system.safepath import Dir


def find(loaded: Loaded, escaped_name: str) -> SeedRequest:
    """The entry whose unit has this instance name. Raises PersistError when there is none.

    The same plan as the generator's says so; entries that it refused are not seeded. What is wrong with other
    entries is not said here; the verdict says it.
    """
    for planned in loaded.plan.entries:
        if planned.name == escaped_name:
            return request(planned, loaded.plan)
    raise PersistError(
        f"No entry of the registry has the name '{escaped_name}'.",
        hint="Its file was changed or removed since PID 1 read it: run 'systemctl daemon-reload'.",
        message_id="SEED_FAILED",
    )


def _note(entry: SeedRequest, name: str) -> None:
    """Have the entry mounted: what was seeded is as it should be, and what is there from before, or was
    adopted, is looked at. Raises PersistError."""
    try:
        with Dir.at(VOLUME) as volume:
            stores.note(volume, entry.path, name, entry.method)
    except (PersistError, OSError) as e:
        error = (
            e if isinstance(e, PersistError) else explain(e, f"Failed to write the flag of '{entry.path}'")
        )
        raise PersistError(
            f"Refused to use '{entry.path}' on the state volume: {error.message}",
            hint=error.hint,
            message_id="ENTRY_FAILED",
            **fields(entry),
        ) from e


def main(escaped_name: str) -> int:
    """Seed the entry with this escaped path; returns the exit status of the service."""
    try:
        loaded = running()
        entry = find(loaded, escaped_name)
        if entry.method not in ("overlay", "bind", "symlink"):
            return 0
        if entry.method != "symlink" and not os.path.lexists(MOUNT_ENTRIES):
            # The mount units want their seeds whether they mount or not.
            log(
                DEBUG,
                f"'{entry.path}' is not seeded: overlays and binds are not mounted on this boot.",
                "FALLBACK",
                **fields(entry),
            )
            return 0
        if not os.path.ismount(VOLUME):
            raise PersistError(
                f"No state volume is mounted at {VOLUME}.",
                message_id="SEED_FAILED",
                hint="See 'systemctl status persist-volume.service'.",
                PERSIST_PATH=entry.path,
            )
        roots = Roots(image_version=image_version("/"), mounts=(loaded.config.mount,))
        for note in told(entry, seed(entry, roots, Progress(notify_status))):
            say(note)
        _note(entry, escaped_name)
    except PersistError as e:
        e.message = "; ".join([e.message, *getattr(e, "__notes__", [])])
        log_error(e)
        return 1
    return 0
