# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``persistctl verify`` can know before a boot: for each reason that a verdict can have, the check that
foresees it.

A machine is verified to be sent away. Whatever its first verdict would say, and text and files alone tell,
has to be said before. tests/unit/test_foresee.py holds the table against all reasons that the code can give.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator

from persist.boot import paths
from persist.boot.facts import UNIT_DIRECTORIES, above
from persist.boot.ini import ERROR, NOTICE, WARNING, Problem, words
from persist.boot.load import Loaded
from persist.boot.plan import Planned
from persist.foresee import no_effect, privileges
from persist.foresee.image import Image
from persist.foresee.made_units import is_made
from persist.foresee.overlay_limits import below_overlays
from persist.foresee.switch import why_off
from persist.foresee.waits import (
    lines_that_stop_the_boot,
    named_like_files,
    opened_with_what_it_keeps,
    units_that_do_not_wait,
)
from persist.system.mountinfo import MEMORY
from persist.verdict.judge import initrd_stage_missing, stale_early

Check = Callable[[Loaded, Image], Iterable[Problem]]


def _registry(loaded: Loaded, image: Image) -> Iterator[Problem]:
    yield from loaded.problems


def _switch(loaded: Loaded, image: Image) -> Iterator[Problem]:
    # Asked anew: the registry is judged as if it were on, and Loaded's facts.enabled says so.
    why, remedy = why_off(image)
    if why:
        yield Problem(WARNING, "", f"{why}, so nothing of this takes effect. {remedy}")


def _initrd(loaded: Loaded, image: Image) -> Iterator[Problem]:
    missing = initrd_stage_missing(loaded, loaded.facts)
    if missing:
        yield Problem(ERROR, "", missing)
    if not image.root:
        for name in stale_early(loaded):
            yield Problem(
                WARNING,
                "",
                f"The initrd mounts {name} early and the registry does not ask for it. Run 'update-initramfs "
                "-u'.",
            )


def _kept_above(planned: Planned, loaded: Loaded) -> bool:
    """Whether a path that the image has not can be made on the volume, through an entry above it."""
    by_path = {p.path: p for p in loaded.plan.entries}
    return planned.parent != "" and by_path[planned.parent].entry.method in ("overlay", "bind")


def _shown(planned: Planned) -> str:
    entry = planned.entry
    return entry.path if planned.path == entry.path else f"{entry.path} ({planned.path})"


def _place(planned: Planned, loaded: Loaded, image: Image) -> tuple[int, str]:
    """What the image has at an entry's path that does not fit it: level and sentence, '' for nothing."""
    entry, path = planned.entry, planned.path
    if above(path, loaded.plan.fstab):
        return 0, ""  # another filesystem shows it, which is not here
    kind = image.kind(path)
    shown = _shown(planned)
    if entry.method == "symlink":
        if kind == "symbolic link":
            return _link(planned, loaded, image)
        if kind:
            return _no_link(
                f"{shown} is a {kind}",
                f"Move the {kind} away first, and make the link: {_ln(path, image)}.",
                image,
            )
    wanted = "directory" if entry.method == "overlay" else entry.type
    if (
        kind
        and entry.method in ("overlay", "bind")
        and (kind not in ("directory", "file") or wanted not in ("", kind))
    ):
        hint = (
            "Use Method=bind."
            if entry.method == "overlay" and kind == "file"
            else "Correct Type=, or register what the link leads to."
            if kind == "symbolic link"
            else "Correct Type=, or the image."
        )
        return (
            ERROR,
            f"{shown} is a {kind} in the image and the entry needs a {wanted or 'directory or file'}. {hint}",
        )
    if (
        not kind
        and entry.method in ("overlay", "bind", "tmpfs", "symlink")
        and not _kept_above(planned, loaded)
    ):
        put = (
            f"the link into the image: {_ln(path, image)}."
            if entry.method == "symlink"
            else "it into the image."
        )
        if image.root_read_only():
            return (
                WARNING,
                f"{shown} does not exist in the image, and its root is read-only (/etc/fstab), so it cannot "
                f"be made. Put {put}",
            )
        return (
            NOTICE,
            f"{shown} does not exist in the image, and where the root is read-only it cannot be made. Put "
            f"{put}",
        )
    return 0, ""


