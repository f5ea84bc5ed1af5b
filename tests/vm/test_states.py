# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every state a machine can be in is somebody's machine: it must boot to multi-user and say what is wrong.
More of them are in tests/nspawn."""

from __future__ import annotations

import subprocess
from pathlib import Path

from . import cache, scene
from .checks import codes, failed_units, records, state, volatile_notices
from .conftest import MachineFactory
from .disks import write_at
from .machine import Machine


def test_no_disk(booted_without: Machine) -> None:
    """Read-only root, no disk at all: memory, and loud."""
    one = booted_without
    one.restore("ready")
    found = state(one)
    assert (found["verdict"], found["volume"]["kind"]) == ("volatile", "tmpfs")
    assert records(one, "VOLUME_MISSING")
    volatile_notices(one)
    assert failed_units(one) == []
    assert len(one.succeed("ls /var/log/journal").split()) == 1


def test_disks_that_are_refused(machine: MachineFactory, tmp_path: Path) -> None:
    """Claims that are too small, read-only, partitioned, before a filesystem or data, on USB, and a volume on
    USB: none is touched, each is said."""
    one = machine(scene.story_image("bookworm"), buses=("usb",))
    refused = {
        "small": one.add_disk("small", "64M", header=scene.HEADER),
        "locked": one.add_disk("locked", "1G", header=scene.HEADER, read_only=True),
        "parted": one.create_disk("parted", "1G"),
        "ext": one.create_disk("ext", "1G"),
        "data": one.create_disk("data", "1G"),
    }
    written = {name: foreign(name) for name in ("parted", "ext", "data")}
    for name, data in written.items():
        write_at(refused[name], 0, data)
        one.attach_disk(refused[name])
    one.add_disk("stick", "1G", header=scene.HEADER, bus="usb")
    volume = scene.stick(tmp_path / "volume.raw")
    one.attach_disk(volume, bus="usb")
    content = volume.path.read_bytes()
    one.start()
    one.wait_for_boot()
    found = state(one)
    assert (found["verdict"], found["volume"]["kind"]) == ("volatile", "tmpfs") and "untrusted" in codes(
        found
    ), found["reasons"]
    volatile_notices(one)
    one.expect("VERDICT_VOLATILE", "FALLBACK")
    one.expect(
        "too-small", "read-only", "partitions", "signature", "not-blank", "untrusted", "VOLUME_UNTRUSTED"
    )
    said = records(one, "VOLUME_UNTRUSTED")
    reasons = {r["PERSIST_DEVICE"]: r["PERSIST_REASON"] for r in records(one, "CLAIM_REFUSED")}
    serial = {
        line.split()[1]: "/dev/" + line.split()[0]
        for line in one.succeed("lsblk -rdno NAME,SERIAL").splitlines()
        if len(line.split()) == 2
    }
    assert reasons == {
        serial["small"]: "too-small",
        serial["locked"]: "read-only",
        serial["parted"]: "partitions",
        serial["ext"]: "signature",
        serial["data"]: "not-blank",
        serial["stick"]: "untrusted",
    }
    # The remedy is for one who wants it all the same: the id to name.
    assert [r["PERSIST_DEVICE"] for r in said] == [serial["volume"]] and "Device=UUID=" in said[0][
        "MESSAGE"
    ], said
    one.shutdown()
    assert volume.path.read_bytes() == content
    touched = [name for name, data in written.items() if one.read_disk(refused[name], 0, len(data)) != data]
    assert not touched


def foreign(kind: str) -> bytes:
    """The first 2 MiB of a disk that belongs to somebody, with our header written over its first bytes."""
    if kind == "data":
        return scene.HEADER.ljust(1 << 19, b"\0") + b"somebody's data".ljust(512, b"\0")
    path = cache.cache_dir() / f"foreign-{kind}.{id(kind)}"
    try:
        with path.open("wb") as f:
            f.truncate(1 << 30)
        if kind == "parted":
            subprocess.run(["sfdisk", "-q", path], input=b"label: gpt\nsize=100M\n", check=True)
        else:
            subprocess.run(
                ["mkfs.ext4", "-q", "-U", "8d5e5f5e-3f5c-4f3c-9d3e-0f6f5d7e9a11", path], check=True
            )
        with path.open("r+b") as f:
            start = f.read(2 << 20)
        return scene.HEADER + start[len(scene.HEADER) :]
    finally:
        path.unlink(missing_ok=True)
