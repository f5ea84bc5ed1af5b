# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the verdict says of the volume: what persist-volume.service wrote, and which word that alone
allows."""

from __future__ import annotations

import json
from typing import Any, get_args

from persist.boot import paths
from persist.boot.load import Loaded
from persist.reason import Reason
from persist.record import as_dict
from persist.system.mountinfo import MEMORY, Mount
from persist.volume import root_kept
from persist.volume.outcome import REAL, Kind, Outcome

ONLINE, DEGRADED, VOLATILE, OFF = "online", "degraded", "volatile", "off"


def _no_record(reason: str, message: str) -> dict[str, Any]:
    """No word of persist-volume.service: what the root filesystem keeps has to be looked at here."""
    found = Outcome()
    found.because(reason, message, "See 'journalctl -b -u persist-volume.service'.")
    found.on_root(root_kept.look())
    return as_dict(found)


def _unreadable(why: object) -> dict[str, Any]:
    return _no_record("volume-json", f"{paths.RECORD} cannot be read: {why}.")


def read_volume(root: str = "") -> dict[str, Any]:
    """What persist-volume.service wrote, with all the keys of an Outcome; kind ``none`` where it wrote
    nothing that can be read. Raises OSError."""
    try:
        with open(f"{root}{paths.RECORD}", encoding="utf-8") as f:
            found = json.load(f)
    except FileNotFoundError:
        return _no_record("volume-service", "persist-volume.service has not run to its end.")
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


def volume_reasons(volume: dict[str, Any], expected: bool) -> tuple[str, list[Reason]]:
    """The verdict that the volume alone allows, and why. ``expected`` as of expected_volume()."""
    kind = volume.get("kind", "none")
    why = Reason(
        str(volume.get("reason") or "no-volume"),
        str(volume.get("message") or "No state volume was found."),
        str(volume.get("hint") or ""),
    )
    if kind == "tmpfs" or (volume.get("expected") and kind not in REAL):
        # Also on a writable root that has known a volume: what is written now is out of sight when that is
        # back.
        return VOLATILE, [why]
    in_memory = str(volume.get("root_memory") or "")
    if kind in ("root", "none") and in_memory:
        return VOLATILE, [
            why,
            Reason(
                "root-in-memory",
                f"The root filesystem is {in_memory}, and what is written to it is lost at power-off.",
                why.hint,
            ),
        ]
    if kind == "root" and expected:
        return DEGRADED, [why]
    if kind in REAL and volume.get("memory"):
        return VOLATILE, [
            Reason(
                "volume-in-memory",
                f"The state volume is {volume['memory']}, and what is written to it is lost at power-off.",
                "Give persist a disk: see Device= in persist.conf(5).",
            )
        ]
    if kind == "none":
        if volume.get("root_read_only"):
            return VOLATILE, [why]
        if expected or why.code not in ("no-volume", "missing"):
            return DEGRADED, [why]
        root = f" ({volume['root']})" if volume.get("root") else ""
        return OFF, [
            Reason(
                why.code,
                f"{why.message} The root filesystem{root} is writable and keeps what is written.",
                why.hint,
            )
        ]
    if volume.get("read_only") and (kind == "root" or not volume.get("reason")):
        return DEGRADED, [
            Reason(
                "volume-read-only",
                "The state volume is mounted read-only.",
                "See 'journalctl -b -u persist-volume.service'.",
            )
        ]
    if kind in REAL and volume.get("reason"):
        return DEGRADED, [why]
    return ONLINE, []


def volume_gone(kind: str, at: Mount | None) -> Reason | None:
    """Why what persist-volume.service mounted is not what is mounted now, if so."""
    if kind != "none" and at is None:
        return Reason(
            "volume-gone", f"Nothing is mounted at {paths.VOLUME} any more.", "See 'journalctl -b'."
        )
    if kind in REAL and at is not None and at.fstype in MEMORY:
        return Reason(
            "volume-gone",
            f"At {paths.VOLUME} a {at.fstype} is mounted, which is lost at power-off.",
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
        f"{paths.VOLUME} is not mounted with {lacking}: a program or device node on it can make any user "
        "root.",
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
