# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where things are, systemd's escaping of paths, and which paths persist takes. Boot-safe."""

import posix as os  # see __init__.py

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DIRECTORIES = ("/etc", "/run", "/usr/local/lib", "/usr/lib")  # of configuration, the highest first
READ = (
    os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
)  # whatever is there instead of a file: no harm, no waiting

VOLUME = "/run/persist/volume"
# 0700: a second way to a file is none of a user's business, its parents or its mode may have been closed
# since
PRIVATE = "/run/persist/private"
LOWER = PRIVATE + "/lower"
IMAGE = PRIVATE + "/image"
RESCUE = PRIVATE + "/rescue"
SEALING = PRIVATE + "/seal"  # what the services of a seal boot tell one another
STORE = VOLUME + "/.persist"
ROOT_STORE = "/var/lib/persist/root"  # of the root filesystem: where state is kept with Fallback=root
STAGED = "/run/persist/staged"  # the stage before PID 1 has left nothing to persist-volume.service
WAITED = "/run/persist/waited"  # the stage has waited for the volume in vain
SAID = "/run/persist/said"  # what that stage has to say
LEFT = "/run/persist/left"  # which entries that PID 1 reads it has not mounted, and why
MOUNT_ENTRIES = "/run/persist/mount-entries"
PERSISTENT = "/run/persist/persistent"
STORES = (
    "/run/persist/stores"  # a file for each entry whose place on the volume was looked at (entries/stores.py)
)
MIGRATED = "/run/persist/migrations"  # a file for each migration that has its stamp on the volume
MIGRATION_SNAPSHOT = "/run/persist/migration-snapshot"  # the last one, and the paths of the runs since
READONLY = PRIVATE + "/readonly"  # the volume itself with persist=ro; VOLUME is memory then
BELOW = STORE + "/below"  # with persist=ro: what each overlay entry has on the volume
# there where bind entries are held read-only, because the volume that is known is away
STALE = "/run/persist/stale"
BOOTED = "/run/persist/booted"
# What services tell one another; docs/architecture.md, "What is under /run/persist", says who writes what.
STATE = "/run/persist/state.json"  # the verdict
STATE_LOCK = STATE + ".lock"
ONLINE = "/run/persist/online"
RECORD = "/run/persist/volume.json"  # what persist-volume.service came to
HEAL = "/run/persist/heal"  # word for persist-heal.service: persist-heal.path starts it where this is there
HEAL_LOCK = "/run/persist/heal.lock"
HEAL_FAILED = "/run/persist/heal-failed"  # why a healing could not go on, and a line for that service
MEMBERS_GONE = "/run/persist/members-gone"  # a mark, and the devids that it was written for
FORMAT = "/run/persist/format"  # left by 65-persist.rules, awaited by persist-format.path
FORMAT_LOCK = "/run/persist/format.lock"
# the UUID of a filesystem that this boot has made: udev may still be busy with it
FORMATTED = "/run/persist/formatted"
REFUSED = "/run/persist/refused"

# The boot that seals: who asks, which requests were honoured, which this boot has begun with, one past it
SEAL_REQUEST = "/etc/persist/seal.request"
SEAL_DONE = "/etc/persist/seal.done"
SEAL_BEGUN = "/run/persist/seal"
ORDINARY = "/run/persist/ordinary"
SEAL_REFUSED = "/run/persist/seal-refused"
SEAL_SEEN = "/run/persist/seal-seen"
# Hierarchies that are the kernel's, the boot loader's or the image's (but for /usr/local).
_REFUSED = {
    "/usr": "image",
    "/proc": "running system",
    "/sys": "running system",
    "/dev": "running system",
    "/run": "running system",
    "/boot": "boot loader",
    "/efi": "boot loader",
}
RUNNING = ("/proc", "/sys", "/dev", "/run")

_UNIT_TYPES = (
    "service",
    "socket",
    "target",
    "mount",
    "automount",
    "swap",
    "timer",
    "path",
    "slice",
    "scope",
    "device",
)
_UNIT_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:-_.\\@"

