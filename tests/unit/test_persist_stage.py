# SPDX-License-Identifier: LGPL-2.1-or-later
"""packaging/initrd/persist-stage, under each shell that an initrd may have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from persist.boot.facts import ENABLED, UNIT_DIRECTORIES

from .made_up_root import SHELLS, MadeUpRoot, needs_root

pytestmark = needs_root
PROGRAM = "lib/persist/persist-service"
STAGE = "The stage before the service manager"
NOT_KEPT = " The boot goes on; what has to be mounted before it, like /etc, is not kept on this boot.\n"


@pytest.fixture(params=SHELLS)
def system(request: pytest.FixtureRequest, tmp_path: Path) -> MadeUpRoot:
    """A system that has enabled persist, in a directory with blanks in its name."""
    if shutil.which(SHELLS[request.param][0].split()[0]) is None:
        pytest.skip("not installed")
    found = MadeUpRoot(tmp_path / "an initrd", request.param)
    found.enable()
    return found


@pytest.fixture
def plain(tmp_path: Path) -> MadeUpRoot:
    """A system that has not enabled it, and dash."""
    return MadeUpRoot(tmp_path / "an initrd", "dash")


def test_the_systems_own_program_gets_the_four_trees(system: MadeUpRoot) -> None:
    result = system.stage(str(system.root))
    assert (result.status, result.stderr, result.kernel) == (0, "", "")
    said = system.said("persist-service")
    assert said is not None
    assert said["argv"] == ["/usr/lib/persist/persist-service", "early", "chroot"]
    assert [said["fds"][str(fd)] for fd in (3, 4, 5, 6)] == result.outside
    assert set(said["fds"]) == {"0", "1", "2", "3", "4", "5", "6"}
    assert said["cwd"] == "/"
    assert said["env"]["PATH"] == "/usr/sbin:/usr/bin:/sbin:/bin"
    assert (system.base / "said/timeout").read_text().split("\n")[:3] == ["-k", "10", "900"]


def test_a_root_that_is_named_with_a_slash_at_its_end(system: MadeUpRoot) -> None:
    result = system.stage(f"{system.root}/")
    assert (result.status, result.stderr, result.kernel) == (0, "", "")
    said = system.said("persist-service")
    assert said is not None and said["argv"][1:] == ["early", "chroot"]


@pytest.mark.parametrize("base", UNIT_DIRECTORIES[:4])
@pytest.mark.parametrize("wants", ENABLED)
def test_wherever_the_generator_takes_it_for_enabled(plain: MadeUpRoot, base: str, wants: str) -> None:
    plain.enable(f"{base.lstrip('/')}/{wants}")
    plain.stage(str(plain.root))
    assert plain.said("persist-service") is not None


def test_the_program_knows_of_masks(plain: MadeUpRoot) -> None:
    """So that it is one place that does."""
    link = plain.enable()
    link.unlink()
    link.symlink_to("/dev/null")
    plain.stage(str(plain.root))
    assert plain.said("persist-service") is not None


@pytest.mark.parametrize("way", ["etc", "etc/systemd", "etc/systemd/system"])
def test_a_directory_that_is_an_absolute_link(system: MadeUpRoot, way: str) -> None:
    """It leads elsewhere in an initrd; whoever runs in the root looks again."""
    (system.root / way).rename(system.root / "elsewhere")
    (system.root / way).symlink_to("/elsewhere")
    system.stage(str(system.root))
    assert system.said("persist-service") is not None


@pytest.mark.parametrize("what", ["nothing", "unit", "file", "elsewhere"])
def test_not_enabled(plain: MadeUpRoot, what: str) -> None:
    units = plain.root / "etc/systemd/system"
    if what == "unit":
        units.mkdir(parents=True)
        (units / "persist-setup.target").symlink_to("/usr/lib/systemd/system/persist-setup.target")
    elif what == "file":
        (units / ENABLED[0]).mkdir(parents=True)
        (units / ENABLED[0] / "persist-setup.target").touch()
    elif what == "elsewhere":
        plain.enable("etc/systemd/system/rescue.target.wants")
    result = plain.stage(str(plain.root))
    assert (result.status, result.stderr, result.kernel) == (0, "", "")
    assert not (plain.base / "said/timeout").exists()


def test_a_system_without_persist(system: MadeUpRoot) -> None:
    system.missing(PROGRAM)
    result = system.stage(str(system.root))
    assert (result.status, result.stderr, result.kernel) == (0, "", "")
    assert not (system.base / "said/timeout").exists()


def test_no_such_root(system: MadeUpRoot) -> None:
    result = system.stage("/no/such/root")
    assert (result.status, result.stderr, result.kernel) == (0, "", "")


@pytest.mark.parametrize("arguments", [(), ("",)], ids=["none", "empty"])
def test_no_name_of_a_root_is_not_the_running_system(system: MadeUpRoot, arguments: tuple[str, ...]) -> None:
    result = system.init(*arguments, mounted="proc sys dev run", script="persist-stage")
    assert (result.status, result.stderr, result.kernel) == (0, "", "")
    assert system.said("persist-service") is None


def test_no_python(system: MadeUpRoot) -> None:
    system.program(PROGRAM, "#!/usr/bin/no-python3 -I\n")
    result = system.stage(str(system.root))
    assert result.status == 0
    assert result.kernel == (
        f"<3>persist-early: error: {STAGE} does not start: python3, or chroot or timeout (coreutils), is "
        "missing; install it." + NOT_KEPT
    )


def test_no_timeout(system: MadeUpRoot) -> None:
    """Whichever status the chroot of this initrd has for that: klibc's has 1 for all."""
    system.missing("sbin/timeout")
    system.missing("bin/timeout")
    result = system.stage(str(system.root))
    assert result.status == 0 and system.said("persist-service") is None
    assert result.kernel.startswith(f"<3>persist-early: error: {STAGE} ")
    assert result.kernel.endswith(NOT_KEPT) and result.kernel.count("\n") == 1


@pytest.mark.parametrize("stubborn", [False, True], ids=["ends", "is killed"])
def test_a_program_that_hangs(system: MadeUpRoot, stubborn: bool) -> None:
    ignore = "trap '' TERM; " if stubborn else ""
    system.patience(0.3)
    system.program(PROGRAM, f"#!/bin/sh\n{ignore}sleep 50\n")
    result = system.stage(str(system.root))
    assert result.status == 0
    assert result.kernel == (
        f"<3>persist-early: error: {STAGE} took longer than 15 minutes and was ended; "
        "see the lines above for what it waited for." + NOT_KEPT
    )


@pytest.mark.parametrize("status", [1, 2, 125, 126, 255])
def test_a_program_that_fails(system: MadeUpRoot, status: int) -> None:
    system.program(PROGRAM, f"#!/bin/sh\nexit {status}\n")
    result = system.stage(str(system.root))
    assert result.status == 0
    assert result.kernel == (
        f"<3>persist-early: error: {STAGE} failed with status {status}; see what was "
        "said before this line, here or on the console." + NOT_KEPT
    )


@pytest.mark.parametrize("log", ["none", "directory"])
def test_without_a_kernel_log_it_is_said_on_the_console(system: MadeUpRoot, log: str) -> None:
    system.program(PROGRAM, "#!/bin/sh\nexit 3\n")
    result = system.stage(str(system.root), log=log)
    assert result.status == 0
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"persist-early: error: {STAGE} failed with status 3;")
    if log == "none":
        assert result.devices == ["null"], "a file in the place of the kernel's log"
