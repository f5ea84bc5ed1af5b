# SPDX-License-Identifier: LGPL-2.1-or-later
"""systemd-analyze verify reads what the generator makes of hostile input; the graph has no cycle."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.generator.golden import CASES, REPOSITORY, Case, run

SYSTEM_UNITS = Path("/usr/lib/systemd/system")
HOSTILE = (
    "09-whole-system",
    "10-methods",
    "11-nested",
    "20-bad-file-names",
    "22-quotes",
    "23-utf8",
    "24-hostile-paths",
    "25-odd-bytes",
    "26-long-paths",
    "28-links-of-all-kinds",
    "33-fstab-above",
    "46-before-pid1",
    "55-persist-ro",
    "56-bind-early-users",
    "57-network-volume",
    "58-more-than-a-name",
    "59-dollar",
    "62-fstab-uses-our-places",
    "63-fstab-that-cannot-wait",
    "64-mounts-beside-fstab",
    "66-network-volume-and-fstab",
    "67-services-that-cannot-wait",
    "68-services-before-the-network",
    "72-services-in-a-circle",
    "73-fstab-below-usr-and-run",
    "74-fstab-before-us",
    "75-network-volume-and-memory",
    "77-not-before-pid1",
    "80-persist-ro-before-pid1",
    "83-fstab-before-pid1",
    "84-links-before-pid1",
)
FSTAB_GENERATORS = (
    "/usr/lib/systemd/system-generators/systemd-fstab-generator",
    "/lib/systemd/system-generators/systemd-fstab-generator",
)
# Somebody waits for the network, after sysinit.target as everybody does.
WAITS = """[Unit]
After=network.target
Before=network-online.target
[Service]
Type=oneshot
ExecStart=/usr/bin/systemctl
"""

pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root directory with systemd's units and ours, and something to execute."""
    root = tmp_path_factory.mktemp("image")
    shutil.copytree(SYSTEM_UNITS, root / "usr/lib/systemd/system", symlinks=True)
    for unit in (REPOSITORY / "units").iterdir():
        if unit.suffix in (".service", ".target"):
            shutil.copy(unit, root / "usr/lib/systemd/system")
    for program in ("usr/lib/persist/persist-service", "usr/bin/systemctl", "usr/bin/udevadm", "usr/bin/rm"):
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        (root / program).touch(0o755)
    for link in ("lib", "bin", "sbin"):
        (root / link).symlink_to("usr/" + link)
    yield root
    shutil.rmtree(root)


def beside_fstab_generator(root: Path, directory: Path) -> None:
    """What systemd makes of the same fstab, so that the graph is the whole one. Not of lines that it refuses,
    or that stand in another's way."""
    lines = (root / "etc/fstab").read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.split()[1] not in ("/", "/usr") and "/dev/vde /data" not in line]
    fstab = root / "fstab"
    fstab.write_text("".join(kept))
    generator = next(path for path in FSTAB_GENERATORS if Path(path).exists())
    subprocess.run(
        [generator, directory, directory, directory],
        env={"SYSTEMD_FSTAB": str(fstab), "SYSTEMD_PROC_CMDLINE": "", "SYSTEMD_LOG_LEVEL": "warning"},
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_generated_units_are_silent(name: str, image: Path, tmp_path: Path) -> None:
    case = Case((CASES / name / "input").read_text(encoding="utf-8"))
    case.build(tmp_path)
    directory = image / "run/systemd/system"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    assert run(tmp_path, [directory], case.env)[0] == 0
    if (tmp_path / "etc/fstab").exists():
        beside_fstab_generator(tmp_path, directory)
    wants = directory / "network-online.target.wants"
    wants.mkdir()
    (directory / "waits.service").write_text(WAITS)
    (wants / "waits.service").symlink_to(directory / "waits.service")
    # A colon in an argument would be taken for an alias; the target wants those units, so they are read all
    # the same.
    units = [p.name for p in directory.iterdir() if p.is_file() and ":" not in p.name]
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--man=no",
            f"--root={image}",
            "persist-setup.target",
            "local-fs.target",
            "multi-user.target",
            "remote-fs.target",
            "persist-verify.service",
            *units,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.stdout == ""
    assert done.returncode == 0
