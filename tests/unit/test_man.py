# SPDX-License-Identifier: LGPL-2.1-or-later
"""The manual knows every key, word and verb that the code knows."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.boot import paths
from persist.boot.entry import METHODS
from persist.boot.rare import keys, migrations, settings
from persist.cli.main import VERBS, parser
from persist.version import VERSION

TOP = Path(__file__).resolve().parents[2]
MAN = TOP / "packaging/man"
PAGES = sorted(MAN.glob("*.[1-9]"))


def text(page: str) -> str:
    """A page as bare words: without requests, fonts and escapes."""
    lines = []
    for line in (MAN / page).read_text(encoding="utf-8").split("\n"):
        words = re.sub(r"^\.(\\\".*|[A-Z]+ ?)", "", line)
        lines.append(re.sub(r'\\f[BIR]|"', "", words).replace("\\-", "-"))
    return "\n".join(lines)


REGISTRY_KEYS = sorted({*keys.PATH_KEYS, *keys.IDENTITY_KEYS, *migrations.KEYS, *keys.LINK_KEYS})


@pytest.mark.parametrize("key", REGISTRY_KEYS)
def test_registry_key_is_described(key: str) -> None:
    assert re.search(rf"(?<![\w]){key}=", text("persist.d.5"))


@pytest.mark.parametrize("word", [*METHODS, *keys.ACTIONS])
def test_registry_word_is_described(word: str) -> None:
    assert re.search(rf"(?<![\w-]){word}(?![\w-])", text("persist.d.5"))


def test_the_keys_of_the_volume_are_found() -> None:
    assert {"Device", "Fallback"} <= set(settings.VOLUME)


@pytest.mark.parametrize("key", sorted({*settings.VOLUME, *settings.SEAL}))
def test_volume_key_is_described(key: str) -> None:
    assert f"{key}=" in text("persist.conf.5")


@pytest.mark.parametrize(
    "word",
    [
        *settings.FALLBACKS,
        *settings.JOINS,
        *settings.MACHINE_IDS,
        *(f"[{s.upper()}]" for s in settings.SECTIONS),
    ],
)
def test_configuration_word_is_described(word: str) -> None:
    assert word in text("persist.conf.5")


@pytest.mark.parametrize("verb", VERBS)
def test_verb_is_described(verb: str) -> None:
    assert f"persistctl {verb}" in text("persistctl.8") or re.search(rf"\|{verb}\b", text("persistctl.8"))
    assert re.search(rf"^{verb}\b", text("persistctl.8"), re.MULTILINE)


def options(part: argparse.ArgumentParser, words: str = "") -> Iterator[tuple[str, str, str]]:
    """Each option of each verb with what --help says of it."""
    for action in part._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from options(sub, f"{words} {name}".strip())
        else:
            yield from ((words, option, str(action.help)) for option in action.option_strings)


@pytest.mark.parametrize("option", sorted({option for _, option, _ in options(parser())}))
def test_option_is_described(option: str) -> None:
    assert re.search(rf"(?<![\w-]){option}(?![\w-])", text("persistctl.8"))


def test_the_help_of_volume_show_says_what_full_adds() -> None:
    said = {text for words, option, text in options(parser()) if (words, option) == ("volume show", "--full")}
    assert len(said) == 1
    assert "degraded mark" in said.pop()


UNITS = sorted(
    p.name for p in (TOP / "units").iterdir() if p.suffix in (".service", ".target", ".path", ".timer")
)


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_described(unit: str) -> None:
    boot = text("persist.7").partition("\nBOOT\n")[2].partition("\nWITHOUT THE VOLUME\n")[0]
    assert re.search(rf"(?<![\w-]){re.escape(unit)}", boot)


@pytest.mark.parametrize("path", [paths.VOLUME, paths.IMAGE, paths.LOWER, paths.READONLY, paths.RESCUE])
def test_place_is_described(path: str) -> None:
    assert f"\n{path}\n" in text("persist.7").partition("\nFILES\n")[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page_has_the_version_and_is_sound(page: Path) -> None:
    source = page.read_text(encoding="utf-8")
    assert f'"persist {VERSION}"' in source
    for other, section in re.findall(r"^\.BR (persist[\w.\\-]*) \((\d)\)", source, re.MULTILINE):
        assert (MAN / f"{other.replace(chr(92), '')}.{section}").is_file()
    if not shutil.which("groff"):
        pytest.skip("no groff")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
