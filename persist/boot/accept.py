# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which entries of the registry can be in force, and what becomes of the others. Pure, and boot-safe."""

from .ini import DEBUG, ERROR, NOTICE, Problem
from .paths import ENTRY_NAME_MAX, STORE, VOLUME, above, escape, forbidden, wrong_path, wrong_unit
from .units import READ_BY_PID1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import Config
    from .entry import Entry
    from .facts import Facts
    from .registry import Registry


class Planned:
    """One entry that is in force: ``path`` without aliases, the ``unit`` that mounts it or '', ``parent`` the
    path of the nearest entry above or ''. ``before_pid1``: PID 1 reads it, so it is mounted before that, and
    no unit is written for it."""

    __slots__ = ("entry", "path", "name", "unit", "before_pid1", "parent")

    def __init__(self, entry: "Entry", path: str, parent: str) -> None:
        self.entry = entry
        self.path = path
        self.name = entry.name if path == entry.path else escape(path)
        if entry.method == "bind":
            self.unit = "persist-bind@" + self.name + ".service"
        else:
            self.unit = "" if entry.method == "symlink" else self.name + ".mount"
        self.parent = parent
        self.before_pid1 = path in READ_BY_PID1 and entry.method in ("overlay", "bind")


class Outside(Problem):
    """An entry that is not in force at ``real``, its path without aliases. ``state`` says what became of it,
    ``why`` how that came:

    ``refused`` (a mistake), ``ignored`` (nothing is left for it to do), ``none`` (taken out by Method=none),
    ``elsewhere`` (somebody else says that he mounts the path; whether he does, mountinfo has to say) or
    ``not-before-pid1`` (PID 1 has read what the image has there, or above it).
    """

    __slots__ = ("entry", "real", "state", "why")

    def __init__(self, entry: "Entry", real: str, state: str, why: str) -> None:
        shown = entry.path if real == entry.path else "%s (%s)" % (entry.path, real)
        if state == "elsewhere":
            # A tmpfs entry only wants that something is mounted, and who takes a path out knows it.
            level, text, code = (
                DEBUG if entry.method == "tmpfs" else NOTICE,
                "%s is left alone: %s." % (shown, why),
                "ENTRY_ELSEWHERE",
            )
        elif state == "not-before-pid1":
            # One word for all that is below it.
            level = NOTICE if real in READ_BY_PID1 else DEBUG
            text, code = "%s is left as it is on this boot: %s." % (shown, why), "ENTRY_NOT_IN_TIME"
        else:
            # Of a hole in what is not kept, the word on that is enough.
            level = (
                ERROR
                if state == "refused"
                else DEBUG
                if state == "none" or entry.method == "image"
                else NOTICE
            )
            text, code = "Will not keep %s: %s." % (shown, why), "ENTRY_REFUSED"
        Problem.__init__(self, level, entry.source, text, entry.path, code)
        self.entry = entry
        self.real = real
        self.state = state
        self.why = why


def _wrong(planned: Planned, config: "Config", facts: "Facts") -> str:
    """Why an entry can be in force on no machine like this, or an empty string."""
    entry, path = planned.entry, planned.path
    if entry.path in facts.broken:
        return "its links cannot be followed (%s)" % facts.broken[entry.path]
    if path != entry.path:
        # What the image's links say is not less hostile than what the registry says.
        wrong = wrong_path(path) or wrong_unit(path, entry.method)
        if wrong:
            return wrong
        if len(planned.name) > ENTRY_NAME_MAX:
            return "the path behind its links is too long for the name of a unit"
    wrong = forbidden(path, config.mount)
    if wrong:
        return wrong
    source = entry.seed_from
    if (
        source
        and entry.method not in ("image", "tmpfs")
        and (source == config.mount or (source + "/").startswith(config.mount + "/.persist/"))
    ):
        return (
            "SeedFrom=%s is the state volume itself or what persist has there, and not a place to copy from"
            % source
        )
    if (
        entry.method != "symlink"
        and entry.type == "file"
        and entry.path in facts.links
        and facts.aliases.get(entry.path) not in (config.mount + path, VOLUME + path)
    ):
        return "a symbolic link in the image cannot be bound over; keep its directory"
    return _network(planned, facts) if facts.network and not config.netdev and path not in facts.fstab else ""


def _network(planned: Planned, facts: "Facts") -> str:
    """Why an entry needs what comes after local-fs.target, which waits for it, or an empty string."""
    late = above(planned.path, facts.network)
    if late:
        return "%s mounts %s above it with the network, after local-fs.target" % (facts.fstab[late], late)
    late = above(planned.entry.seed_from + "/", facts.network) if planned.entry.seed_from else ""
    if late:
        return "%s mounts %s, where SeedFrom= is, with the network, after local-fs.target" % (
            facts.fstab[late],
            late,
        )
    return ""


def _hole(planned: Planned, facts: "Facts", method: str) -> str:
    """Why an entry with Method=image has nothing to make a hole in, or an empty string."""
    mounted = above(planned.path, facts.fstab)
    if mounted:
        return "%s mounts %s above it, and what the image has below that is out of reach" % (
            facts.fstab[mounted],
            mounted,
        )
    return (
        ""
        if method in ("overlay", "bind")
        else "Method=image makes a hole in an entry above, and there is none"
    )


