# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records behave as data classes do: values by position or name, defaults, equality, and no change unless
asked for."""

from __future__ import annotations

import pytest

from persist.record import Record, as_dict, made, replace


class Point(Record):
    """A point."""

    x: int
    y: int = 2
    names: tuple[str, ...] = ()

    @property
    def far(self) -> bool:
        """No field."""
        return self.x > 100


class Named(Point):
    """With one field more."""

    name: str = "here"


class Basket(Record, frozen=False):
    """What can be changed."""

    things: list[str] = made(list)


class Other(Record):
    """The fields of Point, and no Point."""

    x: int
    y: int = 2
    names: tuple[str, ...] = ()


def test_values() -> None:
    """By position, by name, by default, in the order of the class."""
    assert as_dict(Point(1)) == {"x": 1, "y": 2, "names": ()}
    assert list(as_dict(Point(names=("a",), y=5, x=3))) == ["x", "y", "names"]
    assert as_dict(Named(1, 2, (), "there")) == {"x": 1, "y": 2, "names": (), "name": "there"}
    assert repr(Point(1)) == "Point(x=1, y=2, names=())"
    assert Point(101).far


def test_wrong_calls() -> None:
    """Missing, twice, unknown, too many: never a record with the wrong fields."""
    for values, named in (((), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((1, 2, (), 4), {})):
        with pytest.raises(TypeError):
            Point(*values, **named)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        replace(Point(1), z=2)


def test_equality() -> None:
    """By value, within one class."""
    assert Point(1) == Point(1, 2) and hash(Point(1)) == hash(Point(x=1))
    assert Point(1) != Point(2) and Point(1) != Other(1) and Point(1) != Named(1)
    assert replace(Point(1), y=3) == Point(1, 3)
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_frozen() -> None:
    """A record cannot be changed, unless its class says so; then it has no hash, and its defaults are its
    own."""
    with pytest.raises(AttributeError, match=r"Point\.x cannot be set"):
        Point(1).x = 2  # type: ignore[misc]
    one, two = Basket(), Basket()
    one.things.append("apple")
    assert (one.things, two.things) == (["apple"], [])
    one.things = []
    assert one == two
    with pytest.raises(TypeError):
        hash(one)
