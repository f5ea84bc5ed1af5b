# SPDX-License-Identifier: LGPL-2.1-or-later
"""The registry: persist.d/*.conf to entries. One bad line costs that line, one bad entry costs that entry. Boot-safe."""

from .dropins import fragments, read
from .ini import DEBUG, ERROR, NOTICE, Problem, Section, boolean, not_a_name, parse, unquote, words
from .paths import ENTRY_NAME_MAX, UNIT_NAME_MAX, escape, wrong_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

METHODS = ("overlay", "bind", "symlink", "image", "tmpfs", "none")
PATH_KEYS = ("Path", "Method", "Type", "User", "Group", "Mode", "SeedFrom", "Required", "Services", "Stale", "Snapshot", "Early", "Options")
IDENTITY_KEYS = ("Path", "Action", "RegeneratedBy", "Class")
MIGRATION_KEYS = ("Id", "Path", "Services", "Exec", "When", "Downgrade")
LINK_KEYS = ("Path", "Target")
ACTIONS = ("remove", "truncate", "empty-dir", "write", "run", "report")
_KEYS = {"Path": PATH_KEYS, "Identity": IDENTITY_KEYS, "Migration": MIGRATION_KEYS, "Link": LINK_KEYS}

# Hierarchies that are the kernel's, the boot loader's or the image's (but for /usr/local).
_REFUSED = {"/usr": "image", "/proc": "running system", "/sys": "running system", "/dev": "running system", "/run": "running system",
            "/boot": "boot loader", "/efi": "boot loader"}
RUNNING = ("/proc", "/sys", "/dev", "/run")
OPTIONS = "nosuid,nodev"  # what nobody asked otherwise for: a volume is data
_DIGITS = "0123456789"
_UNIT_TYPES = ("service", "socket", "target", "mount", "automount", "swap", "timer", "path", "slice", "scope", "device")
_UNIT_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:-_.\\@"


class Entry:
    """One ``[Path]``: what is kept and how. ``source`` is file:line, ``file`` the file for SourcePath=.

    ``options`` are the flags of its mount, each said once, and whether it is nosuid and nodev said always.
    """

    __slots__ = ("path", "method", "type", "user", "group", "mode", "seed_from", "required", "services",
                 "stale", "snapshot", "early", "options", "source", "file", "name", "settings")

    def __init__(self, path: str, source: str, file: str) -> None:
        self.path = path
        self.name = escape(path)
        self.source = source
        self.file = file
        self.method = "overlay"
        self.type = ""
        self.user = ""
        self.group = ""
        self.mode = ""
        self.seed_from = ""
        self.required = "no"
        self.services: list[str] = []
        self.stale = "ro"
        self.snapshot = True
        self.early: bool | None = None
        self.options = OPTIONS
        self.settings: list[tuple[str, str, int]] = []

    def where(self, key: str, word: str = "") -> str:
        """file:line of its last setting with a key (that has a word in it), of the entry where there is none."""
        lines = [line for k, value, line in self.settings if k == key and (not word or word in words(value))]
        return "%s:%d" % (self.file, lines[-1]) if lines else self.source


class Registry:
    """What the files said: entries sorted by path (a parent before its children), and the other sections as they stand.

    ``ignored``: entries for a path that a file which sorts before has declared, each with the one that counts. ``refused``: mistakes that cost an
    entry whose path could be read.
    """

    __slots__ = ("entries", "others", "ignored", "refused")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.others: list[Section] = []
        self.ignored: list[tuple[Entry, Entry]] = []
        self.refused: list[Problem] = []


def wrong_unit(path: str, method: str) -> str:
    """Why a path cannot be what a mount unit of a method mounts, or an empty string.

    PID 1 runs mount(8) for it as a service's command line: it puts the values of variables there, and takes ``$$`` for one dollar sign
    (exec_command, systemd 252 and 257). Where= must be the unit's name, so nothing can be doubled. Binds and links have no mount unit.
    """
    if method in ("overlay", "image", "tmpfs") and "$" in path:
        return "PID 1 would expand the dollar sign in its path"
    return "mount(8) cannot overlay a path with a comma or a double quote" if method == "overlay" and ("," in path or '"' in path) else ""


