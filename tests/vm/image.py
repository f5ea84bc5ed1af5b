# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bootable Debian images, built in two stages and cached by what goes into them.

python3 -m tests.vm.image --suite bookworm --variant ro --deb build/persist_*.deb --print
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import cache, chroot, recipe, unpacked
from .progress import note, step

VARIANTS = ("ro", "rw")
FREE_MIB = 200
KEEP_BASES = 3
KEEP_IMAGES = 6


@dataclass(frozen=True)
class Image:
    """One built image: what a machine needs to boot it."""

    suite: str
    variant: str
    key: str
    root: Path
    kernel: Path
    initrd: Path


@dataclass(frozen=True)
class Request:
    """What an image is asked to be; equal requests give the same image."""

    suite: str
    debs: tuple[Path, ...] = ()
    variant: str = "ro"
    customize: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    packages: tuple[str, ...] = ()
    initrd: str = "initramfs-tools"

    def base_key(self) -> str:
        """The key of the base stage."""
        return cache.digest(
            [
                "base-1",
                self.suite,
                *recipe.packages(self.suite, self.packages),
                *recipe.ABSENT,
                *recipe.BASE_SETUP,
                json.dumps(recipe.INITRD_CONFIG),
            ]
        )

    def key(self) -> str:
        """The key of the final stage."""
        return cache.digest(
            [
                "image-3",
                self.base_key(),
                self.variant,
                recipe.agent_source(),
                json.dumps(recipe.GUEST_FILES),
                json.dumps(recipe.GUEST_LINKS),
                json.dumps(self.files),
                json.dumps(self.customize),
                str(FREE_MIB),
                recipe.DRACUT if self.initrd == "dracut" else self.initrd,
                *(cache.file_digest(deb) for deb in self.debs),
            ]
        )


def fitting(debs: Iterable[Path], initrd: str) -> list[Path]:
    """Packages without the glue for another tool that makes initrds, and without what is for the host."""
    others = ("persist-image-tools_", *(f"persist-{tool}_" for tool in recipe.INITRDS if tool != initrd))
    return [deb for deb in debs if not deb.name.startswith(others)]


def build(
    suite: str,
    debs: Sequence[Path] = (),
    variant: str = "ro",
    *,
    customize: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
    packages: Sequence[str] = (),
    initrd: str = "initramfs-tools",
) -> Image:
    """Return the image of SUITE with DEBS installed, as far as they fit INITRD, from the cache or built now.

    CUSTOMIZE are shell commands run in the image after the packages; FILES are absolute paths with their
    text, written before the packages (executable when they begin with "#!"); PACKAGES join the base stage.
    """
    if suite not in recipe.SUITES or variant not in VARIANTS or initrd not in recipe.INITRDS:
        raise ValueError(f"no such image: suite {suite!r}, variant {variant!r}, initrd {initrd!r}")
    request = Request(
        suite,
        tuple(sorted(Path(deb).resolve(strict=True) for deb in fitting(debs, initrd))),
        variant,
        tuple(customize),
        tuple(sorted((files or {}).items())),
        tuple(sorted(packages)),
        initrd,
    )
    key = request.key()
    path = cache.obtain(
        f"image-{suite}-{variant}", key, lambda target: _build_image(request, target), KEEP_IMAGES
    )
    return Image(suite, variant, key, path / "root.raw", path / "vmlinux", path / "initrd.img")


def _build_base(request: Request, target: Path) -> None:
    """mmdebstrap, with the mirror it finds by itself."""
    config = target / "config"
    for name, text in recipe.INITRD_CONFIG.items():
        _write(config, name, text)
    setup = " && ".join(recipe.BASE_SETUP)
    with step(f"base {request.suite}: mmdebstrap"):
        chroot.call(
            [
                "mmdebstrap",
                "--mode=root",
                "--variant=minbase",
                "--format=tar",
                "--include=" + ",".join(recipe.packages(request.suite, request.packages)),
                *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.ABSENT),
                f'--essential-hook=cp -r {shlex.quote(str(config))}/. "$1"',
                f'--customize-hook=chroot "$1" /bin/sh -c {shlex.quote(setup)}',
                request.suite,
                str(target / "base.tar"),
            ],
            "mmdebstrap",
            {**os.environ, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"},
        )


def unpack_base(request: Request, tree: Path) -> None:
    """Make TREE, and in it the plain system of a request; BuildError."""
    base = cache.obtain(
        f"base-{request.suite}", request.base_key(), lambda path: _build_base(request, path), KEEP_BASES
    )
    tree.mkdir()
    chroot.call(
        [
            "tar",
            "-xf",
            str(base / "base.tar"),
            "-C",
            str(tree),
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "--exclude=./dev/*",
        ],
        "tar",
    )


def _build_image(request: Request, target: Path) -> None:
    tree = target / "tree"
    name = f"image {request.suite}/{request.variant}"
    with step(f"{name}: unpack"):
        unpack_base(request, tree)
    agent = (recipe.AGENT_PATH, recipe.agent_source())
    for path, text in (*recipe.GUEST_FILES.items(), agent, *request.files):
        _write(tree, path, text)
    for path, link in recipe.GUEST_LINKS.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).symlink_to(link)
    if request.debs or request.customize or request.files:
        _customize(request, tree, name)
    _finish(tree, request.variant)
    with step(f"{name}: filesystem"):
        _make_filesystem(tree, target, request)
    chroot.call(["rm", "-rf", "--one-file-system", str(tree)], "rm")