def _outside(
    planned: Planned, config: "Config", facts: "Facts", accepted: dict[str, Planned], gone: dict[str, str]
) -> tuple[str, str]:
    """State and reason of an entry that cannot be in force (as in Outside), or two empty strings."""
    entry, path, parent = planned.entry, planned.path, planned.parent
    if path in accepted:
        return "ignored", "%s is the same place" % accepted[path].entry.path
    wrong = _wrong(planned, config, facts)
    if wrong:
        return "refused", wrong
    if path in facts.fstab:
        return "elsewhere", "%s mounts it" % facts.fstab[path]
    unit = planned.name + ".mount"
    if unit in facts.shipped:
        return "elsewhere", facts.shipped[unit] + " mounts it"
    if unit in facts.masked:
        # It cannot be ours either; where it is memory that was asked for, the path may do without.
        return "elsewhere" if entry.method == "tmpfs" else "refused", facts.masked[
            unit
        ] + " masks its mount unit"
    if entry.method == "image":
        over = above(path, gone)
        if len(over) > len(parent):
            return "ignored", "%s above it is not kept (%s)" % (over, gone[over])
    method = accepted[parent].entry.method if parent else ""
    if method in ("bind", "symlink") and entry.method in ("bind", "symlink"):
        return "ignored", "%s above it keeps it already" % parent
    if method == "symlink":
        return "refused", "%s above it is kept by a symbolic link" % parent
    if method == "image":
        return "refused", "%s above it is left to the image" % parent
    if entry.method == "image":
        wrong = _hole(planned, facts, method)
        if wrong:
            return "refused", wrong
    if config.netdev:
        from .rare import net

        wrong = net.refusal(planned, facts)
        if wrong:
            return "refused", wrong
    return "", ""


def _mounted(planned: Planned, mounts: str) -> bool:
    """Whether mountinfo (proc(5)) has what an entry keeps on its path: an overlay with its upper, or its
    place on the volume. An entry stays what it was seeded as, so both are looked for (entries/as_seeded.py).

    The escapes of mountinfo do not matter: no path that PID 1 reads has any.
    """
    path = planned.path
    if " " + path + " " not in mounts:
        return False
    upper = "upperdir=" + STORE + "/overlay/" + planned.name + "/upper"
    there: list[tuple[str, str]] = []
    volume = place = ("", "")
    for line in mounts.split("\n"):
        fields = line.split(" ")
        if len(fields) < 10:
            continue
        device, root, at = fields[2:5]
        if at == path:
            if upper in fields[-1].split(","):
                return True
            there.append((device, root))
        elif at == VOLUME:
            volume = device, root.rstrip("/") + path
        elif at == VOLUME + path:  # with persist=ro (entries/read_only_boot.py)
            place = device, root
    return (place if place[0] else volume) in there


def _late(planned: Planned, facts: "Facts", late: "dict[str, str]") -> str:
    """Why an entry is not in force because of what PID 1 has read already, or an empty string. A seed below
    would take what the image has, for good."""
    over = above(planned.path, late)
    if over:
        return "%s above it was not mounted before PID 1 started" % over
    if not planned.before_pid1 or _mounted(planned, facts.mounts):
        return ""
    mounted = above(planned.path, facts.fstab)
    if mounted and mounted != "/usr":
        return "%s mounts %s above it, and PID 1 has read what is there before" % (
            facts.fstab[mounted],
            mounted,
        )
    return "it was not mounted before PID 1 started"


def _in_time(accepted: dict[str, Planned], facts: "Facts", outside: list[Outside]) -> list[Planned]:
    """The entries without those that come too late for PID 1, which go outside."""
    late: dict[str, str] = {}
    entries = []
    for path, planned in accepted.items():
        why = _late(planned, facts, late)
        if why:
            late[path] = why
            outside.append(Outside(planned.entry, path, "not-before-pid1", why))
        else:
            entries.append(planned)
    return entries


def _through_our_links(
    aliases: dict[str, str], config: "Config", entries: "Sequence[Entry]"
) -> dict[str, str]:
    """The paths behind links, but for those to the place of an entry on the volume: a symlink entry has made
    it, or did once (entries/as_seeded.py), and what is below has its path in front of that."""
    links = {aliases.get(e.path, e.path) for e in entries if e.method == "symlink"}
    found = dict(aliases)
    for path, real in aliases.items():
        for volume in (config.mount, VOLUME):
            if real == volume + path or real.startswith(volume + "/") and above(real[len(volume) :], links):
                found[path] = real[len(volume) :]
    return found


def accept(config: "Config", registry: "Registry", facts: "Facts") -> tuple[list[Planned], list[Outside]]:
    """The entries that can be in force, parents first, and what became of the others: together all of the
    registry."""
    outside: list[Outside] = []
    accepted: dict[str, Planned] = {}
    gone: dict[str, str] = {}  # where nothing is kept: path -> why
    aliases = facts.aliases
    ordered = registry.entries
    if any([aliases.get(e.path, e.path) != e.path for e in ordered]):
        aliases = _through_our_links(aliases, config, ordered)
        ordered = sorted(ordered, key=lambda e: aliases.get(e.path, e.path) + "/")
    none = {aliases.get(e.path, e.path): e.source for e in ordered if e.method == "none"}
    for entry in ordered:
        path = aliases.get(entry.path, entry.path)
        planned = Planned(entry, path, above(path, accepted))
        if path in none:
            state, why = "none", "%s takes it out (Method=none)" % none[path]
        else:
            state, why = _outside(planned, config, facts, accepted, gone)
        if state:
            outside.append(Outside(entry, path, state, why))
            if path not in accepted:
                gone[path] = why
            continue
        accepted[path] = planned
    if facts.mounts and any([p.before_pid1 for p in accepted.values()]):
        return _in_time(accepted, facts, outside), outside
    return list(accepted.values()), outside
