# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees made by chance, with links everywhere: whatever is in one, nothing outside of it changes, a dry run
changes nothing, and what was sealed is sealed."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from persist.errors import PersistError
from tests.unit.seal_tree import MadeUp

from .seal_rig import AS_ROOT, SEAL_JSON, snapshot

pytestmark = AS_ROOT
NAMES = ("a", "b", "key", "x.log", ".h")
ACTIONS = ("remove", "remove", "truncate", "empty-dir", "write", "report")
CLASSES = ("identity", "secret", "log", "cache", "user", "shared")
WILD = ("*", "**", "?", "*.log", "[ab]", ".*")
TOPS = ("etc", "var", "srv", "home", "tmp")


def directories(made: MadeUp) -> list[Path]:
    """All real directories below those that a test plays with."""
    found = []
    for top in TOPS:
        for here, below, _ in os.walk(made.root / top):
            found.append(Path(here))
            found += [Path(here) / b for b in below if not (Path(here) / b).is_symlink()]
    return list(dict.fromkeys(found))


def grow(made: MadeUp, outside: Path, chance: random.Random) -> None:
    """Files, directories, pipes, devices and links, owned by root and others."""
    for _ in range(chance.randrange(10, 60)):
        place = chance.choice(directories(made)) / chance.choice(NAMES)
        if os.path.lexists(place):
            continue
        kind = chance.randrange(10)
        if kind < 3:
            place.write_text(chance.choice(("", "x", "much more")))
        elif kind < 6:
            place.mkdir(mode=chance.choice((0o755, 0o777, 0o1777)))
        elif kind == 6:
            os.mkfifo(place)
        else:
            inner = chance.choice(directories(made)) / chance.choice(NAMES)
            depth = len(place.relative_to(made.root).parts)
            place.symlink_to(
                chance.choice(
                    (
                        str(outside / "f"),
                        str(outside),
                        "/dev/null",
                        "/",
                        "../" * depth + "outside/f",
                        "../" * (depth - 1) + chance.choice(TOPS),
                        "/" + str(inner.relative_to(made.root)),
                        os.path.relpath(inner, place.parent),
                        chance.choice(NAMES),
                    )
                )
            )
        if chance.random() < 0.3:
            os.lchown(place, 1000, 1000)


def pattern(chance: random.Random) -> str:
    parts = [chance.choice((*NAMES, *WILD)) for _ in range(chance.randrange(1, 4))]
    if chance.random() < 0.2:
        return "~/" + "/".join(parts) if parts[0] != "**" else "~/a"
    return "/" + "/".join((chance.choice(TOPS), *parts))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_in_a_tree(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    made = MadeUp(tmp_path / "t")
    outside = tmp_path / "outside"
    (outside / "d").mkdir(parents=True)
    for name in ("f", "d/f", *NAMES):
        (outside / name).write_text("outside")
    for top in TOPS:
        made.at(top).mkdir(exist_ok=True)
    grow(made, outside, chance)
    for _ in range(chance.randrange(1, 8)):
        made.section(pattern(chance), chance.choice(ACTIONS), cls=chance.choice(CLASSES))
    untouched, before = snapshot(outside), snapshot(made.root)
    try:
        plan = made.plan()
        assert snapshot(made.root) == before
        result = made.seal()
        assert snapshot(outside) == untouched
        if result.errors:
            assert set(result.errors) >= set(plan.errors) and snapshot(made.root) == before
            return
        assert result.failures == [] and result.sealed, result.failures
        again = made.seal()
    except PersistError as e:
        assert "symbolic link" in str(e) or "written by others" in str(e)
        assert snapshot(outside) == untouched
        return
    assert again.sealed
    assert [
        (w.item.patterns, w.item.action, w.pending, w.places) for w in again.plan.wishes if w.pending
    ] == []
    assert made.has(SEAL_JSON)
    left = snapshot(made.root)
    kept = {d.path for d in again.plan.deeds}
    for path, old in before.items():
        new = left.get(path)
        gone = new is None or new[-1] != old[-1]
        if stat.S_ISREG(int(str(old[0]))) and not gone:
            assert new is not None and new[:4] == old[:4], f"{path} is another file now ({kept})"
