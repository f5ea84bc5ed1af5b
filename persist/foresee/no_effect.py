# SPDX-License-Identifier: LGPL-2.1-or-later
"""What stands in the files and does nothing: somebody wrote it and expects something of it."""

from __future__ import annotations

from collections.abc import Iterator

from persist.boot.ini import NOTICE, Problem
from persist.boot.load import Loaded
from persist.boot.paths import above
from persist.boot.rare.near import did_you_mean
from persist.foresee.image import Image


def settings(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """Settings of persist.conf that need another one."""
    config = loaded.config
    # None: what was said was wrong, and is told.
    if config.device and not any(spec.startswith("/") for spec in config.device):
        for key, says, yes in (
            ("Format", "blank", config.format_blank),
            ("Ephemeral", "yes", config.ephemeral),
        ):
            if yes:
                yield Problem(
                    NOTICE,
                    config.where(key),
                    f"{key}={says} in persist.conf has no effect: "
                    "it applies to disks that Device= names by their paths, and there is none.",
                )
    options = [word for word in config.options.split(",") if word not in ("", "_netdev")]
    if options and config.device == ["auto"]:
        yield Problem(
            NOTICE,
            config.where("Options"),
            f"Options={','.join(options)} in persist.conf has no effect with Device=auto, "
            "which takes only volumes that persist made (btrfs). Name the device in Device=.",
        )


def taken_out(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """Method=none for paths that nothing declares, or that are kept all the same."""
    registry, aliases = loaded.registry, loaded.facts.aliases
    others: dict[str, list[str]] = {}
    for entry in [*registry.entries, *[ignored for ignored, _ in registry.ignored]]:
        if entry.method != "none":
            others.setdefault(aliases.get(entry.path, entry.path), []).append(entry.method)
    refused = {problem.path for problem in registry.refused}
    methods = {p.path: p.entry.method for p in loaded.plan.entries}
    for entry in registry.entries:
        real = aliases.get(entry.path, entry.path)
        if entry.method != "none" or entry.path in refused or {"image", "tmpfs"} & set(others.get(real, ())):
            continue  # where a hole, or memory, is taken out, what is above shall keep the path
        over = above(real, methods)
        if methods.get(over) in ("overlay", "bind", "symlink"):
            use = "" if methods[over] == "symlink" else " Use Method=image to leave it to the image."
            yield Problem(
                NOTICE,
                entry.source,
                f"Method=none has no effect: {over} above {entry.path} keeps it.{use}",
                entry.path,
            )
        elif real not in others:
            yield Problem(
                NOTICE,
                entry.source,
                "Method=none has no effect: nothing else declares "
                f"{entry.path}.{did_you_mean(entry.path, others)}",
                entry.path,
            )


def entries(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """Keys and sections of registry files that do nothing, now or as they stand."""
    for entry in loaded.registry.entries:
        if entry.required == "service" and not entry.services:
            yield Problem(
                NOTICE,
                entry.where("Required"),
                "Required=service has no effect, because Services= names no unit. Name those that must not "
                f"start without {entry.path}.",
                entry.path,
            )
        if not entry.snapshot and (entry.type == "file" or entry.method in ("image", "tmpfs")):
            yield Problem(
                NOTICE,
                entry.where("Snapshot"),
                "Snapshot=no has no effect: it is for directories that the state volume keeps.",
                entry.path,
            )
    for section in loaded.registry.others:
        if section.name == "Identity":
            continue  # read by persistctl seal
        yield Problem(
            NOTICE,
            f"{section.file}:{section.line}",
            f"[{section.name}] has no effect in this version; its keys are only checked.",
        )
