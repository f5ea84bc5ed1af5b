# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-volume.service: find the volume and mount it, or decide what this boot does without. Runs at each boot."""

from __future__ import annotations

import os

from .. import log
from ..boot import facts
from ..boot.config import Config, load
from ..boot.facts import Facts
from ..boot.paths import EARLY, VOLUME
from ..errors import PersistError
from ..run import run
from . import blockdev, known, mount, mountinfo, outcome, switch
from .find import Ambiguous, Decision, Found, Missing, Untrusted, decide, find, from_database
from .mountinfo import Mount
from .outcome import Outcome

SHORT_WAIT = 3.0  # seconds; a read-only root without its volume forgets everything, which is worth a moment
_LEAVE = "This boot does without its state volume"


def root_read_only() -> bool:
    """Whether the root filesystem takes no writes now, after systemd-remount-fs. Raises OSError."""
    return bool(os.statvfs("/").f_flag & os.ST_RDONLY)


def patience(config: Config, wanted: str | None, read_only: bool) -> float:
    """For how many seconds a volume that is not there is waited for: MemberTimeoutSec= where somebody said that there is one."""
    if config.device != ["auto"] or wanted or outcome.formatted():
        return float(config.member_timeout)
    return SHORT_WAIT if read_only else 0.0


def _look(config: Config, wanted: str | None, timeout: float) -> Decision:
    last: Decision = find(config, wanted)
    if not isinstance(last, Missing | Untrusted) or not timeout or not blockdev.udev_runs():
        return last
    from ..udev import wait_for

    log.notify_status(f"Waiting up to {timeout:.0f} s for the state volume")

    def look() -> Decision | None:
        nonlocal last
        last = find(config, wanted)
        return None if isinstance(last, Missing | Untrusted) else last

    return wait_for(look, timeout) or last


def _say(decision: Missing | Ambiguous | Untrusted, loud: bool) -> None:
    """One record for a volume that is not used."""
    fields = {"PERSIST_REASON": decision.code}
    message = f"{decision.message} {decision.hint}"
    match decision:
        case Missing():
            log.log(log.WARNING if loud else log.INFO, message, "VOLUME_MISSING", **fields)
        case Ambiguous():
            log.log(log.ERR, message, "VOLUME_AMBIGUOUS", PERSIST_DEVICE=" ".join(decision.nodes), **fields)
        case Untrusted():
            log.log(log.WARNING, message, "VOLUME_UNTRUSTED", PERSIST_DEVICE=" ".join(decision.nodes), **fields)


def _because(result: Outcome, code: str, message: str, hint: str) -> None:
    result.reason, result.message, result.hint = code, message, hint


def _mounted(result: Outcome, at: Mount) -> None:
    """Take down what is mounted at the volume's place."""
    if at.root.endswith(mount.ROOT_STORE):
        result.kind = "root"
    else:
        result.kind = "tmpfs" if at.fstype == "tmpfs" else "btrfs"
    result.read_only = at.read_only
    if result.kind == "btrfs":
        result.device, result.uuid = at.source, mount.mounted_uuid()


def _second_opinion(config: Config, facts: Facts, result: Outcome) -> tuple[str, str]:
    """Why what the initrd mounted would not be chosen now, and what to do about it; '' and '' where it would, or nobody knows.

    The table in the initrd is as old as the initrd, and sees only the disks that were there first.
    """
    update = "Run 'update-initramfs -u' and restart the machine."
    word = switch.volatile_word(facts)
    if word:
        return f"The initrd mounted the state volume on {result.device} although persist={word} is on the kernel command line.", update
    every = from_database()
    if result.uuid not in {c.uuid.lower() for c in every}:
        return "", ""  # udev has not come to it yet
    decision = decide(config, facts.option("persist.volume") or None, every)
    shown = f"The initrd mounted {result.device} (UUID={result.uuid}) as the state volume"
    if not isinstance(decision, Found):
        return f"{shown}, which would not be chosen now: {decision.message}", f"{decision.hint} {update}"
    if decision.uuid.lower() != result.uuid:
        return f"{shown}, but by persist.conf it is {decision.node} (UUID={decision.uuid}).", update
    return "", ""


