# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the verdict says of the volume: what persist-volume.service wrote, and which word that alone
allows."""

from __future__ import annotations

from persist.boot import paths
from persist.boot.load import Loaded
from persist.reason import Reason
from persist.system.mountinfo import MEMORY, Mount
from persist.volume import outcome, root_kept
from persist.volume.outcome import REAL, Outcome

ONLINE, DEGRADED, VOLATILE, OFF = "online", "degraded", "volatile", "off"


def _no_record(root: str, reason: str, message: str) -> Outcome:
    """No word of persist-volume.service: what the root filesystem keeps has to be looked at here."""
    found = Outcome()
    found.because(reason, message, "See 'journalctl -b -u persist-volume.service'.")
    found.on_root(root_kept.look(root or "/"))
    return found


def read_volume(root: str = "") -> Outcome:
    """What persist-volume.service wrote; kind ``none`` where it wrote nothing that can be read. Raises
    OSError."""
    try:
        return outcome.load(root + paths.RECORD)
    except FileNotFoundError:
        return _no_record(root, "volume-service", "persist-volume.service did not finish.")
    except (OSError, ValueError) as e:
        return _no_record(root, "volume-json", f"Failed to read {paths.RECORD}: {e}.")


def volume_reasons(volume: Outcome, expected: bool) -> tuple[str, list[Reason]]:
    """The verdict that the volume alone allows, and why. ``expected`` as of expected_volume()."""
    kind = volume.kind
    message = volume.message or "No state volume was found."
    why = Reason(volume.reason or "no-volume", message, volume.hint)
    if kind == "tmpfs" or (volume.expected and kind not in REAL):
        # Also on a writable root that has known a volume: what is written now is out of sight when that is
        # back.
        return VOLATILE, [why]
    if kind in ("root", "none") and volume.root_memory:
        lost = f"The root filesystem is {volume.root_memory}, and what is written to it is lost at power-off."
        return VOLATILE, [why, Reason("root-in-memory", lost, why.hint)]
    if kind == "root" and expected:
        return DEGRADED, [why]
    if kind in REAL and volume.memory:
        lost = f"The state volume is {volume.memory}, and what is written to it is lost at power-off."
        hint = "Use a disk for it: see Device= in persist.conf(5)."
        return VOLATILE, [Reason("volume-in-memory", lost, hint)]
    if kind == "none":
        return _without(volume, why, expected)
    if volume.read_only and (kind == "root" or not volume.reason):
        hint = "See 'journalctl -b -u persist-volume.service'."
        return DEGRADED, [Reason("volume-read-only", "The state volume is mounted read-only.", hint)]
    if kind in REAL and volume.reason:
        return DEGRADED, [why]
    return ONLINE, []


def _without(volume: Outcome, why: Reason, expected: bool) -> tuple[str, list[Reason]]:
    """Neither a volume nor what stands in for one."""
    if volume.root_read_only:
        return VOLATILE, [why]
    if expected or why.code not in ("no-volume", "missing"):
        return DEGRADED, [why]
    root = f" ({volume.root})" if volume.root else ""
    kept = f"{why.message} The root filesystem{root} is writable and keeps what is written."
    return OFF, [Reason(why.code, kept, why.hint)]


def volume_gone(kind: str, at: Mount | None) -> Reason | None:
    """Why what persist-volume.service mounted is not what is mounted now, if so."""
    if kind != "none" and at is None:
        return Reason(
            "volume-gone", f"Nothing is mounted at {paths.VOLUME} any more.", "See 'journalctl -b'."
        )
    if kind in REAL and at is not None and at.fstype in MEMORY:
        return Reason(
            "volume-gone",
            f"A {at.fstype} is mounted at {paths.VOLUME}, and what is written to it is lost at power-off.",
            "See 'journalctl -b'.",
        )
    return None


def unprotected(at: Mount | None) -> Reason | None:
    """Why programs and devices of the volume are dangerous, if so: any disk with the right label may be the
    volume."""
    lacking = at.lacks("nosuid,nodev") if at is not None else ""
    if not lacking:
        return None
    return Reason(
        "volume-options",
        f"{paths.VOLUME} is mounted without {lacking}: programs and device nodes on it can give any user "
        "root privileges.",
        f"Run 'mount -o remount,bind,nosuid,nodev {paths.VOLUME}'. See 'journalctl -b -u "
        "persist-volume.service'.",
    )


def expected_volume(loaded: Loaded) -> bool:
    """Whether somebody said that there must be a volume, so that its absence is worth a word on any
    machine."""
    return (
        loaded.config.device != ["auto"]
        or loaded.facts.option("persist.volume") is not None
        or loaded.config.fallback == "fail"
    )
