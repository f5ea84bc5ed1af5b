# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict: the wish (the plan) beside what the machine shows. Looks only; writes nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable
from typing import Any, get_args

from ..boot import paths
from ..boot.facts import Facts
from ..boot.ini import ERROR
from ..boot.load import Loaded
from ..boot.plan import Planned, why_nothing
from ..record import Record, as_dict, made
from ..volume.mountinfo import Mount
from ..volume.outcome import REAL, Kind, Outcome
from .look import Look as Look

ONLINE, DEGRADED, VOLATILE, OFF = "online", "degraded", "volatile", "off"


class Reason(Record):
    """One sentence of a verdict: what, and what to do about it. ``code`` is stable."""

    code: str
    message: str
    hint: str = ""
    path: str = ""


class EntryState(Record):
    """One entry. ``state``: mounted, early, linked, image, tmpfs, root, stale (held read-only), waiting, failed or refused."""

    path: str
    method: str
    state: str
    source: str
    unit: str = ""
    reason: str = ""


class Verdict(Record, frozen=False):
    """What a boot achieved; ``volume`` is what persist-volume.service wrote."""

    verdict: str
    volume: dict[str, Any]
    entries: list[EntryState] = made(list)
    reasons: list[Reason] = made(list)

    def as_dict(self) -> dict[str, Any]:
        """The form of state.json; ``device`` stands at the top for scripts that want nothing else."""
        return {
            "version": 1,
            "verdict": self.verdict,
            "device": self.volume.get("device", ""),
            "volume": self.volume,
            "entries": [as_dict(e) for e in self.entries],
            "reasons": [as_dict(r) for r in self.reasons],
        }


def _unreadable(why: object) -> dict[str, Any]:
    return as_dict(Outcome(reason="volume-json", message=f"{paths.RUN}/volume.json cannot be read: {why}.",
                          hint="See 'journalctl -b -u persist-volume.service'."))


def read_volume(root: str = "") -> dict[str, Any]:
    """What persist-volume.service wrote, with all the keys of an Outcome; kind ``none`` where it wrote nothing that can be read."""
    try:
        with open(f"{root}{paths.RUN}/volume.json", encoding="utf-8") as f:
            found = json.load(f)
    except FileNotFoundError:
        return as_dict(Outcome(reason="volume-service", message="persist-volume.service has not run to its end.",
                              hint="See 'journalctl -b -u persist-volume.service'."))
    except (OSError, ValueError, RecursionError) as e:
        return _unreadable(e)
    if not isinstance(found, dict):
        return _unreadable("it is not an object")
    default = as_dict(Outcome())
    for key, value in default.items():
        if key in found and type(found[key]) is not type(value):
            return _unreadable(f"'{key}' has the wrong type")
    known = default | {name: found[name] for name in default if name in found}
    return known if known["kind"] in get_args(Kind) else _unreadable("its kind is not known")


def _upper(at: Mount) -> str:
    r"""The upperdir of an overlay as a path.

    mountinfo shows the option as mount(2) or fsconfig(2) got it: with the backslashes that overlay_option() wrote and ovl_unescape() takes away.
    """
    upper = ""
    for option in at.super_options.split(","):
        if option.startswith("upperdir="):
            upper = re.sub(r"\\(.)", r"\1", option[len("upperdir=") :])
    return upper


def _wrong_mount(planned: Planned, at: Mount | None, volume: Mount, look: Look) -> str:
    """Why what is mounted on an entry is not its store, or ''."""
    if at is None:
        return "is not mounted"
    if planned.entry.method == "overlay":
        if at.fstype != "overlay":
            return f"has a {at.fstype} mounted on it"
        if _upper(at) != f"{paths.STORE}/overlay/{planned.name}/upper":
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


def _entry(planned: Planned, look: Look, volume: Mount | None, kind: str, public: str) -> EntryState:
    entry = planned.entry
    path = planned.path
    at = look.mount(path)

    def state(word: str, reason: str = "") -> EntryState:
        return EntryState(entry.path, entry.method, "failed" if reason and word != "waiting" else word, entry.source, planned.unit, reason)

    if _stale(planned, at, look):
        return state("stale")
    if entry.method == "tmpfs":
        return state("tmpfs", "" if at is not None and at.fstype == "tmpfs" and not at.read_only or look.writable(path) else "is not writable")
    if entry.method != "symlink" and (kind == "root" or (kind in REAL and not look.exists(paths.MOUNT_ENTRIES))):
        return state("root")  # the root filesystem itself keeps it; beside a volume that takes no writes, too
    if volume is None or kind == "none":
        return state("waiting", "there is no state volume")
    if entry.method == "image":
        return state("image", _wrong_hole(path, look))
    if entry.method == "symlink":
        return state("linked", _wrong_link(planned, look, public))
    wrong = _wrong_mount(planned, at, volume, look) if look.seeded(planned.name) else "was not seeded"
    return state("early" if planned.mounted_early else "mounted", wrong)


def _where_to_look(planned: Planned) -> str:
    if planned.mounted_early:
        return "See 'journalctl -b -k'"
    unit = planned.unit or f"persist-seed@{planned.name}.service"
    first = "-u persist-volume.service " if planned.entry.method == "bind" else ""
    # A shell takes the backslashes of an escaped name away.
    return f"See \"journalctl -b {first}-u {shlex.quote(unit)}\"" if "\\" in unit else f"See 'journalctl -b {first}-u {unit}'"