def _ln(path: str, image: Image) -> str:
    """The command that makes the link of a symlink entry; -T, for in a directory that is there it would make
    a link of another name."""
    return f"'ln -sT {shlex.quote(paths.VOLUME + path)} {image.at(path)}'"


def _no_link(what: str, remedy: str, image: Image) -> tuple[int, str]:
    """Something that a symlink entry finds in place of its link: what can be written becomes the link by
    itself."""
    if image.root_read_only():
        return (
            WARNING,
            f"{what} and not a link to the volume, and its root is read-only (/etc/fstab), so it cannot "
            f"become one. {remedy}",
        )
    return (
        NOTICE,
        f"{what} and not a link to the volume: it becomes one at the first boot, but not where the root is "
        f"read-only. {remedy}",
    )


def _link(planned: Planned, loaded: Loaded, image: Image) -> tuple[int, str]:
    target = image.target(planned.path)
    if target in (paths.VOLUME + planned.path, loaded.config.mount + planned.path):
        return 0, ""
    return ERROR, (
        f"{_shown(planned)} is a link to {target!r} and not to {paths.VOLUME}{planned.path}. "
        f"Put the right link into the image: 'ln -sfn {shlex.quote(paths.VOLUME + planned.path)} "
        f"{image.at(planned.path)}'."
    )


def _entries(loaded: Loaded, image: Image) -> Iterator[Problem]:
    for planned in loaded.plan.entries:
        entry = planned.entry
        level, sentence = _place(planned, loaded, image)
        if sentence:
            yield Problem(level, entry.source, sentence, entry.path)
        for kind, name in (("user", entry.user), ("group", entry.group)):
            if name and not (name.isascii() and name.isdigit()) and not image.has_account(kind, name):
                yield Problem(
                    ERROR,
                    entry.where(kind.capitalize()),
                    f"{kind.capitalize()}={name}: neither "
                    f"{'/etc/passwd' if kind == 'user' else '/etc/group'} "
                    f"nor sysusers.d of the image knows that {kind}, so {entry.path} cannot be seeded. "
                    "Correct it, or ship a sysusers.d file.",
                    entry.path,
                )
        given = entry.seed_from
        if (
            given
            and entry.method in ("overlay", "bind", "symlink")
            and not image.has(given)
            and not above(given + "/", loaded.plan.fstab)
            and image.empty(planned.path)
        ):
            there = "is empty there" if image.kind(planned.path) else "is not there, too"
            yield Problem(
                WARNING,
                entry.where("SeedFrom"),
                f"SeedFrom={given} does not exist in the image, and {entry.path} {there}: it begins empty. "
                "Correct SeedFrom=, or ship what it names.",
                entry.path,
            )
        for unit in entry.services:
            if not image.has_unit(unit, UNIT_DIRECTORIES) and not is_made(unit, loaded, image):
                yield Problem(
                    WARNING,
                    entry.where("Services", unit),
                    f"Services={unit}: the image has no such unit. Correct it, or take it out.",
                    entry.path,
                )


def _mounted_by(loaded: Loaded, image: Image, path: str) -> tuple[str, list[str]]:
    """Type and options of what fstab, or a unit that is shipped, mounts on a path; '' and none where neither
    says."""
    file, _, wanted = loaded.facts.fstab.get(path, "").rpartition(":")
    if file:
        line = next((text for number, text in image.lines(file) if str(number) == wanted), "")
        fields = words(line)
        return (fields[2] if len(fields) > 2 else ""), (fields[3].split(",") if len(fields) > 3 else [])
    unit = loaded.facts.shipped.get(f"{paths.escape(path)}.mount", "")
    says = dict(text.split("=", 1) for _, text in image.lines(unit) if "=" in text) if unit else {}
    return says.get("Type", ""), says.get("Options", "").split(",")


