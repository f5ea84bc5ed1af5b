# SPDX-License-Identifier: LGPL-2.1-or-later
"""May this disk be formatted? Looks only. Whatever is not plainly ours to take is refused with a code, a
sentence and a remedy."""

from __future__ import annotations

import fcntl
import json
import os

from persist.boot.config import Config
from persist.errors import CommandError, Refusal
from persist.system import blockdev, uuids
from persist.system.blockdev import Disk
from persist.system.run import run
from persist.volume.find import trust
from persist.volume.format import blank, not_whole_disk
from persist.volume.ondisk import binding, header, partition_table
from persist.volume.ondisk.header import Claim, FormatMark
from persist.volume.ondisk.partition_table import DATA_NAME, MIB, SWAP_NAME

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Any, Literal

    Progress = Literal["blank", "fresh", "begun", "ready", "joined", "complete"]
else:
    Progress = str

UNFINISHED = "persist-unfinished"  # label of our filesystem until all is in it
_TABLES = frozenset(("gpt", "PMBR", "dos"))  # what wipefs(8) calls a GPT, whole or torn
_GPT_BLOCKS = 33  # header and 128 entries at either end, in blocks of 512 bytes; fewer in larger ones
_BLKFLSBUF = 0x1261  # linux/fs.h


def read_claim(disk: Disk, words: list[str]) -> Claim | None:
    """The claim on a disk, or None where there is none. Raises Refusal (a header that cannot be understood)
    and OSError."""
    fd = os.open(disk.node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return header.parse(os.pread(fd, header.LENGTH, 0), words)
    finally:
        os.close(fd)


def check_usable(disk: Disk, config: Config) -> None:
    """Raise Refusal unless this is a whole, writable, large enough disk that nothing uses."""
    if disk.is_partition:
        raise not_whole_disk.refusal(disk, config)
    if disk.mib < partition_table.MIN_DISK:
        raise Refusal(
            "too-small",
            f"{disk.node} has {disk.mib} MiB, at least {partition_table.MIN_DISK} MiB are needed.",
            hint="Use a larger disk.",
        )
    if disk.read_only:
        raise Refusal("read-only", f"{disk.node} is read-only.", hint="Remove its write protection.")
    used = blockdev.why_in_use(disk)
    if used:
        code, sentence = used
        raise Refusal(
            code,
            sentence,
            hint="A disk in use is never formatted. Take it out of use first, or claim another one.",
        )


def check_serial(disk: Disk, claim: Claim) -> None:
    """Raise Refusal where the claim is bound to another disk: it was copied along with an image."""
    wanted, found = claim.options.serial, binding.disk_serial(disk)
    if wanted and wanted != found:
        raise Refusal(
            "wrong-serial",
            f"Its header is for the disk with the serial number '{wanted}', this one has '{found}'.",
            hint="Claim this disk itself with 'persistctl claim'.",
        )


def check_trust(disk: Disk, config: Config) -> None:
    """Raise Refusal unless the configuration lets this disk become the volume: by name, or by a trusted
    bus."""
    number = os.stat(disk.node).st_rdev
    parts = [os.stat(p.node).st_rdev for p in blockdev.partitions(disk)]
    if trust.names_node(config, number, *parts):
        return
    # A volume that finding would not take must not be made.
    if not {"auto", f"LABEL={DATA_NAME}", f"PARTLABEL={DATA_NAME}"} & set(config.device):
        raise Refusal(
            "not-named",
            f"{disk.node} is not among Device={' '.join(config.device)}.",
            hint="Add it, or 'auto', to Device= in persist.conf.",
        )
    why = trust.why_untrusted(disk.sys_path, blockdev.attribute)
    if why and not config.allow_removable:
        raise Refusal(
            "untrusted",
            f"{disk.node} is {why}, which is not trusted unasked.",
            hint=f"Name it in /usr/lib/persist/persist.conf: Device=auto {disk.node} (or better a link below "
            "/dev/disk/by-id).",
        )


def blank_by_name(config: Config) -> list[Disk]:
    """The disk that Format=blank may take: the first path in Device= that leads to a whole disk; what is on
    it is looked at under its lock."""
    for spec in config.device if config.format_blank else []:
        if spec.startswith("/") and os.path.exists(spec):
            disk = blockdev.by_node(spec)
            if not disk.is_partition and disk.size:
                return [disk]
    return []


def blank_is_here(config: Config) -> bool:
    """Whether the disk that Format=blank would take is what Device= names first, and is blank: then nothing
    better can come."""
    found = blank_by_name(config)
    if (
        not found
        or not config.device[0].startswith("/")
        or blockdev.number_of(config.device[0]) != found[0].device
    ):
        return False
    try:
        check(found[0], None, config)
    except Refusal:
        return False  # said when it is to be formatted
    return True


def read_table(disk: Disk) -> dict[str, Any] | None:
    """The partition table as sfdisk(8) reads it, None where it finds none. Raises CommandError where sfdisk
    is missing."""
    try:
        table = json.loads(run("sfdisk", "--json", disk.node)).get("partitiontable")
    except CommandError as e:
        if e.returncode in (126, 127):
            raise
        return None
    return table if isinstance(table, dict) else None


def judge_table(table: dict[str, Any] | None, mark: FormatMark, node: str) -> bool:
    """Whether a table is the one that we write, whole; False for none or a torn one. Pure. Raises Refusal for
    a stranger's.

    Ours: the disk id of the mark, and of each partition the type, the name and the id. Torn: only the
    protective MBR is there.
    """
    if table is None:
        return False
    found = table.get("partitions", [])
    if table.get("label") == "dos" and [p.get("type") for p in found] == ["ee"]:
        return False
    foreign = Refusal(
        "foreign-table",
        f"{node} was being formatted by persist, but has another partition table now.",
        hint=blank.ERASE,
    )
    if table.get("label") != "gpt" or not _same(table.get("id"), mark.disk_id):
        raise foreign
    wanted = partition_table.parts(mark, partition_table.MIN_DISK + mark.swap)  # sizes do not count here
    for part in found:
        ours = [w for w in wanted if w.name == part.get("name")]
        if (
            not ours
            or not _same(part.get("uuid"), ours[0].id)
            or str(part.get("type")).upper() != ours[0].type
        ):
            raise foreign
    return len(found) == len(wanted)


def _same(text: Any, wanted: str) -> bool:
    return str(text).lower() == wanted


def flush(disk: Disk) -> None:
    """Forget what the kernel has cached of a whole disk: that is not what was written through its partitions,
    as long as anybody has one open, nor through another name of the same disk. Raises OSError."""
    fd = os.open(disk.node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _BLKFLSBUF)
    finally:
        os.close(fd)


def check_begun(disk: Disk, mark: FormatMark) -> Progress:
    """Raise Refusal unless a disk that carries our mark holds nothing but what formatting wrote; return how
    far it came.

    complete: the volume of the mark, with its label.
    For a disk that joins, ready: all that is done before it is a member, joined: it is one.
    """
    flush(disk)
    block = int(blockdev.attribute(disk.sys_path, "queue/logical_block_size") or "512")
    table = (1 + _GPT_BLOCKS) * block
    blank.check_zero(disk, (table, MIB - table), (disk.size - MIB, MIB - _GPT_BLOCKS * block))
    whole = judge_table(read_table(disk), mark, disk.node)
    strange = [t for t in blockdev.signatures(disk.node) if t not in _TABLES]
    kinds: dict[str, str] = {}
    for part in partition_table.parts(mark, disk.mib):
        found = blank.probe_part(disk, part)
        kind, label = blank.kind_of(found), found.get("LABEL", "")
        kinds[part.name] = kind
        if kind and (kind, label) not in (("swap", SWAP_NAME), ("btrfs", UNFINISHED), ("btrfs", DATA_NAME)):
            strange.append(kind)
        if part.name == DATA_NAME and (kind, label) == ("btrfs", DATA_NAME):
            if mark.volume and found.get("UUID", "").lower() != mark.volume:
                strange.append("another volume")
            elif not strange:
                if not whole:
                    # It may have been in use since; a table that cannot be read now is no reason to begin
                    # again.
                    raise Refusal(
                        "table-damaged",
                        f"{disk.node} is a state volume already, and its partition table is damaged or "
                        "cannot be read.",
                        hint=f"Its data is whole: save it, or restore the table. {blank.ERASE}",
                    )
                return "joined" if mark.join else "complete"
    if strange:
        raise Refusal(
            "signature",
            f"{disk.node} was being formatted by persist, but carries {', '.join(strange)} now.",
            hint=blank.ERASE,
        )
    if mark.join and whole and not kinds[DATA_NAME] and kinds.get(SWAP_NAME, SWAP_NAME):
        return "ready"
    return "begun"


def new_mark(disk: Disk, config: Config, count: int = 1) -> FormatMark:
    """What formatting this disk now would begin with, as one of ``count``. Raises Refusal where SwapSize=
    does not fit."""
    return FormatMark(
        uuids.new(),
        partition_table.swap_size(disk.mib, partition_table.memory_mib() // count, config.swap_size),
        uuids.new(),
        count=count,
    )


def check(disk: Disk, claim: Claim | None, config: Config, count: int = 1) -> tuple[Progress, FormatMark]:
    """Raise Refusal unless this claimed disk may be formatted, or go on being formatted; without a claim it
    must be blank from its first byte.

    Returns how far formatting came and the mark, a new one for a fresh disk of ``count``. Whoever acts on it
    holds the disk's lock. Raises CommandError where a tool is missing.
    """
    try:
        check_trust(disk, config)
        if claim is not None:
            check_serial(disk, claim)
        if claim is not None and claim.mark is not None and not disk.is_partition:
            if claim.mark.join and is_member(disk, claim.mark):
                return "joined", claim.mark
            progress = check_begun(disk, claim.mark)
            if progress in ("complete", "joined") and not disk.read_only:
                # A cut before the claim was erased: the initrd may have mounted the volume by now, and
                # erasing is all that is left.
                return progress, claim.mark
            check_usable(disk, config)
            return progress, claim.mark
        check_usable(disk, config)
        mark = new_mark(disk, config, count)
        blank.check_blank(disk, mark, skip=0 if claim is None else header.LENGTH)
    except Refusal as e:
        e.fields.setdefault("PERSIST_DEVICE", disk.node)
        raise
    return "blank" if claim is None else "fresh", mark


def is_member(disk: Disk, mark: FormatMark) -> bool:
    """Whether the kernel uses a partition of a disk in the mounted volume of its mark: being made a member,
    or one already."""
    try:
        used = os.listdir(f"/sys/fs/btrfs/{mark.volume}/devices")
    except FileNotFoundError:
        return False  # that volume is not mounted
    return any(os.path.basename(p.sys_path) in used for p in blockdev.partitions(disk))
