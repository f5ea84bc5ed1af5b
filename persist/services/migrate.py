# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-migrate@.service: run one migration, once. Its services wait for it, and stay down where it
fails."""

from __future__ import annotations

from persist.boot.load import Loaded
from persist.boot.rare.migrations import PlannedMigration
from persist.entries import as_seeded
from persist.errors import PersistError
from persist.log import ERR, NOTICE, log, log_error, notify_status, say
from persist.migrate.run import Migration, NotNow
from persist.seed.request import image_version
from persist.services.running import root_kept, running
from persist.volume import outcome


def find(loaded: Loaded, id: str) -> PlannedMigration:
    """The migration with an id. Raises PersistError when there is none."""
    for found in loaded.plan.migrations:
        if found.migration.id == id:
            return found
    raise PersistError(
        f"No migration that is in force has the id '{id}'.",
        hint="Its file was changed or removed since PID 1 read it: run 'systemctl daemon-reload'.",
        message_id="MIGRATION_FAILED",
    )


def main(id: str) -> int:
    """Run the migration with this id; returns the exit status of the service."""
    status = 0
    try:
        loaded = running()
        as_seeded.settle(loaded, root_kept=root_kept())
        found = find(loaded, id)
        notify_status(f"Migrating {found.path}")
        Migration(found, loaded.plan, image_version("/"), say).run()
    except NotNow as e:
        log(NOTICE, e.message, "MIGRATION_BEGUN", PERSIST_MIGRATION=id)
    except PersistError as e:
        log_error(e)
        status = 1
    except OSError as e:
        log(ERR, f"The migration {id} is not done: {e}", "MIGRATION_FAILED", PERSIST_MIGRATION=id)
        status = 1
    try:
        outcome.note_heal()  # the verdict may have been made by now
    except OSError as e:
        log(ERR, f"Failed to leave word for persist-heal.service: {e}", "FAILED")
    return status
