# SPDX-License-Identifier: LGPL-2.1-or-later
"""A root that takes writes and keeps none of them, on real filesystems."""

from __future__ import annotations

from pathlib import Path

import pytest

from persist.system import mountinfo
from persist.verdict import judge as v
from persist.verdict.volume_reasons import volume_reasons
from persist.volume import outcome, root_kept

from .conftest import Make
from .namespace import own_machine, registry, sh
from .rig import LoopDisk
from .services import KNOWN, note_of, services, write_note


def _lost(path: str) -> str:
    at = mountinfo.at(path)
    assert at is not None
    return root_kept.lost(at)


@own_machine
def test_real_filesystems() -> None:
    """The namespace's /run is a tmpfs, and the disk of the machine is kept."""
    sh("""mkdir -p /run/r /run/over /run/below /run/u/upper /run/u/work /run/disk /run/disk-over
          mount -t ramfs none /run/r
          mkdir /run/r/upper /run/r/work
          mount -t overlay -o lowerdir=/run/below,upperdir=/run/r/upper,workdir=/run/r/work over /run/over
          truncate -s 16M /run/u/image; mkfs.ext4 -q /run/u/image; mount -o loop /run/u/image /run/disk
          mkdir /run/disk/upper /run/disk/work
          o=lowerdir=/run/below,upperdir=/run/disk/upper,workdir=/run/disk/work
          mount -t overlay -o $o over /run/disk-over""")
    assert (
        _lost("/run") == "a tmpfs"
        and _lost("/run/r") == "a ramfs"
        and _lost("/run/over") == "an overlay whose upper layer is a ramfs"
    )
    assert "whose file is on a tmpfs" in _lost("/run/disk")
    assert _lost("/run/disk-over").startswith("an overlay whose upper layer is on loop")
    found = root_kept.look("/run/over")
    assert not found.kept and not found.read_only and found.shown == "overlay on over"
    sh("mount -o remount,bind,ro /run/disk")
    assert root_kept.look("/run/disk").read_only


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
@pytest.mark.parametrize(("fallback", "came_to"), [("auto", "tmpfs"), ("root", "root"), ("none", "none")])
def test_no_volume_and_a_root_in_memory(
    make_disk: Make, tmp_path: Path, kind: str, fallback: str, came_to: str
) -> None:
    """As on a read-only root: memory takes the volume's place by itself, nothing is called persistent, and
    the verdict is volatile."""
    last = services(
        "volume", device=["/dev/nothing"], config={"fallback": fallback, "member_timeout": 0}, root_in=kind
    ).last
    assert (last["kind"], last["status"], last["root_memory"]) == (
        came_to,
        0,
        f"an overlay whose upper layer is a {kind}",
    )
    assert "persistent" not in last["flags"] and not last["root_read_only"]
    word, reasons = volume_reasons(outcome.of(last), expected=False)
    assert (
        word == v.VOLATILE
        and reasons[0].code == "missing"
        and ("root-in-memory" in [r.code for r in reasons]) == (came_to != "tmpfs")
    )


def test_volume_beside_a_root_in_memory(volume: LoopDisk, tmp_path: Path) -> None:
    """No note is made where it would be gone at the next boot, and one that the image brings along is no
    promise of this root."""
    last = services("volume", device=[volume.node], root=tmp_path, root_in="tmpfs").last
    assert (last["kind"], last["reason"]) == ("btrfs", "") and last["flags"] == [
        "mount-entries",
        "persistent",
    ]
    assert not note_of(tmp_path).exists()
    assert services("volume", device=[volume.node], root=tmp_path).last["kind"] == "btrfs"
    assert note_of(tmp_path).exists()


def test_known_volume_is_missing_on_a_root_in_memory(make_disk: Make, tmp_path: Path) -> None:
    write_note(tmp_path, KNOWN)
    last = services(
        "volume",
        device=["/dev/nothing"],
        config={"member_timeout": 0, "fallback": "none"},
        root=tmp_path,
        root_in="tmpfs",
    ).last
    assert (last["kind"], last["reason"]) == ("none", "known-volume-missing")
    assert "is hidden when the volume is back" not in last["message"]


@own_machine
def test_the_whole_verdict_names_the_root() -> None:
    loaded = registry("[Path]\nPath=/srv/x\nMethod=bind\n")
    found = v.judge(loaded, v.read_volume(), v.Look())
    assert found.verdict in (v.DEGRADED, v.VOLATILE) and found.reasons[0].code == "volume-service"


@pytest.mark.parametrize(
    ("mount", "word"),
    [
        ("mount --bind /usr /srv; mount -o remount,bind,ro /srv", v.VOLATILE),
        ("mount -t tmpfs none /srv", v.VOLATILE),
        ("umount /srv", v.DEGRADED),
    ],
)
@own_machine
def test_without_a_record_the_root_is_looked_at(mount: str, word: str) -> None:
    """persist-volume.service was killed on a root that keeps nothing: volatile, not only degraded."""
    sh(mount)
    loaded = registry("[Path]\nPath=/opt/x\nMethod=bind\n")
    assert v.judge(loaded, v.read_volume("/srv"), v.Look()).verdict == word
