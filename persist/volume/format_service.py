# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-format.service: format what carries a claim. Here, and only here, what the library raises is logged."""

from __future__ import annotations

import os
from collections.abc import Callable

from .. import log
from ..boot import facts
from ..boot.config import Config, load
from ..errors import CommandError, PersistError, Refusal
from ..run import run
from . import blockdev, claimable, known, outcome, refused, switch
from .blockdev import Disk
from .find import Ambiguous, Found, Missing, candidates, decide
from .format import format_disk
from .header import Claim

TAGS = "/run/udev/tags/persist-claim"  # named in persist-format.service too


def _tagged() -> list[Disk]:
    """The disks that udev tagged in this boot; all of them where no udev runs. Only a pre-filter: a tag outlives its header."""
    every = blockdev.disks()
    if not blockdev.udev_runs():
        return every
    try:
        tagged = os.listdir(TAGS)
    except FileNotFoundError:
        tagged = []
    return [d for d in every if f"b{d.device}" in tagged]


def _refuse(disk: Disk, refusal: Refusal) -> None:
    refusal.fields.setdefault("PERSIST_DEVICE", disk.node)
    refusal.message = f"{disk.node} asks to be formatted and is left alone: {refusal.message}"
    log.log_error(refusal, priority=log.WARNING)
    refused.remember(disk, refusal)


def _failed(disk: Disk, error: Exception) -> None:
    hint = error.hint if isinstance(error, PersistError) else ""
    if isinstance(error, CommandError) and error.returncode == 127:
        hint = "Run 'apt install btrfs-progs fdisk'."
    text = error.message if isinstance(error, PersistError) else str(error)
    reason = error.fields.get("PERSIST_REASON", "") if isinstance(error, PersistError) else ""
    log.log(log.ERR, f"{disk.node} could not be formatted: {text} {hint or 'The claim is still there; the next boot tries again.'}", "FORMAT_FAILED",
            PERSIST_DEVICE=disk.node, PERSIST_REASON=reason or "format-failed")


def claimed(every: list[Disk], words: list[str]) -> list[tuple[Disk, Claim]]:
    """The disks that carry a claim and were not refused before: one that was begun first, then by serial number and place.

    Headers that cannot be understood are refused here, and logged. Raises OSError where a note cannot be written.
    """
    found = []
    for disk in every:
        try:
            if refused.known(disk):
                continue
            claim = claimable.read_claim(disk, words)
        except Refusal as e:
            _refuse(disk, e)
            continue
        except OSError as e:
            # No medium, or a disk that does not answer: the kernel's own messages say more.
            log.log(log.DEBUG, f"{disk.node} cannot be read: {e.strerror}.", "FAILED", PERSIST_DEVICE=disk.node)
            continue
        if claim is not None:
            found.append((disk, claim))
    return sorted(found, key=lambda pair: (pair[1].mark is None, pair[0].serial, pair[0].sys_path))


def check_alone(disk: Disk, config: Config, wanted: str | None) -> None:
    """Raise Refusal where a disk may not become the volume because there is one, or a certain one is expected.

    Raises OSError where the root filesystem's note of its volume cannot be read.
    """
    every = candidates()
    decision = decide(config, wanted, [c for c in every if c.disk_device != disk.device])
    if isinstance(decision, Found | Ambiguous):
        nodes = decision.node if isinstance(decision, Found) else ", ".join(decision.nodes)
        raise Refusal("volume-exists", f"This machine has a state volume already ({nodes}).",
                      hint="Detach that one, or erase the header of this disk; see persistctl(8), claim.")
    if wanted and isinstance(decision, Missing):
        raise Refusal("volume-expected", f"The kernel command line names another volume (persist.volume={wanted}), which is not here.",
                      hint="Attach it, or take persist.volume= off the kernel command line to begin anew.")
    last = known.read()
    # Ours from before a cut at the very last step may have been mounted and noted since.
    if last and last not in {c.uuid.lower() for c in every if c.disk_device == disk.device}:
        raise Refusal("volume-expected", f"This machine has a state volume (UUID={last}), which is not here.",
                      hint=f"Attach it. To begin anew without it, remove {known.PATH} and restart the machine.")


def _status(disk: Disk) -> Callable[[str, str], None]:
    begun: list[str] = []

    def status(step: str, text: str) -> None:
        if not begun:
            log.log(log.NOTICE, f"{disk.node} ({disk.mib} MiB) carries a claim and is formatted now.", "CLAIM_FOUND", PERSIST_DEVICE=disk.node)
            begun.append(step)
        log.notify_status(f"Formatting {text}")
        log.log(log.INFO, f"Formatting {text}", "FORMAT_STEP", PERSIST_DEVICE=disk.node, PERSIST_STEP=step)

    return status


def format_claimed(every: list[Disk], config: Config, wanted: str | None) -> int:
    """Format the first claimed disk of ``every`` and refuse the others. Returns how many failed unexpectedly. Raises OSError."""
    made = ""
    failed = 0
    for disk, _ in claimed(every, config.magic_headers):
        try:
            if made:
                raise Refusal("volume-exists", f"{made} has just become the state volume of this machine.",
                              hint="One disk is one volume. Erase the header of this disk, or keep it for another machine.")
            check_alone(disk, config, wanted)
            done = format_disk(disk, config, _status(disk))
        except Refusal as e:
            _refuse(disk, e)
            continue
        except (PersistError, OSError) as e:
            _failed(disk, e)
            failed += 1
            continue
        if done is not None:
            made = disk.node
            outcome.note_formatted(done.uuid)
            log.log(log.NOTICE, f"{disk.node} is the state volume now (UUID={done.uuid}).", "FORMAT_DONE", PERSIST_DEVICE=done.node, PERSIST_UUID=done.uuid)
    if made and blockdev.udev_runs():
        # Our lock is released: udev reads the new table now, and must not take the partitions away under the mount that comes next.
        run("udevadm", "settle", "--timeout=30", ok=(0, 1))
    return failed


def format_main() -> int:
    """Run as persist-format.service: format what carries a claim and may be formatted.

    A refused claim is a warning in the journal and not a failure. Exit status 1 when formatting failed, or something unexpected did.
    """
    try:
        machine = facts.gather("", os.environ)
        disks = _tagged()
        if not disks:
            return 0
        if not machine.enabled:
            log.log(log.NOTICE, "A disk may carry a claim, but persist-setup.target is not enabled: nothing is formatted. "
                    "Run 'systemctl enable persist-setup.target'.", "CLAIM_REFUSED", PERSIST_REASON="not-enabled")
            return 0
        word = switch.volatile_word(machine)
        if word:
            log.log(log.NOTICE, f"A disk may carry a claim, and nothing is formatted: {switch.explain(word)[0]}", "CLAIM_REFUSED", PERSIST_REASON="volatile")
            return 0
        return 1 if format_claimed(disks, load("", []), machine.option("persist.volume") or None) else 0
    except PersistError as e:
        log.log_error(e)
    except Exception as e:  # noqa: BLE001  # whatever it is, it is said in the journal, and the boot goes on
        log.log(log.ERR, f"Formatting failed: {type(e).__name__}: {e}. Please report this.", "FORMAT_FAILED", PERSIST_REASON="unexpected")
    return 1
