# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the generator knows of the machine: the closed list of inputs, read once. Boot-safe.

Each input can be put elsewhere for tests, with the variables that systemd's own generators know
(``SYSTEMD_PROC_CMDLINE``, ``SYSTEMD_FSTAB``) and with ``root``.
"""

import posix as os  # see __init__.py

from .paths import DIRECTORIES, READ

TYPE_CHECKING = False  # typing.TYPE_CHECKING without the import (collections.abc costs 2 ms)
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .fstab import Line
    from .registry import Registry

UNIT_DIRECTORIES = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
ENABLED = (
    "local-fs.target.wants",
    "sysinit.target.wants",
    "multi-user.target.wants",
    "basic.target.wants",
    "local-fs.target.requires",
    "sysinit.target.requires",
)

# As in errno, which takes as long to load as a module of ours; ELOOP is another number on some machines.
_EINVAL = 22
_NO_LINK = (_EINVAL, 2, 20)  # ENOENT, ENOTDIR
_BLANKS = " \t\r\n"  # PID 1's; it knows no blank of Unicode


class Facts:
    """A record of the machine. ``root`` is '' for the running system."""

    def __init__(self) -> None:
        self.root = ""
        self.cmdline = ""
        self.in_initrd = False
        self.container = ""
        self.user_scope = False
        self.enabled = False
        # Where others mount -> what says so: fstab, and all else that systemd-fstab-generator reads.
        self.fstab: dict[str, str] = {}
        self.lines: list[Line] = []  # the same with all that they say, and swap space
        self.network: set[str] = set()  # where they mount with the network
        self.shipped: dict[str, str] = {}  # name of a mount unit of somebody else -> its file
        # Name of a mount unit that PID 1 would not take from us -> the link that masks it.
        self.masked: dict[str, str] = {}
        # What is mounted in PID 1's eyes, '' where nobody knows, or it does not matter (load.py).
        self.mounts = ""
        # Entry path -> the path without the image's links among its parents.
        self.aliases: dict[str, str] = {}
        # Entry path -> target, where the last component is itself a symbolic link.
        self.links: dict[str, str] = {}
        self.broken: dict[str, str] = {}  # entry path -> why the links on its way cannot be followed
        self.mounted_below: dict[str, str] | None = None  # made of the above by those who ask

    def option(self, key: str) -> str | None:
        """The last value of a kernel command line option, '' for a bare word, None when it is not there."""
        return option(self.cmdline, key)

    @property
    def mode(self) -> str:
        """What ``persist=`` asks of this boot: on, ro, volatile or off.

        Whoever writes a word there wants less than usual, so one that this version does not know means
        volatile: the disks are left alone.
        """
        word = self.option("persist")
        return (word or "on") if word in (None, "", "on", "off", "ro") else "volatile"


def option(cmdline: str, key: str) -> str | None:
    """The last value of ``key=`` on a kernel command line; quotes are taken away as PID 1 does."""
    if key not in cmdline:
        return None
    value = None
    for word in words(cmdline):
        if word == key:
            value = ""
        elif word.startswith(key + "="):
            value = word[len(key) + 1 :]
    return value


def words(cmdline: str) -> list[str]:
    """The words of a kernel command line, quotes taken away as PID 1 does."""
    if '"' not in cmdline and "'" not in cmdline:
        for blank in _BLANKS[1:]:
            cmdline = cmdline.replace(blank, " ")
        return [word for word in cmdline.split(" ") if word]
    words: list[str] = []
    word: list[str] = []
    quote, any_ = "", False
    for c in cmdline:
        if c == quote:
            quote = ""
        elif not quote and c in "\"'":
            quote = c
            any_ = True
        elif not quote and c in _BLANKS:
            if word or any_:
                words.append("".join(word))
            word, any_ = [], False
        else:
            word.append(c)
    if word or any_:
        words.append("".join(word))
    return words


def content(path: str) -> bytes:
    """The first MiB of a file, nothing where it cannot be read."""
    try:
        fd = os.open(path, READ)
    except OSError:
        return b""  # not there or not readable: the same as empty, for /proc/cmdline and fstab alike
    try:
        data = b""
        while len(data) < 1 << 20:
            piece = os.read(fd, 1 << 16)
            if not piece:
                break
            data += piece
        return data
    except OSError:
        return b""  # a directory, for one
    finally:
        os.close(fd)


def link_target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def enabled(root: str) -> bool:
    """Whether a link enables persist-setup.target: the master switch. The highest directory that has a say
    wins, as for PID 1."""
    for base in UNIT_DIRECTORIES[:4]:
        try:
            if os.readlink(root + base + "/persist-setup.target") == "/dev/null":
                return False
            break
        except OSError as e:
            if e.errno == _EINVAL:  # there, and not a link
                break
    for wants in ENABLED:
        for base in UNIT_DIRECTORIES[:4]:
            target = link_target(root + base + "/" + wants + "/persist-setup.target")
            if target == "/dev/null":
                break
            if target:
                return True
    return False


def any_fragments(root: str) -> bool:
    """Whether there is a registry file at all: looked at first, so that machines without one pay next to
    nothing."""
    for base in DIRECTORIES:
        try:
            with os.scandir(root + base + "/persist.d") as names:
                for name in names:
                    if name.name.endswith(".conf"):
                        return True
        except FileNotFoundError:
            continue
        except OSError:
            return True  # registry.load() says what is wrong
    return False


def why_nothing(facts: Facts) -> str:
    """Why the generator has nothing to do on this machine whatever the registry says, or an empty string."""
    if facts.user_scope:
        return "a user's manager keeps no system state"
    if facts.in_initrd:
        return "in the initrd, where the stage before PID 1 does the work"
    if facts.container:
        return "in a container (%s), where the engine keeps the volumes" % facts.container
    if facts.mode == "off":
        return "persist=off on the kernel command line"
    if not facts.enabled:
        return "persist-setup.target is not enabled"
    return ""


def gather(root: str, environ: "Mapping[str, str]") -> Facts:
    """Read all facts. ``root`` is '' for the running system."""
    facts = Facts()
    facts.root = root
    facts.in_initrd = environ.get("SYSTEMD_IN_INITRD") == "1"
    facts.user_scope = environ.get("SYSTEMD_SCOPE") == "user"
    virtualization = environ.get("SYSTEMD_VIRTUALIZATION", "")
    if virtualization.startswith("container:"):
        facts.container = virtualization[len("container:") :]
    override = environ.get("SYSTEMD_PROC_CMDLINE")
    # A container sees its host's command line, which says nothing about it (systemd reads /proc/1/cmdline
    # there).
    if override is not None:
        facts.cmdline = override
    elif not facts.container:
        facts.cmdline = content(root + "/proc/cmdline").decode("utf-8", "surrogateescape").strip(_BLANKS)
    facts.enabled = enabled(root)
    return facts


def gather_paths(facts: Facts, registry: "Registry", environ: "Mapping[str, str]") -> None:
    """The facts that only matter where there are entries: fstab, shipped mount units, links."""
    from . import fstab
    from .dropins import inside

    root = facts.root
    known: dict[str, str] = {}
    for entry in registry.entries:
        path = entry.path
        parent, _, name = path.rpartition("/")
        try:
            real = (known[parent] if parent in known else resolve(root, parent, known)) + "/" + name
            target = _link_target(root, real)
            if target and entry.method != "symlink":
                # The entry is an alias itself (/lib -> usr/lib): what counts is the directory behind it.
                real = resolve(root, real, known) or "/"
        except OSError as e:
            facts.broken[path] = e.strerror or str(e)
            continue
        facts.aliases[path] = real
        if target:
            facts.links[path] = target
    fstab.read(facts, environ.get("SYSTEMD_FSTAB") or inside(root + "/etc/fstab", root), known)
    fstab.read_units(facts)


def resolve(root: str, path: str, known: dict[str, str]) -> str:
    """``path`` with all links resolved as chroot(2) to ``root`` would, '' for the root itself. ``known``
    caches.

    Raises OSError where the links cannot be followed: a loop, a name that is too long, a directory that
    cannot be searched.
    """
    if path in known:
        return known[path]
    resolved = ""
    todo = path.split("/")
    todo.reverse()  # the next one last: a list is shortened at its end
    hops = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            resolved = resolved.rpartition("/")[0]
            continue
        at = resolved + "/" + part
        target = _link_target(root, at)
        if not target:
            resolved = at
            continue
        hops += 1
        if hops > 40:
            import errno

            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target[0] == "/":
            resolved = ""
        todo += reversed(target.split("/"))
    known[path] = resolved
    return resolved


def _link_target(root: str, path: str) -> str:
    try:
        return os.readlink(root + path)
    except OSError as e:
        if e.errno not in _NO_LINK:
            raise
        return ""
