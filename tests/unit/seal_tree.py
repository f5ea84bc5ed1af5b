# SPDX-License-Identifier: LGPL-2.1-or-later
"""A tree to seal, made up for a test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from persist.seal.engine import Result, Seal
from persist.seal.first_pass import Planner
from persist.seal.look.obstacles import Surroundings
from persist.seal.look.tree import Tree
from persist.seal.opened import open_tree
from persist.seal.plan import SECRETS, Plan
from persist.seal.section import Item, load_from
from persist.system.mountinfo import Mount

ID = "0123456789abcdef0123456789abcdef"


def no_way_back(item: Item, matched: Sequence[str], root: str, machine_id: str) -> str:
    """A judge that has nothing to say, but where an identity has no word of who makes it again."""
    needs = item.cls in SECRETS and not item.regenerated_by and not item.regenerate
    return "nobody makes it again." if needs else ""


def as_lines(wiped: Iterable[tuple[Item, Sequence[str]]], before: bytes) -> bytes:
    """The list for the clone, a line for each item."""
    lines = [line for line in before.decode().split("\n") if line]
    lines += [f"{item.regenerate}: {' '.join(names)}" for item, names in wiped if item.regenerate]
    return "".join(f"{line}\n" for line in dict.fromkeys(lines)).encode()


class MadeUp:
    """A system with an id and a catalogue that takes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put("/usr/lib/os-release", "ID=x\n")
        self.put("/etc/machine-id", f"{ID}\n", 0o444)
        self.put("/etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
        for directory in ("root", "home/alice", "var/log", "var/lib", "tmp", "dev"):
            (root / directory).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        self.section("/etc/machine-id", "write", "systemd")

    def put(self, path: str, text: str = "x", mode: int = 0o644) -> Path:
        """A file."""
        file = self.at(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def at(self, path: str) -> Path:
        """Where a path of the tree is for us."""
        return self.root / path.lstrip("/")

    def link(self, path: str, target: str) -> Path:
        """A symbolic link."""
        file = self.at(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(target)
        return file

    def has(self, path: str) -> bool:
        """Whether there is something, a dangling link too."""
        return os.path.lexists(self.at(path))

    def text(self, path: str) -> str:
        """What a file says."""
        return self.at(path).read_text()

    def section(
        self,
        path: str,
        action: str,
        name: str = "t",
        *,
        cls: str = "identity",
        more: str = "RegeneratedBy=none",
    ) -> None:
        """Add a section to a file of the catalogue."""
        file = self.at(f"/usr/lib/persist/identity.d/{name}.conf")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as f:
            f.write(f"[Identity]\nPath={path}\nAction={action}\nClass={cls}\n{more}\n")

    def plan(self, keep: Sequence[str] = (), mounts: Sequence[Mount] = ()) -> Plan:
        """The first pass, of the sections alone."""
        with Tree(str(self.root)) as tree:
            around = Surroundings(tree.path, mounts)
            return Planner(tree, around, "").make(load_from(tree, []), keep)

    def deeds(self, keep: Sequence[str] = (), mounts: Sequence[Mount] = ()) -> list[str]:
        """What is to be done beside the machine-id, as text; no error is expected."""
        plan = self.plan(keep, mounts)
        assert plan.errors == []
        return [f"{d.kind} {d.path}" for d in plan.deeds if d.pending and d.path != "/etc/machine-id"]

    def first_pass(self, keep: Sequence[str] = (), mounts: Sequence[Mount] = ()) -> Result:
        """All of the first pass; needs root."""
        with open_tree(str(self.root)) as tree:
            return Seal(tree, keep, mounts, no_way_back, as_lines).first_pass()

    def seal(self, keep: Sequence[str] = (), mounts: Sequence[Mount] = ()) -> Result:
        """Seal it; needs root."""
        with open_tree(str(self.root)) as tree:
            work = Seal(tree, keep, mounts, no_way_back, as_lines)
            result = work.first_pass()
            return result if result.errors else work.seal()

    def remove(self) -> None:
        """Take all of it away."""
        shutil.rmtree(self.root)