def _elsewhere(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """Paths that somebody else mounts in a way that does not keep them: the verdict will believe what is
    mounted."""
    for out in loaded.plan.outside:
        if out.state != "elsewhere" or out.entry.method in ("tmpfs", "image"):
            continue
        fstype, options = _mounted_by(loaded, image, out.real)
        how = (
            f"a {fstype}, which forgets at power-off"
            if fstype in MEMORY
            else "it read-only"
            if "ro" in options
            else "it only when it is asked to (noauto)"
            if "noauto" in options
            else ""
        )
        if how:
            yield Problem(
                WARNING,
                out.entry.source,
                f"{out.entry.path} is not kept: {out.why.removesuffix(' it')} {how}. Take that mount away, "
                "or the path "
                "out with Method=none in a file that sorts first.",
                out.entry.path,
            )


def _volume(loaded: Loaded, image: Image) -> Iterator[Problem]:
    config = loaded.config
    if config.netdev and not loaded.plan.entries:
        yield Problem(
            ERROR,
            config.where("Options"),
            "The state volume comes with the network (_netdev), and no entry waits for it. "
            "Name the services of an entry in Services=.",
        )
    if config.mount != paths.VOLUME and image.kind_behind(config.mount) != "directory":
        yield Problem(
            NOTICE,
            config.where("Mount"),
            f"The image has no directory {config.mount}: where its root is read-only, the volume is only at "
            f"{paths.VOLUME}.",
        )


# Reasons of the verdict, and the check that foresees each of them where anything can.
FORESEEN: dict[str, Check] = {
    "off": _switch,
    "registry": _registry,
    "bad-device": _registry,
    "late": _initrd,
    "entry-failed": _entries,
    "no-entries": _volume,
    "elsewhere": _elsewhere,
}
_DISKS = "which disks are attached, and what is on them, is seen when the machine boots"
_WORDS = "it is on the kernel command line of that boot"
_RUNS = "it happens, or is found, while the machine runs"
_ROOT = "what the root filesystem is mounted from is seen when the machine boots"
# The other reasons, and why nothing before a boot can tell.
NOT_BEFORE: dict[str, str] = {
    **dict.fromkeys(
        (
            "missing",
            "no-volume",
            "closed",
            "not-a-volume",
            "unreadable",
            "untrusted",
            "duplicate-label",
            "cloned-disk",
            "other-volume",
            "known-volume-missing",
            "broken",
            "strange-store",
            "no-member",
            "member-missing",
            "member-stale",
            "member-split",
            "member-undecided",
            "replace-unfinished",
            "initrd-disagrees",
            "hides",
            "gpt",
            "method",
        ),
        _DISKS,
    ),
    **dict.fromkeys(("volatile", "read-only", "not-a-uuid"), _WORDS),
    **dict.fromkeys(("root-in-memory", "volume-in-memory"), _ROOT),
    **dict.fromkeys(
        (
            "failed",
            "verify-failed",
            "volume-gone",
            "volume-service",
            "volume-json",
            "volume-options",
            "volume-read-only",
            "still-mounted",
            "member-lost",
            "healing",
            "heal-failed",
            "health-unknown",
            "device-errors",
            "space-low",
            "metadata-low",
            "reserve-used",
        ),
        _RUNS,
    ),
}
_MORE: tuple[Check, ...] = (
    # What no verdict sees: it fails in the hands of others, or waits for them.
    below_overlays,
    opened_with_what_it_keeps,
    named_like_files,
    lines_that_stop_the_boot,
    units_that_do_not_wait,
    # What nobody sees: it does nothing.
    privileges.without_effect,
    no_effect.settings,
    no_effect.taken_out,
    no_effect.entries,
)


def foresee(loaded: Loaded, image: Image) -> list[Problem]:
    """Everything that is wrong with a machine and can be known before it boots, in the order of the table."""
    found: list[Problem] = []
    for check in (*dict.fromkeys(FORESEEN.values()), *_MORE):
        found += check(loaded, image)
    return found


def judge_files(loaded: Loaded, image: Image) -> list[Problem]:
    """What is wrong with registry files by themselves, judged against an image: for packages, which know
    nothing of its switches and disks."""
    return [
        *_registry(loaded, image),
        *_entries(loaded, image),
        *named_like_files(loaded, image),
        *privileges.without_effect(loaded, image),
        *no_effect.entries(loaded, image),
    ]