def _off(loaded: Loaded) -> Reason | None:
    """Why nothing was asked of persist on this boot, if so."""
    why = why_nothing(loaded.facts)
    if not why and not loaded.registry.entries and not any(p.level <= ERROR for p in loaded.problems):
        why = "the registry has no entries"
    return Reason("off", f"persist does nothing on this boot: {why}.") if why else None


def _volume_reasons(volume: dict[str, Any], expected: bool) -> tuple[str, list[Reason]]:
    """The verdict that the volume alone allows, and why."""
    kind = volume.get("kind", "none")
    why = Reason(str(volume.get("reason") or "no-volume"), str(volume.get("message") or "No state volume was found."), str(volume.get("hint") or ""))
    if kind == "tmpfs" or (volume.get("expected") and kind not in REAL):
        # Also on a writable root that has known a volume: what is written now is out of sight when that is back.
        return VOLATILE, [why]
    if kind == "root" and expected:
        return DEGRADED, [why]
    if kind == "none":
        if volume.get("root_read_only"):
            return VOLATILE, [why]
        if expected or why.code not in ("no-volume", "missing"):
            return DEGRADED, [why]
        return OFF, [Reason(why.code, f"{why.message} The root filesystem is writable and keeps what is written.", why.hint)]
    if volume.get("read_only") and not volume.get("reason"):
        return DEGRADED, [Reason("volume-read-only", "The state volume is mounted read-only.", "See 'journalctl -b -u persist-volume.service'.")]
    if kind in REAL and volume.get("reason"):
        return DEGRADED, [why]
    return ONLINE, []


def expected_volume(loaded: Loaded) -> bool:
    """Whether somebody said that there must be a volume, so that its absence is worth a word on any machine."""
    return loaded.config.device != ["auto"] or loaded.facts.option("persist.volume") is not None or loaded.config.fallback == "fail"


def _still_mounted(volume: dict[str, Any], look: Look, why: str) -> Verdict | None:
    """Paths that the volume covers although nothing is asked of persist: an initrd from before, or a switch turned off while it runs."""
    covered = sorted(m.mount_point for m in look.every if m.fstype == "overlay" and _upper(m).startswith(f"{paths.STORE}/overlay/"))
    if not covered:
        return None
    return Verdict(DEGRADED, volume, reasons=[Reason(
        "still-mounted", f"{why} Yet {' '.join(covered)} still shows what the state volume keeps.",
        "Boot once with persist=off, make the same change there, and run 'update-initramfs -u'.")])


def _late(planned: Planned, look: Look) -> bool:
    """Whether an entry that the initrd should have mounted was not, on a boot that is not its first."""
    return planned.early and not planned.mounted_early and not look.exists(f"{paths.SEEDED}/{planned.name}")


def _oddities(planned: Planned, look: Look) -> list[Reason]:
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


def judge(loaded: Loaded, volume: dict[str, Any], look: Look, health: Iterable[Reason] = ()) -> Verdict:
    """Compare the plan with the machine. ``health`` is what is wrong with the volume itself (volume/health.py)."""
    off = _off(loaded)
    if off is not None:
        return _still_mounted(volume, look, off.message) or Verdict(OFF, {"kind": "none"}, reasons=[off])
    at = look.mount(paths.VOLUME)
    kind = str(volume.get("kind", "none"))
    if kind in (*REAL, "root") and at is not None and at.read_only:
        volume = volume | {"read_only": True}  # a filesystem with errors turns read-only long after it was mounted
    word, reasons = _volume_reasons(volume, expected_volume(loaded))
    if kind in (*REAL, "tmpfs", "root") and at is None:
        word, reasons = VOLATILE, [Reason("volume-gone", f"Nothing is mounted at {paths.VOLUME} any more.", "See 'journalctl -b'.")]
        kind = "none"
    reasons += health
    entries = []
    for planned in loaded.plan.entries:
        e = _entry(planned, look, at, kind, loaded.config.mount)
        entries.append(e)
        if e.state == "failed":
            reasons.append(Reason("entry-failed", f"{e.path} {e.reason}.", f"{_where_to_look(planned)} and {e.source}.", e.path))
        elif e.state in ("mounted", "early"):
            reasons += _oddities(planned, look)
    refused = [EntryState(r.path, "", "refused", r.where, reason=r.text) for r in loaded.plan.refused]
    for problem in loaded.problems:
        if problem.level <= ERROR:
            reasons.append(Reason("registry", str(problem), "Correct the file, then restart the machine.", problem.path))
    if word == ONLINE and reasons:
        word = DEGRADED
    return Verdict(word, volume, entries + refused, reasons)


def stale_early(loaded: Loaded) -> list[str]:
    """Store names that the initrd mounted although the registry no longer asks for them early."""
    wanted = {p.name for p in loaded.plan.entries if p.early}
    return sorted(loaded.facts.early - wanted)


def initrd_stage_missing(loaded: Loaded, facts: Facts) -> str:
    """What to do where early entries have no initrd stage, or ''."""
    early = [p.path for p in loaded.plan.entries if p.early]
    hook = f"{facts.root}/usr/share/initramfs-tools/hooks/persist"
    if not early or os.path.lexists(hook):
        return ""
    return (f"{' '.join(early)} must be there before PID 1, and no initrd stage is installed: each boot would run under another machine-id "
            "than the file says. Install persist-initramfs-tools.")