def _customize(request: Request, tree: Path, name: str) -> None:
    """Packages, then commands, then one new initrd that has seen all of it."""
    conf = tree / "etc/initramfs-tools/update-initramfs.conf"
    before = conf.read_text(encoding="utf-8") if conf.exists() else None
    if before is not None:
        conf.write_text("update_initramfs=no\n", encoding="utf-8")
    if request.debs:
        with step(f"{name}: install {len(request.debs)} package(s)"):
            install(tree, request.debs)
    for command in request.customize:
        with step(f"{name}: {command.splitlines()[0][:80]}"):
            chroot.run(tree, command)
    if before is not None:
        conf.write_text(before, encoding="utf-8")
    with step(f"{name}: initrd"):
        version = _boot_file(tree, "vmlinuz-").name.removeprefix("vmlinuz-")
        if request.initrd == "dracut":
            chroot.run(tree, f"{recipe.DRACUT} /boot/initrd.img-{version} {version}")
        else:
            chroot.run(tree, f"update-initramfs -u -k {version}")


def install(tree: Path, debs: Sequence[Path]) -> None:
    """Install packages in a tree with apt, as a person would; BuildError."""
    inbox = tree / "var/tmp/debs"
    inbox.mkdir()
    for deb in debs:
        (inbox / deb.name).write_bytes(deb.read_bytes())
    chroot.run(tree, "apt-get -qq -y --no-install-recommends install /var/tmp/debs/*.deb")
    chroot.run(tree, "apt-get clean")
    chroot.call(["rm", "-rf", str(inbox)], "rm")


def _finish(tree: Path, variant: str) -> None:
    """What every image has, whatever was installed: fstab, an empty machine-id, no identity. And what the
    first boot would build anew is up to date, such as the linker's cache; in the containers' trees it is
    not."""
    _write(tree, "etc/fstab", f"/dev/vda / ext4 {variant} 0 1\n")
    _write(tree, "etc/machine-id", "")
    for path in (*tree.glob("etc/ssh/ssh_host_*"), tree / "var/lib/dbus/machine-id"):
        path.unlink(missing_ok=True)
    newest = (tree / "usr").stat().st_mtime_ns
    for name in ("etc/.updated", "var/.updated"):
        _write(tree, name, "")
        os.utime(tree / name, ns=(newest, newest))


def _boot_file(tree: Path, prefix: str) -> Path:
    found = sorted((tree / "boot").glob(f"{prefix}*"))
    if len(found) != 1:
        raise chroot.BuildError(f"expected one {prefix}* in the image, found {len(found)}")
    return found[0]


def _make_filesystem(tree: Path, target: Path, request: Request) -> None:
    (target / "vmlinux").write_bytes(unpacked.kernel(tree, _boot_file(tree, "vmlinuz-").name))
    (target / "initrd.img").write_bytes(_boot_file(tree, "initrd.img-").read_bytes())
    used = int(chroot.call(["du", "-s", "--block-size=1M", str(tree)], "du").split()[0])
    root = target / "root.raw"
    # The inode tables and the rest of ext4 itself take some 5 %.
    with root.open("wb") as file:
        file.truncate((used + used // 16 + FREE_MIB) << 20)
    journal = ["-O", "^has_journal"] if request.variant == "ro" else []
    chroot.call(
        [
            "mkfs.ext4",
            "-q",
            "-F",
            "-m",
            "0",
            "-L",
            "persist-root",
            "-E",
            "lazy_itable_init=1",
            *journal,
            "-d",
            str(tree),
            str(root),
        ],
        "mkfs.ext4",
    )
    manifest = {
        "suite": request.suite,
        "variant": request.variant,
        "debs": [deb.name for deb in request.debs],
        "customize": request.customize,
        "tree_mib": used,
    }
    _write(target, "manifest.json", json.dumps(manifest, indent=2) + "\n")


def _write(tree: Path, name: str, text: str) -> None:
    path = tree / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755 if text.startswith("#!") else 0o644)


def main(argv: Sequence[str] | None = None) -> int:
    """Build the images asked for on the command line."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.image", description=__doc__)
    parser.add_argument("--suite", choices=recipe.SUITES, action="append")
    parser.add_argument("--variant", choices=VARIANTS, action="append")
    parser.add_argument("--deb", type=Path, nargs="+", action="extend", default=[])
    parser.add_argument("--customize", action="append", default=[], metavar="COMMAND")
    parser.add_argument("--initrd", choices=recipe.INITRDS, default="initramfs-tools")
    parser.add_argument("--print", action="store_true", help="print the paths as JSON lines")
    options = parser.parse_args(argv)
    for suite in options.suite or recipe.SUITES[:1]:
        for variant in options.variant or VARIANTS[:1]:
            try:
                image = build(suite, options.deb, variant, customize=options.customize, initrd=options.initrd)
            except (chroot.BuildError, subprocess.SubprocessError, OSError) as error:
                print(f"image {suite}/{variant}: {error}", file=sys.stderr)
                return 1
            note(f"image {suite}/{variant}: {image.root}")
            if options.print:
                print(
                    json.dumps(
                        {
                            "suite": suite,
                            "variant": variant,
                            "root": str(image.root),
                            "kernel": str(image.kernel),
                            "initrd": str(image.initrd),
                        }
                    )
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
