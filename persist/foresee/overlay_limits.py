# SPDX-License-Identifier: LGPL-2.1-or-later
"""What does not work on an overlay filesystem, found in an image before it boots (persist.d(5), "What an
overlay cannot do").

Kernel, Documentation/filesystems/overlayfs.rst: "Non-standard behavior"; swapon(2) wants a file that the
block layer can read, exportfs a file handle that overlayfs has only with nfs_export=on, and an overlay's
upper must not lie on another overlay.
"""

from __future__ import annotations

from collections.abc import Iterator

from persist.boot.fstab import unescaped
from persist.boot.ini import WARNING, Problem, words
from persist.boot.load import Loaded
from persist.boot.paths import parents
from persist.boot.plan import Planned
from persist.foresee.image import Image

# The stores of container engines, a program of each, and the preset that keeps it in a way that works: its
# storage driver refuses an overlay below it, or falls back to copying all.
STORES = (
    ("/var/lib/docker", "/usr/bin/dockerd", "docker"),
    ("/var/lib/docker", "/usr/sbin/dockerd", "docker"),
    ("/var/lib/containerd", "/usr/bin/containerd", "containers"),
    ("/var/lib/containers", "/usr/bin/podman", "containers"),
    ("/var/lib/containers", "/usr/bin/buildah", "containers"),
    ("/var/lib/containers", "/usr/bin/crio", "containers"),
    ("/var/lib/rancher", "/usr/local/bin/k3s", ""),
)


def _overlay_above(path: str, entries: dict[str, Planned]) -> Planned | None:
    """The overlay entry that would show a path, or None where another kind of entry, or none, does."""
    for at in (path, *parents(path)):
        if at in entries:
            return entries[at] if entries[at].entry.method == "overlay" else None
    return None


def _swap(image: Image) -> Iterator[tuple[str, str, str]]:
    for number, line in image.lines("/etc/fstab"):
        fields = words(line)
        if (
            len(fields) > 2
            and fields[0].startswith("/")
            and not fields[0].startswith("/dev/")
            and fields[2] == "swap"
        ):
            path = unescaped(fields[0].encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
            yield f"/etc/fstab:{number}", path, "swap space cannot be switched on there"


def _exports(image: Image) -> Iterator[tuple[str, str, str]]:
    for file in (
        "/etc/exports",
        *(f"/etc/exports.d/{n}" for n in image.names("/etc/exports.d") if n.endswith(".exports")),
    ):
        for number, line in image.lines(file):
            fields = words(line)
            if fields and fields[0].startswith("/"):
                yield f"{file}:{number}", fields[0], "it cannot be exported by NFS there"


def _containers(image: Image) -> Iterator[tuple[str, str, str]]:
    said = set()
    for store, program, _ in STORES:
        if store not in said and image.has(program):
            said.add(store)
            yield program, store, "the storage of containers does not work there"


def missing_presets(loaded: Loaded, image: Image) -> list[tuple[str, str]]:
    """The presets that keep what container engines of the image would else have on an overlay, each with a
    sentence that says why."""
    found = {}
    entries = {p.path: p for p in loaded.plan.entries}
    for store, program, preset in STORES:
        overlay = _overlay_above(store, entries)
        if preset and preset not in found and overlay is not None and image.has(program):
            found[preset] = (
                f"the image has {program}, and {store} does not work on the overlay of {overlay.path}."
            )
    return sorted(found.items())


def below_overlays(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """What others keep below an overlay entry and will not work there, each with the line that asks for
    it."""
    entries = {p.path: p for p in loaded.plan.entries}
    for source in (_swap, _exports, _containers):
        for where, path, why in source(image):
            overlay = _overlay_above(path, entries)
            if overlay is not None:
                preset = next((p for store, _, p in STORES if store == path and p), "")
                remedy = (
                    f"Run 'persistctl preset enable {image.option()}{preset}'."
                    if preset
                    else "Give it an entry of its own with Method=bind."
                )
                yield Problem(
                    WARNING,
                    where,
                    f"{path} would lie on the overlay of {overlay.path} ({overlay.entry.source}), and {why}. "
                    f"{remedy}",
                    path,
                )
