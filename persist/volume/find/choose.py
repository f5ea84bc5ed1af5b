# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which filesystem is the state volume? ``decide`` is pure; candidates.py is the thin edge that asks udev.

Nothing is taken blindly: two filesystems that both could be the volume, or one that is there twice (a cloned
disk), are left alone and said, because the wrong choice forks or overwrites what the machine remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from persist.boot.config import Config
from persist.record import replace
from persist.system.blockdev import number_of
from persist.volume.find.decision import (
    BTRFS,
    FILESYSTEM,
    Ambiguous,
    Candidate,
    Decision,
    Found,
    Known,
    Missing,
    Untrusted,
)
from persist.volume.members.ancestry import ancestor, together
from persist.volume.ondisk.partition_table import DATA_NAME

Resolve = Callable[[str], str]


def matches(spec: str, c: Candidate, resolve: Resolve) -> bool:
    """Whether a word of Device= means this one."""
    if spec == "auto":
        return c.label == DATA_NAME and c.fstype == BTRFS
    if spec.startswith("/"):
        number = resolve(spec)
        # The path of a whole disk stands for the volume on it.
        return bool(number) and (number == c.device or (number == c.disk_device and c.label == DATA_NAME))
    key, _, value = spec.partition("=")
    known = {
        "LABEL": c.label,
        "UUID": c.uuid.lower(),
        "PARTLABEL": c.part_label,
        "PARTUUID": c.part_id.lower(),
    }
    return bool(value) and known.get(key) == (value.lower() if key in ("UUID", "PARTUUID") else value)


def listed(nodes: Iterable[str]) -> str:
    """Nodes in a sentence."""
    return " and ".join(nodes)


def decide(
    config: Config, machine: Known, every: Iterable[Candidate], resolve: Resolve = number_of
) -> Decision:
    """Choose among all filesystems of the machine.

    The specs of Device= count in their order, the first that leads to anything decides. A spec that names
    something lifts the rule of trusted buses, 'auto' does not; where both kinds match, the trusted ones win
    over a copy on a stick.
    """
    if machine.wrong:
        return Missing(
            f"persist.volume={machine.wrong} on the kernel command line is not the UUID of a filesystem, so "
            "no volume is used.",
            "Write persist.volume=UUID, with the UUID that 'lsblk -f' shows.",
            "not-a-uuid",
        )
    if not config.device:
        return Missing(
            "No state volume was found: Device= in persist.conf names nothing that could be one.",
            "Correct it, 'persistctl verify' shows the line, and restart the machine.",
            "bad-device",
        )
    named, known = machine.named.lower(), machine.known.lower()
    all_here = sorted((c for c in every if c.usage == FILESYSTEM), key=lambda c: c.node)
    pool = [c for c in all_here if not named or c.uuid.lower() == named]
    left_alone: list[Candidate] = []
    strangers: list[Candidate] = []
    for spec in config.device:
        matching = [c for c in pool if matches(spec, c, resolve)]
        if known and not named and not spec.startswith(("UUID=", "PARTUUID=")):
            strangers += [c for c in matching if c.uuid.lower() != known and c not in strangers]
            matching = [c for c in matching if c.uuid.lower() == known]
        trusted = [c for c in matching if not c.untrusted]
        usable = trusted or (matching if spec != "auto" or config.allow_removable else [])
        left_alone += [c for c in matching if c not in usable and c not in left_alone]
        if usable:
            named_too = [
                c for c in pool if any(s != "auto" and matches(s, c, resolve) for s in config.device)
            ]
            chosen = _choose(
                usable,
                [c for c in pool if not c.untrusted or config.allow_removable or c in named_too],
                pool,
                machine,
            )
            return (
                replace(chosen, others=_others(chosen, config, all_here, resolve))
                if isinstance(chosen, Found)
                else chosen
            )
    return _none(config, machine, left_alone, strangers)


def _none(
    config: Config, machine: Known, left_alone: list[Candidate], strangers: list[Candidate]
) -> Untrusted | Missing:
    """Why none is used: those that a spec led to are on disks that are not trusted (``left_alone``), or are
    not the volume that this machine had (``strangers``)."""
    if left_alone:
        nodes = tuple(c.node for c in left_alone)
        return Untrusted(
            nodes,
            f"{listed(nodes)} could be the state volume, but its disk is {left_alone[0].untrusted}, which is "
            "not trusted unasked.",
            f"Name it in /usr/lib/persist/persist.conf: Device=UUID={left_alone[0].uuid}",
        )
    if strangers:
        nodes = tuple(c.node for c in strangers)
        return Missing(
            f"{listed(nodes)} could be a state volume, but this machine had another one "
            f"(UUID={machine.known.lower()}), which was not found.",
            f"Attach its disk. To use {nodes[0]} from now on, put Device=UUID={strangers[0].uuid} into "
            "/usr/lib/persist/persist.conf.",
            "other-volume",
        )
    named = machine.named.lower()
    what = f"with the id {named} (persist.volume=)" if named else f"({' '.join(config.device)})"
    return Missing(
        f"No state volume {what} was found."
        if named or config.device != ["auto"]
        else "No state volume was found.",
        "Attach its disk.",
    )


