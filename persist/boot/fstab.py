# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd-fstab-generator mounts, from all that it reads: fstab, the command line, a credential.
Boot-safe.

Its units and ours are written at the same time into one directory. So whatever it would write has to be known
here (systemd-fstab-generator(8), read at 252 and 257; ``systemd.mount-extra=``, ``systemd.swap-extra=`` and
the credential since 254).
"""

import posix as os  # see __init__.py

from .facts import UNIT_DIRECTORIES, Facts, content, link_target, resolve, words
from .ini import boolean
from .paths import escape, unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PATH_MAX = 4096  # linux/limits.h: mount(8) takes no longer one
CREDENTIAL = "/run/credentials/@system/fstab.extra"
_LINE = " on the kernel command line"
INITRD = "mount.usr=" + _LINE  # mounted by the initrd, where no unit of the system says so
# fstype_is_network(), with and without "fuse." in front.
_NETWORK = (
    "afs",
    "ceph",
    "cifs",
    "smb3",
    "smbfs",
    "sshfs",
    "ncpfs",
    "ncp",
    "nfs",
    "nfs4",
    "gfs",
    "gfs2",
    "glusterfs",
    "pvfs2",
    "ocfs2",
    "lustre",
    "davfs",
)


class Line:
    """One line: what is mounted, where ('' for swap space), how. ``source`` is what to call it in a
    message."""

    __slots__ = ("what", "where", "fstype", "options", "source")

    def __init__(self, what: str, where: str, fstype: str, options: str, source: str) -> None:
        self.what = what
        self.where = where
        self.fstype = fstype
        self.options = options
        self.source = source

    def unit(self) -> str:
        """The name of the unit that is made of it."""
        return escape(self.where) + ".mount" if self.where else escape(self.what) + ".swap"

    def option(self, name: str) -> list[str]:
        """The values of an option, '' for a bare word."""
        found = []
        for option in self.options.split(","):
            key, _, value = option.partition("=")
            if key == name:
                found.append(value)
        return found

    def network(self) -> bool:
        """Whether it comes with the network, after local-fs.target."""
        return self.fstype.removeprefix("fuse.") in _NETWORK or "_netdev" in self.options.split(",")


def unescaped(text: bytes) -> bytes:
    r"""Undo the escapes of getmntent(3) and libmount: ``\040`` and the like, bytes of UTF-8 among them."""
    first, *rest = text.split(b"\\")
    out = [first]
    for piece in rest:
        digits = piece[:3]
        if len(digits) == 3 and not digits.strip(b"01234567"):
            out.append(bytes((int(digits, 8) & 255,)) + piece[3:])
        else:
            out.append(b"\\" + piece)
    return b"".join(out)


def _fields(data: bytes, shown: str) -> "Iterable[Line]":
    number = 0
    for line in data.split(b"\n"):
        number += 1
        fields = [field for field in line.replace(b"\t", b" ").split(b" ") if field]
        if len(fields) < 2 or fields[0][0] == 35 or b"\0" in line:
            continue
        what, where, fstype, options = [
            unescaped(field).decode("utf-8", "surrogateescape") for field in (fields + [b"", b""])[:4]
        ]
        yield Line(what, where, fstype, options, "%s:%d" % (shown, number))


def _command_line(facts: Facts) -> "Iterable[Line]":
    for word in words(facts.cmdline):
        key, _, value = word.partition("=")
        key = key.replace("_", "-")  # as PID 1 compares them
        if key == "systemd.mount-extra":
            what, where, fstype, options = [*value.split(":"), "", "", ""][:4]
            yield Line(what, where, fstype, options, key + "=" + _LINE)
        elif key == "systemd.swap-extra":
            what, _, options = value.partition(":")
            yield Line(what, "none", "swap", options, key + "=" + _LINE)
        elif key == "mount.usr":
            yield Line(value, "/usr", "", "", INITRD)
        elif key == "ostree":
            yield Line("", "/var", "none", "bind", key + "=" + _LINE)  # of ostree-system-generator
        elif key == "systemd.volatile" and value == "state":
            # Where nothing else mounts it.
            yield Line("tmpfs", "/var", "tmpfs", "", "systemd.volatile=state" + _LINE)


def _take(facts: Facts, line: Line, known: dict[str, str], again: bool = True) -> None:
    """``again``: whether it counts where a line before it mounts something there, too."""
    if "\0" in line.where + line.what or len(line.where) > PATH_MAX or len(line.what) > PATH_MAX:
        return
    if line.fstype == "swap":
        line.where = ""
    elif line.where[:1] != "/":
        return
    else:
        try:
            line.where = resolve(facts.root, line.where, known) or "/"
        except OSError:
            line.where = line.where.rstrip("/") or "/"  # a loop of links: nothing can be mounted there
        if not again and line.where in facts.fstab:
            return
        facts.fstab[line.where] = line.source
        if line.network():
            facts.network.add(line.where)
    facts.lines.append(line)


def read(facts: Facts, path: str, known: dict[str, str]) -> None:
    """Fill in what is mounted by others: ``fstab``, ``lines`` and ``network``. ``path`` is that of fstab."""
    cmdline = facts.cmdline
    if "fstab=" not in cmdline or boolean(facts.option("fstab") or "") is not False:
        for line in _fields(content(path), "/etc/fstab"):
            _take(facts, line, known)
    for line in _fields(content(facts.root + CREDENTIAL), "the credential fstab.extra"):
        _take(facts, line, known)
    if "systemd." in cmdline or "mount.usr" in cmdline or "mount_usr" in cmdline or "ostree" in cmdline:
        for line in _command_line(facts):
            _take(facts, line, known, again=False)


def read_units(facts: Facts) -> None:
    """Fill in ``shipped`` and ``masked``."""
    root = facts.root
    seen: set[str] = set()
    for base in UNIT_DIRECTORIES:
        if base == "/lib/systemd/system" and link_target(root + "/lib"):
            continue  # merged /usr: seen already
        try:
            names = os.listdir(root + base)
        except OSError:
            continue  # a directory that is not there ships nothing
        for name in [name for name in names if name[-6:] == ".mount"]:
            if name not in seen:
                seen.add(name)
                unit = base + "/" + name
                if link_target(root + unit) != "/dev/null":
                    facts.shipped[name] = unit
                elif not base.startswith(("/usr/", "/lib/")):
                    # PID 1 looks for units in /etc and /run before it looks at ours, and in /usr afterwards.
                    facts.masked[name] = unit


def mounted_by_units(facts: Facts) -> dict[str, str]:
    """The mount units that are shipped, and where each mounts, which is all that is known of it: its name
    says it."""
    found = {}
    for unit in facts.shipped:
        try:
            found[unit] = unescape(unit[: -len(".mount")])
        except ValueError:
            continue  # no path of ours has such a name
    return found
