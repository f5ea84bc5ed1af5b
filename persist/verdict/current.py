# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict of this moment: the plan made again, and all of the machine looked at."""

from __future__ import annotations

from collections.abc import Sequence

from persist.boot import paths
from persist.boot.load import Loaded, load
from persist.entries import as_seeded, stores
from persist.errors import PersistError
from persist.system.run import run
from persist.verdict import judge as v
from persist.verdict import migrations, remedies, sealing
from persist.volume.outcome import Outcome


def environment(command: Sequence[str] = ("systemd-detect-virt", "--container")) -> dict[str, str]:
    """What PID 1 tells its generators and not its services, as far as a plan needs it; ``command`` prints the
    kind of container that this is."""
    try:
        kind = run(*command, ok=(0, 1)).strip()
    except PersistError:
        kind = "none"
    return {} if kind in ("", "none") else {"SYSTEMD_VIRTUALIZATION": f"container:{kind}"}


def _health(volume: Outcome, look: v.Look) -> list[v.Reason]:
    """What is not well with the volume itself, where one is mounted."""
    at = look.mount(paths.VOLUME)
    if volume.kind != "btrfs" or at is None or at.fstype != "btrfs":
        return []
    from persist.system.btrfs import filesystem_uuid
    from persist.volume.heal.health import examine

    try:
        return examine(filesystem_uuid(paths.VOLUME))
    except OSError as e:
        return [
            v.Reason(
                "health-unknown",
                f"Failed to check the health of the state volume: {e}.",
                "See 'journalctl -b -k'.",
            )
        ]


def current(environ: dict[str, str] | None = None) -> tuple[v.Verdict, Loaded]:
    """The verdict of this moment. ``environ``: as environment() says, which is asked where there is none."""
    loaded = load("", environment() if environ is None else environ)
    volume, look = v.read_volume(), v.Look()
    settled = as_seeded.settle(loaded, root_kept=volume.root_kept)
    found = v.judge(loaded, volume, look, _health(volume, look))
    told = sealing.look_back(loaded.facts, sealing.environment())
    found.reasons += told.reasons
    found.notices += told.notices
    failed_ones, waiting = migrations.look(loaded)
    found.reasons += failed_ones
    found.notices += waiting
    if (told.reasons or failed_ones) and found.verdict == v.ONLINE:
        found.verdict = v.DEGRADED
    forms = {p.path: p.entry.method for p in loaded.plan.entries}
    found.notices += [remedies.kept_form(path, forms[path], says) for path, says in settled.kept.items()]
    if volume.kind == "btrfs":
        found.notices += [
            remedies.in_snapshots(p.path)
            for p in loaded.plan.entries
            if not p.entry.snapshot and stores.in_snapshots(p.path, p.name, p.entry.method)
        ]
    return found, loaded


def failed(error: Exception) -> v.Verdict:
    """The verdict where none could be made."""
    text = str(error) if isinstance(error, PersistError) else f"{type(error).__name__}: {error}."
    return v.Verdict(
        v.DEGRADED,
        Outcome(),
        reasons=[
            v.Reason(
                "verify-failed",
                f"Failed to make the verdict, what this boot keeps is not known: {text}",
                "Please report this.",
            )
        ],
    )
