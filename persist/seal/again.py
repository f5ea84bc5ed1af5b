# SPDX-License-Identifier: LGPL-2.1-or-later
"""The list of what a clone makes anew: written by seal, worked off by persist-regenerate.service.

A line is a JSON object: ``paths`` that are there when it is done, ``command`` as words, ``source`` as
file:line, and ``anyway`` where the files stay and were edited, so that their being there says nothing.
"""

from __future__ import annotations

import json

from persist.record import Record, as_dict, replace

PATH = "/var/lib/persist/regenerate"
OUR_UNIT = "persist-regenerate.service"  # works it off


class Again(Record):
    """One item: run ``command`` unless all ``paths`` are there and hold something."""

    paths: tuple[str, ...]
    command: tuple[str, ...]
    source: str = ""
    anyway: bool = False


def dump(items: list[Again]) -> bytes:
    """The list as it is written."""
    return "".join(json.dumps(as_dict(item)) + "\n" for item in items).encode("ascii")


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and "\0" not in each for each in value):
        raise ValueError("no list of texts")
    return tuple(value)


def _item(line: str) -> Again:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("no object")
    words = _strings(found.get("command"))
    if not words or not words[0].startswith("/"):
        raise ValueError("no command")
    paths = _strings(found.get("paths"))
    if not all(path.startswith("/") for path in paths):
        raise ValueError("a path that is not absolute")
    return Again(paths, words, str(found.get("source", "")), found.get("anyway") is True)


def parse(data: bytes) -> tuple[list[Again], list[str]]:
    """The items of a list, and what is wrong with the lines that are none."""
    items, wrong = [], []
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            items.append(_item(line))
        except ValueError as e:
            wrong.append(f"line {number}: {e}")
    return items, wrong


def merge(items: list[Again]) -> list[Again]:
    """One item for each command, in the order of the first: what was sealed in two runs, or names one command
    in two sections, is made once."""
    found: dict[tuple[str, ...], Again] = {}
    for item in items:
        first = found.get(item.command)
        if first is None:
            found[item.command] = item
        else:
            paths = tuple(dict.fromkeys((*first.paths, *item.paths)))
            found[item.command] = replace(first, paths=paths, anyway=first.anyway or item.anyway)
    return list(found.values())
