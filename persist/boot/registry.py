# SPDX-License-Identifier: LGPL-2.1-or-later
"""The registry: persist.d/*.conf to entries. One bad line costs that line, one bad entry costs that entry.
Boot-safe."""

from . import entry as entries
from . import preload
from .dropins import fragments, read
from .entry import Entry
from .ini import DEBUG, ERROR, NOTICE, Problem, Section, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .rare.migrations import Migration


class Registry:
    """What the files said: entries sorted by path (a parent before its children), and the other sections as
    they stand; migrations in the order of the files.

    ``ignored``: entries for a path that a file which sorts before has declared, each with the one that
    counts. ``refused``: mistakes that cost an entry whose path could be read.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.migrations: list[Migration] = []
        self.others: list[Section] = []
        self.ignored: list[tuple[Entry, Entry]] = []
        self.refused: list[Problem] = []


def parse_file(data: bytes, file: str, registry: Registry, problems: list[Problem]) -> None:
    """Add what one registry file says to a registry."""
    before = len(problems)
    _sections(data, file, registry, problems)
    if len(problems) > before:
        from .rare.near import at_most  # only where something is wrong

        at_most(problems, before, file)


def _sections(data: bytes, file: str, registry: Registry, problems: list[Problem]) -> None:
    for section in parse(data, file, problems):
        if section.name == "Path":
            entry = entries.read(section, problems)
            if entry is not None:
                registry.entries.append(entry)
            continue
        if section.name == "Migration":
            preload("rare/__init__", "rare/migrations")
            from .rare import migrations

            migration = migrations.read(section, problems)
            if migration is not None:
                registry.migrations.append(migration)
            continue
        if entries.all_keys().is_known(section, problems):
            registry.others.append(section)


def _path(entry: Entry) -> str:
    return entry.path + "/"  # so that /a/b sorts before /a-b, a parent always before its children


def load(root: str, problems: list[Problem], files: "Sequence[str]" = ()) -> Registry:
    """Read all files of the registry below ``root`` ('' for the running system), or only those ``files``,
    wherever they lie."""
    registry = Registry()
    before = len(problems)
    for path, shown in [(file, file) for file in files] or fragments(root, "persist.d", problems):
        data = read(path, shown, problems, "" if files else root)
        if data:
            parse_file(data, shown, registry, problems)
    if registry.migrations:
        from .rare import migrations

        registry.migrations = migrations.each_once(registry.migrations, problems)
    seen: dict[str, Entry] = {}
    none: set[str] = set()
    for entry in registry.entries:
        first = seen.get(entry.path)
        if first is None:
            seen[entry.path] = entry
            if entry.method == "none":
                none.add(entry.path)
            continue
        registry.ignored.append((entry, first))
        if entry.path not in none:  # for that is what Method=none is for
            problems.append(
                Problem(
                    NOTICE,
                    entry.source,
                    "%s is already declared by %s, which sorts first; ignoring this one."
                    % (entry.path, first.source),
                    entry.path,
                )
            )
    for problem in problems[before:]:
        if problem.level <= ERROR and problem.path:
            registry.refused.append(problem)
            if problem.path in none:
                problem.level = DEBUG
    registry.entries = sorted(seen.values(), key=_path)
    return registry
