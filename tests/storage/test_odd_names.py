# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries with names that a shell, overlayfs, libmount and systemd each read in their own way, mounted
without a unit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persist.boot.paths import escape
from persist.entries.bind import mount_seeded
from persist.system import mountinfo

from .namespace import disk, kept, kept_overlay, own_machine, registry, sh

NAMES = (
    "/srv/my-data",
    "/srv/a:b",
    "/srv/a\\tb\\c",
    "/srv/a\\x2db",
    "/srv/a\\040b",
    "/srv/a b",
    "/srv/a'b#",
    "/srv/*",
    "/srv/100%s",
    "/srv/-o",
    "/srv/\u00fcn\u00ef",
    "/srv/" + "long" * 30,
)


def quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize("path", NAMES)
@own_machine
def test_overlay(path: str) -> None:
    disk()
    os.makedirs(path)
    Path(path, "image").write_text("image")
    (kept_overlay(path) / "changed").write_text("changed")
    # /srv is a mount of its own here.
    sh("umount /run/persist/private/lower; mount --rbind / /run/persist/private/lower")
    loaded = registry(f"[Path]\nPath={quoted(path)}\n")
    assert [p.path for p in loaded.plan.entries] == [path]
    assert mount_seeded(loaded, [path]) == []
    at = mountinfo.at(path)
    assert at is not None and at.fstype == "overlay"
    assert sorted(os.listdir(path)) == ["changed", "image"]
    Path(path, "new").write_text("new")
    assert Path(f"/run/persist/volume/.persist/overlay/{escape(path)}/upper/new").read_text() == "new"


@pytest.mark.parametrize("path", [*NAMES, "/srv/a,b", '/srv/a"b'])
@own_machine
def test_bind(path: str) -> None:
    disk()
    os.makedirs(path)
    kept(path, "kept")
    loaded = registry(f"[Path]\nPath={quoted(path)}\nMethod=bind\n")
    assert [p.path for p in loaded.plan.entries] == [path]
    assert mount_seeded(loaded) == []
    at = mountinfo.at(path)
    assert at is not None and at.root == path
    assert Path(path, "f").read_text() == "kept"
