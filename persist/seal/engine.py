# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sealing a tree, from the first look to the report: the first pass finds every error before anything is
touched; then wipe, hooks, a second look, and the report last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from persist.boot.dropins import DIRECTORIES
from persist.boot.ini import ERROR, Problem, parse
from persist.boot.rare.near import Unknown
from persist.boot.rare.settings import MACHINE_IDS
from persist.errors import PersistError
from persist.record import Record, made
from persist.seal import hooks, report, wipe
from persist.seal.first_pass import Planner
from persist.seal.look import traces
from persist.seal.look.obstacles import Surroundings
from persist.seal.look.tree import Tree, content, fragments
from persist.seal.opened import processes
from persist.seal.plan import SECRETS, WRITE, Deed, Judge, Plan, judge_all
from persist.seal.section import Item, arguments, load_from
from persist.system.mountinfo import Mount

MakeList = Callable[[Iterable[tuple[Item, Sequence[str]]], bytes], bytes]  # way_back.regenerate_list
_WRITES = {"empty": "", "uninitialized": "uninitialized\n"}  # what [Seal] MachineId= has /etc/machine-id say


class Result(Record, frozen=False):
    """What a run found and did. ``errors`` are of the first pass, nothing is touched then; ``failures`` came
    after the wipe had begun."""

    root: str
    machine_id: str = "empty"
    keep: tuple[str, ...] = ()
    plan: Plan = made(Plan)
    traces: list[traces.Trace] = made(list)
    hooks: list[str] = made(list)
    errors: list[str] = made(list)
    notes: list[str] = made(list)
    failures: list[str] = made(list)
    said: list[tuple[str, str]] = made(list)  # what programs of the tree printed, by their names
    touched: bool = False
    sealed: bool = False


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