GENERATOR = "persist-generator"
UNIT_NAME_MAX = 255  # unit-name.h; also NAME_MAX, the store uses the same names
ENTRY_NAME_MAX = UNIT_NAME_MAX - len("persist-seed@.service.d")  # the longest that is made of an entry's name

_UNESCAPED = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:_."
PLAIN = (
    _UNESCAPED + "/-"
)  # of what most paths are made: text.strip(PLAIN) is empty where there is nothing else in it
_escapes: dict[int, str] = {}  # made for the first path that needs it


def escape(path: str) -> str:
    """A normalised absolute path in the form that unit names have (systemd.unit(5), systemd-escape
    --path)."""
    body = path.strip("/")
    if not body:
        return "-"
    name = name_of_plain("/" + body)
    if name:
        return name  # as below, in a third of the time
    if not _escapes:
        _escapes.update(
            {b: "-" if b == 47 else "\\x%02x" % b for b in range(256) if chr(b) not in _UNESCAPED}
        )
    if not body.isascii():
        body = body.encode("utf-8", "surrogateescape").decode("latin-1")  # a character for each byte
    name = body.translate(_escapes)
    return "\\x2e" + name[1:] if name[0] == "." else name


def unescape(name: str) -> str:
    """The path behind an escaped name, as ``systemd-escape --unescape --path``. Raises ValueError where there
    is none."""
    if name == "-":
        return "/"
    out = bytearray(b"/")
    i = 0
    while i < len(name):
        c = name[i]
        if c == "-":
            out += b"/"
        elif c == "\\":
            digits = name[i + 2 : i + 4].lower()
            if (
                name[i + 1 : i + 2] != "x"
                or len(digits) != 2
                or digits.strip("0123456789abcdef")
                or digits == "00"
            ):
                raise ValueError("bad escape in '%s'" % name)
            out.append(int(digits, 16))
            i += 3
        else:
            out += c.encode("utf-8", "surrogateescape")
        i += 1
    path = out.decode("utf-8", "surrogateescape")
    for part in path[1:].split("/"):
        if part in ("", ".", ".."):
            raise ValueError("'%s' is not the name of a normalised path" % name)
    return path


def unsayable(text: str) -> str:
    """Which character of a text neither a unit file nor a line of a log can say as it is, or an empty
    string."""
    if not text.isprintable():
        for c in text:
            if c < " " or "\x7f" <= c < "\xa0":
                return "has a control character"
            if c in "\u2028\u2029":
                return "has a line or paragraph separator of Unicode"
            # What systemd takes for bad UTF-8 (unichar_is_valid()): it would ignore the line that says the
            # text.
            if "\ud800" <= c <= "\udfff" or "\ufdd0" <= c <= "\ufdef" or ord(c) & 0xFFFE == 0xFFFE:
                return "is not UTF-8 text"
    return ""


def name_of_plain(path: str) -> str:
    """The escaped name of a path as nearly all are, which nothing can be wrong with; '' for others."""
    if path.strip(PLAIN) or path[:1] != "/" or path[-1:] == "/" or "/." in path or "//" in path:
        return ""
    return path[1:].replace("-", "\\x2d").replace("/", "-")


def wrong_path(path: str) -> str:
    """Why a text is not a path that persist takes, or an empty string."""
    if name_of_plain(path):
        return ""
    if path[:1] != "/":
        return "is not absolute"
    if path == "/":
        return "is the root directory; name what lies below it"
    wrong = unsayable(path)
    if wrong:
        return wrong
    if path[-1] in " \\":
        return "ends in a blank or a backslash, which a unit file cannot say"
    if " /" in path or "\\/" in path:
        return "has a name that ends in a blank or a backslash above it, which a unit file cannot say"
    if "//" in path or path[-1] == "/" or "/./" in path or "/../" in path or path.endswith(("/.", "/..")):
        return "is not normalised (no '//', '.', '..' or '/' at the end)"
    return ""


