# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lies beside an image: the pure parts of it, and layers as trees."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.record import replace
from persist.seal.beside import LayerTree, also_of, is_whiteout, merge
from persist.seal.first_pass import Planner
from persist.seal.look.obstacles import Surroundings
from persist.seal.look.pattern import Finder, Place
from persist.seal.look.tree import Tree
from persist.seal.plan import Plan, Wish
from persist.seal.section import Item, load_from
from persist.seal.volume.layers import Kept, shown
from persist.seal.volume.remains import Subvolume, elsewhere, parse
from persist.seal.volume.where import refusal
from persist.volume.find.decision import Found
from persist.volume.members.assemble import Assembly
from persist.volume.members.oddity import Oddity

from .seal_tree import MadeUp


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path / "t")


def plan_of(made: MadeUp) -> tuple[list[Item], Plan]:
    with Tree(str(made.root)) as tree:
        items = load_from(tree, [])
        return items, Planner(tree, Surroundings(tree.path, ()), "").make(items, ())


def test_where_links_lead(made: MadeUp) -> None:
    """A file behind a link, a directory that stays, a file that only the volume's own name leads to."""
    made.put("/var/lib/w/w.db")
    made.link("/var/log/w.db", "/var/lib/w/w.db")
    made.put("/srv/cache/x")
    made.link("/var/cache", "/srv/cache")
    made.put("/mnt/state/var/lib/iscsi/name")
    made.link("/var/lib/iscsi", "/mnt/state/var/lib/iscsi")
    made.section("/var/log/w.db", "remove", "w", cls="secret")
    made.section("/var/cache", "remove", "x", cls="secret")
    made.section("/var/lib/iscsi/*", "remove", "y", cls="secret")
    items, plan = plan_of(made)
    also = dict(zip([item.patterns[0] for item in items], also_of(plan, items, "/mnt/state"), strict=True))
    assert also == {
        "/etc/machine-id": [Place(("etc", "machine-id"), True)],
        "/var/log/w.db": [Place(("var", "lib", "w", "w.db"), True)],
        "/var/cache": [Place(("srv", "cache"), True, True)],
        "/var/lib/iscsi/*": [
            Place(("mnt", "state", "var", "lib", "iscsi", "name"), False),
            Place(("var", "lib", "iscsi", "name"), False),
        ],
    }


def test_a_place_in_another_tree(made: MadeUp) -> None:
    """Its parents are directories there, or it is not there; whether it was named stays as it was, for what a
    wildcard meets is not followed."""
    made.put("/srv/cache/x")
    made.link("/srv/link", "/srv/cache")
    with Tree(str(made.root)) as tree:
        finder = Finder(tree, frozenset({("srv", "barred")}))
        made.put("/srv/barred/x")

        def at(path: str, *, named: bool = True, inside: bool = False) -> list[tuple[str, bool]]:
            found = finder.at(Place(tuple(path.strip("/").split("/")), named, inside))
            return [(each.path, each.named) for each in found]

        assert at("/srv/cache/x") == [("/srv/cache/x", True)]
        assert at("/srv/cache/x", named=False) == [("/srv/cache/x", False)]
        assert at("/srv/cache", inside=True) == [("/srv/cache/x", False)]
        assert at("/srv/link/x") == [] and at("/srv/link", inside=True) == []
        assert at("/srv/link") == [("/srv/link", True)]
        assert at("/srv/none/x") == [] and at("/srv/cache/x/y") == [] and at("/srv/none", inside=True) == []
        assert at("/srv/barred/x") == [] and at("/srv/barred") == []


def test_what_a_wildcard_met_elsewhere_is_not_followed(made: MadeUp) -> None:
    """A link in /tmp leads to things that nobody meant, also where the merged view has it."""
    made.put("/srv/precious")
    made.link("/tmp/link", "/srv/precious")
    made.section("/tmp/*", "remove", cls="cache", more="")
    items, plan = plan_of(made)
    also = also_of(plan, items)
    with Tree(str(made.root)) as tree:
        again = Planner(tree, Surroundings(tree.path, ()), "").make(
            [replace(items[1], patterns=("/none",))], (), also[1:]
        )
    assert [(deed.kind, deed.path) for deed in again.deeds] == [("unlink", "/tmp/link")]