def _keep(config: Config, facts: Facts, result: Outcome, at: Mount) -> None:
    """The initrd, or an earlier run of this service, has mounted something."""
    _mounted(result, at)
    before = outcome.read()
    result.from_initrd = before.from_initrd if before is not None else result.kind == "btrfs"
    if before is not None:
        if before.kind == result.kind:
            _because(result, before.reason, before.message, before.hint)
            result.expected = before.expected
    elif result.kind == "btrfs":
        message, hint = _second_opinion(config, facts, result)
        if message:
            _because(result, "initrd-disagrees", message, hint)
            log.log(log.WARNING, f"{message} {hint}", "FAILED", PERSIST_DEVICE=result.device, PERSIST_UUID=result.uuid, PERSIST_REASON="initrd-disagrees")


def _has_symlinks() -> bool:
    """Whether an entry needs a place to link to even where the root keeps everything anyway."""
    from ..boot import registry

    return any(e.method == "symlink" for e in registry.load("", []).entries)


def _tmpfs(result: Outcome) -> None:
    mount.mount_tmpfs()
    result.kind = "tmpfs"
    log.log(log.WARNING, f"{_LEAVE}: what is written now is lost at power-off. {result.message}", "FALLBACK", PERSIST_REASON=result.reason)


def _root(result: Outcome) -> None:
    try:
        mount.bind_image()
        mount.mount_root_directory()
    except (PersistError, OSError) as e:
        log.log(log.ERR, f"State cannot be kept in {mount.ROOT_STORE} of the root filesystem: {e}", "FALLBACK", PERSIST_REASON="root-store")
        if result.root_read_only:
            _tmpfs(result)
        return
    result.kind = "root"
    log.log(log.INFO, f"{_LEAVE}: state is kept in {mount.ROOT_STORE} of the root filesystem.", "FALLBACK", PERSIST_REASON=result.reason)


def _policy(config: Config, result: Outcome) -> str:
    """What Fallback= means on this boot: tmpfs, root, none or fail."""
    if config.fallback == "auto":
        return "tmpfs" if result.root_read_only else "root" if _has_symlinks() else "none"
    return config.fallback


def _fall_back(config: Config, result: Outcome) -> int:
    """Do what Fallback= says; returns the exit status of the service."""
    policy = _policy(config, result)
    if policy == "tmpfs":
        _tmpfs(result)
    elif policy == "root":
        _root(result)
    elif policy == "fail":
        log.log(log.ERR, f"{_LEAVE}, and Fallback=fail says that it must not. {result.message}", "FALLBACK", PERSIST_REASON=result.reason)
        return 1
    return 0


def _known() -> str:
    try:
        return known.read()
    except OSError as e:
        log.log(log.WARNING, f"Nobody knows which volume this machine had: {e}", "FAILED", PERSIST_PATH=known.PATH)
        return ""


def _known_is_missing(config: Config, result: Outcome, uuid: str) -> Missing:
    message = f"The state volume of this machine (UUID={uuid}) was not found"
    if not result.root_read_only and _policy(config, result) != "tmpfs":
        message += "; what is written now goes to the root filesystem and is hidden when the volume is back"
    return Missing(f"{message}.", f"Attach its disk. To begin anew without it, remove {known.PATH} and restart the machine.", "known-volume-missing")


def _note_known(result: Outcome) -> None:
    """Note the volume on a root that can be written."""
    if result.root_read_only or result.reason == "initrd-disagrees":
        return
    try:
        known.note(result.uuid)
    except OSError as e:
        log.log(log.WARNING, f"The state volume of this machine cannot be noted: {e}", "FAILED", PERSIST_PATH=known.PATH)


def _write_protected(result: Outcome, *, fresh: bool) -> None:
    """A volume that takes no writes: put down again where the root takes none either, for then memory is of more use."""
    fields = {"PERSIST_DEVICE": result.device, "PERSIST_UUID": result.uuid, "PERSIST_REASON": "volume-read-only"}
    message, hint = f"The state volume on {result.device} can only be mounted read-only.", "Remove the write protection of its disk. See 'journalctl -b -k'."
    if result.root_read_only and fresh:
        run("umount", VOLUME)
        result.kind, result.read_only = "none", False
        message += " It is not used."
    elif not result.root_read_only:
        message += " Entries are left to the root filesystem; what is written there is hidden when the volume is back."
    if not result.reason or result.kind == "none":
        _because(result, "volume-read-only", message, hint)
    log.log(log.WARNING, f"{message} {hint}", "VOLUME_READ_ONLY", **fields)


