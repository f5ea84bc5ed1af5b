# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrations that an image does not fit: no such program, no such unit."""

from __future__ import annotations

from collections.abc import Iterator

from persist.boot.facts import UNIT_DIRECTORIES
from persist.boot.ini import ERROR, WARNING, Problem
from persist.boot.load import Loaded
from persist.foresee.image import Image
from persist.foresee.made_units import is_made


def check(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """What is wrong with each migration of the plan. One that cannot be started keeps its services down."""
    for planned in loaded.plan.migrations:
        migration = planned.migration
        program = migration.exec[0]
        kind = image.kind_behind(program)
        if kind != "file":
            yield Problem(
                ERROR,
                migration.where("Exec"),
                f"Exec= of the migration {migration.id}: {program} is "
                f"{f'a {kind}' if kind else 'not'} in the image. Correct it, or ship the program.",
            )
        for unit in migration.services:
            if not image.has_unit(unit, UNIT_DIRECTORIES) and not is_made(unit, loaded, image):
                yield Problem(
                    WARNING,
                    migration.where("Services", unit),
                    f"Services={unit}: the image has no such unit, which the migration {migration.id} names. "
                    "Correct it, or take it out.",
                )
