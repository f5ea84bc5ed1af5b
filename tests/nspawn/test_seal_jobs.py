# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole transaction of a boot that seals, on both releases: what PID 1 would start, asked of it without a
boot (systemd --test, which takes no root) in a tree whose generator was asked to seal by the command line."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.vm.cache import WorkDir

from .tree import write

MACHINE = "0123456789abcdef0123456789abcdef"
BOTH = {
    "kmod-static-nodes.service",
    "local-fs-pre.target",
    "local-fs.target",
    "persist-operator-script.service",
    "persist-seal-begin.service",
    "persist-seal-end.service",
    "persist-seal-net.service",
    "persist-seal-net.target",
    "persist-seal-off.service",
    "persist-seal.service",
    "persist-seal.target",
    "systemd-ask-password-console.path",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-remount-fs.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
}
# A release that adds a unit to local-fs.target, or to what that and our own want, is seen here.
ONLY = {
    "bookworm": {"cryptsetup.target", "systemd-journald-audit.socket"},
    "trixie": {"run-lock.mount", "systemd-tmpfiles-setup-dev-early.service"},
}
# All that makes a boot an ordinary one, and all who hang on the names that a boot that seals has.
ENABLED = {
    "/etc/systemd/system/default.target": "-> /usr/lib/systemd/system/multi-user.target",
    "/etc/systemd/system/local-fs.target.wants/persist-setup.target": (
        "-> /usr/lib/systemd/system/persist-setup.target"
    ),
    "/etc/systemd/system/default.target.wants/node-id.service": "-> ../node-id.service",
    "/etc/systemd/system/default.target.requires/node-id.service": "-> ../node-id.service",
    "/etc/systemd/system/default.target.d/more.conf": "[Unit]\nWants=node-id.service\n",
    "/etc/systemd/system/multi-user.target.wants/node-id.service": "-> ../node-id.service",
    "/etc/systemd/system/node-id.service": "[Service]\nExecStart=/bin/true\n",
    "/usr/lib/persist.d/node-id.conf": "[Path]\nPath=/var/lib/node-id\nRequired=boot\n",
}
# In the tree's own namespaces; the last thing that is root's is to become nobody.
ASK = """
work=$1 tree=$2 command_line=$3
mount -t overlay -o "lowerdir=$tree,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
mount -t proc proc "$work/root/proc"
mount --rbind /sys "$work/root/sys"
mount --bind /dev "$work/root/dev"
mount -t tmpfs tmpfs "$work/root/run"
mount -t tmpfs -o mode=1777 tmpfs "$work/root/tmp"
cd /
exec chroot --userspec=nobody:nogroup "$work/root" env -i PATH=/usr/sbin:/usr/bin container= \\
    SYSTEMD_PROC_CMDLINE="$command_line" \\
    /usr/lib/systemd/systemd --test --system --log-target=console --no-pager
"""


def jobs(tree: Path, files: Mapping[str, str], command_line: str) -> tuple[set[str], str]:
    """What PID 1 would start, and all that it and the generators said."""
    work = WorkDir("seal-jobs")
    try:
        for part in ("upper", "work", "root"):
            (work.path / part).mkdir(mode=0o755)
        work.path.chmod(0o755)
        write(work.path / "upper", {"/etc/machine-id": f"{MACHINE}\n", **files})
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", ASK, "sh"]
        done = subprocess.run(
            [*argv, str(work.path), str(tree), command_line],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        work.close()
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2000:]
    found = re.findall(r"^\s*Action: (\S+) -> (\S+)$", said, re.MULTILINE)
    assert found and {what for _, what in found} == {"start"}
    return {unit for unit, _ in found}, said


def release(tree: Path) -> str:
    text = (tree / "usr/lib/os-release").read_text(encoding="utf-8")
    return re.findall(r"^VERSION_CODENAME=(\w+)$", text, re.MULTILINE)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("files", [{}, ENABLED], ids=["nothing-enabled", "enabled"])
def test_the_whole_transaction(tree: Path, files: Mapping[str, str]) -> None:
    found, said = jobs(tree, files, f"persist.seal={MACHINE}:one")
    assert "This boot seals the machine, and nothing else (ID one)." in said
    assert found == BOTH | ONLY[release(tree)]


def test_a_mount_brings_itself_and_its_check(tree: Path) -> None:
    """And what a line of fstab requires that does not belong there is held by the fence, which no transaction
    shows: see docs/seal-boot.md."""
    fstab = {"/etc/fstab": "/dev/vdb /srv ext4 defaults 0 2\n"}
    found, _ = jobs(tree, fstab, f"persist.seal={MACHINE}:one")
    more = found - BOTH - ONLY[release(tree)]
    assert more >= {"srv.mount", "dev-vdb.device", "systemd-fsck@dev-vdb.service"}
    assert all(unit.startswith(("srv", "dev-vdb", "systemd-fsck", "system-systemd")) for unit in more), more


def test_a_refused_request_is_an_ordinary_boot(tree: Path) -> None:
    """The lists above could be those of any boot, else."""
    found, said = jobs(tree, ENABLED, f"persist.seal={MACHINE[::-1]}:one")
    assert "Not sealing, though persist.seal= on the kernel command line (ID one) asks for it" in said
    assert {"multi-user.target", "sysinit.target", "node-id.service", "persist-setup.target"} <= found
    assert not {"persist-seal.target", "persist-seal-off.service"} & found
