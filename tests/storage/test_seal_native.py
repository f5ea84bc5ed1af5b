# SPDX-License-Identifier: LGPL-2.1-or-later
"""A state volume that is no btrfs, sealed with its machine as a power cut or a bad block has left it: checked
before anything of it is believed, as each boot does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.volume.ondisk import store
from tests.unit.seal_tree import MadeUp

from .namespace import kept_overlay, own_machine, sh
from .rig import LoopDisk, only_disks
from .test_seal_volume import AT, CONF, SECRET, end, seal


@pytest.fixture
def cut(tmp_path: Path) -> Iterator[tuple[LoopDisk, LoopDisk]]:
    """A disk for the volume, and one that becomes its copy."""
    both = LoopDisk(tmp_path, 64, b"", "a"), LoopDisk(tmp_path, 64, b"", "b")
    try:
        yield both
    finally:
        for one in both:
            one.unplug()


# The kernel has noted an error: the next boot's fsck looks at all of it.
_MAKE = """
mkfs.ext4 -q -b 4096 -O ^extent,^64bit -L persist-data {node}
debugfs -w -R "set_super_value state 3" {node} 2>/dev/null
mkdir -p {at}
mount {node} {at}
"""


def machine(disk: LoopDisk, copy: LoopDisk) -> MadeUp:
    """A machine whose volume is on ``copy``, which is ``disk`` as it was when the power went: the name of the
    secret is in the journal alone."""
    os.environ["SYSTEMD_PROC_CMDLINE"], os.environ["SYSTEMD_FSTAB"] = "", "/dev/null"
    made = MadeUp(Path("/srv/image"))
    made.section("/opt/key", "remove", cls="secret")
    made.at("/opt").mkdir()
    sh(_MAKE.format(node=disk.node, at=AT))
    store.make(AT)
    opt = kept_overlay("/opt", AT)
    for name in ("one", "two"):
        Path(f"{AT}/{name}").write_text(name * 4096, encoding="ascii")
    sh(f"sync -f {AT}")
    with (opt / "key").open("w", encoding="ascii") as f:
        f.write(SECRET)
        f.flush()
        os.fsync(f.fileno())
    sh(f"cp --sparse=always {disk.file} {copy.file}; umount {AT}")
    copy.replug()
    os.makedirs("/run/persist", exist_ok=True)
    Path(CONF).write_text(f"[Volume]\nDevice={copy.node}\n", encoding="ascii")
    return made


def state(disk: LoopDisk) -> str:
    return sh(f"dumpe2fs -h {disk.node} 2>/dev/null | grep -E 'features|state'")


@own_machine
def test_after_a_power_cut(cut: tuple[LoopDisk, LoopDisk]) -> None:
    """What only its journal knows is wiped, too, and it is checked where the kernel has noted an error."""
    disk, copy = cut
    made = machine(disk, copy)
    with only_disks(copy):
        assert "needs_recovery" in state(copy) and "with errors" in state(copy)
        said = seal(made)
        assert (said.get("errors", said), said.get("failures")) == ([], [])
        assert end(made)["failures"] == []
        assert copy.holds(SECRET) == 0
        assert "needs_recovery" not in state(copy) and "with errors" not in state(copy)


@own_machine
def test_damage_that_no_boot_repairs(cut: tuple[LoopDisk, LoopDisk]) -> None:
    """Two files that have a block in common: what is wiped of the one is wiped of the other. No boot mounts
    it, and nothing is wiped."""
    disk, copy = cut
    made = machine(disk, copy)
    sh(f"e2fsck -fp {copy.node} || true")
    block = sh(f"debugfs -R 'blocks one' {copy.node} 2>/dev/null").split()[0]
    sh(f"debugfs -w -R 'sif two block[0] {block}' {copy.node}")
    sh(f"debugfs -w -R 'set_super_value state 3' {copy.node}")
    with only_disks(copy):
        said = str(seal(made)["raised"])
        assert said.startswith(f"The state volume on {copy.node} is damaged, and not all of it could be"), (
            said
        )
        assert said.endswith(f"'fsck {copy.node}' asks what to do about it."), said
        assert made.text("/etc/machine-id") and copy.holds(SECRET) > 0
