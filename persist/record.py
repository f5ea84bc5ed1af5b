# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small classes of named values. What dataclasses(3) does for us, without its price: that module and its
decorator take 12 ms of each of our processes.

A subclass of Record lists its fields as a data class does; type checkers know it by PEP 681.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar, dataclass_transform

    Value = TypeVar("Value")
    AnyRecord = TypeVar("AnyRecord", bound="Record")
else:

    def dataclass_transform(**options):
        """The mark for type checkers does nothing."""
        return lambda cls: cls


class _Made:
    """A default that is made anew for each record."""

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


def made(make: Callable[[], Value]) -> Value:
    """The default of a field whose values can be changed: ``reasons: list[str] = made(list)``."""
    return _Made(make)  # type: ignore[return-value]


_MISSING = object()


@dataclass_transform(frozen_default=True)
class Record:
    """Fields by position or name, compared by value; unless ``frozen=False`` they cannot be set, and the
    record is hashable."""

    _names: tuple[str, ...] = ()
    _defaults: dict[str, object] = {}  # noqa: RUF012  # each subclass gets its own
    _begin: dict[str, object] = {}  # noqa: RUF012  # all fields, with what they are unless somebody says it
    _look: tuple[str, ...] = ()  # those that have to be said, and those that are made

    def __init_subclass__(cls, frozen: bool = True) -> None:
        own = [name for name in cls.__dict__.get("__annotations__", {}) if not name.startswith("_")]
        cls._names = (*cls._names, *(name for name in own if name not in cls._names))
        cls._defaults = cls._defaults | {name: cls.__dict__[name] for name in own if name in cls.__dict__}
        cls._begin = {name: cls._defaults.get(name, _MISSING) for name in cls._names}
        cls._look = tuple(n for n, v in cls._begin.items() if v is _MISSING or isinstance(v, _Made))
        if not frozen:
            cls.__setattr__ = object.__setattr__  # type: ignore[assignment,method-assign]
            cls.__hash__ = None  # type: ignore[assignment]

    def __init__(self, *values: Any, **named: Any) -> None:
        cls = type(self)
        names, found = cls._names, cls._begin.copy()  # in the order of the class, whatever the call's is
        found.update(zip(names, values, strict=False))
        wrong = len(values) > len(names)
        if named:
            wrong |= not named.keys() <= found.keys() or any(name in named for name in names[: len(values)])
            found.update(named)
        if wrong:
            raise TypeError(f"{cls.__name__}() takes each of {', '.join(names)} once")
        for name in cls._look:
            value = found[name]
            if value is _MISSING:
                raise TypeError(f"{cls.__name__}() is missing {name}")
            if type(value) is _Made:
                found[name] = value.make()
        self.__dict__.update(found)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set")

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"


def replace(record: AnyRecord, **changes: Any) -> AnyRecord:
    """A record like this one but for these fields. Raises TypeError for one that it has not."""
    return type(record)(**record.__dict__ | changes)


def as_dict(record: Record) -> dict[str, Any]:
    """The fields and their values, in the order of the class."""
    return dict(record.__dict__)
