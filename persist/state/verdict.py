# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict: the wish (the plan) beside what the machine shows. Looks only; writes nothing."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from ..boot import paths
from ..boot.facts import Facts
from ..boot.ini import ERROR
from ..boot.load import Loaded
from ..boot.plan import Planned, why_nothing
from ..volume.mountinfo import Mount, mounts

ONLINE, DEGRADED, VOLATILE, OFF = "online", "degraded", "volatile", "off"


@dataclass(frozen=True)
class Reason:
    """One sentence of a verdict: what, and what to do about it. ``code`` is stable."""

    code: str
    message: str
    hint: str = ""
    path: str = ""


@dataclass(frozen=True)
class EntryState:
    """One entry. ``state``: mounted, early, linked, image, tmpfs, waiting, failed or refused."""

    path: str
    method: str
    state: str
    source: str
    unit: str = ""
    reason: str = ""


@dataclass
class Verdict:
    """What a boot achieved; ``volume`` is what persist-volume.service wrote."""

    verdict: str
    volume: dict[str, Any]
    entries: list[EntryState] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The form of state.json; ``device`` stands at the top for scripts that want nothing else."""
        return {
            "version": 1,
            "verdict": self.verdict,
            "device": self.volume.get("device", ""),
            "volume": self.volume,
            "entries": [asdict(e) for e in self.entries],
            "reasons": [asdict(r) for r in self.reasons],
        }


def read_volume(root: str = "") -> dict[str, Any]:
    """What persist-volume.service wrote; kind ``none`` where it wrote nothing."""
    try:
        with open(f"{root}{paths.RUN}/volume.json", encoding="utf-8") as f:
            found = json.load(f)
    except FileNotFoundError:
        found = None
    except (OSError, ValueError) as e:
        return {"kind": "none", "reason": "volume-json", "message": f"{paths.RUN}/volume.json cannot be read: {e}."}
    if not isinstance(found, dict):
        return {"kind": "none", "reason": "volume-service", "message": "persist-volume.service has not run to its end.",
                "hint": "See 'journalctl -b -u persist-volume.service'."}
    return found


class Look:
    """What the machine shows now."""

    def __init__(self, root: str = "") -> None:
        self.root = root
        self._at: dict[str, Mount] = {m.mount_point: m for m in mounts()}  # the last one on a place is the one that counts

    def mount(self, path: str) -> Mount | None:
        """The uppermost mount on exactly this path."""
        return self._at.get(path)

    def seeded(self, name: str) -> bool:
        """Whether an entry has its marker."""
        return os.path.lexists(f"{self.root}{paths.STORE}/seed/{name}.json")

    def exists(self, path: str) -> bool:
        """Whether the running system shows something at a path."""
        return os.path.lexists(self.root + path)

    def link(self, path: str) -> str:
        """The target of a symbolic link, '' for anything else."""
        try:
            return os.readlink(self.root + path)
        except OSError:
            return ""

    def writable(self, path: str) -> bool:
        """Whether the filesystem at a path takes writes (not whether we may)."""
        try:
            return not os.statvfs(self.root + path).f_flag & os.ST_RDONLY
        except OSError:
            return False


def _wrong_mount(planned: Planned, at: Mount | None, volume: Mount | None) -> str:
    """Why what is mounted on an entry is not its store, or ''."""
    if at is None:
        return "is not mounted"
    if planned.entry.method == "overlay":
        if at.fstype != "overlay":
            return f"has a {at.fstype} mounted on it"
        if f"/.persist/overlay/{planned.name}/upper" not in at.super_options.replace("\\\\", "\\"):
            return "has another overlay mounted on it"
    elif volume is not None and (at.device != volume.device or at.root != volume.root.rstrip("/") + planned.path):
        return f"has {at.source}{at.root} mounted on it"
    if at.read_only and volume is not None and not volume.read_only:
        return "is mounted read-only"
    return ""


def _entry(planned: Planned, look: Look, volume: Mount | None, kind: str) -> EntryState:
    entry = planned.entry
    path = planned.path
    at = look.mount(path)

    def state(word: str, reason: str = "") -> EntryState:
        return EntryState(entry.path, entry.method, word, entry.source, planned.unit, reason)

    if entry.method == "tmpfs":
        return state("tmpfs") if at is not None and at.fstype == "tmpfs" or look.writable(path) else state("failed", "is not writable")
    if kind == "none" or (kind == "root" and entry.method != "symlink"):
        return state("waiting", "there is no state volume")
    if entry.method == "image":
        return state("image") if at is not None or not look.exists(path) else state("failed", "is not mounted")
    if entry.method == "symlink":
        target = look.link(path)
        if target in (paths.VOLUME + path, "/mnt/state" + path) and look.seeded(planned.name):
            return state("linked")
        return state("failed", f"is not a link to {paths.VOLUME}{path}" if target or look.exists(path) else "does not exist")
    if not look.seeded(planned.name):
        return state("failed", "was not seeded")
    wrong = _wrong_mount(planned, at, volume)
    if wrong:
        return state("failed", wrong)
    return state("early" if planned.mounted_early else "mounted")


def _off(loaded: Loaded) -> Reason | None:
    """Why nothing was asked of persist on this boot, if so."""
    why = why_nothing(loaded.facts)
    if not why and not loaded.registry.entries and not loaded.plan.refused:
        why = "the registry has no entries"
    return Reason("off", f"persist does nothing on this boot: {why}.") if why else None


def _volume_reasons(volume: dict[str, Any], expected: bool) -> tuple[str, list[Reason]]:
    """The verdict that the volume alone allows, and why."""
    kind = volume.get("kind", "none")
    why = Reason(str(volume.get("reason") or "no-volume"), str(volume.get("message") or "No state volume was found."), str(volume.get("hint") or ""))
    if kind == "tmpfs":
        return VOLATILE, [why]
    if kind == "root":
        return (DEGRADED, [why]) if expected else (ONLINE, [])
    if kind == "none":
        if volume.get("root_read_only"):
            return VOLATILE, [why]
        if expected or why.code not in ("no-volume", "missing"):
            return DEGRADED, [why]
        return OFF, [Reason(why.code, f"{why.message} The root filesystem is writable and keeps what is written.", why.hint)]
    if volume.get("read_only"):
        return DEGRADED, [Reason("volume-read-only", "The state volume is mounted read-only.", "See 'journalctl -b -u persist-volume.service'.")]
    return ONLINE, []


def expected_volume(loaded: Loaded) -> bool:
    """Whether somebody said that there must be a volume, so that its absence is worth a word on any machine."""
    return loaded.config.device != ["auto"] or loaded.facts.option("persist.volume") is not None or loaded.config.fallback == "fail"


def judge(loaded: Loaded, volume: dict[str, Any], look: Look) -> Verdict:
    """Compare the plan with the machine."""
    off = _off(loaded)
    if off is not None:
        return Verdict(OFF, {"kind": "none"}, reasons=[off])
    word, reasons = _volume_reasons(volume, expected_volume(loaded))
    at = look.mount(paths.VOLUME)
    kind = str(volume.get("kind", "none"))
    if kind in ("btrfs", "tmpfs", "root") and at is None:
        word, reasons = VOLATILE, [Reason("volume-gone", f"Nothing is mounted at {paths.VOLUME} any more.", "See 'journalctl -b'.")]
        kind = "none"
    entries = [_entry(p, look, at, kind) for p in loaded.plan.entries]
    refused = [EntryState(r.path, "", "refused", r.where, reason=r.text) for r in loaded.plan.refused]
    for e in entries:
        if e.state == "failed":
            reasons.append(Reason("entry-failed", f"{e.path} {e.reason}.", f"See 'journalctl -b -u {e.unit or 'persist-seed@*'}' and {e.source}.", e.path))
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
