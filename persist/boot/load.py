# SPDX-License-Identifier: LGPL-2.1-or-later
"""One call from the files of a machine to its plan; used by the generator, persistctl, the verdict and the
initrd build. Boot-safe."""

from . import config, facts, plan, registry
from .ini import NOTICE, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Loaded:
    """What the files of a machine say: ``problems`` holds all of them, refusals included. ``files`` stand in
    for its registry."""

    __slots__ = ("config", "registry", "facts", "plan", "problems")

    def __init__(
        self, root: str, known: facts.Facts, environ: "Mapping[str, str]", files: "Sequence[str]" = ()
    ) -> None:
        self.problems: list[Problem] = []
        self.facts = known
        self.config = config.load(root, self.problems)
        self.registry = registry.load(root, self.problems, files)
        facts.gather_paths(known, self.registry, environ)
        self.plan = plan.plan(self.config, self.registry, known)
        self.problems += [o for o in self.plan.outside if o.level <= NOTICE]
        self.problems += self.plan.problems


def load(root: str, environ: "Mapping[str, str]") -> Loaded:
    """Read and plan everything below ``root`` ('' for the running system)."""
    return Loaded(root, facts.gather(root, environ), environ)
