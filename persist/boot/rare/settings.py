# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keys of persist.conf and what they take. Boot-safe; loaded only where there is such a file."""

from ..config import DEFAULT_HEADER, Config
from ..ini import ERROR, WARNING, Problem, Section, choice, words, yes_or_no
from ..paths import is_unit_name, unsayable
from .values import not_a_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Parser = Callable[[Config, str], str]

FALLBACKS = ("auto", "tmpfs", "root", "none", "fail")
JOINS = ("by-id", "auto", "no")
FORMATS = ("claimed", "blank")
KEYS = ("UUID", "LABEL", "PARTUUID", "PARTLABEL")  # of Device=, as in fstab(5)
SECTIONS = ("Volume", "Seal", "Registry")  # the last one has no keys yet
MACHINE_IDS = ("empty", "uninitialized")
LONGEST_SCRIPT = 18000  # persist-seal-net.target ends all after six hours


def _number(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= 18  # int() raises on thousands of digits


def size(value: str) -> int | None:
    """Bytes with the suffixes K, M, G, T to the base 1024; None when it is not a size."""
    factor = 1
    if value[-1:] in "KMGT" and value[-1:]:
        factor = 1024 ** ("KMGT".index(value[-1]) + 1)
        value = value[:-1]
    return int(value) * factor if _number(value) else None


def _spec(word: str) -> str:
    """What is wrong with one word of Device=, or an empty string: what cannot come would be waited for at
    each boot."""
    name, equals, value = word.partition("=")
    for part in word.split(",")[1:]:
        if part == "auto" or part[:1] == "/" or "=" in part and part.partition("=")[0] in KEYS:
            return "looks like a list, and blanks stand between devices, not commas"
    if word == "auto" or word.startswith("/"):
        return ""
    if not equals or name not in KEYS:
        return "is not auto, nor a path, nor one of " + ", ".join([key + "=" for key in KEYS])
    if not value:
        return "names nothing"
    if name == "UUID" and (
        [len(part) for part in value.split("-")] != [8, 4, 4, 4, 12]
        or value.replace("-", "").strip("0123456789abcdefABCDEF")
    ):
        return "is not the UUID of a filesystem; 'lsblk -f' shows it"
    return ""


def _device(config: Config, value: str) -> str:
    specs = words(value.replace('"', ""))
    bad = ["'%s' %s" % (spec, _spec(spec)) for spec in specs if _spec(spec)]
    # Where none is left nothing is found, and nothing is formatted: a mistyped name must not mean 'auto'.
    config.device = [spec for spec in specs if not _spec(spec)] if specs else ["auto"]
    return "; ".join(bad)


def _mount(config: Config, value: str) -> str:
    path = value.rstrip("/")
    if not path.startswith("/") or "/../" in path + "/" or "//" in path or "/./" in path + "/":
        return "must be an absolute path without '..', and not / itself"
    what = not_a_name(path)
    if what:
        return "looks like %s, and must be the name of one directory" % what
    wrong = unsayable(path)
    if not wrong:
        config.mount = path
    return wrong


def _member_timeout(config: Config, value: str) -> str:
    number = value[:-1] if value.endswith("s") else value
    if not _number(number) or int(number) > 3600:
        return "must be whole seconds, at most 3600"
    config.member_timeout = int(number)
    return ""


def _magic_header(config: Config, value: str) -> str:
    headers = words(value)
    for header in headers:
        if not header.endswith("-please-format-me") or not header.isascii() or len(header) > 64:
            return "must be words that end in -please-format-me, at most 64 bytes each"
    config.magic_headers = headers or [DEFAULT_HEADER]
    return ""


def _swap_size(config: Config, value: str) -> str:
    config.swap_size = None if value == "auto" else size(value)
    return "must be auto, 0 or a size such as 512M" if config.swap_size is None and value != "auto" else ""


def _format(config: Config, value: str) -> str:
    if value not in FORMATS:
        return "must be one of " + ", ".join(FORMATS)
    config.format_blank = value == "blank"
    return ""


def _options(config: Config, value: str) -> str:
    if not value.isprintable() or not value.isascii() or " " in value or '"' in value or "\\" in value:
        return "must be mount options with commas between them, without blanks and quotes"
    options = [word for word in value.split(",") if word]
    config.options = ",".join(options)
    config.netdev = "_netdev" in options
    return ""


def _allow(config: Config, value: str) -> str:
    units = words(value)
    for unit in units:
        if not is_unit_name(unit) or not unit.endswith(".service"):
            return "'%s' is not the name of a service" % unit
    config.seal_allow = config.seal_allow + tuple(units) if units else ()
    return ""


def _seal_timeout(config: Config, value: str) -> str:
    number = value[:-1] if value.endswith("s") else value
    if not _number(number) or not 0 < int(number) <= LONGEST_SCRIPT:
        return "must be whole seconds, at most %d" % LONGEST_SCRIPT
    config.seal_timeout = int(number)
    return ""


# Each takes one setting, and returns what is wrong with it, or an empty string. The defaults are Config's
# own, the page is persist.conf(5).
VOLUME: "dict[str, Parser]" = {
    "Device": _device,
    "Mount": _mount,
    "Fallback": choice("fallback", FALLBACKS),
    "MemberTimeoutSec": _member_timeout,
    "AllowRemovable": yes_or_no("allow_removable"),
    "Join": choice("join", JOINS),
    "MagicHeader": _magic_header,
    "SwapSize": _swap_size,
    "Format": _format,
    "Ephemeral": yes_or_no("ephemeral"),
    "Options": _options,
}
# Of a boot that seals, and of persistctl seal; checked here for all who load the file.
SEAL: "dict[str, Parser]" = {
    "MachineId": choice("machine_id", MACHINE_IDS),
    "Allow": _allow,
    "TimeoutSec": _seal_timeout,
}


def take(config: Config, section: Section, problems: list[Problem]) -> None:
    """Take all settings of one section."""
    where = "%s:%d" % (section.file, section.line)
    if section.name not in SECTIONS and not section.name.startswith("X-"):
        from .near import unknown_section  # only where something is wrong

        problems.append(unknown_section(section, SECTIONS))
    if section.name not in SECTIONS:
        return
    if section.name == "Volume" and section.file.startswith("/etc/"):
        problems.append(
            Problem(
                WARNING,
                where,
                "[Volume] is ignored in /etc, which may itself be kept on the volume. "
                "Put it into /usr/lib/persist or /run/persist.",
            )
        )
        return
    parsers = VOLUME if section.name == "Volume" else SEAL if section.name == "Seal" else {}
    known = tuple(parsers)
    for key, value, line in section.settings:
        if key not in known:
            if not key.startswith("X-"):
                from .near import unknown_key

                problems.append(unknown_key(section, key, line, known))
            continue
        wrong = parsers[key](config, value)
        config.lines[key] = "%s:%d" % (section.file, line)
        if wrong:
            problems.append(Problem(ERROR, config.lines[key], "%s=%s: %s, ignoring." % (key, value, wrong)))
