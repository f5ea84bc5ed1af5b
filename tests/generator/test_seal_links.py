# SPDX-License-Identifier: LGPL-2.1-or-later
"""The boot that seals is there as a whole or not at all: half of its links is a machine that hangs."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from persist.boot.seal.links import ALLOWED, DROP_IN, FENCE, MASKED
from persist.boot.seal.look import UNITS
from tests.generator.golden import REPOSITORY, Case, blocks, run

MACHINE = "0123456789abcdef0123456789abcdef"
ASKED = (
    f"== enabled\n== seal-units\n== file /etc/machine-id\n{MACHINE}\n== cmdline persist.seal={MACHINE}:one\n"
    "== file /usr/lib/persist.d/a.conf\n[Path]\nPath=/srv\n"
)


def machine(tmp_path: Path, more: str = "") -> tuple[Path, list[Path]]:
    """A root on which sealing is asked for, and the three directories."""
    root, *three = (tmp_path / name for name in ("root", "normal", "early", "late"))
    for directory in (root, *three):
        directory.mkdir()
    Case(ASKED + more).build(root)
    return root, three


def ordinary(three: list[Path], stderr: str, why: str) -> None:
    """An ordinary boot, that has what the registry asks for, and says why it is one."""
    assert (three[0] / "srv.mount").exists()
    assert f"Not sealing, though it is asked for: {why}" in stderr, stderr


def test_all_of_it(tmp_path: Path) -> None:
    root, three = machine(tmp_path)
    status, stderr = run(root, three)
    assert status == 0 and "This boot seals the machine, and nothing else (ID one)." in stderr
    assert not list(three[0].iterdir()), "no entry is mounted"
    for name in (*MASKED, *(f"{name}.service.d/{DROP_IN}" for name in ALLOWED)):
        assert (three[1] / name).readlink() == Path("/dev/null")
    assert (three[1] / FENCE).read_text().endswith("[Unit]\nAssertPathExists=!/\n")
    assert (three[1] / "default.target").readlink().name == "persist-seal.target"


@pytest.mark.parametrize("there", ["default.target", "sysinit.target", f"zfs-.service.d/{DROP_IN}", FENCE])
def test_another_generator_was_first(tmp_path: Path, there: str) -> None:
    root, three = machine(tmp_path)
    (three[1] / there).parent.mkdir(exist_ok=True)
    (three[1] / there).symlink_to("/usr/lib/systemd/system/theirs.target")
    before = blocks(three[1])
    status, stderr = run(root, three)
    assert status == 0
    ordinary(three, stderr, f"Failed to make {three[1]}/{there}: File exists.")
    assert blocks(three[1]) == before


def test_no_early_directory(tmp_path: Path) -> None:
    root, three = machine(tmp_path)
    three[1].rmdir()
    status, stderr = run(root, three)
    assert status == 0
    ordinary(three, stderr, f"Failed to make {three[1]}/No such file or directory.")


def test_a_disk_without_room(tmp_path: Path) -> None:
    """No file may be longer than a part of its first line: the first one is not whole, and all go."""
    root, three = machine(tmp_path)
    first = "systemd-udev-trigger.service.d/60-persist-seal.conf"
    (root / "usr/lib/persist.d/a.conf").write_text("[Path]\nPath=/srv\nMethod=symlink\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        status, stderr = run(root, three)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 0 and f"Failed to make {three[1]}/{first}: No space left on device." in stderr
    assert not list(three[1].iterdir())


def test_others_directories_stay(tmp_path: Path) -> None:
    root, three = machine(tmp_path)
    (three[1] / "service.d").mkdir()
    (three[1] / "service.d/10-theirs.conf").write_text("[Unit]\n")
    assert "This boot seals" in run(root, three)[1]
    (three[1] / "default.target").unlink()
    assert (three[1] / "service.d/10-theirs.conf").exists()


def settings(unit: str, key: str) -> list[str]:
    text = (REPOSITORY / "units" / unit).read_text(encoding="utf-8")
    return [
        w for line in text.splitlines() if line.startswith(f"{key}=") for w in line.partition("=")[2].split()
    ]


def allowed(unit: str) -> bool:
    stem = unit.removesuffix(".service").partition("@")
    return any(stem[0] + stem[1] == name or name.endswith("-") and unit.startswith(name) for name in ALLOWED)


def test_what_the_target_wants_may_run() -> None:
    """A list that is too short ends in a power-off without a seal."""
    wanted = settings("persist-seal.target", "Wants") + settings("persist-seal.target", "Requires")
    services = [unit for unit in wanted if unit.endswith(".service")]
    assert len(services) >= 10
    assert [unit for unit in services if not allowed(unit)] == []
    assert not {"persist-volume.service", "ssh.service", "persist-heal.service", "persist-format.service"} & {
        unit for unit in ("persist-volume.service", "ssh.service", "persist-heal.service") if allowed(unit)
    }
    assert set(wanted) & set(UNITS) >= set(UNITS) - {"persist-seal.target", "persist-seal-net.service"}


@pytest.mark.parametrize("unit", UNITS)
def test_no_unit_of_that_boot_hangs_on_what_is_masked(unit: str) -> None:
    text = (REPOSITORY / "units" / unit).read_text(encoding="utf-8")
    assert "DefaultDependencies=no" in text and "RefuseManualStart=yes" in text
    assert "shutdown.target" not in text, "its start would be taken back by whatever begins to shut down"
    needs = {w for key in ("Requires", "Wants", "BindsTo", "Requisite") for w in settings(unit, key)}
    assert not needs & set(MASKED)
    if unit in ("persist-seal.target", "persist-seal-off.service"):
        assert "Condition" not in text and "Assert" not in text.replace("Asserts", "")


def test_what_comes_last_waits_for_all_of_ours() -> None:
    after = set(settings("persist-seal-off.service", "After"))
    assert {unit for unit in UNITS if unit.endswith(".service")} - after == {
        "persist-seal-off.service",
        "persist-seal-net.service",
    }
    assert settings("persist-seal-off.service", "SuccessAction") == ["poweroff-force"]
    assert settings("persist-seal-off.service", "FailureAction") == ["poweroff-force"]
    assert not settings("persist-seal-off.service", "Requires")
