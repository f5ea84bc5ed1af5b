# SPDX-License-Identifier: LGPL-2.1-or-later
"""The root directories of the containers: Debian with the packages of `make deb`, cached as images are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.vm import cache, chroot, image, recipe
from tests.vm.progress import step

KEEP = 4
# Nothing here boots a kernel: two thirds of the base.
SETUP = "rm -rf /boot/* /usr/lib/modules/*; mkdir -p /mnt/state"
# None of the hardware that these are for is here, and what they would do is for the whole machine.
FILES = {
    f"{recipe.UNITS}/persist-test-hostkeys.service": recipe.HOSTKEYS_UNIT,
    "etc/initramfs-tools/update-initramfs.conf": "update_initramfs=no\n",
}
LINKS = {
    f"{recipe.UNITS}/ssh.service.wants/persist-test-hostkeys.service": "../persist-test-hostkeys.service"
}


def build(suite: str, debs: Sequence[Path]) -> Path:
    """The tree of a release with DEBS installed, from the cache or made now; nobody may write to it."""
    request = image.Request(suite)
    debs = image.fitting(debs, request.initrd)
    key = cache.digest(
        ["tree-1", request.base_key(), SETUP, repr(FILES), repr(LINKS), *map(cache.file_digest, debs)]
    )

    def make(target: Path) -> None:
        tree = target / "tree"
        with step(f"tree {suite}: unpack, install {len(debs)} package(s)"):
            image.unpack_base(request, tree)
            write(tree, FILES)
            for name, link in LINKS.items():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                (tree / name).symlink_to(link)
            image.install(tree, debs)
            chroot.run(tree, SETUP)
            write(tree, {"etc/fstab": "", "etc/machine-id": ""})

    return cache.obtain(f"tree-{suite}", key, make, KEEP) / "tree"


def write(top: Path, files: Mapping[str, str]) -> None:
    """Write files below TOP: executable when they begin with "#!", a link when with "-> "."""
    for name, text in files.items():
        path = top / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(text[3:])
            continue
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if text.startswith("#!") else 0o644)
