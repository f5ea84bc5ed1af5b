# SPDX-License-Identifier: LGPL-2.1-or-later
"""[Migration] as it is read: command lines, what a section needs, what an image has to have for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from persist.boot.ini import Problem
from persist.boot.rare import migrations
from persist.boot.registry import Registry, parse_file

from .test_foresee import Machine

GOOD = "[Migration]\nId=a\nPath=/srv/d\nExec=/usr/bin/up --to 2\n"


def _read(text: str) -> tuple[list[migrations.Migration], list[str]]:
    registry, problems = Registry(), list[Problem]()
    parse_file(text.encode(), "/f.conf", registry, problems)
    return registry.migrations, [str(problem) for problem in problems]


def test_defaults() -> None:
    (found,), said = _read(GOOD)
    assert said == []
    assert (found.id, found.path, found.exec) == ("a", "/srv/d", ["/usr/bin/up", "--to", "2"])
    assert (found.when, found.downgrade, found.services) == ("before-services", "refuse", [])
    assert (found.source, found.where("Exec")) == ("/f.conf:2", "/f.conf:4")


def test_services_add_up_and_the_last_of_a_choice_counts() -> None:
    more = "Services=a.service b.socket\nServices=c.timer\nWhen=after-services\nWhen=before-services\n"
    (found,), said = _read(GOOD + more)
    assert said == [] and found.services == ["a.service", "b.socket", "c.timer"]
    assert found.when == "before-services" and found.where("Services", "a.service") == "/f.conf:5"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/a b  c", ["/a", "b", "c"]),
        ("/a\tb", ["/a", "b"]),
        ("/a 'b c' \"d e\"", ["/a", "b c", "d e"]),
        ("/a x'y 'z", ["/a", "xy z"]),
        ("/a ''", ["/a", ""]),
        (r"/a \"b\sc\t\\ \'", ["/a", '"b c\t\\', "'"]),
        ("/a '\"' \"'\"", ["/a", '"', "'"]),
        ("/a %n $HOME ; #", ["/a", "%n", "$HOME", ";", "#"]),
        ("/a b\u00a0c", ["/a", "b\u00a0c"]),
        ("'/a b'", ["/a b"]),
        ("", []),
    ],
)
def test_command_lines(command: str, words: list[str]) -> None:
    assert migrations.arguments(command) == words


@pytest.mark.parametrize("command", ["/a 'b", '/a "', "/a \\", r"/a \x41", r"/a \$"])
def test_command_lines_that_are_none(command: str) -> None:
    with pytest.raises(ValueError, match="quote|escape"):
        migrations.arguments(command)


def test_a_bad_one_costs_itself() -> None:
    found, said = _read("[Migration]\nId=bad\nExec=up\nWhen=now\n" + GOOD + "[Path]\nPath=/srv/d\n")
    assert [m.id for m in found] == ["a"]
    assert said == [
        "/f.conf:3: Exec=up must begin with the absolute path of a program, the migration bad is ignored."
    ]


def test_verify_says_what_an_image_lacks(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    path = "[Path]\nPath=/srv/d\nMethod=bind\n"
    (machine.top / "srv/d").mkdir()
    machine.registry(path + GOOD + "Services=there.service gone.service\n")
    machine.file("usr/lib/systemd/system/there.service")
    for files in ([], [str(machine.top / "usr/lib/persist.d/t.conf")]):
        status, found = machine.verify(capsys, *files)
        assert status == 1
        assert [
            (p["level"], p["where"].rpartition(":")[2], p["message"]) for p in found if p["level"] < 5
        ] == [
            (
                3,
                "7",
                "Exec= of the migration a: /usr/bin/up is not in the image. Correct it, or ship the program.",
            ),
            (
                4,
                "8",
                "Services=gone.service: the image has no such unit, which the migration a names. "
                "Correct it, or take it out.",
            ),
        ]
    machine.file("usr/bin/up")
    machine.file("usr/lib/systemd/system/gone.service")
    assert machine.verify(capsys)[0] == 0
    machine.registry(GOOD)
    found = machine.verify(capsys)[1]
    assert ["no entry keeps /srv/d" in p["message"] for p in found] == [True], found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)
