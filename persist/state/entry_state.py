# SPDX-License-Identifier: LGPL-2.1-or-later
"""What became of one entry: the wish beside what is mounted on its path. Looks only."""

from __future__ import annotations

import os
import re
import shlex

from ..boot import paths
from ..boot.plan import Planned
from ..reason import Reason
from ..record import Record
from ..volume.mountinfo import Mount
from .look import Look


class EntryState(Record):
    """One entry. ``state``: mounted, early, linked, image, tmpfs, root, stale (held read-only), waiting, failed or refused."""

    path: str
    method: str
    state: str
    source: str
    unit: str = ""
    reason: str = ""


def upper(at: Mount) -> str:
    r"""The upperdir of an overlay as a path.

    mountinfo shows the option as mount(2) or fsconfig(2) got it: with the backslashes that overlay_option() wrote and ovl_unescape() takes away.
    """
    found = ""
    for option in at.super_options.split(","):
        if option.startswith("upperdir="):
            found = re.sub(r"\\(.)", r"\1", option[len("upperdir=") :])
    return found


def wrong_mount(planned: Planned, at: Mount | None, volume: Mount, look: Look) -> str:
    """Why what is mounted on an entry is not its store, or ''."""
    if at is None:
        return "is not mounted"
    if planned.entry.method == "overlay":
        if at.fstype != "overlay":
            return f"has a {at.fstype} mounted on it"
        if upper(at) != f"{paths.STORE}/overlay/{planned.name}/upper":
            return "has another overlay mounted on it"
    elif (at.device, at.root) != _source(planned, volume, look):
        return f"has {at.source}{at.root} mounted on it"
    hidden_by = look.hidden_by(planned.path)
    if hidden_by:
        return f"is hidden by what was mounted on {hidden_by} later"
    if at.read_only and not volume.read_only:
        return "is mounted read-only"
    return ""


def _source(planned: Planned, volume: Mount, look: Look) -> tuple[str, str]:
    """Device and root of a bind entry's mount. With persist=ro the path has a mount of its own on the volume (readonly.py)."""
    own = look.mount(paths.VOLUME + planned.path)
    return (own.device, own.root) if own is not None else (volume.device, volume.root.rstrip("/") + planned.path)


def _stale(planned: Planned, at: Mount | None, look: Look) -> bool:
    """Whether a bind entry is held read-only on the root filesystem, because the volume is away (bind_entries.hold_stale())."""
    if planned.entry.method != "bind" or at is None or not at.read_only or not look.exists(paths.STALE):
        return False
    volume = look.mount(paths.VOLUME)
    return volume is None or (at.device, at.root) != _source(planned, volume, look)


def _wrong_hole(path: str, look: Look) -> str:
    """Why a path does not show the image, or ''."""
    at, image = look.mount(path), look.mount(paths.IMAGE)
    if at is None:
        # Where the image has nothing there is no hole to make, whatever the entry above has there by now.
        nothing = image is not None and not look.exists(paths.IMAGE + path)
        return "" if nothing or not look.exists(path) else "is not mounted"
    if image is not None and (at.device != image.device or at.root != image.root.rstrip("/") + path):
        return f"has {at.source}{at.root} mounted on it"
    hidden_by = look.hidden_by(path)
    return f"is hidden by what was mounted on {hidden_by} later" if hidden_by else ""


def _wrong_link(planned: Planned, look: Look, public: str) -> str:
    """Why a path is not a link to its place on the volume, or ''."""
    path = planned.path
    target = look.link(path)
    if not target:
        return f"is not a link to {paths.VOLUME}{path}" if look.exists(path) else "does not exist"
    # As the seed service sees it: the image may have a relative link.
    if os.path.normpath(os.path.join(os.path.dirname(path), target)) not in (paths.VOLUME + path, public + path):
        return f"is not a link to {paths.VOLUME}{path}"
    return "" if look.seeded(planned.name) else "was not seeded"


def entry_state(planned: Planned, look: Look, volume: Mount | None, kind: str, public: str) -> EntryState:
    """What one entry of the plan came to. ``volume`` is the mount of the volume, ``kind`` that of volume.json, ``public`` its public name."""
    entry = planned.entry
    path = planned.path
    at = look.mount(path)

    def state(word: str, reason: str = "") -> EntryState:
        return EntryState(entry.path, entry.method, "failed" if reason and word != "waiting" else word, entry.source, planned.unit, reason)

    if _stale(planned, at, look):
        return state("stale")
    if entry.method == "tmpfs":
        return state("tmpfs", "" if at is not None and at.fstype == "tmpfs" and not at.read_only or look.writable(path) else "is not writable")
    if entry.method != "symlink" and kind == "root":
        return state("root")  # the root filesystem itself keeps it
    if volume is None or kind == "none":
        return state("waiting", "there is no state volume")
    if entry.method == "image":
        return state("image", _wrong_hole(path, look))
    if entry.method == "symlink":
        return state("linked", _wrong_link(planned, look, public))
    wrong = wrong_mount(planned, at, volume, look) if look.seeded(planned.name) else "was not seeded"
    return state("early" if planned.mounted_early else "mounted", wrong)


def where_to_look(planned: Planned) -> str:
    """The command that shows why an entry is not in place."""
    if planned.mounted_early:
        return "See 'journalctl -b -k'"
    unit = planned.unit or f"persist-seed@{planned.name}.service"
    first = "-u persist-volume.service " if planned.entry.method == "bind" else ""
    # A shell takes the backslashes of an escaped name away.
    return f"See \"journalctl -b {first}-u {shlex.quote(unit)}\"" if "\\" in unit else f"See 'journalctl -b {first}-u {unit}'"


def _late(planned: Planned, look: Look) -> bool:
    """Whether an entry that the initrd should have mounted was not, on a boot that is not its first."""
    return planned.early and not planned.mounted_early and not look.exists(f"{paths.SEEDED}/{planned.name}")


def oddities(planned: Planned, look: Look) -> list[Reason]:
    """What is wrong with an entry that is in place."""
    path = planned.entry.path
    found = []
    if _late(planned, look):
        found.append(Reason("late", f"{path} came after PID 1 had started, so this boot runs under another machine-id and set of units than it says.",
                            "Install persist-initramfs-tools and run 'update-initramfs -u'.", path))
    if planned.unit and look.exists(f"/run/systemd/generator.late/{planned.name}.mount"):
        found.append(Reason("gpt", f"A partition of the root disk would be mounted on {path} (systemd-gpt-auto-generator) and is hidden by its entry.",
                            f"Mount it by fstab and remove the entry ({planned.entry.source}), or boot with systemd.gpt_auto=0.", path))
    return found