def specifiers(text: str) -> str:
    """Text that systemd takes as it is: ``%`` is doubled (systemd.unit(5), specifiers)."""
    return text.replace("%", "%%") if "%" in text else text


def quoted(text: str) -> str:
    """One word of a setting that systemd splits at blanks (systemd.syntax(7), quoting); specifiers escaped
    too."""
    text = specifiers(text).replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"' + text + '"' if " " in text or "\t" in text or "'" in text or '"' in text or ";" in text else text
    )


def overlay_option(path: str) -> str:
    """A path as value of lowerdir=, upperdir= or workdir= in a list of options for mount(8).

    overlayfs takes backslashes away (``ovl_unescape()``) and splits lowerdir= at colons, libmount splits at
    commas outside of double quotes. Paths with a double quote or a comma are refused for overlays by the
    registry.
    """
    if "\\" in path:
        path = path.replace("\\", "\\\\")
    if ":" in path:
        path = path.replace(":", "\\:")
    return path


def mount_options(text: str) -> str:
    r"""A list of mount options as value of Options=, where PID 1 takes ``\\`` for a backslash
    (fstab_filter_options()) and ``%`` for a specifier.

    Without the doubling, an overlay whose store has a ``\x2d`` in its name, as that of /srv/my-data has,
    would not be mounted.
    """
    return specifiers(text.replace("\\", "\\\\"))


def parents(path: str) -> list[str]:
    """All strict ancestors of an absolute path but for ``/``, the longest first."""
    out = []
    at = path.rfind("/")
    while at > 0:
        path = path[:at]
        out.append(path)
        at = path.rfind("/")
    return out


def above(path: str, mounts: "Mapping[str, object] | set[str]") -> str:
    """The nearest strict ancestor of ``path`` that is in ``mounts``, or an empty string."""
    path = path.rpartition("/")[0]
    while path:
        if path in mounts:
            return path
        path = path.rpartition("/")[0]
    return ""


def wrong_unit(path: str, method: str) -> str:
    """Why a path cannot be what a mount unit of a method mounts, or an empty string.

    PID 1 runs mount(8) for it as a service's command line: it puts the values of variables there, and takes
    ``$$`` for one dollar sign (exec_command, systemd 252 and 257). Where= must be the unit's name, so nothing
    can be doubled. Binds and links have no mount unit.
    """
    if method in ("overlay", "image", "tmpfs") and "$" in path:
        return "PID 1 would expand the dollar sign in its path"
    return (
        "mount(8) cannot overlay a path with a comma or a double quote"
        if method == "overlay" and ("," in path or '"' in path)
        else ""
    )


def wrong_source(path: str) -> str:
    """Why nothing is seeded from a normalised path, or an empty string. Files there have no end, or make the
    reader wait."""
    top = "/" + path.split("/", 2)[1]
    return (
        "is below %s, which belongs to the running system: nothing there is a file to copy" % top
        if top in RUNNING
        else ""
    )


def forbidden(path: str, mount: str = "/mnt/state") -> str:
    """Why persist will not take a normalised path, or an empty string (docs/architecture.md)."""
    top = "/" + path.split("/", 2)[1]
    if top in _REFUSED and not (path + "/").startswith("/usr/local/"):
        return "%s belongs to the %s" % (top, _REFUSED[top])
    # Of nearly all paths the first letter says it.
    if path[1] == mount[1] and ((path + "/").startswith(mount + "/") or mount.startswith(path + "/")):
        return "%s is the state volume" % mount
    return ""


def is_unit_name(name: str) -> bool:
    """Whether a text is the name of a unit that can have a drop-in directory."""
    stem, _, suffix = name.rpartition(".")
    return (
        bool(stem)
        and suffix in _UNIT_TYPES
        and all([c in _UNIT_CHARACTERS for c in name])
        and len(name) <= UNIT_NAME_MAX - len(".d")
    )
