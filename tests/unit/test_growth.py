# SPDX-License-Identifier: LGPL-2.1-or-later
"""What PID 1 waits for grows with the input and no faster: operations are counted, where a clock would tell
of the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from persist.boot import config, facts, ini, registry
from persist.boot.load import load

LINE_MAX = 1 << 20  # systemd drops a file with a longer line (read_line_full(), LONG_LINE_MAX)


class Characters(str):
    """A line that counts how many characters are copied out of it and of what is made of it."""

    copied = 0

    def _made(self, text: str) -> Characters:
        Characters.copied += len(text)
        return Characters(text)

    def split(self, *arguments: object) -> list[str]:
        return [Characters(piece) for piece in str.split(self, *arguments)]  # type: ignore[arg-type]

    def strip(self, *arguments: str) -> Characters:  # type: ignore[override]
        return self._made(str.strip(self, *arguments))

    def rstrip(self, *arguments: str) -> Characters:  # type: ignore[override]
        return self._made(str.rstrip(self, *arguments))

    def __add__(self, other: str) -> Characters:
        return self._made(str.__add__(self, other))

    def __radd__(self, other: str) -> Characters:
        return self._made(str.__add__(other, self))

    def __getitem__(self, key: object) -> Characters:
        return self._made(str.__getitem__(self, key))  # type: ignore[index]


class Bytes(bytes):
    """A file whose text counts."""

    def decode(self, *_: str) -> str:
        return Characters(bytes.decode(self))


def copied(data: bytes) -> int:
    Characters.copied = 0
    ini.parse(Bytes(data), "f", [])
    return Characters.copied


@pytest.mark.parametrize(
    "piece", [b"\\\n", b"a\\\n", b"# comment\n", b"a" * 999 + b"\\\n", b"[x]\n", b"k=v\n", b"\\\\\\\n"]
)
def test_continued_lines_are_put_together_once(piece: bytes) -> None:
    times = max(1, 20_000 // len(piece))
    data = b"[Path]\nPath=/a\\\n" + piece * times
    assert copied(data) <= 10 * len(data)


def lines_run(function: Callable[[], object]) -> int:
    """How many lines of Python a call runs, in this package."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if "persist/boot" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def machine(root: Path, name: str, count: int) -> str:
    """A machine with ``count`` entries, each in another directory, and as many lines of fstab."""
    registry, fstab, config = "", "", ""
    if name == "children of one overlay":
        registry = "[Path]\nPath=/srv\n" + "".join(
            f"[Path]\nPath=/srv/{i}\nMethod=bind\n" for i in range(count)
        )
    elif name == "users":
        registry = "[Path]\nPath=/etc\n" + "".join(
            f"[Path]\nPath=/srv/{i}\nUser=a\nServices=a.service\n" for i in range(count)
        )
    elif name == "binds and mounts below":
        registry = "".join(f"[Path]\nPath=/srv/{i}\nMethod=bind\n" for i in range(count))
        fstab = "".join(f"/dev/sd{i} /srv/{i}/x ext4\n" for i in range(count))
    elif name == "sources":
        registry = "".join(
            f"[Path]\nPath=/srv/{i}\nMethod=bind\nSeedFrom=/data/{i}/x\n" for i in range(count)
        )
        fstab = "".join(f"/srv/{i}/x /data/{i} none bind\n/srv/{i}/y none swap\n" for i in range(count))
    elif name == "network":
        registry = "".join(f"[Path]\nPath=/srv/{i}\nServices=a{i}.service\n" for i in range(count))
        fstab = "".join(f"/dev/sd{i} /data/{i} ext4\n" for i in range(count))
        config = "[Volume]\nDevice=LABEL=a\nOptions=_netdev\n"
    elif name == "services that are mounts":
        registry = "".join(f"[Path]\nPath=/srv/{i}\nServices=srv-{i + 1}.mount\n" for i in range(count))
        fstab = "".join(f"/srv/{i}/x /data/{i} none bind\n" for i in range(count))
    elif name == "services that cannot wait":
        registry = "[Path]\nPath=/srv\n" + "".join(f"Services=system-{i}.slice\n" for i in range(count))
        registry += "".join(f"[Path]\nPath=/srv/{i}\n" for i in range(count))
    for path, text in (
        ("usr/lib/persist.d/a.conf", registry),
        ("etc/fstab", fstab),
        ("usr/lib/persist/persist.conf", config),
        ("proc/cmdline", "quiet\n"),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    wants = root / "etc/systemd/system/local-fs.target.wants"
    wants.mkdir(parents=True)
    (wants / "persist-setup.target").symlink_to("/usr/lib/systemd/system/persist-setup.target")
    return str(root)


@pytest.mark.parametrize(
    "name",
    [
        "children of one overlay",
        "users",
        "binds and mounts below",
        "sources",
        "network",
        "services that are mounts",
        "services that cannot wait",
    ],
)
def test_twice_the_entries_are_twice_the_work(name: str, tmp_path: Path) -> None:
    few = machine(tmp_path / "few", name, 100)
    many = machine(tmp_path / "many", name, 400)
    made = load(many, {})
    assert len(made.plan.entries) >= 400
    assert lines_run(lambda: load(many, {})) <= 4.2 * lines_run(lambda: load(few, {}))


def test_no_line_is_too_long_for_systemd(tmp_path: Path) -> None:
    name = "children of one overlay"
    plan = load(machine(tmp_path / name, name, 3000), {}).plan
    longest = max(len(line) for text in plan.files.values() for line in text.split("\n"))
    assert longest < LINE_MAX / 20, "with 3000 entries: a line does not grow with them"
    assert plan.files["srv.mount"].count("persist-seed@srv-") == 3000


def test_a_line_is_ignored_where_it_is_too_long(tmp_path: Path) -> None:
    problems: list[ini.Problem] = []
    text = (
        b"[Path]\nPath=/a\nServices="
        + b"a.service \\\n" * 100_000
        + b"b.service\nMethod=bind\n[Path]\nPath=/"
        + b"x" * 70_000
        + b"\n"
    )
    sections = ini.parse(text, "f", problems)
    assert [s.settings for s in sections] == [[("Path", "/a", 2), ("Method", "bind", 100_004)], []]
    assert [(p.where, p.level) for p in problems] == [("f:3", ini.ERROR), ("f:100006", ini.ERROR)]
    assert all("longer than 64 KiB" in p.text for p in problems)


@pytest.mark.parametrize(
    "where",
    [b"/" + b"./" * 300_000 + b"a", b"/a" * 300_000, b"/" + b"\\040" * 250_000],
    ids=["dots", "deep", "escapes"],
)
def test_a_line_of_fstab_without_end(where: bytes, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/fstab").write_bytes(b"/dev/sda1 " + where + b" ext4\n/dev/sda2 /srv ext4\n")
    known = facts.Facts()
    known.root = str(tmp_path)
    from persist.boot.registry import Registry

    facts.gather_paths(known, Registry(), {})
    assert "/srv" in known.fstab
    assert max(len(path) for path in known.fstab) <= 4096, "what cannot be a path is no mount"


@pytest.mark.parametrize(
    "head, line",
    [
        ("[Path]\nPath=/a\n", "k" * 39 + "%d=\n"),
        ("[Path]\nPath=/a\n", "Snap%05d=\n"),
        ("", "[Pat%d]\n"),
        ("", "[Identity]\nActoin=%d\n"),
    ],
    ids=["long keys", "keys of the usual length", "sections", "the same key"],
)
def test_unknown_words_cost_a_look_at_the_first_ones(head: str, line: str) -> None:
    def work(count: int) -> tuple[int, list[ini.Problem]]:
        problems: list[ini.Problem] = []
        data = (head + "".join(line % i if "%" in line else line for i in range(count))).encode()
        return lines_run(lambda: registry.parse_file(data, "f", registry.Registry(), problems)), problems

    few, many = work(49), work(1049)
    assert many[0] - few[0] <= 1000 * 80, "no distance between words is computed for what nobody reads"
    assert len(few[1]) == 49
    assert [str(p) for p in many[1][:49]] == [str(p) for p in few[1]]
    assert [str(p) for p in many[1][49:]] == ["f: … and 1000 more lines that are ignored."]


def test_mistakes_that_cost_an_entry_are_all_kept() -> None:
    problems: list[ini.Problem] = []
    registry.parse_file(
        b"[Path]\nPath=a\nFoo=1\n" * 60 + b"[Paths]\n" * 60, "f", registry.Registry(), problems
    )
    assert sum(p.level == ini.ERROR for p in problems) == 60
    assert sum(p.level == ini.WARNING for p in problems) == 50


def test_a_persist_conf_of_garbage_is_said_in_fifty_lines(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/persist").mkdir(parents=True)
    (tmp_path / "usr/lib/persist/persist.conf").write_text("[Volume]\n" + "Devcie=x\n" * 1000)
    problems: list[ini.Problem] = []
    config.load(str(tmp_path), problems)
    assert len(problems) == 50
