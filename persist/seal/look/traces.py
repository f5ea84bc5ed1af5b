# SPDX-License-Identifier: LGPL-2.1-or-later
"""What else of a tree carries its old ids and is not changed: the initrd, boot entries, command lines, fstab.
Looked for before the wipe, while the ids are known, and told."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable

from persist.boot.ini import words
from persist.errors import PersistError
from persist.record import Record
from persist.seal.look.initrd import small_files
from persist.seal.look.pattern import Finder
from persist.seal.look.tree import Parts, Tree
from persist.system.safepath import node_in_root

_MOST = 1 << 24  # bytes of a file that are searched
MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
TEXTS = (
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/kernel/cmdline",
    "/etc/kernel/cmdline.d/*",
    "/etc/kernel/entry-token",
    "/etc/default/grub",
    "/etc/default/grub.d/*",
    "/boot/grub/grub.cfg",
    "/boot/grub/custom.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/loader/entries/*",
    "/boot/cmdline.txt",
    "ESP:/loader/entries/*",
    "ESP:/EFI/Linux/*",
    "ESP:/cmdline.txt",
)
NAMES = (
    "/boot/*",
    "ESP:/*",
    "/boot/loader/entries/*",
    "ESP:/loader/entries/*",
)  # kernel-install(8) has the id
INITRDS = (
    "/boot/initrd*",
    "/boot/initramfs*",
    "/boot/*/*/initrd*",
    "ESP:/initrd*",
    "ESP:/*/*/initrd*",
)
_IN_INITRD = re.compile(r"(etc|conf|cryptroot)/|.*\.(conf|rules|link|network|netdev|nmconnection)$")
# Names that say nothing about one machine.
COMMON = frozenset(
    words(
        "localhost debian linux host hostname unknown unassigned machine server client node pc vm box test "
        "image template base default root system local none boot ubuntu fedora arch raspberrypi"
    )
)
_MAC = re.compile(
    rb"(?:(?<=bootif=01-)|(?<![0-9a-f])(?<![0-9a-f]{2}[:-]))"
    rb"(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?![0-9a-f])(?![:-][0-9a-f]{2}(?![0-9a-f]))"
)
_LIKE_AN_ID = re.compile(
    r"(?<![0-9a-f])[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}(?![0-9a-f])", re.IGNORECASE
)
_NO_MAC = (b"000000000000", b"ffffffffffff")


class Old(Record):
    """What tells this machine from others, kept in memory only: words by kind."""

    words: dict[str, tuple[str, ...]]

    def within(self, data: bytes) -> list[str]:
        """Which kinds of ids a text carries."""
        low = data.lower()
        found = [
            kind
            for kind, names in self.words.items()
            if any(_is_in(name.lower().encode("utf-8", "surrogateescape"), low, kind) for name in names)
        ]
        macs = (m.group().replace(b":", b"").replace(b"-", b"") for m in _MAC.finditer(low))
        return found + (["a MAC address"] if any(mac not in _NO_MAC for mac in macs) else [])

    def without(self, text: str) -> str:
        """A text without these ids, for a report that stays in the image."""
        for kind, names in self.words.items():
            for name in names:
                text = re.sub(re.escape(name), f"<{kind.removeprefix('the ')}>", text, flags=re.IGNORECASE)
        return text


class Trace(Record):
    """Something that carries old ids: a path of the tree, with a file in it where it is an archive."""

    path: str
    what: tuple[str, ...]
    inside: str = ""


def _is_in(name: bytes, data: bytes, kind: str) -> bool:
    if kind != "the host name":
        return name in data
    return re.search(rb"(?<![\w.-])" + re.escape(name) + rb"(?![\w-])", data) is not None


def _lines(tree: Tree, path: str) -> list[str]:
    try:
        text = (tree.read(path) or b"").decode("utf-8", "replace")
    except OSError:
        return []  # what cannot be read is told where it is to be wiped
    return [line.strip() for line in text.split("\n") if line.strip() and not line.startswith("#")]


def old_ids(*trees: Tree) -> Old:
    """The ids of a machine, as the files of its trees have them."""
    ids = [line for tree in trees for path in MACHINE_ID_FILES for line in _lines(tree, path)[:1]]
    ids = [i for i in ids if re.fullmatch(r"[0-9a-f]{32}", i)]
    dashed = [f"{i[:8]}-{i[8:12]}-{i[12:16]}-{i[16:20]}-{i[20:]}" for i in ids]
    named = [line for tree in trees for line in _lines(tree, "/etc/hostname")[:1]]
    hosts = [word for line in named for word in words(line)[:1]]
    hosts += [name.partition(".")[0] for name in hosts]
    iscsi = [
        line.partition("=")[2].strip()
        for tree in trees
        for line in _lines(tree, "/etc/iscsi/initiatorname.iscsi")
        if line.startswith("InitiatorName=")
    ]
    files = ("/etc/nvme/hostnqn", "/etc/nvme/hostid")
    nvme = [line for tree in trees for path in files for line in _lines(tree, path)[:1]]
    return Old(
        {
            kind: tuple(dict.fromkeys(names))
            for kind, names in (
                ("the machine-id", ids + dashed),
                ("the host name", [h for h in hosts if len(h) > 2 and h.lower() not in COMMON]),
                ("the iSCSI name", [n for n in iscsi if len(n) > 8]),
                ("the NVMe name", [n for n in nvme if len(n) > 8]),
            )
            if names
        }
    )


def find(tree: Tree, finder: Finder, old: Old, notes: list[str]) -> list[Trace]:
    """All that carries old ids and is known to matter, in order; what could not be looked into is noted."""
    found: dict[tuple[str, str], Trace] = {}
    machine_id = Old({k: v for k, v in old.words.items() if k == "the machine-id"})
    for kind, patterns in ((_in_name, NAMES), (_in_text, TEXTS), (_in_initrd, INITRDS)):
        seen: set[str] = set()
        for pattern in patterns:
            try:
                places = [p for p in finder.find(pattern) if p.path not in seen and not stat.S_ISLNK(p.mode)]
            except (OSError, PersistError) as e:
                notes.append(f"Old ids were not looked for in {pattern}: {e}")
                continue
            for place in places:
                seen.add(place.path)
                try:
                    carried = kind(tree, place.path, machine_id if kind is _in_name else old)
                except (OSError, PersistError, ValueError) as e:
                    notes.append(f"Old ids were not looked for in '{place.path}': {e}.")
                    continue
                for inside, what in carried:
                    found.setdefault((place.path, inside), Trace(place.path, tuple(what), inside))
    return [found[key] for key in sorted(found)]


def in_links(tree: Tree, places: Iterable[Parts], old: Old) -> list[Trace]:
    """Links among some places of the tree whose text carries old ids, or is one that nobody knows: one that
    leads to nothing stays, as the place of what will be made again."""
    found = {}
    for parts in places:
        there = tree.lstat(parts)
        if there is not None and stat.S_ISLNK(there.st_mode):
            text = tree.text_of_link(parts)
            known = old.within(os.fsencode(text))
            if not known and _LIKE_AN_ID.search(text):
                known = ["something like an id"]
            what = tuple(f"{each} in what it leads to" for each in known)
            if what:
                found[parts] = Trace("/" + "/".join(parts), what)
    return [found[parts] for parts in sorted(found)]


def _in_name(tree: Tree, path: str, old: Old) -> list[tuple[str, list[str]]]:
    what = old.within(os.fsencode(path.rpartition("/")[2]))
    return [("", [f"{each} in its name" for each in what])] if what else []


def _in_text(tree: Tree, path: str, old: Old) -> list[tuple[str, list[str]]]:
    what = old.within(tree.read(path, _MOST) or b"")
    return [("", what)] if what else []


def _in_initrd(tree: Tree, path: str, old: Old) -> list[tuple[str, list[str]]]:
    """The files in an initrd that carry ids."""
    fd = node_in_root(tree.top, path)
    if fd is None:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)
    try:
        # Of a member that stands twice, the last one counts.
        found = {name: old.within(data) for name, data in small_files(reader) if _IN_INITRD.match(name)}
    finally:
        os.close(reader)
    return [(name, what) for name, what in found.items() if what]
