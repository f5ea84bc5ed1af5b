# SPDX-License-Identifier: LGPL-2.1-or-later
"""What decides whether this boot seals, read once. Boot-safe; the generator loads it where somebody asks."""

import posix as os  # see ../__init__.py

from ..facts import UNIT_DIRECTORIES, content
from ..paths import ORDINARY, READ, SEAL_BEGUN, SEAL_DONE, SEAL_REQUEST
from .request import KEY, digits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..facts import Facts

_NOT_THERE = (2, 20)  # ENOENT, ENOTDIR
_S_IFMT, _S_IFREG, _S_IFDIR = 0o170000, 0o100000, 0o040000
_LONGEST = 1 << 20
# Words that PID 1 takes as those of the command line, and no generator is told of (bootctl(1)).
EFI = "/sys/firmware/efi/efivars/SystemdOptions-8cf2644b-4b0b-428f-9387-6d876050dc67"
UPDATES = ("/system-update", "/etc/system-update")
TARGET = "persist-seal.target"
UNITS = (
    TARGET,
    "persist-seal-begin.service",
    "persist-seal.service",
    "persist-operator-script.service",
    "persist-seal-end.service",
    "persist-seal-off.service",
    "persist-seal-net.target",
    "persist-seal-net.service",
)
# What comes before the early directory of generators (systemd.unit(5), "UNIT FILE LOAD PATH").
BEFORE_EARLY = ("/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient")


class Seen:
    """The facts of decide.decide(). ``begun`` is what /run/persist/seal holds, ``local`` and ``credential``
    what those requests hold, None where there is none; ``local_wrong`` and ``done_wrong`` say why a file is
    not believed, ``units`` what is wrong with the units of this boot. ``before_pid1``: it is the stage that
    asks."""

    def __init__(self) -> None:
        self.cmdline = ""
        self.efi = ""
        self.in_initrd = False
        self.container = ""
        self.user_scope = False
        self.before_pid1 = False
        self.begun: bytes | None = None
        self.ordinary = False
        self.update = ""
        self.units = ""
        self.machine_id = ""
        self.uuid = ""
        self.local: bytes | None = None
        self.local_wrong = ""
        self.credential: bytes | None = None
        self.confidential = False
        self.done: set[str] = set()
        self.done_wrong = ""
        self.now = 0.0


def there(path: str) -> bool:
    """Whether there is anything of that name, or nobody can tell."""
    try:
        os.lstat(path)
    except OSError as e:
        return e.errno not in _NOT_THERE
    return True


def _own(path: str, kind: int) -> "tuple[int, str]":
    """A descriptor of root's own file or directory, and why it is not believed ('' where it is). Raises
    OSError where it cannot be opened."""
    fd = os.open(path, READ | os.O_NOFOLLOW)
    st = os.fstat(fd)
    if st.st_mode & _S_IFMT != kind:
        return fd, "is not a regular file" if kind == _S_IFREG else "is not a directory"
    if st.st_uid != 0:
        return fd, "is not root's own"
    return fd, "can be written by others than root" if st.st_mode & 0o022 else ""


def _read(path: str) -> "tuple[bytes | None, str]":
    """What root's own file holds, None where there is none, and why it is not believed."""
    if not there(path):
        return None, ""
    try:
        fd, wrong = _own(path.rpartition("/")[0], _S_IFDIR)
        os.close(fd)
        if wrong:
            return b"", "its directory " + wrong
        fd, wrong = _own(path, _S_IFREG)
    except OSError as e:
        return b"", "cannot be opened: %s" % e.strerror
    try:
        data = b""
        while not wrong and len(data) <= _LONGEST and (piece := os.read(fd, 1 << 16)):
            data += piece
        if len(data) > _LONGEST:
            wrong = "is larger than 1 MiB"
    except OSError as e:
        wrong = "cannot be read: %s" % e.strerror
    finally:
        os.close(fd)
    return data, wrong


def _units(root: str) -> str:
    """What is wrong with the units that a seal boot needs, or ''."""
    for base in BEFORE_EARLY:
        if there(root + base + "/default.target"):
            return "%s/default.target takes the place of ours" % base
    for name in UNITS:
        for base in BEFORE_EARLY + UNIT_DIRECTORIES:
            at = root + base + "/" + name
            try:
                st = os.lstat(at)
            except OSError:
                continue
            try:
                masked = os.readlink(at) == "/dev/null"
            except OSError:
                masked = not st.st_size  # an empty file masks as well
            if masked:
                return "%s is masked in %s" % (name, base)
            break
        else:
            return "%s is missing" % name
    return ""


def look(known: "Facts", environ: "Mapping[str, str]") -> Seen:
    """Read all facts; ``known`` are the generator's."""
    import time  # built into the interpreter

    root = known.root
    seen = Seen()
    seen.cmdline = known.cmdline
    seen.efi = content(root + EFI)[4:].decode("utf-16-le", "replace").strip("\0")  # behind its attributes
    seen.in_initrd, seen.container, seen.user_scope = known.in_initrd, known.container, known.user_scope
    if there(root + SEAL_BEGUN):
        seen.begun = content(root + SEAL_BEGUN)
    seen.ordinary = there(root + ORDINARY)
    seen.update = next((path for path in UPDATES if there(root + path)), "")
    seen.units = _units(root)
    seen.machine_id = digits(content(root + "/etc/machine-id").decode("ascii", "replace"))
    seen.uuid = digits(content(root + "/sys/class/dmi/id/product_uuid").decode("ascii", "replace"))
    seen.local, seen.local_wrong = _read(root + SEAL_REQUEST)
    done, seen.done_wrong = _read(root + SEAL_DONE)
    # A word behind an ID says that it was refused, or seen to; neither is honoured again.
    seen.done = {line.partition(" ")[0] for line in (done or b"").decode("ascii", "replace").split("\n")}
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if credentials and there(root + credentials + "/" + KEY):
        seen.credential = content(root + credentials + "/" + KEY)
    seen.confidential = environ.get("SYSTEMD_CONFIDENTIAL_VIRTUALIZATION", "none") not in ("", "none")
    seen.now = time.time()
    return seen
