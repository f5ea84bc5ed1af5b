# SPDX-License-Identifier: LGPL-2.1-or-later
"""packaging/initrd/persist-init as process 1 of a system that the kernel has started without an initrd."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from .made_up_root import SHELLS, MadeUpRoot, needs_root

pytestmark = needs_root
ALL = "proc sys dev run"
ARGUMENTS = ("quiet", "two words", "", "*")
# What some shells hand on of their own accord, and what Python says of its own locale.
OF_SHELLS = {"bash": {"PATH", "PWD", "SHLVL", "_"}, "busybox": {"PATH", "PWD", "SHLVL"}}
OF_PYTHON = {"LC_CTYPE"}


@pytest.fixture(params=SHELLS)
def system(request: pytest.FixtureRequest, tmp_path: Path) -> MadeUpRoot:
    """A system that has enabled persist; the shell is its /bin/sh."""
    if shutil.which(SHELLS[request.param][0].split()[0]) is None:
        pytest.skip("not installed")
    found = MadeUpRoot(tmp_path, request.param)
    found.enable()
    return found


@pytest.fixture
def plain(tmp_path: Path) -> MadeUpRoot:
    """The same with dash."""
    found = MadeUpRoot(tmp_path, "dash")
    found.enable()
    return found


def mounts(said: dict[str, Any]) -> dict[str, list[tuple[str, set[str]]]]:
    """Mount point -> type and options of each mount there, in their order."""
    found: dict[str, list[tuple[str, set[str]]]] = {}
    for fields in said["mounts"]:
        fstype, _, superblock = fields[fields.index("-") + 1 :][:3]
        options = {*fields[5].split(","), *superblock.split(",")}
        found.setdefault(fields[4], []).append((fstype, options))
    return found


def init(system: MadeUpRoot, name: str = "init") -> dict[str, Any]:
    """What the real init was given; it has to be process 1, with all arguments."""
    said = system.said(name)
    assert said is not None, f"{name} was not started"
    assert said["pid"] == 1
    assert tuple(said["argv"][1:]) == ARGUMENTS
    return said


def test_what_is_missing_is_mounted_as_systemd_does(system: MadeUpRoot) -> None:
    result = system.init(*ARGUMENTS)
    assert (result.status, result.stderr) == (0, "")
    at = mounts(init(system))
    for tree, fstype, wanted in (
        ("/proc", "proc", {"nosuid", "noexec", "nodev"}),
        ("/sys", "sysfs", {"nosuid", "noexec", "nodev"}),
        ("/dev", "devtmpfs", {"nosuid", "mode=755"}),
        ("/run", "tmpfs", {"nosuid", "nodev", "mode=755", "nr_inodes=819200"}),
    ):
        [(found, options)] = at[tree]
        assert found == fstype and options >= wanted, tree
    # Each file's times are right there: who waits for a terminal or a lock looks at them.
    for tree in ("/dev", "/run"):
        assert not {"relatime", "noatime", "noexec"} & at[tree][0][1]
    stage = system.said("persist-service")
    assert stage is not None
    assert stage["argv"][1:] == ["early", "here"]
    assert stage["env"]["PATH"] == "/usr/sbin:/usr/bin:/sbin:/bin", "what the kernel gives has none"
    assert mounts(stage).keys() == at.keys(), "the stage comes after them"


def test_what_is_mounted_stays(system: MadeUpRoot) -> None:
    result = system.init(*ARGUMENTS, mounted=ALL)
    assert (result.status, result.stderr) == (0, "")
    at = mounts(init(system))
    assert [len(at[f"/{tree}"]) for tree in ALL.split()] == [1, 1, 1, 1]
    assert "mode=700" in at["/run"][0][1]


def test_inits_environment_is_the_kernels(system: MadeUpRoot) -> None:
    system.init(*ARGUMENTS, mounted=ALL)
    not_ours = OF_SHELLS.get(system.name, {"PWD"}) | OF_PYTHON
    assert init(system)["env"].keys() - not_ours == {"HOME", "TERM", "PERSIST_INIT"}


@pytest.mark.parametrize("what", ["fails", "has no python3", "hangs", "has no stage", "has no timeout"])
def test_init_is_started_whatever_happens(system: MadeUpRoot, what: str) -> None:
    program = "lib/persist/persist-service"
    if what == "fails":
        system.program(program, "#!/bin/sh\nexit 3\n")
    elif what == "has no python3":
        system.program(program, "#!/usr/bin/no-python3 -I\n")
    elif what == "hangs":
        system.patience(0.3)
        system.program(program, "#!/bin/sh\ntrap '' TERM\nsleep 50\n")
    elif what == "has no stage":
        system.missing("lib/persist/persist-stage")
    else:
        system.missing("sbin/timeout")
        system.missing("bin/timeout")
    result = system.init(*ARGUMENTS, mounted=ALL)
    assert result.status == 0
    assert system.said("persist-service") is None
    init(system)
    assert result.kernel.startswith("<3>persist-early: error: ") == (what != "has no stage"), result.kernel


def test_not_enabled(plain: MadeUpRoot) -> None:
    (plain.root / "etc/systemd/system/local-fs.target.wants/persist-setup.target").unlink()
    result = plain.init(*ARGUMENTS)
    assert (result.status, result.stderr) == (0, "")
    assert plain.said("persist-service") is None
    init(plain)


@pytest.mark.parametrize("how", ["missing", "dangling", "link", "copy"])
def test_no_other_sbin_init(system: MadeUpRoot, how: str) -> None:
    """systemd itself, then; and the stage is run once."""
    system.missing("sbin/init")
    if how != "missing":
        (system.usr / "sbin/init").unlink()
    if how == "dangling":
        (system.usr / "sbin/init").symlink_to("/no/such")
    elif how == "link":
        (system.usr / "sbin/init").symlink_to("../lib/persist/persist-init")
    elif how == "copy":
        shutil.copy(system.usr / "lib/persist/persist-init", system.usr / "sbin/init")
    result = system.init(*ARGUMENTS, mounted=ALL)
    assert (result.status, result.stderr) == (0, "")
    init(system, "systemd")
    assert system.said("persist-service") is not None


def test_no_init_at_all(plain: MadeUpRoot) -> None:
    """The kernel panics when process 1 ends, as it does where it finds no init itself."""
    for path in ("sbin/init", "lib/systemd/systemd", "bin/sh"):
        plain.missing(path)
    result = plain.init(*ARGUMENTS, mounted=ALL)
    assert result.stderr.endswith("persist-init: No init is found.\n")


@pytest.mark.parametrize("mounted", ["", ALL])
def test_without_a_console_no_file_takes_the_numbers_of_one(system: MadeUpRoot, mounted: str) -> None:
    result = system.init(*ARGUMENTS, mounted=mounted, no_console=True)
    assert result.status == 0
    for said in (system.said("persist-service"), init(system)):
        assert said is not None
        null = said["fds"]["0"]
        assert {said["fds"][fd] == null for fd in ("0", "1", "2")} == {True}
        assert set(said["fds"]) == {"0", "1", "2"}
