# SPDX-License-Identifier: LGPL-2.1-or-later
"""What became of one entry of the plan: the wish beside what is mounted on its path. Looks only."""

from __future__ import annotations

import os

from persist.boot import paths
from persist.boot.plan import Planned
from persist.entries import stores
from persist.reason import Reason
from persist.record import Record
from persist.system.mountinfo import Mount
from persist.verdict import remedies
from persist.verdict.look import Look

Wrong = tuple[
    str, str
]  # the end of a sentence that begins with the path, and what to do; two empty strings where nothing is wrong
WELL: Wrong = "", ""


class EntryState(Record):
    """One entry. ``state``, what is in force: mounted, early, linked, image, tmpfs, root (the root filesystem
    keeps it), stale (held read-only), waiting (there is no volume) or failed; what is not: elsewhere (another
    filesystem is mounted there, and keeps it), not-before-pid1 (not_before_pid1.py), ignored, none
    (Method=none), refused, off. ``hint`` is what to do, where something is."""

    path: str
    method: str
    state: str
    source: str
    unit: str = ""
    reason: str = ""
    hint: str = ""


class Here(Record):
    """What one entry is judged by: ``volume`` is the mount of the volume, ``kind`` that of volume.json,
    ``public`` the volume's public name."""

    look: Look
    volume: Mount | None
    kind: str
    public: str


def wrong_mount(planned: Planned, at: Mount | None, volume: Mount, look: Look) -> Wrong:
    """Why what is mounted on an entry is not its store."""
    if at is None:
        if planned.entry.method == "bind" and look.at_home(planned.path):
            return WELL
        return "is not mounted", remedies.not_mounted(planned)
    if not _ours(planned, at, volume, look):
        shown = (
            "another overlay"
            if planned.entry.method == at.fstype == "overlay"
            else f"a {at.fstype}"
            if planned.entry.method == "overlay"
            else at.source + at.root
        )
        return f"has {shown} mounted on it", remedies.foreign(planned, "")
    hidden_by = look.hidden_by(planned.path)
    if hidden_by:
        return f"is hidden by a later mount on {hidden_by}", remedies.hidden(hidden_by)
    if at.read_only and not volume.read_only:
        return "is mounted read-only", "See 'journalctl -b -k' for errors of its filesystem."
    lacking = at.lacks(planned.entry.options)
    return (f"is mounted without {lacking}", remedies.options(planned)) if lacking else WELL


def _ours(planned: Planned, at: Mount, volume: Mount | None, look: Look) -> bool:
    """Whether a mount on an entry is the one that the entry wants."""
    if planned.entry.method == "overlay":
        return at.upper == f"{paths.STORE}/overlay/{planned.name}/upper"
    if planned.entry.method == "image":
        image = look.mount(paths.IMAGE)
        return image is None or at.place == (image.device, image.place[1] + planned.path)
    return volume is not None and at.place == _source(planned, volume, look)


def _source(planned: Planned, volume: Mount, look: Look) -> tuple[str, str]:
    """Device and root of a bind entry's mount. With persist=ro the path has a mount of its own on the volume
    (entries/read_only_boot.py)."""
    own = look.mount(paths.VOLUME + planned.path)
    return own.place if own is not None else (volume.device, volume.place[1] + planned.path)


def _stale(planned: Planned, at: Mount | None, look: Look) -> bool:
    """Whether a bind entry is held read-only on the root filesystem, because the volume is away
    (entries/bind.py, hold_stale())."""
    if planned.entry.method != "bind" or at is None or not at.read_only or not look.exists(paths.STALE):
        return False
    return not _ours(planned, at, look.mount(paths.VOLUME), look)


def _wrong_hole(planned: Planned, look: Look) -> Wrong:
    """Why a path does not show the image."""
    path = planned.path
    at, image = look.mount(path), look.mount(paths.IMAGE)
    if at is None:
        # Where the image has nothing there is no hole to make, whatever the entry above has there by now.
        nothing = image is not None and not look.exists(paths.IMAGE + path)
        return WELL if nothing or not look.exists(path) else ("is not mounted", remedies.not_mounted(planned))
    if not _ours(planned, at, None, look):
        return f"has {at.source}{at.root} mounted on it", remedies.foreign(planned, "")
    hidden_by = look.hidden_by(path)
    return (f"is hidden by a later mount on {hidden_by}", remedies.hidden(hidden_by)) if hidden_by else WELL


def _wrong_link(planned: Planned, look: Look, public: str) -> Wrong:
    """Why a path is not a link to its place on the volume."""
    path = planned.path
    target = look.link(path)
    # As the seed service sees it: the image may have a relative link.
    if target and os.path.normpath(os.path.join(os.path.dirname(path), target)) in (
        paths.VOLUME + path,
        public + path,
    ):
        return _wrong_place(planned, look)
    if not target and look.at_home(path):
        return _wrong_place(planned, look)
    there = look.exists(path)
    holder = look.holder(path)
    now = look.writable(os.path.dirname(path)) and not (holder is not None and look.lost(holder))
    return f"is not a link to {paths.VOLUME}{path}" if there else "does not exist", remedies.link(
        planned, there, now
    )


