# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text that others write (the kernel, tools, users) has lines that end in a newline and words between blanks,
whatever Unicode thinks."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from persist.boot import config, ini, paths, registry
from persist.boot.facts import option
from persist.boot.ini import Problem
from persist.boot.rare import settings
from persist.errors import CommandError
from persist.seed import request
from persist.seed.copy import _changed
from persist.system import blockdev, mountinfo
from persist.system.run import run
from persist.volume.members import lost

TOP = Path(__file__).resolve().parents[2]
# What str.splitlines() takes for the end of a line beside the newline, and what universal newlines do.
ENDS = ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
# What str.split() takes for a blank beside those of ASCII.
BLANKS = ["\x1c", "\x1f", "\x85", "\xa0", "\u2003", "\u2028", "\u3000"]


@pytest.mark.parametrize("c", ENDS)
def test_a_mount_point_with_what_ends_a_line_elsewhere(c: str) -> None:
    lines = [
        f"30 1 0:30 /@persist-state/srv/a{c}b /srv/a{c}b rw - btrfs /dev/vda2 rw",
        "31 1 0:31 / /srv/c rw - tmpfs tmpfs rw",
        "",
    ]
    assert [m.mount_point for m in mountinfo.parse("\n".join(lines))] == [f"/srv/a{c}b", "/srv/c"]


@pytest.mark.parametrize("c", sorted({*ENDS, *BLANKS}))
def test_swap_files(c: str) -> None:
    text = (
        f"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/srv/a{c}b                            "
        "file\t\t8\t\t0\t\t-2\n/srv/a\\040b\tfile\n"
    )
    assert blockdev.parse_swaps(text) == [f"/srv/a{c}b", "/srv/a b"]


@pytest.mark.parametrize("c", ENDS)
def test_what_a_command_prints(c: str) -> None:
    assert (
        run(sys.executable, "-c", "import sys; sys.stdout.buffer.write(sys.argv[1].encode())", f"a{c}b\n")
        == f"a{c}b\n"
    )


@pytest.mark.parametrize("c", ENDS)
def test_a_label_that_looks_like_another_property(c: str) -> None:
    found = blockdev.parse_probe(f"LABEL=a{c}UUID=forged\nUUID=real\n")
    assert found["UUID"] == "real" and "forged" in found["LABEL"]


@pytest.mark.parametrize("c", ENDS)
def test_os_release(tmp_path: Path, c: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_bytes(f'NAME="a{c}IMAGE_VERSION=forged"\nVERSION_ID=12\n'.encode())
    assert request.image_version(str(tmp_path)) == "12"


@pytest.mark.parametrize("c", ENDS)
def test_what_a_tool_complains_about(c: str) -> None:
    error = CommandError(["cp"], 1, f"cp: cannot stat 'a{c}b': No such file or directory\n")
    assert f"a{c}b" in error.message and _changed(error)


@pytest.mark.parametrize("c", BLANKS)
def test_the_kernel_command_line(c: str) -> None:
    """PID 1 would start with everything on, and so must we."""
    assert option(f"quiet a{c}persist=off", "persist") is None
    assert option(f'quiet a{c}persist=off "b c"', "persist") is None
    assert option("quiet\tpersist=off\n", "persist") == "off"


@pytest.mark.parametrize("c", BLANKS)
def test_words_of_a_setting(c: str) -> None:
    assert ini.words(f"LABEL=my{c}disk\t/dev/vdb ") == [f"LABEL=my{c}disk", "/dev/vdb"]


def test_a_digit_that_is_none(tmp_path: Path) -> None:
    """int() takes some of what str.isdigit() takes, and raises for others."""
    note = tmp_path / "gone"
    note.write_text("\n2 3x 4\n", encoding="ascii")
    assert lost.noted(None, str(note)) == {2, 4}
    note.write_text("\n2 \u00b2 \u0663\n", encoding="utf-8")
    assert lost.noted(None, str(note)) == set()


@pytest.mark.parametrize(
    "c",
    ["\n", "\x1f", "\x7f", "\x80", "\x85", "\x9b", "\x9f", "\u2028", "\u2029", "\udc80", "\ufffe", "\ufdd0"],
)
def test_characters_that_no_path_may_have(tmp_path: Path, c: str) -> None:
    """A control character of ISO 8859 (C1) moves the cursor of some terminals, and what Unicode takes for a
    line splits the lines of a log."""
    assert paths.unsayable(f"/srv/a{c}b") and paths.wrong_path(f"/srv/a{c}b") == paths.unsayable(
        f"/srv/a{c}b"
    )
    problems: list[Problem] = []
    found = registry.Registry()
    if c not in "\n\udc80":
        registry.parse_file(
            f"[Path]\nPath=/srv/a{c}b\n[Path]\nPath=/srv/c\nSeedFrom=/x{c}y\n".encode(), "f", found, problems
        )
        assert (found.entries, [p.where for p in problems]) == ([], ["f:2", "f:5"])
        conf = config.Config()
        assert settings.VOLUME["Mount"](conf, f"/mnt/a{c}b") and conf.mount == "/mnt/state"


@pytest.mark.parametrize(
    "path", ["/srv/a\xa0b", "/srv/\u3000", "/srv/\u00fc\u0663", "/srv/e\u0301", "/srv/\u202eb"]
)
def test_characters_that_a_path_may_have(path: str) -> None:
    assert paths.wrong_path(path) == ""


def _calls(module: Path) -> list[str]:
    """What splits text as Unicode would have it, as ``file:line what``."""
    source = module.read_text()
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        digits = (
            name in ("isdigit", "isnumeric", "isdecimal", "isalnum")
            and "isascii()" not in source.split("\n")[node.lineno - 1]
        )
        universal = name in ("run", "Popen", "check_output") and any(
            k.arg in ("text", "universal_newlines") for k in node.keywords
        )
        if (
            name in ("splitlines", "readlines", "isspace")
            or name == "split"
            and not node.args
            and not node.keywords
            or digits
            or universal
        ):
            found.append(f"{module.relative_to(TOP)}:{node.lineno} {name}")
    return found


def test_nothing_splits_as_unicode_does() -> None:
    """ini.words(), split("\\n") and bytes decoded by hand instead; a digit is one of ASCII."""
    assert [call for module in sorted((TOP / "persist").rglob("*.py")) for call in _calls(module)] == []
