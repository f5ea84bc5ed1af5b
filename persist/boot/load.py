# SPDX-License-Identifier: LGPL-2.1-or-later
"""One call from the files of a machine to its plan; used by the generator, persistctl, the verdict and the
initrd build. Boot-safe."""

from . import config, facts, plan, registry
from .ini import NOTICE, Problem
from .units import READ_BY_PID1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Loaded:
    """What the files of a machine say: ``problems`` holds all of them, refusals included. ``files`` stand in
    for its registry. ``wanted``: as it is before PID 1 starts, whatever is mounted now (Facts.mounts)."""

    __slots__ = ("config", "registry", "facts", "plan", "problems")

    def __init__(
        self,
        root: str,
        known: facts.Facts,
        environ: "Mapping[str, str]",
        files: "Sequence[str]" = (),
        *,
        wanted: bool = False,
    ) -> None:
        self.problems: list[Problem] = []
        self.facts = known
        self.config = config.load(root, self.problems)
        self.registry = registry.load(root, self.problems, files)
        facts.gather_paths(known, self.registry, environ)
        if not wanted and any([path in READ_BY_PID1 for path in known.aliases.values()]):
            known.mounts = facts.content(root + "/proc/1/mountinfo").decode("utf-8", "surrogateescape")
        self.plan = plan.plan(self.config, self.registry, known)
        self.problems += [o for o in self.plan.outside if o.level <= NOTICE]
        self.problems += self.plan.problems


def load(root: str, environ: "Mapping[str, str]", *, wanted: bool = False) -> Loaded:
    """Read and plan everything below ``root`` ('' for the running system); ``wanted`` as of Loaded."""
    return Loaded(root, facts.gather(root, environ), environ, wanted=wanted)