def _path_value(value: str) -> str:
    """The path that Path= or SeedFrom= names. Raises ValueError."""
    if value[:1] == '"':
        return unquote(value)
    what = not_a_name(value)
    if what:
        raise ValueError("this looks like %s and would be taken for the name of one path (in double quotes it is one)" % what)
    return value


def wrong_source(path: str) -> str:
    """Why nothing is seeded from a normalised path, or an empty string. Files there have no end, or make the reader wait."""
    top = "/" + path.split("/", 2)[1]
    return "is below %s, which belongs to the running system: nothing there is a file to copy" % top if top in RUNNING else ""


def forbidden(path: str, mount: str = "/mnt/state") -> str:
    """Why persist will not take a normalised path, or an empty string (docs/architecture.md)."""
    top = "/" + path.split("/", 2)[1]
    if top in _REFUSED and not (path + "/").startswith("/usr/local/"):
        return "%s belongs to the %s" % (top, _REFUSED[top])
    if path == mount or path.startswith(mount + "/") or mount.startswith(path + "/"):
        return "%s is the state volume" % mount
    return ""


def _known(section: Section, key: str, line: int, problems: list[Problem], path: str = "") -> bool:
    """Whether a section has a key; says so where it has not."""
    if key in _KEYS[section.name]:
        return True
    if not key.startswith("X-"):
        from .rare.near import unknown_key  # only where something is wrong

        problems.append(unknown_key(section, key, line, _KEYS[section.name], path))
    return False


def _instead(value: str) -> str:
    from .rare.near import instead  # only where something is wrong

    return instead(value)


def _mode(value: str) -> bool:
    return 3 <= len(value) <= 4 and all(c in "01234567" for c in value)


def number(value: str) -> int | None:
    """A user's or group's number: ASCII digits, at most 4294967294, for the one above it means "as it is" to chown(2). None for anything else."""
    value = value.lstrip("0") or value[:1]
    if not value or value.strip(_DIGITS) or len(value) > 10 or int(value) > 0xFFFFFFFE:
        return None
    return int(value)


def _name(value: str) -> bool:
    if not value.strip(_DIGITS):
        return number(value) is not None
    return bool(value) and value.isascii() and all(c.isalnum() or c in "_-.$" for c in value) and value[0] != "-"


def _unit(name: str) -> bool:
    """Whether a text is the name of a unit that can have a drop-in directory."""
    stem, _, suffix = name.rpartition(".")
    return bool(stem) and suffix in _UNIT_TYPES and all([c in _UNIT_CHARACTERS for c in name]) and len(name) <= UNIT_NAME_MAX - len(".d")


def _set(entry: Entry, key: str, value: str) -> str:
    """Take one setting; returns what is wrong with it, or an empty string."""
    if key == "Method":
        if value not in METHODS:
            return "must be one of " + ", ".join(METHODS)
        entry.method = value
    elif key == "Type":
        if value not in ("directory", "file"):
            return "must be directory or file"
        entry.type = value
    elif key in ("User", "Group"):
        if not _name(value):
            return "is not the name or number of a " + key.lower() + ("" if value.strip(_DIGITS) else " (at most 4294967294)")
        if key == "User":
            entry.user = value
        else:
            entry.group = value
    elif key == "Mode":
        if not _mode(value):
            return "must be three or four octal digits"
        entry.mode = value
    elif key == "SeedFrom":
        try:
            entry.seed_from = _path_value(value)
        except ValueError as e:
            return "cannot be taken: %s" % e
        return wrong_path(entry.seed_from) or wrong_source(entry.seed_from)
    elif key == "Required":
        if value not in ("no", "service", "boot"):
            return "must be no, service or boot"
        entry.required = value
    elif key == "Services":
        for unit in words(value):
            if not _unit(unit):
                return "'%s' is not the full name of a unit, such as foo.service%s" % (unit, "; blanks stand between units, not commas" if "," in unit else "")
            entry.services.append(unit)
    elif key == "Stale":
        if value not in ("ro", "allow"):
            return "must be ro or allow"
        entry.stale = value
    elif key == "Options":
        from .rare import flags  # rare

        try:
            entry.options = flags.added(entry.options, value)
        except ValueError as e:
            return str(e)
    else:
        yes = boolean(value)
        if yes is None:
            return "must be yes or no"
        if key == "Snapshot":
            entry.snapshot = yes
        else:
            entry.early = yes
    return ""