class Seal:
    """One run over one tree. ``mounts`` are those of this process; ``judge`` and ``make_list`` say what the
    clone gets back, and how. ``running``: the tree is the running system's own root, where who else is there
    is somebody else's to ask."""

    def __init__(
        self,
        tree: Tree,
        keep: Sequence[str],
        mounts: Sequence[Mount],
        judge: Judge,
        make_list: MakeList,
        *,
        running: bool = False,
    ) -> None:
        self.tree = tree
        self.around = Surroundings(tree.path, mounts)
        self.judge = judge
        self.make_list = make_list
        self.running = running
        self.items: list[Item] = []
        self.old = traces.Old({})
        self._before = b""
        self.result = Result(tree.path, keep=tuple(keep))

    def _planner(self) -> Planner:
        return Planner(self.tree, self.around, _WRITES[self.result.machine_id])

    def first_pass(self) -> Result:
        """Look at everything, and change nothing. Raises PersistError, OSError."""
        result = self.result
        self._read()
        planner = self._planner()
        result.plan = planner.make(self.items, result.keep)
        judge_all(result.plan, self.judge, self.tree.path, result.machine_id)
        result.errors += result.plan.errors + list(self._wrong_around())
        result.notes += result.plan.notes
        if self.tree.real("/etc/machine-id", any_owner=True).parts is None:
            result.notes.append(
                "/etc/machine-id is not there: the first boot of a clone is one for ConditionFirstBoot=, and "
                "applies the presets of all units. An empty file has neither."
            )
        unseen = self.around.unseen()
        if unseen:
            result.notes.append(
                f"'{unseen}' is an overlay, and what lies under it cannot be looked at: what is removed from "
                "the tree may still be there."
            )
        for point, mount in self.around.own.items():
            result.notes.append(
                f"'/{'/'.join(point)}' is a filesystem of its own, '{mount.source}', sealed too."
            )
        for point, mount in self.around.foreign.items():
            if self.around.hides(point) and point not in planner.finder.met:
                result.notes.append(
                    f"'/{'/'.join(point)}' is a mount of '{mount.source}', which is not the image's: what "
                    "the image has under it was not looked at. No section asks for it."
                )
        self.old = traces.old_ids(self.tree)
        result.traces = traces.find(self.tree, planner.finder, self.old, result.notes)
        left = [place for wish in result.plan.wishes for place in wish.places.values()]
        todo = {deed.parts for deed in result.plan.deeds}
        result.traces += traces.in_links(self.tree, (p for p in left if p not in todo), self.old)
        return result

    def _read(self) -> None:
        """What the tree says of itself. Unlike at a boot, a mistake ends it: what a section or a hook was for
        would stay in the image, and each clone would have it."""
        result = self.result
        settings: list[Problem] = []
        sections: list[Problem] = []
        found: list[Problem] = []
        result.machine_id = machine_id_of(self.tree, settings)
        self.items = load_from(self.tree, sections)
        result.hooks = hooks.find(self.tree, found)
        for problem in sections:
            # Of a registry file, what else is in it is for verify.
            ours = "/identity.d" in problem.where or isinstance(problem, Unknown)
            if ours or problem.level == ERROR:
                result.errors.append(f"{problem} What it was to take would stay in the image.")
            else:
                result.notes.append(str(problem))
        result.errors += [str(p) for p in (*settings, *found) if p.level == ERROR]
        result.notes += [str(p) for p in (*settings, *found) if p.level != ERROR]

    def _wrong_around(self) -> Iterable[str]:
        """What is wrong with the tree as a whole."""
        if not self.items:
            yield (
                "No [Identity] section is in the tree, so nothing would be wiped. The package persist has a "
                "catalogue: install it there."
            )
        elif "identity" not in self.result.keep and self._id_is_forgotten():
            yield "/etc/machine-id has an id, and no [Identity] section takes it."
        with self.tree.directory(self.tree.real("/var").parts or ()) as var:
            if not self.tree.looking and var.read_only():
                yield f"'{var.name}' is read-only: mount it with 'rw'."
        there = wipe.store(self.tree, make=False)
        if there is not None:
            there.close()
        for pid, name in () if self.running else processes(self.tree):
            yield f"Process {pid} ({name}) runs in the tree, and may write what is wiped. End it."

    def _id_is_forgotten(self) -> bool:
        """Whether the id that all others are made from stays: T2."""
        place = self.tree.real("/etc/machine-id", any_owner=True).parts
        said = (self.tree.read("/etc/machine-id") or b"").strip()
        taken = any(deed.parts == place for deed in self.result.plan.deeds)
        return said not in (b"", b"uninitialized") and not taken

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """What goes wrong from now on is a failure, and ends what is done here."""
        try:
            yield
        except (PersistError, ValueError) as e:
            self.result.failures.append(str(e))
        except OSError as e:
            self.result.failures.append(f"{e.filename or self.tree.path}: {e.strerror}.")

    def seal(self) -> Result:
        """wipe(), and the report last."""
        self.wipe()
        if not self.result.failures:
            with self._failing():
                self.write_report(report.text(self.said()))
                self.result.sealed = True
                wipe.step("sealed")
        return self.result

    def wipe(self) -> Result:
        """Wipe what the first pass found, run the hooks and look again. What fails is in ``failures``; raises
        nothing but what nobody expects."""
        with self._failing():
            self._wipe()
            self._programs()
            self._look_again()
        return self.result

    def said(self) -> dict[str, Any]:
        """The report of a wipe that has failed nowhere."""
        return report.record(self.result, self.old, self._before)

    def write_report(self, document: bytes) -> None:
        """Write the report that says that the tree is sealed. Raises PersistError, OSError."""
        wipe.sync(self.tree, self.around)  # the report is there when all else is, whenever it is cut
        wipe.write_own(self.tree, wipe.REPORT, document)
        wipe.sync(self.tree, self.around)

    def look_again(self, old: traces.Old) -> Result:
        """Whether a tree is as another process left it that has wiped it, and knew these ids."""
        self.old = old
        with self._failing():
            self._read()
            self.result.failures += self.result.errors
            self._look_again()
        return self.result

    def _wipe(self) -> None:
        plan = self.result.plan
        self._before = wipe.read_own(self.tree, wipe.REPORT)
        self.result.touched = True
        wipe.remove_own(self.tree, wipe.REPORT)
        wipe.step("unsealed")
        room = [deed for deed in plan.deeds if deed.item.cls not in SECRETS]
        rest = [deed for deed in plan.deeds if deed.item.cls in SECRETS]
        wipe.wipe(self.tree, self._with_content(room))
        wipe.step("cleared")
        # Before what it is for is gone: a run that finishes this one's work finds nothing that matches.
        listed = wipe.read_own(self.tree, wipe.LIST)
        wanted = self.make_list([(w.item, w.pending) for w in plan.wishes if w.pending], listed)
        if wanted != listed:
            wipe.write_own(self.tree, wipe.LIST, wanted)
        wipe.step("listed")
        wipe.wipe(self.tree, self._with_content(rest))
        wipe.sync(self.tree, self.around)
        wipe.step("wiped")

    def _with_content(self, deeds: Iterable[Deed]) -> Iterable[tuple[Deed, bytes]]:
        planner = self._planner()
        return [(d, planner.content(d.item, d.name) if d.kind == WRITE else b"") for d in deeds]

    def _programs(self) -> None:
        """Exec= of sections, then the hooks; the first that fails ends it."""
        runner = hooks.Runner(self.tree, self.result.said)
        for item in self.result.plan.run():
            what = f"Exec= of {item.source}"
            runner.run(arguments(item.exec), what)
        wipe.step("ran")
        for path in self.result.hooks:
            runner.run([path], path)
            wipe.step("hook")
        wipe.step("hooks")

    def _look_again(self) -> None:
        """Nothing may match any more, whoever brought it back."""
        self.tree.forget()
        plan = self._planner().make(self.items, self.result.keep)
        failures = [
            f"'{deed.path}' is there again, after it was wiped ({deed.item.source})."
            for deed in plan.deeds
            if deed.pending
        ] + plan.errors
        if "identity" not in self.result.keep:
            ids = self.old.words.get("the machine-id", ())
            for path in traces.MACHINE_ID_FILES:
                if (self.tree.read(path) or b"").decode("latin-1").strip() in ids:
                    failures.append(f"{path} still has the old machine-id.")
        self.result.failures += failures
        wipe.step("looked")
