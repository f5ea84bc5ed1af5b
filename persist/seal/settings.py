# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the persist.conf of a tree says for sealing it: [Seal] MachineId=."""

from __future__ import annotations

from persist.boot.dropins import DIRECTORIES
from persist.boot.ini import ERROR, Problem, parse
from persist.boot.rare.settings import MACHINE_IDS
from persist.seal.look.tree import Tree, content, fragments


def machine_id_of(tree: Tree, problems: list[Problem]) -> str:
    """[Seal] MachineId= of the tree's persist.conf, the last one that counts (persist.conf(5))."""
    found = "empty"
    for bases in (DIRECTORIES[1:], DIRECTORIES[:1]):
        main = [f for f in fragments(tree, "persist", problems, bases) if f.endswith("/persist.conf")]
        for path in main + fragments(tree, "persist/persist.conf.d", problems, bases):
            for section in parse(content(tree, path, problems), path, problems, "[Seal]"):
                for key, value, line in section.settings if section.name == "Seal" else ():
                    if key == "MachineId" and value in MACHINE_IDS:
                        found = value
                    elif key == "MachineId":
                        where = f"{path}:{line}"
                        text = f"MachineId={value}: must be one of {', '.join(MACHINE_IDS)}."
                        problems.append(Problem(ERROR, where, text))
    return found
