# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sealing a tree, from the first look to the report: the first pass finds every error before anything is
touched; then wipe, hooks, a second look, and the report last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from persist.boot.ini import ERROR, Problem
from persist.boot.rare.near import Unknown
from persist.errors import PersistError
from persist.record import Record, made
from persist.seal import hooks, report, wipe
from persist.seal.beside import Beside
from persist.seal.first_pass import Also, Planner
from persist.seal.look import traces
from persist.seal.look.obstacles import Surroundings
from persist.seal.look.pattern import Finder
from persist.seal.look.tree import Tree
from persist.seal.opened import processes
from persist.seal.plan import SECRETS, WRITE, Deed, Judge, Plan, judge_all
from persist.seal.section import Item, arguments, load_from
from persist.seal.settings import machine_id_of
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


class Seal:
    """One run over one tree. ``mounts`` are those of this process; ``judge`` and ``make_list`` say what the
    clone gets back, and how. ``running``: the tree is the running system's own root, where who else is there
    is somebody else's to ask. ``beside``: what of it lies beside the image, and is sealed too."""

    def __init__(
        self,
        tree: Tree,
        keep: Sequence[str],
        mounts: Sequence[Mount],
        judge: Judge,
        make_list: MakeList,
        *,
        running: bool = False,
        beside: Beside | None = None,
    ) -> None:
        self.tree = tree
        self.around = Surroundings(tree.path, mounts)
        self.judge = judge
        self.make_list = make_list
        self.running = running
        self.beside = beside
        self.items: list[Item] = []
        self.old = traces.Old({})
        self._before = b""
        self._runs: list[Item] = []
        self.result = Result(tree.path, keep=tuple(keep))

    def _planner(self, tree: Tree, around: Surroundings) -> Planner:
        return Planner(tree, around, _WRITES[self.result.machine_id])

    @property
    def _whole(self) -> Tree:
        """What says what the machine is: of image and volume together where both are sealed."""
        return self.tree if self.beside is None else self.beside.view

    def _plan(self) -> Planner:
        """Make the plan, of all that is sealed."""
        planner = self._planner(self.tree, self.around)
        keep = self.result.keep
        also: Also = ()
        if self.beside is not None:
            also = self.beside.look(self.items, keep, self._planner)
        planner.make(self.items, keep, also)
        return planner

    def first_pass(self) -> Result:
        """Look at everything, and change nothing. Raises PersistError, OSError."""
        result = self.result
        self._read()
        planner = self._plan()
        result.plan = planner.plan
        self._runs = result.plan.run()  # those of the image alone
        if self.beside is not None:
            self.beside.add_to(result.plan)
        judge_all(result.plan, self.judge, self._whole.path, result.machine_id)
        result.errors += result.plan.errors + list(self._wrong_around())
        result.notes += result.plan.notes
        if self._whole.real("/etc/machine-id", any_owner=True).parts is None:
            result.notes.append(
                "/etc/machine-id is not there: the first boot of a clone is one for ConditionFirstBoot=, and "
                "applies the presets of all units. An empty file has neither."
            )
        result.notes += self.around.notes(planner.finder.met)
        self.old = traces.old_ids(self.tree, self._whole)
        finder = planner.finder if self.beside is None else Finder(self._whole)
        result.traces = traces.find(self._whole, finder, self.old, result.notes)
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
        result.machine_id = machine_id_of(self._whole, settings)
        self.items = load_from(self._whole, sections)
        result.hooks = hooks.find(self._whole, found)
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
        for tree in self._stores():
            there = wipe.store(tree, make=False)
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
        self._sync()  # the report is there when all else is, whenever it is cut
        for tree in self._stores():
            wipe.write_own(tree, wipe.REPORT, document)
        self._sync()

    def _stores(self) -> list[Tree]:
        """Where /var/lib/persist is: of the image, and where the machine has another one."""
        shown = None if self.beside is None else self.beside.shown
        return [self.tree] if shown is None else [self.tree, shown.tree]

    def _sync(self) -> None:
        wipe.sync(self.tree, self.around)
        if self.beside is not None:
            self.beside.sync()

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
        for tree in self._stores():
            wipe.remove_own(tree, wipe.REPORT)
        wipe.step("unsealed")
        self._do(secrets=False)
        wipe.step("cleared")
        # Before what it is for is gone: a run that finishes this one's work finds nothing that matches.
        for tree in self._stores():
            listed = wipe.read_own(tree, wipe.LIST)
            wanted = self.make_list([(w.item, w.pending) for w in plan.wishes if w.pending], listed)
            if wanted != listed:
                wipe.write_own(tree, wipe.LIST, wanted)
        wipe.step("listed")
        self._do(secrets=True)
        self._sync()
        wipe.step("wiped")

    def _do(self, *, secrets: bool) -> None:
        """Wipe what is secret, or all else."""
        todo = [(self.tree, self.result.plan)]
        todo += [] if self.beside is None else [(layer.tree, layer.plan) for layer in self.beside.layers]
        for tree, plan in todo:
            deeds = [deed for deed in plan.deeds if (deed.item.cls in SECRETS) == secrets]
            wipe.wipe(tree, self._with_content(deeds))

    def _with_content(self, deeds: Iterable[Deed]) -> Iterable[tuple[Deed, bytes]]:
        planner = self._planner(self.tree, self.around)
        return [(d, planner.content(d.item, d.name) if d.kind == WRITE else b"") for d in deeds]

    def _programs(self) -> None:
        """Exec= of sections, then the hooks, in the image, and once more in the machine as it shows itself;
        the first that fails ends it."""
        own = hooks.find(self.tree, [])
        todo = [(self.tree, self._runs, [path for path in self.result.hooks if path in own])]
        if self.beside is not None:
            todo.append((self.beside.whole(), self.beside.runs(), self.result.hooks))
        runners = [(hooks.Runner(tree, self.result.said), items, paths) for tree, items, paths in todo]
        for runner, items, _ in runners:
            for item in items:
                runner.run(arguments(item.exec), f"Exec= of {item.source}")
        wipe.step("ran")
        for runner, _, paths in runners:
            for path in paths:
                runner.run([path], path)
                wipe.step("hook")
        if self.beside is not None:
            self.beside.renew()
        wipe.step("hooks")

    def _look_again(self) -> None:
        """Nothing may match any more, whoever brought it back."""
        self.tree.forget()
        plan = self._plan().plan
        failures = [
            f"'{deed.path}' is there again, after it was wiped ({deed.item.source})."
            for deed in plan.deeds
            if deed.pending
        ] + plan.errors
        if "identity" not in self.result.keep:
            ids = self.old.words.get("the machine-id", ())
            trees = [self.tree, *([] if self.beside is None else [one.tree for one in self.beside.layers])]
            for path in traces.MACHINE_ID_FILES:
                if any((tree.read(path) or b"").decode("latin-1").strip() in ids for tree in trees):
                    failures.append(f"{path} still has the old machine-id.")
        self.result.failures += failures + ([] if self.beside is None else self.beside.again())
        wipe.step("looked")
