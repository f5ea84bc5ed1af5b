# SPDX-License-Identifier: LGPL-2.1-or-later
"""A boot in which all is mounted before PID 1 starts waits for no udev."""

from __future__ import annotations

from pathlib import Path

from persist.early import no_settle

UNITS = Path(__file__).resolve().parents[2] / "units"


def test_masked_once(tmp_path: Path) -> None:
    for _ in range(2):
        no_settle.mask(str(tmp_path / "system"))
    assert (tmp_path / "system" / no_settle.UNIT).readlink() == Path("/dev/null")


def test_what_somebody_has_put_there_stays(tmp_path: Path) -> None:
    (tmp_path / no_settle.UNIT).write_text("[Service]\n")
    no_settle.mask(str(tmp_path))
    assert (tmp_path / no_settle.UNIT).read_text() == "[Service]\n"


def test_the_next_boot_has_it_again() -> None:
    forget = (UNITS / "persist-soft-reboot.service").read_text()
    assert f" /run/systemd/system/{no_settle.UNIT} " in forget.replace("\\\n", " ")


def _words(unit: str, key: str) -> set[str]:
    found: set[str] = set()
    for line in (UNITS / unit).read_text().splitlines():
        name, _, value = line.partition("=")
        found |= set(value.split()) if name == key else set()
    return found


def test_nothing_else_before_local_fs_waits_for_udev() -> None:
    """What is masked has to be all that does."""
    for unit in ("persist-setup.target", "persist-format.service", "persist-volume.service"):
        assert not {word for word in _words(unit, "After") | _words(unit, "Requires") if "udev" in word}
    for unit in ("persist-format.service", "persist-volume.service"):
        assert no_settle.UNIT in _words(unit, "After")
    assert {"systemd-udevd.service", "systemd-udev-trigger.service"} <= _words(no_settle.UNIT, "After")
    assert not any(
        no_settle.UNIT in _words(unit.name, "Requires") for unit in UNITS.glob("persist-*.service")
    )