def _wrong_place(planned: Planned, look: Look) -> Wrong:
    """Why what an entry has on the volume is not what its mount was made from."""
    wrong = look.wrong_place(planned.path, planned.name, planned.entry.method)
    return _not_seeded(planned, look) if wrong[0] == stores.NOT_SEEDED else wrong


def _not_seeded(planned: Planned, look: Look) -> Wrong:
    return stores.NOT_SEEDED, remedies.not_seeded(
        planned, look.asked(planned.unit or f"persist-seed@{planned.name}.service")
    )


def elsewhere(method: str, path: str, why: str, look: Look) -> tuple[str, str]:
    """State and reason of an entry whose path somebody else says that he mounts (``why``). What is believed
    is what is mounted.

    ``failed`` where nothing is, or what is written there is not kept: an entry is a promise that it is.
    """
    at = look.mount(path)
    if method == "tmpfs":
        # All that such an entry wants is that the path takes writes.
        if at is None or at.read_only:
            return (
                ("tmpfs", "")
                if look.writable(path) and at is None
                else ("failed", f"is not writable ({why})")
            )
        return "elsewhere", f"{why} ({at.fstype} on {at.source})"
    if at is None:
        return "failed", f"is not mounted ({why})"
    hidden_by = look.hidden_by(path)
    if hidden_by:
        return "failed", f"is hidden by a later mount on {hidden_by} ({why})"
    if method != "image":
        lost = look.lost(at)
        if lost:
            return "failed", f"is {lost}, and what is written to it is lost at power-off ({why})"
        if at.read_only:
            return "failed", f"is mounted read-only ({why})"
    return "elsewhere", f"{why} ({at.fstype} on {at.source})"


def _kept_by_root(planned: Planned, look: Look) -> Wrong:
    """Why a path that the root filesystem is said to keep is not kept: something in memory is mounted on the
    way."""
    holder = look.holder(planned.path)
    lost = (
        ""
        if planned.entry.method == "image" or holder is None or holder.mount_point == "/"
        else look.lost(holder)
    )
    if holder is None or not lost:
        return WELL
    return (
        f"is on {holder.mount_point}, which is {lost}: what is written to it is lost at power-off",
        f"Unmount {holder.mount_point}, or {remedies.without(planned.entry.path, planned.entry.source)}.",
    )


def entry_state(planned: Planned, here: Here, late: str = "") -> EntryState:
    """What one entry of the plan came to; ``late``: why it is none, where it was not mounted before PID 1."""
    look, entry, path = here.look, planned.entry, planned.path
    at = look.mount(path)

    def state(word: str, wrong: Wrong = WELL) -> EntryState:
        reason, hint = wrong
        return EntryState(
            entry.path,
            entry.method,
            "failed" if reason and word not in ("waiting", "not-before-pid1") else word,
            entry.source,
            planned.unit,
            reason,
            hint,
        )

    if _stale(planned, at, look):
        return state("stale")
    if entry.method == "tmpfs":
        well = at is not None and at.fstype == "tmpfs" and not at.read_only or look.writable(path)
        if late and not well:
            return state("not-before-pid1", (late, ""))
        return state("tmpfs", WELL if well else ("is not writable", remedies.not_mounted(planned)))
    fragment = look.fragment(path) if at is not None and not _ours(planned, at, here.volume, look) else None
    if fragment is not None and at is not None and fragment.fstype in ("", "auto", "none", at.fstype):
        # Neither in fstab nor shipped: another generator's, which had the path first. It will at each boot.
        word, why = elsewhere(entry.method, path, f"{fragment} mounts it", look)
        found = state(word, (why, remedies.foreign(planned, fragment.file)) if word == "failed" else WELL)
        return (
            found
            if word == "failed"
            else EntryState(entry.path, entry.method, word, entry.source, planned.unit, why)
        )
    if entry.method != "symlink" and here.kind == "root":
        return state("root", _kept_by_root(planned, look))  # the root filesystem itself keeps it
    if here.volume is None or here.kind == "none":
        return state("waiting", ("there is no state volume", ""))
    if late and at is None:
        return state("not-before-pid1", (late, ""))
    if entry.method == "image":
        return state("image", _wrong_hole(planned, look))
    if entry.method == "symlink":
        return state("linked", _wrong_link(planned, look, here.public))
    # mountinfo has the text of upperdir=, which may have led elsewhere: device and inode say what it is.
    wrong = _wrong_place(planned, look)
    if wrong == WELL:
        wrong = wrong_mount(planned, at, here.volume, look)
    return state("early" if planned.before_pid1 else "mounted", wrong)


def oddities(planned: Planned, look: Look) -> list[Reason]:
    """What is wrong with an entry that is in place."""
    path, source = planned.entry.path, planned.entry.source
    found = []
    fragment = look.fragment(planned.path) if planned.unit else None
    if fragment is not None:
        gpt = fragment.maker == "systemd-gpt-auto-generator"
        off = "boot with systemd.gpt_auto=0" if gpt else f"remove what {fragment.file} is made from"
        found.append(
            Reason(
                "gpt" if gpt else "hides",
                f"{fragment} would mount {fragment.what or 'something'} on {path}, but the entry takes "
                "precedence.",
                f"To mount that, {remedies.without(path, source)}; to keep the entry, {off}.",
                path,
            )
        )
    return found