def _entry(section: Section, problems: list[Problem]) -> Entry | None:
    """An entry from a [Path] section, or None when the section cannot stand."""
    path = ""
    where = ""
    settings, file = section.settings, section.file
    for key, value, line in settings:
        if key == "Path":
            where = "%s:%d" % (file, line)
            if path:
                problems.append(Problem(ERROR, where, "A second Path= in one [Path] section, the section is ignored. Begin a new [Path].", path))
                return None
            try:
                path = _path_value(value)
            except ValueError as e:
                problems.append(Problem(ERROR, where, "Path=%s: %s, the entry is ignored.%s" % (value, e, _instead(value))))
                return None
    if not path:
        problems.append(Problem(ERROR, where or "%s:%d" % (section.file, section.line), "Path= is empty, the entry is ignored." if where
                                else "[Path] without Path=, the entry is ignored."))
        for key, _, line in section.settings:
            _known(section, key, line, problems)  # a misspelled Path=, for one
        return None
    if path[-1] == "/" and path.strip("/") and not path.endswith("//"):
        path = path[:-1]
    wrong = wrong_path(path)
    if wrong:
        problems.append(Problem(ERROR, where, "Path=%r %s, the entry is ignored." % (path, wrong), path))
        return None
    entry = Entry(path, where, file)
    entry.settings = settings
    if len(entry.name) > ENTRY_NAME_MAX:
        problems.append(Problem(ERROR, where, "Path=%s is too long for the name of a unit, the entry is ignored. Keep a directory above it." % path, path))
        return None
    for key, value, line in settings:
        if key == "Path" or (key not in PATH_KEYS and not _known(section, key, line, problems, path)):
            continue
        wrong = _set(entry, key, value)
        if wrong:
            problems.append(Problem(ERROR, "%s:%d" % (section.file, line), "%s=%s %s, the entry for %s is ignored.%s"
                                    % (key, value, wrong, path, _instead(value) if key == "SeedFrom" else ""), path))
            return None
    wrong = "Method=overlay is for directories" if entry.method == "overlay" and entry.type == "file" else wrong_unit(path, entry.method)
    if wrong:
        instead = "" if entry.method != "overlay" else " Use Method=bind." if "," not in path else \
            " Write one [Path] section for each path if this is a list; Method=bind keeps a path with a comma."
        problems.append(Problem(ERROR, where, "%s, the entry for %s is ignored.%s" % (wrong, path, instead), path))
        return None
    options = [line for key, _, line in settings if key == "Options"] if entry.method in ("symlink", "image", "tmpfs") else []
    if options:
        problems.append(Problem(ERROR, "%s:%d" % (section.file, options[0]), "Options= is for Method=overlay and Method=bind, which have a mount of their own, "
                                "the entry for %s is ignored." % path, path))
        return None
    return entry


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
            entry = _entry(section, problems)
            if entry is not None:
                registry.entries.append(entry)
            continue
        if section.name not in _KEYS:
            if not section.name.startswith("X-"):
                from .rare.near import unknown_section  # only where something is wrong

                problems.append(unknown_section(section, _KEYS))
            continue
        for key, value, line in section.settings:
            if _known(section, key, line, problems) and section.name == "Identity" and key == "Action" and value not in ACTIONS:
                problems.append(Problem(ERROR, "%s:%d" % (file, line), "Action=%s must be one of %s." % (value, ", ".join(ACTIONS))))
        registry.others.append(section)


def _path(entry: Entry) -> str:
    return entry.path + "/"  # so that /a/b sorts before /a-b, a parent always before its children


def load(root: str, problems: list[Problem], files: "Sequence[str]" = ()) -> Registry:
    """Read all files of the registry below ``root`` ('' for the running system), or only those ``files``, wherever they lie."""
    registry = Registry()
    before = len(problems)
    for path, shown in [(file, file) for file in files] or fragments(root, "persist.d", problems):
        data = read(path, shown, problems, "" if files else root)
        if data:
            parse_file(data, shown, registry, problems)
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
            problems.append(Problem(NOTICE, entry.source, "%s is already declared by %s, which sorts first; ignoring this one."
                                    % (entry.path, first.source), entry.path))
    for problem in problems[before:]:
        if problem.level <= ERROR and problem.path:
            registry.refused.append(problem)
            if problem.path in none:
                problem.level = DEBUG
    registry.entries = sorted(seen.values(), key=_path)
    return registry
