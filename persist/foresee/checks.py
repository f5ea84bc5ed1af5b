# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``persistctl verify`` can know before a boot: for each reason that a verdict can have, the check that
foresees it.

A machine is verified to be sent away. Whatever its first verdict would say, and text and files alone tell,
has to be said before. tests/unit/test_foresee.py holds the table against all reasons that the code can give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from persist.boot import paths
from persist.boot.ini import ERROR, NOTICE, WARNING, Problem
from persist.boot.load import Loaded
from persist.foresee import entries, migrations, no_effect, others_mounts, privileges, unit_directories
from persist.foresee.image import Image
from persist.foresee.overlay_limits import below_overlays
from persist.foresee.switch import why_off
from persist.foresee.waits import (
    lines_that_stop_the_boot,
    named_like_files,
    opened_with_what_it_keeps,
    units_that_do_not_wait,
)
from persist.verdict.not_before_pid1 import missing

Check = Callable[[Loaded, Image], Iterable[Problem]]


def _registry(loaded: Loaded, image: Image) -> Iterator[Problem]:
    yield from loaded.problems


def _switch(loaded: Loaded, image: Image) -> Iterator[Problem]:
    # Asked anew: the registry is judged as if it were on, and Loaded's facts.enabled says so.
    why, remedy = why_off(image)
    if why:
        yield Problem(WARNING, "", f"{why}, so no entry takes effect. {remedy}")


def _before_pid1(loaded: Loaded, image: Image) -> Iterator[Problem]:
    lacking = missing(loaded, image.has)
    if lacking:
        yield Problem(ERROR, "", lacking)
    for planned in loaded.plan.entries:
        mounted = paths.above(planned.path, loaded.plan.fstab)
        if planned.before_pid1 and mounted and mounted != "/usr":
            yield Problem(
                WARNING,
                planned.entry.source,
                f"{planned.path} has to be mounted before PID 1 starts, but {loaded.plan.fstab[mounted]} "
                f"mounts {mounted} above it, which only an initrd could do before: it will not be kept.",
                planned.path,
            )


def _volume(loaded: Loaded, image: Image) -> Iterator[Problem]:
    config = loaded.config
    if config.netdev and not loaded.plan.entries:
        yield Problem(
            ERROR,
            config.where("Options"),
            "The state volume is on the network (_netdev), but no entry waits for it. "
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
    "not-before-pid1": _before_pid1,
    "entry-failed": entries.check,
    "no-entries": _volume,
    "elsewhere": others_mounts.check,
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
            "hides",
            "gpt",
            "method",
            "snapshot",
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
            "migration-failed",
            "migration-held",
            "migration-waiting",
            "seal-begun",
            "seal-refused",
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
    unit_directories.check,
    migrations.check,
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
        *entries.check(loaded, image),
        *named_like_files(loaded, image),
        *unit_directories.check(loaded, image),
        *migrations.check(loaded, image),
        *privileges.without_effect(loaded, image),
        *no_effect.entries(loaded, image),
    ]
