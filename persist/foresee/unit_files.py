# SPDX-License-Identifier: LGPL-2.1-or-later
"""The unit files of an image, read as text: what each says, and what an ordinary boot of it starts.

Links are followed within the image. What generators make is not there, but for init scripts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from persist.boot.facts import UNIT_DIRECTORIES
from persist.boot.ini import Problem, parse, words
from persist.boot.paths import is_unit_name
from persist.foresee.image import Image

_PULLED_BY = ("Wants", "Requires", "BindsTo", "Upholds")
_DIRECTORIES_OF = ("wants", "requires", "upholds")
_TRIGGERS = {".socket": ("Socket", "Service"), ".timer": ("Timer", "Unit"), ".path": ("Path", "Unit")}
_BUSES = ("/usr/local/share/dbus-1/system-services", "/usr/share/dbus-1/system-services")
_RULES = ("/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d")
_UDEV_WANTS = re.compile(r'\bSYSTEMD_WANTS\}\s*[+:]?=\s*"([^"]*)"')
# What a generator writes is in no image: which of its units it starts.
_GENERATED = (
    ("/usr/lib/systemd/system-generators/cloud-init-generator", "cloud-init.target"),
    ("/usr/lib/systemd/system-generators/openvpn-generator", "openvpn@.service"),
    ("/usr/lib/systemd/system-generators/postgresql-generator", "postgresql@.service"),
)
_RUNLEVELS = ("2", "3", "4", "5")  # what systemd-sysv-generator makes of them is wanted by multi-user.target
_ROOTS = ("default.target", "dbus.socket", "systemd-udevd.service")


class Unit:
    """What the files of one unit say: (section, key) -> the values in their order. An empty value resets a
    list, as in systemd.syntax(7)."""

    def __init__(self, name: str, file: str) -> None:
        self.name = name
        self.file = file
        self.settings: dict[tuple[str, str], list[str]] = {}

    def take(self, text: str) -> None:
        """Add what a fragment or a drop-in says."""
        problems: list[Problem] = []  # for whoever wrote it, and PID 1, to say
        for section in parse(text.encode("utf-8", "surrogateescape"), self.file, problems):
            for key, value, _ in section.settings:
                values = self.settings.setdefault((section.name, key), [])
                if value:
                    values.append(value)
                else:
                    values.clear()

    def all(self, section: str, key: str) -> list[str]:
        """All values of a key."""
        return self.settings.get((section, key), [])

    def last(self, section: str, key: str) -> str:
        """The value of a key that has one, '' where it is not set."""
        return (self.all(section, key) or [""])[-1]


def _template(name: str) -> str:
    """foo@.service for foo@bar.service, '' for what is no instance."""
    stem, _, suffix = name.rpartition(".")
    prefix, at, instance = stem.partition("@")
    return f"{prefix}@.{suffix}" if at and instance else ""


def _expanded(word: str, name: str) -> str:
    """A word with the specifiers of names; '' where it has others."""
    stem = name.rpartition(".")[0]
    prefix, _, instance = stem.partition("@")
    for specifier, text in (("%i", instance), ("%p", prefix), ("%n", name), ("%N", stem)):
        word = word.replace(specifier, text)
    return "" if "%" in word else word


class Units:
    """All units of an image, as PID 1 finds them."""

    def __init__(self, image: Image) -> None:
        self._image = image
        # Name of a file or directory -> where it is, the directory that counts first.
        self._places: dict[str, list[str]] = {}
        for directory in UNIT_DIRECTORIES:
            if directory == "/lib/systemd/system" and image.target("/lib"):
                continue  # merged, the same once more
            for name in image.names(directory):
                self._places.setdefault(name, []).append(directory)
        self._known: dict[str, Unit | None] = {}
        self._started: set[str] = set()
        self._todo = list(reversed(_ROOTS))
        self._outside = False  # whether what is no unit was asked, too

    def names(self) -> list[str]:
        """The names of all units that have a file, templates and aliases among them."""
        return sorted(name for name in self._places if is_unit_name(name))

    def real_name(self, name: str) -> str:
        """The unit that a name stands for, behind its aliases; '/dev/null' for one that is masked."""
        for _ in range(8):
            places = self._places.get(name) or self._places.get(_template(name))
            if not places:
                return name
            found = name if name in self._places else _template(name)
            target = self._link(places[0], found)
            if target == "/dev/null":
                return target
            other = target.rpartition("/")[2]
            if not target or other == found or other.rpartition(".")[2] != name.rpartition(".")[2]:
                return name
            prefix, at, rest = other.partition("@")
            instance = name.partition("@")[2]
            name = f"{prefix}@{instance}" if at and rest.startswith(".") and instance else other
        return name

    def _link(self, directory: str, name: str) -> str:
        try:
            return self._image.target(f"{self._image.behind(directory)}/{name}")
        except OSError:
            return ""  # a loop of links on the way

    def find(self, name: str) -> Unit | None:
        """The unit of a name, with its drop-ins; None where the image has none, or it is masked."""
        name = self.real_name(name)
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def masked(self, name: str) -> bool:
        """Whether a name leads to /dev/null, or to an empty file, which is the same."""
        if self.real_name(name) == "/dev/null":
            return True
        places = self._places.get(name, [])
        return places != [] and not self._text(f"{places[0]}/{name}")

    def _text(self, path: str) -> str:
        return "\n".join(line for _, line in self._image.lines(path))

    def _read(self, name: str) -> Unit | None:
        at = name if name in self._places else _template(name)
        if name == "/dev/null" or at not in self._places:
            return self._of_init_script(name)
        file = f"{self._places[at][0]}/{at}"
        text = self._text(file)
        if not text:
            return None
        unit = Unit(name, file)
        unit.take(text)
        for drop_in in self._drop_ins(name):
            unit.take(self._text(drop_in))
        return unit

    def _of_init_script(self, name: str) -> Unit | None:
        stem = name.removesuffix(".service")
        if stem == name or "/" in stem or self._image.kind_behind(f"/etc/init.d/{stem}") != "file":
            return None
        return Unit(name, f"/etc/init.d/{stem}")

    def _drop_ins(self, name: str) -> Iterator[str]:
        """The drop-ins of a unit, sorted by name; those of a.service count also for a-b.service's a-.service
        and for all services (systemd.unit(5))."""
        stem, _, suffix = name.rpartition(".")
        levels = [suffix]
        for at, character in enumerate(stem):
            if character == "-" and 0 < at < len(stem) - 1:
                levels.append(f"{stem[: at + 1]}.{suffix}")
        levels += [level for level in (_template(name), name) if level]
        found: dict[str, str] = {}
        for level in levels:
            for directory in reversed(self._places.get(f"{level}.d", [])):
                for file in self._image.names(f"{directory}/{level}.d"):
                    if file.endswith(".conf"):
                        found[file] = f"{directory}/{level}.d/{file}"
        yield from (found[file] for file in sorted(found))

    def _pulls(self, unit: Unit) -> Iterator[str]:
        """What starts along with a unit, or can be started by it."""
        for key in _PULLED_BY:
            for value in unit.all("Unit", key):
                yield from (_expanded(word, unit.name) for word in words(value))
        for name in (unit.name, _template(unit.name)):
            for kind in _DIRECTORIES_OF:
                for directory in self._places.get(f"{name}.{kind}", []) if name else ():
                    for link in self._image.names(f"{directory}/{name}.{kind}"):
                        if self._link(f"{directory}/{name}.{kind}", link) != "/dev/null":
                            yield link
        stem, _, suffix = unit.name.rpartition(".")
        if f".{suffix}" in _TRIGGERS:
            named = unit.last(*_TRIGGERS[f".{suffix}"])
            accepting = unit.last("Socket", "Accept").lower() in ("yes", "true", "on", "1")
            yield _expanded(named, unit.name) or (f"{stem}@.service" if accepting else f"{stem}.service")

    def _from_outside(self) -> Iterator[str]:
        """What a bus, a device, a generator or a run level starts: what asks for them is no unit."""
        for directory in _BUSES:
            for name in self._image.names(directory):
                for _, line in self._image.lines(f"{directory}/{name}"):
                    key, _, value = line.partition("=")
                    if key.strip() == "SystemdService":
                        yield value.strip()
        for directory in _RULES:
            for name in self._image.names(directory) if directory not in self._aliases() else ():
                for _, line in self._image.lines(f"{directory}/{name}"):
                    for wanted in _UDEV_WANTS.findall(line):
                        yield from words(wanted)
        for generator, unit in _GENERATED:
            if self._image.kind_behind(generator) == "file":
                yield unit
        for level in _RUNLEVELS:
            for name in self._image.names(f"/etc/rc{level}.d"):
                if name.startswith("S"):
                    yield f"{name.lstrip('S').lstrip('0123456789')}.service"

    def _aliases(self) -> tuple[str, ...]:
        return ("/lib/udev/rules.d",) if self._image.target("/lib") else ()

    def is_started(self, name: str) -> bool:
        """Whether an ordinary boot starts a unit, or somebody who is there does when he needs it: it is
        behind a socket, a timer, a path, a bus name or a device."""
        wanted = {self.real_name(name), _template(name)}
        while not wanted & self._started and self._goes_on():
            pass
        return bool(wanted & self._started)

    def _goes_on(self) -> bool:
        """Look at one unit more that is started, the targets of a boot before what others start; whether
        there was one. Most questions are answered long before all have been looked at."""
        if not self._todo and not self._outside:
            self._outside = True
            # A template is enough where an instance is asked for by what only a device knows.
            self._todo += [re.sub(r"@[^.]*[$%][^.]*\.", "@.", name) for name in self._from_outside()]
        if not self._todo:
            return False
        name = self.real_name(self._todo.pop())
        unit = self.find(name) if name and name not in self._started else None
        if unit is not None:
            self._started.add(name)
            self._todo += self._pulls(unit)
        return True
