# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees of both releases, sealed as an image builder does it, and two clones of each: they come up, sshd
answers with keys of its own, and no id is shared."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.seal import again
from tests.vm import chroot
from tests.vm.cache import WorkDir
from tests.vm.checks import failed_units, records

from .container import Container
from .tree import write

# What nobody seals, but every prototype has. The container's PID 1 takes its id from nowhere else.
USED = {
    "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "/var/lib/dbus/machine-id": "-> /etc/machine-id",
    "/var/lib/systemd/random-seed": "seed",
    "/var/log/journal/0123456789abcdef0123456789abcdef/system.journal": "log",
    "/var/lib/dhcp/dhclient.eth0.leases": "lease",
    "/var/lib/persist/known-volume": "11111111-2222-4333-8444-555555555555\n",
    "/root/.bash_history": "passwd\n",
    "/etc/systemd/system/persist-test-hostkeys.service": "-> /dev/null",
}
GONE = ("/var/lib/systemd/random-seed", "/var/lib/dhcp/dhclient.eth0.leases", "/root/.bash_history")
NAMES = "cat /etc/machine-id /etc/ssh/ssh_host_{ecdsa,ed25519,rsa}_key.pub"


@pytest.fixture
def prototype(tree: Path) -> Iterator[Path]:
    """A tree that may be written, as a machine has left it."""
    work = WorkDir("sealed")
    try:
        copy = work.path / "tree"
        subprocess.run(["cp", "--archive", "--reflink=auto", tree, copy], check=True)
        for name in ("etc/machine-id", "var/lib/dbus/machine-id"):
            (copy / name).unlink(missing_ok=True)
        write(copy, USED)
        chroot.run(copy, "ssh-keygen -A")
        yield copy
    finally:
        work.close()


def seal(tree: Path, *options: str) -> str:
    """As somebody does who has the image's own persist, or another one."""
    return subprocess.run(
        ["bin/persistctl", "seal", f"--root={tree}", "--yes", *options],
        cwd=Path(__file__).parents[2],
        env={"PERSIST_LIBRARY": ".", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def names(prototype: Path, label: str) -> list[list[str]]:
    """The machine-id and the host keys of two clones, as they come up."""
    found = []
    for number in (1, 2):
        with Container(prototype, f"{label}-{number}") as one:
            assert one.boot() == "running", failed_units(one)
            assert one.succeed("systemctl is-active ssh.service").strip() == "active"
            assert one.succeed("ls /var/log/journal | wc -l").strip() == "1"
            assert bool(records(one, "REGENERATED")) == (label == "clone")
            assert one.execute(f"ls {again.PATH}")[0] != 0
            found.append(one.succeed(NAMES).splitlines())
    return found


def test_two_clones(prototype: Path) -> None:
    """Without the service that makes host keys nothing is touched, for sshd would never start. Clones of a
    machine that was not sealed share it all; those of one that was share nothing."""
    masked = prototype / "etc/systemd/system/persist-regenerate.service"
    masked.symlink_to("/dev/null")
    with pytest.raises(subprocess.CalledProcessError) as said:
        seal(prototype)
    assert said.value.returncode == 1
    assert "openssh-server.conf" in said.value.stderr and "which is masked" in said.value.stderr
    assert all((prototype / name.lstrip("/")).exists() for name in GONE)
    masked.unlink()
    copies = names(prototype, "copy")
    assert copies[0] == copies[1] and len(copies[0]) == 4

    seal(prototype)
    listed = (prototype / again.PATH.lstrip("/")).read_bytes()
    seal(prototype)
    assert (prototype / again.PATH.lstrip("/")).read_bytes() == listed
    assert not any((prototype / name.lstrip("/")).exists() for name in GONE)
    assert (prototype / "etc/machine-id").read_text() == ""
    assert list((prototype / "etc/ssh").glob("ssh_host_*")) == []
    clones = names(prototype, "clone")
    assert len({*clones[0], *clones[1], *copies[0]}) == 12, (clones, copies)
