# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine of its own for a test: a process in a mount namespace with empty /run, /srv and /opt, and a
registry. Needs root."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import pytest

from persist.boot.load import Loaded, load
from persist.boot.paths import IMAGE, escape
from persist.volume.mount import binds
from persist.volume.ondisk import store

_CLONE_NEWNS = 0x20000
_libc = ctypes.CDLL(None, use_errno=True)


def sh(script: str) -> str:
    """Run a shell script and return what it printed."""
    return subprocess.run(["sh", "-ec", script], check=True, capture_output=True, text=True).stdout


def _inside(test: Callable[[], object]) -> None:
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    sh("mount --make-rprivate /; for d in run srv opt; do mount -t tmpfs none /$d; done")
    binds.bind_image()
    sh(f"for d in srv opt; do mount -t tmpfs none {IMAGE}/$d; done")  # nothing is made in this machine's root
    test()


P = ParamSpec("P")


def own_machine(test: Callable[P, None]) -> Callable[P, None]:
    """Decorates a test that runs in a child process; nothing that it mounts is seen, or left, outside."""

    @functools.wraps(test)
    def run(*args: P.args, **more: P.kwargs) -> None:
        if os.geteuid() != 0 or not shutil.which("mount"):
            pytest.skip("mounts need root")
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(read)
                _inside(functools.partial(test, *args, **more))
                status = 0
            except BaseException:  # noqa: BLE001  # the parent shows it
                with open(write, "w", encoding="utf-8", errors="backslashreplace") as f:
                    f.write(traceback.format_exc())
            finally:
                os._exit(status)
        os.close(write)
        with open(read, encoding="utf-8") as f:
            said = f.read()
        _, status = os.waitpid(child, 0)
        assert status == 0, said

    return run


def registry(text: str, *, fstab: str = "", cmdline: str = "") -> Loaded:
    """What the machine's files say, once this is its only registry file."""
    enabled = Path("/run/systemd/system/local-fs.target.wants/persist-setup.target")
    enabled.parent.mkdir(parents=True, exist_ok=True)
    if not enabled.is_symlink():
        enabled.symlink_to("/usr/lib/systemd/system/persist-setup.target")
    Path("/run/persist.d").mkdir(exist_ok=True)
    Path("/run/persist.d/t.conf").write_text(text, encoding="utf-8")
    Path("/run/fstab").write_text(fstab, encoding="utf-8")
    os.environ["SYSTEMD_FSTAB"], os.environ["SYSTEMD_PROC_CMDLINE"] = "/run/fstab", cmdline
    loaded = load("", os.environ)
    assert not [p for p in loaded.problems if p.where.startswith("/run/persist.d")], list(
        map(str, loaded.problems)
    )
    return loaded


def disk(at: str = "/run/persist/volume") -> None:
    """A filesystem on a loop device that stands for a volume; the device is gone with the namespace."""
    sh(
        f"mkdir -p {at}; truncate -s 32M /run/disk; mkfs.ext4 -q /run/disk; mount -o loop /run/disk {at}; rm "
        f"/run/disk; rmdir {at}/lost+found"
    )
    store.make(at)


def kept(path: str, text: str, at: str = "/run/persist/volume") -> None:
    """A bind or symlink entry with one file ``f`` as seeding would leave it on a volume."""
    os.makedirs(at + path, exist_ok=True)
    Path(f"{at}{path}/f").write_text(text, encoding="utf-8")
    marker(path, at)


def kept_overlay(path: str, at: str = "/run/persist/volume") -> Path:
    """An overlay entry as seeding would leave it on a volume; returns its upper."""
    top = Path(f"{at}/.persist/overlay/{escape(path)}")
    for part in ("upper", "work"):
        (top / part).mkdir(parents=True)
    marker(path, at)
    return top / "upper"


def marker(path: str, at: str = "/run/persist/volume") -> None:
    """Say that an entry was seeded."""
    Path(f"{at}/.persist/seed/{escape(path)}.json").write_text('{"version": 1}', encoding="utf-8")
