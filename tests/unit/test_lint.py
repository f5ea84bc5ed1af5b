# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules of this project that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from persist.version import VERSION

TOP = Path(__file__).resolve().parents[2]
MODULES = sorted((TOP / "persist").rglob("*.py"))
LONGEST_MODULE = 300
LONGEST_FUNCTION = 60
SPDX = "SPDX-License-Identifier: LGPL-2.1-or-later"
# No comments: a licence's own text, formats that are read to the last byte, and Debian's changelog and source
# format.
NO_COMMENTS = re.compile(r"(^COPYING$|\.json$|(^|/)(changelog|format)$|^tests/.*/(cases|golden|data)/)")
# One module each, so that what they do to a machine can be read in one place.
ONLY_IN = {
    "subprocess": "persist/system/run.py",
    "pyudev": "persist/system/udev.py",
    "dbus_next": "persist/system/systemd_bus.py",
}
# Where packages come from is the business of the machine that runs us: its own lists and settings decide.
HOSTS = re.compile(
    r"https?://(?!www\.debian\.org/doc/)[\w.-]*("
    + "|".join(
        ("debian", "pypi", "python" + "hosted", "ubuntu", "fedora" + "project", "npm" + "js", "crates")
    )
    + r")[\w.-]*|index-"
    + r"url|--find-"
    + "links",
    re.IGNORECASE,
)


def tracked() -> list[Path]:
    """All files that git has or would take."""
    listed = subprocess.run(
        ["git", "-C", str(TOP), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [
        TOP / n
        for n in sorted(listed.split("\0"))
        if n and (TOP / n).is_file() and not (TOP / n).is_symlink()
    ]


def text_of(path: Path) -> str:
    """A file's text; no byte that is not UTF-8 hides anything from the checks."""
    return path.read_bytes().decode("utf-8", "replace")


def test_every_file_names_its_licence() -> None:
    missing = [
        str(p.relative_to(TOP))
        for p in tracked()
        if p.stat().st_size
        and not NO_COMMENTS.search(str(p.relative_to(TOP)))
        and SPDX not in "\n".join(text_of(p).split("\n")[:5])
    ]
    assert missing == []


def test_no_registry_or_mirror_is_named() -> None:
    found = [
        f"{p.relative_to(TOP)}: {m.group()}"
        for p in tracked()
        if p.name != "COPYING"
        for m in HOSTS.finditer(text_of(p))
    ]
    assert found == []


def imports(path: Path) -> list[tuple[str, int]]:
    """The top-level packages that a module imports, anywhere in it, with line numbers."""
    found = []
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.Import):
            found += [(alias.name.partition(".")[0], node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.append((node.module.partition(".")[0], node.lineno))
    return found


@pytest.mark.parametrize("package", ONLY_IN)
def test_imported_in_one_module(package: str) -> None:
    users = {str(p.relative_to(TOP)) for p in MODULES for name, _ in imports(p) if name == package}
    assert users <= {ONLY_IN[package]}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(TOP)))
def test_module_is_short_enough_to_read(path: Path) -> None:
    assert len(text_of(path).splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(TOP)))
def test_no_error_is_swallowed(path: Path) -> None:
    lines = text_of(path).splitlines()
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: 'except' without a class"
            if all(isinstance(s, ast.Pass) for s in node.body):
                told = any("#" in line for line in lines[node.lineno - 1 : node.body[-1].end_lineno])
                assert told, f"{path}:{node.lineno}: 'except' with nothing in it, and no word why"


def modules_of(tree: ast.AST) -> set[str]:
    """The names under which a file knows modules of ours."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "persist":
            directory = TOP / (node.module or "").replace(".", "/")
            found |= {a.asname or a.name for a in node.names if (directory / f"{a.name}.py").is_file()}
    return found


def replaced(path: Path) -> list[str]:
    """Where a test replaces an attribute of something that it did not make."""
    tree = ast.parse(text_of(path))
    modules = modules_of(tree) | {"os", "posix", "subprocess", "builtins", "fcntl"}
    found = []
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        function = node.func if isinstance(node, ast.Call) else None
        if (
            (isinstance(function, ast.Attribute) and function.attr in ("setattr", "delattr"))
            or (isinstance(function, ast.Attribute) and ast.unparse(function).startswith(("mock.", "patch.")))
            or (isinstance(function, ast.Name) and function.id == "setattr" and _is(node, modules))
            or any(isinstance(t, ast.Attribute) and ast.unparse(t.value) in modules for t in targets)
        ):
            found.append(f"{path.relative_to(TOP)}:{getattr(node, 'lineno', 0)}")
    return found


def _is(node: ast.AST, names: set[str]) -> bool:
    """Whether a call's first argument is one of these names, or the variable of a loop over them."""
    return isinstance(node, ast.Call) and bool(node.args) and ast.unparse(node.args[0]) in names | {"module"}


@pytest.mark.parametrize("path", sorted((TOP / "tests").rglob("*.py")), ids=lambda p: str(p.relative_to(TOP)))
def test_nothing_is_replaced_by_name(path: Path) -> None:
    """The product takes paths, clocks and commands as arguments, and a test has a real world: a mount
    namespace, real commands, a full or a read-only filesystem. faults.py is about the calls themselves."""
    if path != TOP / "tests/storage/faults.py":
        assert replaced(path) == []


def test_the_packages_and_the_news_have_the_version_of_the_code() -> None:
    first = text_of(TOP / "packaging/debian/changelog").split("\n")[0]
    assert first.startswith(f"persist ({VERSION}) ")
    top = re.search(r"^## (.*)$", text_of(TOP / "NEWS.md"), re.MULTILINE)
    assert top is not None and top[1] in (VERSION, f"{VERSION}, not released")


@pytest.mark.parametrize("script", ["bin/persist-service", "bin/persistctl", "generators/persist-generator"])
def test_scripts_run_debians_python_isolated(script: str) -> None:
    first = text_of(TOP / script).split("\n")[0]
    assert first in ("#!/usr/bin/python3 -I", "#!/usr/bin/python3 -IS")
    assert (TOP / script).stat().st_mode & 0o111
