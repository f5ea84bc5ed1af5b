# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mount a volume that is a btrfs: those of its members that may be used, and no others. By mount(8), never by
a ``.mount`` fragment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from persist.boot.paths import VOLUME
from persist.errors import CommandError, PersistError
from persist.note import DEBUG, NOTICE, Note, Say
from persist.system import btrfs, mountinfo, newmount, superblock
from persist.system.btrfs import SUBVOLUMES
from persist.system.mountinfo import Mount
from persist.system.run import run
from persist.system.udevd import without_udev
from persist.volume.find.decision import Found
from persist.volume.members import assemble, oddity, torn
from persist.volume.members.assemble import Assembly
from persist.volume.mount import foreign
from persist.volume.ondisk import degraded_mark

# Access times would make each reading of state a write.
_SUBVOLUME = f"subvol={SUBVOLUMES[0]}"
OPTIONS = f"{newmount.DATA},noatime,{_SUBVOLUME}"


def _broken(found: Found, message: str) -> PersistError:
    return PersistError(
        f"The state volume on {found.node} does not mount: {message}",
        hint="It is left as it is. See 'journalctl -b -k' and btrfs-check(8).",
        message_id="VOLUME_BROKEN",
        PERSIST_DEVICE=found.node,
        PERSIST_UUID=found.uuid,
        PERSIST_REASON="broken",
    )


def _same(nodes: Iterable[str]) -> set[str]:
    return {os.path.realpath(n) for n in nodes}


def _strangers(assembly: Assembly, at: str) -> list[str]:
    """Members that the kernel mounted with those that may be used."""
    return sorted(
        _same(d.node for d in btrfs.devices(at) if d.node and not d.missing) - _same(assembly.nodes)
    )


@contextmanager
def _only(found: Found, assembly: Assembly) -> Iterator[None]:
    """The kernel knows those members that are in use, and no others of this filesystem. Raises CommandError
    and OSError."""
    # udev tells the kernel about each member, and the kernel takes whatever it knows: one that was written
    # alone would be written over.
    unused = (*found.forget, *(n for n in found.members if n not in assembly.nodes))
    # _strangers() has the last word.
    with without_udev(unused):
        btrfs.forget(*unused)
        btrfs.scan(*assembly.nodes)
        yield


def _first(assembly: Assembly) -> str:
    """The member that is named to mount(8): the target of a replace cannot be."""
    return next(m.node for m in assembly.use if m.superblock.devid)


def _mount(found: Found, assembly: Assembly, options: str, at: str) -> None:
    """One mount by a named member, with those in use and no others of this filesystem.

    Raises CommandError and OSError where nothing was mounted, another PersistError where something was for a
    moment.
    """
    mount = ("mount", "-t", "btrfs", "-o", options, _first(assembly), at)
    with _only(found, assembly):
        run(*mount)
        try:
            strangers = _strangers(assembly, at)
            if strangers:
                # It came between the look and the mount. By now it is stale.
                run("umount", at)
                btrfs.forget(*strangers)
                run(*mount)
        except (CommandError, OSError) as e:
            raise _broken(found, e.message if isinstance(e, CommandError) else f"{e}.") from e


def _check(found: Found, assembly: Assembly, at: str) -> Mount:
    mount = mountinfo.at(at)
    if mount is None:
        raise _broken(found, "mount(8) reported success and nothing is mounted.")
    wrong = ""
    if btrfs.mounted_uuid(at) != found.uuid.lower():
        wrong = "another filesystem appeared in its place."
    else:
        strangers = _strangers(assembly, at)
        if strangers:
            wrong = f"the kernel took {' and '.join(strangers)}, which may not be used."
    if wrong:
        run("umount", at)
        raise _broken(found, wrong)
    return mount


def _try(found: Found, assembly: Assembly, options: str) -> None:
    """See whether the kernel would mount it for writing, without a byte written, and where nobody can come
    upon it. Raises PersistError and OSError."""
    with _only(found, assembly):
        for _ in range(2):
            with newmount.nowhere(
                "btrfs", _first(assembly), f"rescue=nologreplay,{options}", read_only=True
            ) as at:
                strangers = _strangers(assembly, at)
                enough = btrfs.stands(at)
            if not strangers:
                break
            btrfs.forget(*strangers)
    if strangers:
        raise _broken(found, f"the kernel took {' and '.join(strangers)}, which may not be used.")
    if not enough:
        raise _broken(found, "more disks of it are missing than it can do without.")


def _only_degraded(found: Found, assembly: Assembly, say: Say) -> bool:
    """Whether it needs ``degraded`` although all that it counts are here: the target of a replace is missing,
    which no superblock says."""
    try:
        _try(found, assembly, _SUBVOLUME)
        return False  # it is something else, such as a log that cannot be replayed
    except (PersistError, OSError) as e:
        message = f"Failed to mount {found.node} read-only for a look: {e}"
        say(Note(DEBUG, message, "FAILED", {"PERSIST_DEVICE": found.node}))
    try:
        _try(found, assembly, f"degraded,{_SUBVOLUME}")
    except (PersistError, OSError):
        return False  # whoever called says why it does not mount plainly
    return True


