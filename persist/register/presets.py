# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files of presets: what persist ships and what for, the links that enable them, and what --without
leaves out."""

from __future__ import annotations

import os

from persist.boot.ini import words
from persist.errors import PersistError
from persist.foresee.image import Image
from persist.record import Record
from persist.register.wish import quoted
from persist.system.files import write_atomically

SHIPPED = "/usr/share/persist/presets"
REGISTRY = "/etc/persist.d"
# Sorts after the files of packages, whose word on a single path is the better one.
LINK = "zz-preset-{}.conf"
# Sorts right before the link, so that its word counts against that preset and against no package's own file.
WITHOUT = "zz-preset-{}-without.conf"


def shipped(root: str) -> list[str]:
    """The names of the presets in an image."""
    try:
        return sorted(n[:-5] for n in os.listdir(root + SHIPPED) if n.endswith(".conf"))
    except FileNotFoundError:
        return []


class About(Record):
    """What the head of a preset says: for whom it is, and the programs by which an image is known to have
    that."""

    description: str = ""
    programs: tuple[str, ...] = ()


def about(root: str, name: str) -> About:
    """What a preset is for. Raises OSError."""
    found = {}
    with open(f"{root}{SHIPPED}/{name}.conf", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            if not line.startswith("#"):
                break
            key, _, value = line[1:].strip().partition(": ")
            found[key] = value
    return About(found.get("Description", ""), tuple(words(found.get("Program", ""))))


def _registry(root: str) -> str:
    """/etc/persist.d of an image, links followed within it."""
    return Image(root).behind(REGISTRY) if root else REGISTRY


def link_of(root: str, name: str) -> str:
    """The link that enables a preset."""
    return f"{root}{_registry(root)}/{LINK.format(name)}"


def without_file(root: str, name: str) -> str:
    """The file of what is left out of a preset."""
    return f"{root}{_registry(root)}/{WITHOUT.format(name)}"


def _declared(root: str, file: str) -> dict[str, str]:
    """The paths that a preset, or the file of what is left out, declares, each with its method; none where
    the file is not there."""
    from persist.boot.registry import load

    return {e.path: e.method for e in load(root, [], [file]).entries} if os.path.exists(file) else {}


def paths(root: str, name: str) -> list[str]:
    """The paths that a preset keeps."""
    kept = _declared(root, f"{root}{SHIPPED}/{name}.conf").items()
    return [path for path, method in kept if method in ("overlay", "bind", "symlink")]


def left_out(root: str, name: str) -> list[str]:
    """The paths of an enabled preset that --without took out."""
    return list(_declared(root, without_file(root, name)))


def leave_out(root: str, name: str, unwanted: list[str]) -> None:
    """Write the file that takes paths out of a preset, with everything that it declares below them; none
    leaves nothing out.

    Raises PersistError where the preset has no such path.
    """
    every = _declared(root, f"{root}{SHIPPED}/{name}.conf")
    for path in unwanted:
        if path not in every:
            raise _not_declared(name, path, every)
    taken = [p for p in every if any(p == u or p.startswith(u + "/") for u in unwanted)]
    file = without_file(root, name)
    if not taken:
        if os.path.lexists(file):
            os.unlink(file)
        return
    text = f"# What 'persistctl preset enable {name} --without' left out.\n" + "".join(
        f"\n[Path]\nPath={quoted(p)}\nMethod=none\n" for p in taken
    )
    write_atomically(file, text)


def _not_declared(name: str, path: str, every: dict[str, str]) -> PersistError:
    """What to say of a path that a preset has no entry for."""
    from persist.boot.paths import above

    if path[:1] != "/":
        return PersistError(
            f"--without={path} is not an absolute path.", hint=f"The preset '{name}' has {' '.join(every)}."
        )
    if any(word[:1] == "/" for word in words(path.replace(",", " "))[1:]):
        return PersistError(
            f"--without={path} looks like a list, and takes one path.",
            hint="Say --without= once for each path.",
        )
    over = above(path, every)
    if every.get(over) in ("overlay", "bind"):
        return PersistError(
            f"'{path}' has no entry of its own in the preset '{name}', {over} keeps it.",
            hint=f"To leave it to the image, write Path={path} and Method=image into a [Path] section of a "
            f"file in {REGISTRY}.",
        )
    return PersistError(f"The preset '{name}' does not keep '{path}'.", hint=f"It has {' '.join(every)}.")


def enabled(root: str, name: str) -> bool:
    """Whether a preset is linked."""
    return os.path.islink(link_of(root, name))


def _known(root: str, names: list[str]) -> None:
    have = shipped(root)
    for name in names:
        if name not in have:
            raise PersistError(f"There is no preset '{name}'.", hint=f"Known: {', '.join(have) or 'none'}.")


def enable(root: str, names: list[str], without: list[str]) -> None:
    """Link presets into the registry of an image, ``without`` some of their paths. Raises PersistError when
    one is unknown or a file is in the way."""
    _known(root, names)
    if without and len(names) > 1:
        raise PersistError("--without= goes with one preset.", hint="Enable the presets one after the other.")
    links = {link_of(root, name): f"{SHIPPED}/{name}.conf" for name in names}
    for link, target in links.items():
        if os.path.lexists(link) and not (os.path.islink(link) and os.readlink(link) == target):
            raise PersistError(
                f"'{link}' exists and is not a link to the preset.", hint="Move it away first."
            )
    os.makedirs(root + _registry(root), 0o755, exist_ok=True)
    for name in names:
        leave_out(root, name, [p.rstrip("/") or "/" for p in without])
    for link, target in links.items():
        if not os.path.islink(link):
            os.symlink(target, link)


def disable(root: str, names: list[str]) -> None:
    """Take the links away again; one that is not there is no error. Raises PersistError when one is
    unknown."""
    have = shipped(root)
    for name in names:
        if enabled(root, name):
            os.unlink(link_of(root, name))
            leave_out(root, name, [])
        elif name not in have:
            _known(root, [name])