def test_homes_are_told(made: MadeUp) -> None:
    made.put("/home/bob/.history")
    with Tree(str(made.root)) as tree:
        finder = Finder(tree)
        assert finder.find("~/.history") == []
        finder.at_home(["/home/bob"])
        assert [each.path for each in finder.find("~/.history")] == ["/home/bob/.history"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a whiteout is a device")
def test_a_whiteout_is_nothing(made: MadeUp) -> None:
    os.mknod(made.at("/etc/gone"), stat.S_IFCHR | 0o600, os.makedev(0, 0))
    os.mknod(made.at("/etc/null"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with LayerTree(str(made.root)) as tree:
        for _ in range(2):  # the second time from what was listed
            assert tree.lstat(("etc", "gone")) is None and tree.lstat(("etc", "null")) is not None
            assert "gone" not in tree.entries(("etc",)) and "null" in tree.entries(("etc",))
    assert is_whiteout(made.at("/etc/gone").lstat()) and not is_whiteout(made.at("/etc/null").lstat())


def test_wishes_are_put_together() -> None:
    item = Item(patterns=("/a", "/b"), action="remove", cls="secret", source="x:1")
    one, two = Plan(), Plan()
    one.wishes = [Wish(item, matched=["/a"], pending=["/a"], stale=["/b"])]
    two.wishes = [Wish(item, matched=["/a", "/b"], pending=["/b"], stale=[])]
    merge(one, two)
    assert one.wishes == [Wish(item, matched=["/a", "/b"], pending=["/a", "/b"], stale=[])]


@pytest.mark.parametrize(
    ("every", "path"),
    [
        ([], None),
        ([Kept("/var", True)], "/var"),
        ([Kept("/var", True), Kept("/var/lib", False)], "/var/lib"),
        ([Kept("/var", True, seeded=False)], None),
        ([Kept("/var/lib/persistent", True)], None),
        ([Kept("/var/lib/persist", False)], "/var/lib/persist"),
    ],
)
def test_where_our_own_files_are_shown(every: list[Kept], path: str | None) -> None:
    found = shown(every)
    assert (found and found.path) == path


LIST = """ID 256 gen 12 top level 5 parent_uuid -      uuid aaaa path @persist-state
ID 257 gen 9 top level 5 parent_uuid - uuid bbbb path @persist-data
ID 258 gen 9 top level 5 parent_uuid - uuid cccc path @persist-state-snapshots
ID 300 gen 12 top level 258 parent_uuid aaaa uuid dddd path @persist-state-snapshots/a path b
"""


def test_subvolumes() -> None:
    every = parse(LIST)
    assert [(one.number, one.uuid, one.parent, one.path) for one in every] == [
        (256, "aaaa", "", "@persist-state"),
        (257, "bbbb", "", "@persist-data"),
        (258, "cccc", "", "@persist-state-snapshots"),
        (300, "dddd", "aaaa", "@persist-state-snapshots/a path b"),
    ]
    assert elsewhere(every) == []
    with pytest.raises(PersistError, match="cannot be told apart: 'second line of a name'"):
        parse(LIST + "second line of a name\n")


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ([("e", "aaaa", "@persist-state/copy")], ["@persist-state/copy"]),
        # A copy of what is a snapshot of the state.
        ([("e", "dddd", "old")], ["old"]),
        ([("e", "dddd", "old"), ("f", "e", "@persist-data/older")], ["@persist-data/older", "old"]),
        # Layers of containers are snapshots of one another, and not of the state.
        ([("e", "", "@persist-state/l/1"), ("f", "e", "@persist-state/l/2")], []),
    ],
)
def test_snapshots_elsewhere(more: list[tuple[str, str, str]], found: list[str]) -> None:
    every = [*parse(LIST), *(Subvolume(400, *one) for one in more)]
    assert elsewhere(every) == found


def test_what_the_state_was_made_of() -> None:
    """It was brought back from a snapshot, and the one before it lies there under another name."""
    every = [
        Subvolume(1, "new", "snap", "@persist-state"),
        Subvolume(2, "snap", "old", "@persist-state-snapshots/x"),
        Subvolume(3, "old", "", "broken"),
    ]
    assert elsewhere(every) == ["broken"]


FOUND = Found("/dev/a", "u", ("/dev/a",))
WHOLE = Assembly((), 0, (), (), None, ())


@pytest.mark.parametrize(
    ("found", "assembly", "said"),
    [
        (FOUND, None, ""),
        (
            Found("/dev/a", "u", ("/dev/a",), others=(("/dev/b", "v"),)),
            None,
            "/dev/b could be a state volume",
        ),
        (
            Found("/dev/a", "u", ("/dev/a",), forget=("/dev/c",)),
            None,
            "/dev/c is of the state volume on /dev/a",
        ),
        (FOUND, Assembly((), 0, (), (), None, (Oddity("x", "It is odd.", "Look."),)), "It is odd."),
        (FOUND, Assembly((), 1, (), (), None, ()), "The state volume on /dev/a is not whole"),
        (FOUND, WHOLE, "The state volume on /dev/a is not whole"),
    ],
)
def test_what_is_not_sealed(found: Found, assembly: Assembly | None, said: str) -> None:
    wrong = refusal(found, assembly)
    assert (str(wrong) if wrong else "").startswith(said) and (wrong is None) == (not said)
    assert wrong is None or wrong.hint