def _check_ours(found: Found, assembly: Assembly) -> None:
    """Raise PersistError where it is a btrfs of somebody else. A mount of a subvolume that is not there
    writes to the filesystem before it fails."""
    if foreign.is_bound(found):
        return
    with _only(found, assembly):
        strange = foreign.explain(found, _first(assembly), assembly.degraded)
    if strange is not None:
        raise strange


def mount_assembly(
    found: Found, assembly: Assembly, say: Say, *, read_only: bool = False, at: str = VOLUME
) -> Mount:
    """Mount those members of the volume that may be used: plainly where all are here, else degraded, after a
    new mark on each of them.

    ``read_only`` writes nothing at all, neither a mark nor the log of what was synced last. Raises
    PersistError (VOLUME_BROKEN, or VOLUME_AMBIGUOUS where no member may be used); the volume is then left as
    it is, and nothing is mounted.
    """
    try:
        return _mount_assembly(found, assembly, say, read_only, at)
    except PersistError:
        if mountinfo.at(at) is not None:
            run(
                "umount",
                at,
                # what failed came after mount(8): it is not known to be whole, and would lie below what takes
                # the volume's place
            )
        raise


def _mount_assembly(found: Found, assembly: Assembly, say: Say, read_only: bool, at: str) -> Mount:
    if not assembly.use:
        odd = assembly.odd[0]
        raise PersistError(
            odd.message,
            hint=odd.hint,
            message_id=odd.message_id,
            PERSIST_DEVICE=" ".join(odd.nodes),
            PERSIST_REASON=odd.code,
        )
    options = f"ro,rescue=nologreplay,{OPTIONS}" if read_only else OPTIONS
    try:
        os.makedirs(at, 0o755, exist_ok=True)
        _check_ours(found, assembly)
        if not assembly.degraded:
            if not read_only:
                _begin(found, assembly, say)
            try:
                _mount(found, assembly, options, at)
                return _check(found, assembly, at)
            except CommandError as e:
                if not _only_degraded(found, assembly, say):
                    raise
                say(_no_target(found, assembly, e))
        elif not read_only:
            try:
                _try(found, assembly, f"degraded,{_SUBVOLUME}")
            except (PersistError, OSError):
                together = torn.mend(assembly)
                if together is None:
                    raise
                return _mount_assembly(found, together, say, read_only, at)
        _degraded(found, assembly, f"degraded,{options}", at, mark=not read_only)
        return _check(found, assembly, at)
    except CommandError as e:
        raise foreign.explain(found, _first(assembly), assembly.degraded) or _broken(found, e.message) from e
    except OSError as e:
        raise _broken(found, f"{e}.") from e


def _next_mark(
    found: Found, assembly: Assembly, *, whole: bool
) -> tuple[list[str], degraded_mark.DegradedMark]:
    """A new mark for those that are used, and the order in which it is written."""
    order = assemble.newest_first(assembly.use)
    newest = order[0].superblock
    return [m.node for m in order], degraded_mark.following(
        found.uuid, assembly.head, newest.generation, newest.log_root, whole=whole
    )


def _no_target(found: Found, assembly: Assembly, error: CommandError) -> Note:
    return Note(
        NOTICE,
        f"The state volume on {found.node} mounts only as degraded: the disk that it was being copied to is "
        f"missing. {error.message}",
        "MEMBER_MISSING",
        {
            "PERSIST_DEVICE": " ".join(assembly.nodes),
            "PERSIST_UUID": found.uuid,
            "PERSIST_REASON": oddity.REPLACING,
        },
    )


def _begin(found: Found, assembly: Assembly, say: Say) -> None:
    """A stretch of history of its own for this boot of a whole volume: a copy of a member that is used
    elsewhere then shows that it is one.

    A cut between two members does no harm, nor does a mount that fails: nothing was written under the new
    mark.
    """
    if len(assembly.use) < 2:
        return
    try:
        degraded_mark.begin(*_next_mark(found, assembly, whole=True))
    except OSError as e:
        message = f"Failed to mark the members of the state volume on {found.node} for this boot: {e}"
        say(Note(NOTICE, message, "FAILED", {"PERSIST_DEVICE": found.node}))


def _degraded(found: Found, assembly: Assembly, options: str, at: str, *, mark: bool) -> None:
    """Mark the members and mount them. Where nothing was mounted their marks are written back: none of the
    others has missed anything.

    Where the kernel took a member that may not be used, and it was mounted for a moment, only the marks tell
    that member from the others.
    """
    before = {n: superblock.read_at(n, degraded_mark.OFFSET, degraded_mark.LENGTH) for n in assembly.nodes}
    try:
        if mark:
            degraded_mark.write(*_next_mark(found, assembly, whole=False))
        _mount(found, assembly, options, at)
    except (CommandError, OSError):
        degraded_mark.restore(before)
        raise
