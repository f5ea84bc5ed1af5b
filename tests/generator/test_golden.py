# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each directory in cases/ is one machine; see golden.py. PERSIST_UPDATE_GOLDEN=1 writes the expected texts
anew."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from tests.generator.golden import CASES, Case, blocks, record, run

NAMES = sorted(p.name for p in CASES.iterdir())


def fresh(parent: Path, name: str) -> Path:
    path = parent / name
    path.mkdir()
    return path


@pytest.mark.parametrize("name", NAMES)
def test_case(name: str, tmp_path: Path) -> None:
    case = Case((CASES / name / "input").read_text(encoding="utf-8"))
    root = fresh(tmp_path, "root")
    case.build(root)

    three = [fresh(tmp_path, n) for n in ("normal", "early", "late")]
    status, stderr = run(root, three, case.env)
    stderr = stderr.replace(str(three[0]), "OUT").replace(str(three[1]), "OUT")
    got = record(status, stderr, blocks(three[0]) + blocks(three[1], "early/"))
    expected = CASES / name / "expected"
    if os.environ.get("PERSIST_UPDATE_GOLDEN"):
        expected.write_text(got, encoding="utf-8")
    assert got == expected.read_text(encoding="utf-8")
    assert not list(three[2].iterdir())
    assert not blocks(three[1]) or (not blocks(three[0]) and "seal" in name), (
        "units of entries go into the normal directory, a boot that seals has none"
    )

    again = [fresh(tmp_path, n + "-again") for n in ("normal", "early", "late")]
    status, stderr = run(root, again, case.env)
    stderr = stderr.replace(str(again[0]), "OUT").replace(str(again[1]), "OUT")
    found = blocks(again[0]) + blocks(again[1], "early/")
    assert record(status, stderr, found) == got, "the same input gives the same bytes"

    one = fresh(tmp_path, "one")
    status, stderr = run(root, [one], case.env)
    both = record(status, stderr.replace(str(one), "OUT"), blocks(one))
    assert both == record(status, stderr.replace(str(one), "OUT"), blocks(three[0]) + blocks(three[1])), (
        "one directory gets what three get"
    )


def test_enough_cases() -> None:
    assert len(NAMES) >= 30


def test_wrong_number_of_arguments(tmp_path: Path) -> None:
    for count in (0, 2, 4):
        status, stderr = run(tmp_path, [tmp_path] * count)
        assert status == 1
        assert "one or three directories" in stderr
    assert not list(tmp_path.iterdir())


def test_files_of_other_generators_are_left_alone(tmp_path: Path) -> None:
    root, out = fresh(tmp_path, "root"), fresh(tmp_path, "out")
    Case("== enabled\n== file /usr/lib/persist.d/a.conf\n[Path]\nPath=/home\n[Path]\nPath=/srv\n").build(root)
    (out / "home.mount").write_text("of fstab-generator\n")
    (out / "outside").mkdir()
    (out / "srv.mount").symlink_to("outside/target")
    status, stderr = run(root, [out])
    assert status == 0
    assert (out / "home.mount").read_text() == "of fstab-generator\n"
    assert not list((out / "outside").iterdir()), "never through a link"
    assert stderr.count("Another generator has written this unit already") == 2


def test_output_directory_that_cannot_be_written(tmp_path: Path) -> None:
    root = fresh(tmp_path, "root")
    Case("== enabled\n== file /usr/lib/persist.d/a.conf\n[Path]\nPath=/home\n").build(root)
    status, stderr = run(root, [tmp_path / "missing" / "deep"])
    assert status == 0
    assert "Failed to write" in stderr


def test_half_a_unit_is_taken_away(tmp_path: Path) -> None:
    """No file may have more than 300 bytes: mount units are longer, the drop-in is not."""
    root, out = fresh(tmp_path, "root"), fresh(tmp_path, "out")
    Case(
        "== enabled\n== file /usr/lib/persist.d/a.conf\n[Path]\nPath=/home\n[Path]\nPath=/srv\nMethod=bind\n"
    ).build(root)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        status, stderr = run(root, [out])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 0
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*")) == [
        "persist-setup.target.d",
        "persist-setup.target.d/50-persist.conf",
    ]
    assert [line.partition(" Failed")[0] for line in stderr.splitlines()] == [
        f"persist-generator: {out}/home.mount:",
        f"persist-generator: {out}/persist-bind@srv.service:",
    ]
    assert stderr.count("Failed to write: File too large. The path is not kept on this boot.") == 2
