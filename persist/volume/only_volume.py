# SPDX-License-Identifier: LGPL-2.1-or-later
"""May claimed disks become the volume? Not beside one that is there, and not in the place of one that is expected."""

from __future__ import annotations

from ..boot.config import Config
from ..boot.paths import VOLUME
from ..errors import Refusal
from . import blockdev, known
from .blockdev import Disk
from .find import Ambiguous, Candidate, Found, Machine, Missing, decide


def machine_of(wanted: Machine | str | None) -> Machine:
    return wanted if isinstance(wanted, Machine) else Machine(named=wanted or "")


def candidates_now() -> list[Candidate]:
    """What is on the disks now. Not by pyudev where that can be helped: it takes as long to load as formatting a disk."""
    from . import candidates

    return candidates.from_database() if blockdev.udev_runs() else candidates.candidates()


def check_alone(disks: list[Disk], volume: str, config: Config, wanted: Machine | str | None, every: list[Candidate] | None = None) -> None:
    """Raise Refusal where disks may not become the volume because there is one, or a certain one is expected.

    ``volume``: the id of the set that was begun on them, '' for none. Raises OSError where the root filesystem's note of its volume cannot be read.
    """
    machine = machine_of(wanted)
    every = candidates_now() if every is None else every
    own = {d.device for d in disks}
    here = {c.uuid.lower() for c in every if c.disk_device in own} | {volume}
    # Not by what is known: another filesystem with our label is reason enough to keep off.
    decision = decide(config, Machine(named=machine.named), [c for c in every if c.disk_device not in own and c.uuid.lower() != volume])
    if isinstance(decision, Found | Ambiguous):
        nodes = decision.node if isinstance(decision, Found) else ", ".join(decision.nodes)
        raise Refusal("volume-exists", f"This machine has a state volume already ({nodes}).",
                      hint="Claim it with 'persistctl claim --join' to have it join that one, detach that one, or erase the header of this disk.")
    if machine.named and isinstance(decision, Missing):
        raise Refusal("volume-expected", f"The kernel command line names another volume (persist.volume={machine.named}), which is not here.",
                      hint="Attach it, or take persist.volume= off the kernel command line to begin anew.")
    # Ours from before a cut at the very last step may have been mounted and noted since.
    last = known.read()
    if last and last not in here:
        raise Refusal("volume-expected", f"This machine has a state volume (UUID={last}), which is not here.",
                      hint=f"Attach it. To begin anew without it, remove {known.PATH} and restart the machine.")
    if machine.known and machine.known.lower() not in here | {last}:
        raise Refusal("volume-expected", f"This machine was told which state volume it has (UUID={machine.known}), and it is not here.",
                      hint="Attach it, or take the credential persist.volume away to begin anew.")


def volume(config: Config, wanted: Machine | str | None) -> str:
    """The id of this machine's volume: of the one that is mounted, or of the one that would be; '' for none."""
    from .mount import mounted_uuid

    mounted = mounted_uuid(VOLUME)
    if mounted:
        return mounted
    decision = decide(config, machine_of(wanted), candidates_now())
    return decision.uuid.lower() if isinstance(decision, Found) and decision.fstype == "btrfs" else ""


def is_there(config: Config, wanted: Machine | str | None) -> bool:
    """Whether there is a volume, mounted or not, on whatever filesystem."""
    from .mount import mounted_uuid

    return bool(mounted_uuid(VOLUME)) or isinstance(decide(config, machine_of(wanted), candidates_now()), Found)
