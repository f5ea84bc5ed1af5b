# SPDX-License-Identifier: LGPL-2.1-or-later
"""[Identity] sections: what they take, and what a mistake costs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persist.boot.ini import Problem
from persist.boot.rare import keys
from persist.seal import section
from persist.seal.section import Item, load, parse_file


def parsed(text: str) -> tuple[list[Item], list[str]]:
    problems: list[Problem] = []
    return parse_file(text.encode(), "f", problems), [str(p) for p in problems]


def test_the_registry_knows_the_same_keys() -> None:
    assert set(keys.IDENTITY_KEYS) == set(section.KEYS)


def test_all_keys() -> None:
    items, problems = parsed(
        '# a comment\n[Identity]\nPath=/etc/a /etc/b*\nPath="/etc/c d" ~/x ESP:/loader/y\nAction=write\n'
        "Class=secret\nContent=a\\tb\\\\n\\n\nRegeneratedBy=x.service\n"
        "Regenerate=/bin/x -A 'b c'\nReason=so it is\nX-Ours=1\n"
    )
    assert problems == []
    assert items == [
        Item(
            ("/etc/a", "/etc/b*", "/etc/c d", "~/x", "ESP:/loader/y"),
            "write",
            "secret",
            "a\tb\\n\n",
            "",
            "x.service",
            "/bin/x -A 'b c'",
            "so it is",
            "f:2",
        )
    ]
    assert section.arguments(items[0].regenerate) == ["/bin/x", "-A", "b c"]


def test_defaults() -> None:
    items, problems = parsed(
        "[Identity]\nPath=/etc/x\nAction=remove\n[Identity]\nPath=/y/z\nAction=run\nExec=/bin/x\n"
    )
    assert problems == [] and [(i.cls, i.source) for i in items] == [("identity", "f:1"), ("identity", "f:4")]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("Action=remove", "f:1: [Identity] without Path=, the section is ignored."),
        ("Path=\nAction=remove", "f:1: [Identity] without Path=, the section is ignored."),
        ("Path=/etc/x", "f:1: [Identity] without Action=, the section is ignored."),
        ("Path=/etc/x\nAction=explode", "f:3: Action=explode: must be one of remove, truncate"),
        (
            "Path=/etc/x\nAction=remove\nClass=log\nClass=cat",
            "f:5: Class=cat: must be one of identity, secret",
        ),
        ("Path=/etc/x\nAction=run", "f:1: Action=run without Exec="),
        ("Path=/etc/x\nAction=remove\nExec=/bin/x", "f:1: Exec= with Action=remove"),
        ("Path=/etc/x\nAction=remove\nContent=x", "f:1: Content= with Action=remove"),
        ("Path=/etc/x\nAction=write\nContent=\\x41", "f:4: Content=\\x41: '\\x' is not an escape"),
        ("Path=/etc/x\nAction=remove\nRegenerate=bin/x -A", "f:4: Regenerate=bin/x -A: must begin with"),
        (
            "Path=/etc/x\nAction=remove\nRegenerate=/bin/x 'a",
            "f:4: Regenerate=/bin/x 'a: No closing quotation",
        ),
        (
            "Path=/etc/x\nAction=remove\nRegeneratedBy=x",
            "f:4: RegeneratedBy=x: must be the full name of a unit",
        ),
        ("Path=etc/x\nAction=remove", "f:2: Path=etc/x: 'etc/x' begins neither with / nor with ~/ or ESP:/"),
        ("Path=/\nAction=remove", "f:2: Path=/: '/' is not normalised"),
        ("Path=/*\nAction=remove", "f:2: Path=/*: '/*' has a wildcard below /"),
        ("Path=/**/x\nAction=remove", "f:2: Path=/**/x: '/**/x' has a wildcard below /"),
        ("Path=~/\nAction=remove", "f:2: Path=~/: '~/' is not normalised"),
        ("Path=~/**\nAction=remove", "f:2: Path=~/**: '~/**' is all that there is"),
        ("Path=~alice/x\nAction=remove", "f:2: Path=~alice/x: '~alice/x' begins neither"),
        ("Path=/etc/../x\nAction=remove", "f:2: Path=/etc/../x: '/etc/../x' is not normalised"),
        ("Path=/etc//x\nAction=remove", "f:2: Path=/etc//x: '/etc//x' is not normalised"),
        ("Path=/etc/a**\nAction=remove", "f:2: Path=/etc/a**: '/etc/a**' has ** beside other letters"),
        (
            "Path=/run/x\nAction=remove",
            "f:2: Path=/run/x: '/run/x' is below /run, which belongs to the running",
        ),
        ('Path="/etc/x\nAction=remove', 'f:2: Path="/etc/x: a quote is not closed'),
        ('Path="/etc/x"y\nAction=remove', 'f:2: Path="/etc/x"y: something follows a closing quote'),
        ('Path="/etc/\\x"\nAction=remove', 'f:2: Path="/etc/\\x": in double quotes only'),
    ],
)
def test_a_bad_section_costs_itself(lines: str, said: str) -> None:
    good = "[Identity]\nPath=/etc/good\nAction=remove\n"
    items, problems = parsed(f"[Identity]\n{lines}\n")
    assert items == []
    assert len(problems) == 1 and problems[0].startswith(said), problems
    assert [i.patterns for i in parsed(f"[Identity]\n{lines}\n{good}")[0]] == [("/etc/good",)]


def test_unknown_words() -> None:
    items, problems = parsed("[Identty]\nPath=/x/y\n[Identity]\nPath=/etc/x\nAction=remove\nReasn=z\n")
    assert len(items) == 1
    assert problems == [
        "f:1: Unknown section [Identty], ignoring. Did you mean [Identity]?",
        "f:6: Unknown key 'Reasn=' in section [Identity], ignoring. Did you mean Reason=?",
    ]


def put(root: Path, name: str, path: str = "/etc/x") -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"[Identity]\nPath={path}\nAction=remove\n")


def paths(root: Path) -> tuple[list[str], list[str]]:
    problems: list[Problem] = []
    return [" ".join(i.patterns) for i in load(str(root), problems)], [str(p) for p in problems]


def test_four_directories_and_masks(tmp_path: Path) -> None:
    put(tmp_path, "usr/lib/persist/identity.d/a.conf", "/etc/a-of-usr")
    put(tmp_path, "etc/persist/identity.d/a.conf", "/etc/a-of-etc")
    put(tmp_path, "usr/lib/persist/identity.d/b.conf", "/etc/b")
    put(tmp_path, "usr/lib/persist/identity.d/c.conf", "/etc/c")
    put(tmp_path, "usr/local/lib/persist/identity.d/d.conf", "/etc/d")
    put(tmp_path, "run/persist/identity.d/e.conf", "/etc/e")
    put(tmp_path, "usr/lib/persist.d/0.conf", "/etc/registry")
    put(tmp_path, "usr/lib/persist/identity.d/not-one", "/etc/not")
    (tmp_path / "etc/persist/identity.d/b.conf").symlink_to("/dev/null")
    (tmp_path / "etc/persist/identity.d/c.conf").touch()
    assert paths(tmp_path) == (["/etc/a-of-etc", "/etc/d", "/etc/e", "/etc/registry"], [])


def test_other_sections_of_the_registry_are_not_its_business(tmp_path: Path) -> None:
    put(tmp_path, "usr/lib/persist.d/0.conf")
    with (tmp_path / "usr/lib/persist.d/0.conf").open("a") as f:
        f.write("[Path]\nPath=/srv\n[Nonsense]\nA=b\n")
    assert paths(tmp_path) == (["/etc/x"], [])


def test_the_trees_own_links_stay_in_it(tmp_path: Path) -> None:
    """A tree is data: what its links name is below it, and the machine's own files are never read for it."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    put(outside, "identity.d/stranger.conf", "/etc/stranger")
    put(root, "srv/real/own.conf", "/etc/own")
    put(root, "srv/file", "/etc/behind")
    (root / "usr/lib/persist").mkdir(parents=True)
    (root / "usr/lib/persist/identity.d").symlink_to("/srv/real")
    (root / "etc/persist").mkdir(parents=True)
    (root / "etc/persist/identity.d").symlink_to(outside / "identity.d")
    (root / "srv/real/zlink.conf").symlink_to("/srv/file")
    (root / "srv/real/up.conf").symlink_to("../../../../../outside/identity.d/stranger.conf")
    (root / "srv/real/out.conf").symlink_to(outside / "identity.d/stranger.conf")
    found, problems = paths(root)
    assert found == ["/etc/own", "/etc/behind"]
    assert problems == [
        "/usr/lib/persist/identity.d/out.conf: Is not a regular file, ignoring it.",
        "/usr/lib/persist/identity.d/up.conf: Is not a regular file, ignoring it.",
    ]


def test_nothing_but_files_is_opened(tmp_path: Path) -> None:
    directory = tmp_path / "usr/lib/persist/identity.d"
    directory.mkdir(parents=True)
    os.mkfifo(directory / "a.conf")
    (directory / "b.conf").mkdir()
    (directory / "c.conf").symlink_to("c.conf")
    (directory / "d.conf").write_bytes(b"#" * ((1 << 20) + 1))
    (directory / "e.conf").write_bytes(b"\xff")
    found, problems = paths(tmp_path)
    assert found == [] and [p.split(": ")[1].split(".")[0] for p in problems] == [
        "Is not a regular file, ignoring it",
        "Is not a regular file, ignoring it",
        "Is not a regular file, ignoring it",
        "Larger than 1 MiB, the file is ignored",
        "Not UTF-8, the file is ignored",
    ]