def _others(
    chosen: Found, config: Config, every: list[Candidate], resolve: Resolve
) -> tuple[tuple[str, str], ...]:
    """The first device of each other filesystem that has our label, or that Device= would lead to."""
    found: dict[str, str] = {}
    for c in every:
        if c.uuid.lower() != chosen.uuid.lower() and any(
            matches(spec, c, resolve) for spec in (*config.device, "auto")
        ):
            found.setdefault(c.uuid, c.node)
    return tuple((node, uuid) for uuid, node in found.items())


def _choose(
    usable: list[Candidate], allowed: list[Candidate], pool: list[Candidate], machine: Known
) -> Decision:
    """One filesystem of those that a spec led to, with all its members on disks that are ``allowed``:
    trusted, or named by any spec."""
    ids = sorted({c.uuid for c in usable})
    if len(ids) > 1:
        ours = sorted({c.uuid for c in usable if machine.bound(c)})
        if len(ours) != 1:
            shown = listed(f"{c.node} (UUID={c.uuid})" for c in usable)
            why = (
                "More than one of them was formatted by this machine"
                if ours
                else "Nothing tells which one is this machine's"
            )
            return Ambiguous(
                "duplicate-label",
                tuple(c.node for c in usable),
                f"More than one filesystem could be the state volume: {shown}. {why}, none of them is used.",
                "Choose one: persist.volume=UUID on the kernel command line, or Device=UUID=… in "
                "/usr/lib/persist/persist.conf; or detach the others.",
            )
        ids = ours
        usable = [c for c in usable if c.uuid == ids[0]]
    if usable[0].fstype != BTRFS:
        nodes = tuple(c.node for c in usable)
        return (
            _cloned(nodes, ids[0], usable[0].fstype)
            if len(nodes) > 1
            else Found(nodes[0], ids[0], nodes, fstype=usable[0].fstype)
        )
    # A spec may have led to one member only.
    same = [c for c in pool if c.uuid == ids[0] and c.fstype == BTRFS]
    subs = {c.uuid_sub for c in usable}
    members = usable + [c for c in same if c not in usable and c.uuid_sub not in subs and c in allowed]
    clones = _clones(members, machine)
    if clones is None:
        twice = tuple(c.node for c in members if sum(o.uuid_sub == c.uuid_sub for o in members) > 1)
        return _cloned(twice, ids[0])
    members = sorted((c for c in members if c not in clones), key=lambda c: c.node)
    return Found(
        members[0].node,
        ids[0],
        tuple(c.node for c in members),
        tuple(c.node for c in same if c not in members),
    )


# What gives a copy an id of its own; one copy must not see the other meanwhile.
_NEW_ID = {
    BTRFS: "btrfstune -u",
    "ext4": "tune2fs -U random",
    "ext3": "tune2fs -U random",
    "xfs": "xfs_admin -U generate",
}


def _cloned(nodes: tuple[str, ...], uuid: str, fstype: str = BTRFS) -> Ambiguous:
    tool = _NEW_ID.get(fstype, "")
    how = (
        " To keep it as a volume of its own, give it another id where the other one is not attached: "
        f"'{tool} DEVICE'."
        if tool
        else ""
    )
    return Ambiguous(
        "cloned-disk",
        nodes,
        f"{listed(nodes)} are copies of one filesystem (UUID={uuid}). None of them is used.",
        f"Detach the copy.{how}",
    )


def _clones(members: list[Candidate], machine: Known) -> list[Candidate] | None:
    """Devices that are there twice and of which only one goes with the other members; None where nothing
    tells which.

    A disk that was replaced while it was away comes back with the ids of the one in its place: what it holds
    is an older state of another member's, or was written alone since. One that is ahead of the others is not
    left out, nor are two that are level with them told apart.
    """
    subs = [c.uuid_sub for c in members]
    twice = sorted({sub for sub in subs if subs.count(sub) > 1})
    known = {c.node: machine.member(c) for c in members} if twice else {}
    left_out: list[Candidate] = []
    for sub in twice:
        others = [m for c in members if c.uuid_sub != sub and (m := known[c.node]) is not None]
        copies = [(c, m) for c in members if c.uuid_sub == sub and (m := known[c.node]) is not None]
        rest = [(c, m) for c, m in copies if not any(ancestor(m, o) and not ancestor(o, m) for o in others)]
        if len(rest) > 1 and not any(ancestor(o, m) and not ancestor(m, o) for _, m in rest for o in others):
            rest = [(c, m) for c, m in rest if any(together(m, o) for o in others)]
        if len(rest) != 1:
            return None
        left_out += [c for c in members if c.uuid_sub == sub and c is not rest[0][0]]
    return left_out