def _find_and_mount(config: Config, wanted: str | None, result: Outcome) -> None:
    """Fill in the result where the volume could be mounted, and the reason where not."""
    last = _known()
    timeout = patience(config, wanted or last, result.root_read_only)
    decision = _look(config, wanted, timeout)
    result.expected = bool(last)
    if not isinstance(decision, Found):
        if isinstance(decision, Missing) and last and last == (wanted or last).lower():
            decision = _known_is_missing(config, result, last)
        _because(result, decision.code, decision.message, decision.hint)
        _say(decision, loud=timeout > 0)
        return
    try:
        _mounted(result, mount.mount_volume(decision))
        result.expected = False
    except PersistError as e:
        result.device, result.uuid = decision.node, decision.uuid
        _because(result, "broken", e.message, e.hint)
        log.log_error(e)


def _beside(config: Config, result: Outcome) -> None:
    """What comes with a volume: the image for the entries, the public name, swap space."""
    mount.bind_image()
    try:
        why_not = mount.bind_public(config.mount)
    except PersistError as e:
        why_not = f"{config.mount} cannot be mounted: {e.message}"
    if why_not:
        log.log(log.NOTICE, why_not, "FAILED", PERSIST_PATH=config.mount)
    if result.kind != "btrfs":
        return
    fields = {"PERSIST_DEVICE": result.device, "PERSIST_UUID": result.uuid}
    log.log(log.INFO, f"The state volume is mounted from {result.device}.", "VOLUME_MOUNTED", **fields)
    _note_known(result)
    if result.read_only:
        return
    from . import swap

    try:
        wrong = swap.enable([result.device])
    except OSError as e:
        wrong = [f"The record of the state volume cannot be read: {e}"]
    for sentence in wrong:
        log.log(log.WARNING, sentence, "FAILED", **fields)


def _early_entries() -> bool:
    """Whether the initrd has mounted an entry."""
    try:
        return bool(os.listdir(EARLY))
    except FileNotFoundError:
        return False


def _run(result: Outcome) -> int:
    machine = facts.gather("", os.environ)
    config = load("", [])  # the verdict says what is wrong with it
    result.root_read_only = root_read_only()
    status = 0
    at = mountinfo.at(VOLUME)
    word = switch.volatile_word(machine)
    # What the initrd put on top of the volume stays usable, and where an earlier run of ours ended nothing is taken away.
    fresh = at is None or (outcome.read() is None and not _early_entries())
    if at is not None:
        _keep(config, machine, result, at)
    elif word:
        _because(result, "volatile", *switch.explain(word))
        _tmpfs(result)
    else:
        _find_and_mount(config, machine.option("persist.volume") or None, result)
    if result.kind == "btrfs" and result.read_only:
        _write_protected(result, fresh=fresh)
    if result.kind == "none":
        status = _fall_back(config, result)
    if result.kind != "none":
        _beside(config, result)
    return status


def _rescue(result: Outcome, error: Exception) -> None:
    """Something nobody thought of: a read-only root still gets a place to write."""
    text = str(error) if isinstance(error, PersistError) else f"{type(error).__name__}: {error}"
    log.log(log.ERR, f"The state volume could not be set up: {text}", "FAILED", PERSIST_REASON="failed")
    result.kind = "none"
    _because(result, "failed", f"The state volume could not be set up: {text}", "See 'journalctl -b -u persist-volume.service'.")
    try:
        if root_read_only() and mountinfo.at(VOLUME) is None:
            _tmpfs(result)
            mount.bind_image()
    except (PersistError, OSError) as e:
        log.log(log.ERR, f"Nor could a tmpfs take its place: {e}", "FALLBACK", PERSIST_REASON="failed")
        result.kind = "none"


def volume_main() -> int:
    """Run as persist-volume.service. Never raises: exit status 1 after the unexpected, and where Fallback=fail found no volume."""
    result = Outcome()
    try:
        status = _run(result)
    except Exception as e:  # noqa: BLE001  # whatever it is, it is said, and the boot goes on
        _rescue(result, e)
        status = 1
    try:
        outcome.write(result)
    except OSError as e:
        log.log(log.ERR, f"{outcome.RECORD} cannot be written: {e}", "FAILED")
        status = 1
    log.notify_status(f"State volume: {result.kind}{' on ' + result.device if result.device else ''}")
    return status
