# SPDX-License-Identifier: LGPL-2.1-or-later
"""The shipped catalogue on a tree that has something of every entry: what it is there for is gone after seal,
what lies beside it is as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from persist.seal import again
from persist.seal.engine import Result, Seal
from persist.seal.opened import open_tree
from persist.seal.way_back import judge, regenerate_list
from persist.system.mountinfo import mounts
from tests.unit.identity_patterns import CATALOGUE, regex, sections
from tests.unit.identity_samples import SAMPLES
from tests.unit.test_way_back import BASE, KEYGEN, OURS, UNITS, put

pytestmark = [
    pytest.mark.storage,
    pytest.mark.skipif(os.geteuid() != 0, reason="sealing needs root"),
]
IMAGE = {
    "etc/os-release": "ID=test\n",
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n",
}
MAKERS = ("systemd-machine-id-commit", "systemd-random-seed", "systemd-tmpfiles-setup", "cloud-init-local")
WRITTEN_BY_SEAL = (again.PATH, "/var/lib/persist/seal.json")
EXECUTED = ("/bin/sed", "/bin/rm")


def of(file: str, path: str) -> dict[str, str]:
    """The section of the catalogue that a sample is for."""
    every = sections(CATALOGUE / f"{file}.conf")
    return next(s for s in every if any(regex(pattern).match(path) for pattern in s["Path"].split()))


def text_of(path: str) -> str:
    return "MY_HOSTID=old\nDAY=1\n" if path == "/etc/popularity-contest.conf" else f"text of {path}\n"


def program(root: Path, path: str) -> None:
    """A program of this machine with its libraries."""
    for file in (
        path,
        *[w for w in subprocess.check_output(["ldd", path], text=True).split() if w[0] == "/"],
    ):
        at = root / file.lstrip("/")
        at.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(file), at)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An image in which all that makes something anew is there."""
    root = tmp_path / "tree"
    root.mkdir()
    put(root, {**{k: v for k, v in BASE.items() if k != "bin"}, **OURS, **IMAGE})
    shutil.copytree(CATALOGUE, root / "usr/lib/persist/identity.d")
    for name in MAKERS:
        put(root, {f"{UNITS}/{name}.service": KEYGEN})
        put(root, {f"{UNITS}/sysinit.target.wants/{name}.service": f"-> ../{name}.service"})
    for of_package in sorted(CATALOGUE.glob("*.conf")):
        for section in sections(of_package):
            for word in section.get("Regenerate", "").replace('"', " ").replace("$(", " ").split():
                if word.startswith(("/usr/bin/", "/usr/sbin/", "/bin/")):
                    put(root, {word.lstrip("/"): "#!"})
    for executed in EXECUTED:
        (root / executed.lstrip("/")).unlink(missing_ok=True)
        program(root, executed)
    for file, path, beside in sorted(SAMPLES, key=lambda sample: -len(sample[1])):
        for one in (path, beside):
            at = root / one.lstrip("/")
            at.parent.mkdir(parents=True, exist_ok=True)
            if at.is_dir() or at.exists():
                continue
            if one == path and of(file, path)["Action"] == "empty-dir":
                at.mkdir()
                (at / "something").write_text("old")
            else:
                at.write_text(text_of(one))
    return root


def seal(root: Path) -> Result:
    with open_tree(str(root)) as tree:
        work = Seal(tree, (), mounts(), judge, regenerate_list)
        result = work.first_pass()
        assert result.errors == []
        work.seal()
    assert (result.failures, result.sealed) == ([], True)
    return result


def is_as_it_should_be(root: Path, file: str, path: str) -> bool:
    """Whether seal has left of a sample what the action of its entry leaves."""
    at, section = root / path.lstrip("/"), of(file, path)
    match section["Action"]:
        case "remove":
            return not os.path.lexists(at)
        case "truncate":
            return at.read_text() == ""
        case "empty-dir":
            return list(at.iterdir()) == []
        case "write":
            return at.read_text() == section["Content"].replace("\\n", "\n")
        case "run":
            return not at.exists() or at.read_text() == "DAY=1\n"
        case _:
            return at.is_dir() or at.read_text() == text_of(path)


def test_every_entry(tree: Path) -> None:
    """Samples, what lies beside them, and the list for the clone; a second run changes none of it."""
    for run in (1, 2):
        result = seal(tree)
        assert [sample for sample in SAMPLES if not is_as_it_should_be(tree, *sample[:2])] == []
        for _, _, beside in SAMPLES:
            at = tree / beside.lstrip("/")
            if beside not in WRITTEN_BY_SEAL:
                assert at.is_dir() or at.read_text() == text_of(beside), beside
        items, bad = again.parse((tree / again.PATH.lstrip("/")).read_bytes())
        wanted = [s for f in CATALOGUE.glob("*.conf") for s in sections(f) if "Regenerate" in s]
        assert bad == [] and len(items) == len(wanted) > 8
        assert {item.anyway for item in items if "/etc/popularity-contest.conf" in item.paths} == {True}
        pending = {w.item.action for w in result.plan.wishes if w.pending and not w.kept}
        assert pending == ({"run"} if run == 2 else {"remove", "truncate", "empty-dir", "write", "run"})
    document = json.loads((tree / "var/lib/persist/seal.json").read_text())
    assert document["sealed"] is True
