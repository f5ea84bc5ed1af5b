# SPDX-License-Identifier: LGPL-2.1-or-later
"""One ``[Path]`` of the registry: what is kept and how. Boot-safe.

A section that says no more than Path= and Method= is read here; all other keys, and all that can be wrong,
are in rare/keys.py.
"""

from . import preload
from .paths import ENTRY_NAME_MAX, escape, name_of_plain, wrong_unit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from .ini import Problem, Section

METHODS = ("overlay", "bind", "symlink", "image", "tmpfs", "none")
OPTIONS = "nosuid,nodev"  # what nobody asked otherwise for: a volume is data


class Entry:
    """What a section says, with the defaults of persist.d(5). ``file`` is the file for SourcePath=, ``line``
    that of Path= in it, ``name`` the escaped path.

    ``options`` are the flags of its mount, each said once, and whether it is nosuid and nodev said always.
    """

    __slots__ = (
        *("path", "name", "file", "line", "settings", "method", "type", "user", "group", "mode"),
        *("seed_from", "required", "services", "stale", "snapshot", "options"),
    )

    def __init__(
        self, path: str, name: str, file: str, line: int, settings: "list[tuple[str, str, int]]"
    ) -> None:
        self.path = path
        self.name = name
        self.file = file
        self.line = line
        self.settings = settings
        self.method = "overlay"
        self.type = self.user = self.group = self.mode = self.seed_from = ""
        self.required = "no"
        self.services: list[str] = []
        self.stale = "ro"
        self.snapshot = True
        self.options = OPTIONS

    @property
    def source(self) -> str:
        """file:line of its path."""
        return "%s:%d" % (self.file, self.line)

    def where(self, key: str, word: str = "") -> str:
        """file:line of its last setting with a key (that has a word in it), of the entry where there is
        none."""
        from .ini import words

        lines = [line for k, value, line in self.settings if k == key and (not word or word in words(value))]
        return "%s:%d" % (self.file, lines[-1]) if lines else self.source


def all_keys() -> "ModuleType":
    """What knows all keys, for sections that have more to say than most."""
    preload("rare/__init__", "rare/values", "rare/keys")
    from .rare import keys

    return keys


def read(section: "Section", problems: "list[Problem]") -> Entry | None:
    """An entry from a [Path] section, or None with a problem when the section cannot stand."""
    settings = section.settings
    paths = [(value, line) for key, value, line in settings if key == "Path"]
    path, line = paths[0] if len(paths) == 1 else ("", 0)
    name = name_of_plain(path)
    if not name:
        path, line = all_keys().path_of(section, problems)
        if not path:
            return None
        name = escape(path)
    entry = Entry(path, name, section.file, line, settings)
    keys = None
    for key, value, number in settings:
        if key == "Method" and value in METHODS:
            entry.method = value
        elif key != "Path":
            keys = keys or all_keys()
            if not keys.take(entry, section, key, value, number, problems):
                return None
    if (
        len(entry.name) > ENTRY_NAME_MAX
        or wrong_unit(path, entry.method)
        or (entry.type == "file" and entry.method == "overlay")
        or (entry.options is not OPTIONS and entry.method in ("symlink", "image", "tmpfs"))
    ):
        problems.append(all_keys().unfit(entry))
        return None
    return entry
