# SPDX-License-Identifier: LGPL-2.1-or-later
"""The first pass over a tree: what is to be done, and all that is wrong, before anything is touched."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from persist.errors import PersistError
from persist.seal.look.obstacles import Obstacles, Surroundings, second_names
from persist.seal.look.pattern import Finder, Found, Place, is_a_packages
from persist.seal.look.tree import Parts, Tree
from persist.seal.plan import EMPTY, REMOVE, SECRETS, TRUNCATE, UNLINK, WRITE, Deed, Plan, Wish, why_kept
from persist.seal.section import Item
from persist.seal.wipe import LIST, REPORT, store_place

MACHINE_ID = "/etc/machine-id"
Also = Sequence[Sequence[Place]]  # for each item places beside those of its patterns
VENDOR = (
    "usr",
    "bin",
    "sbin",
    "lib",
    "lib32",
    "lib64",
    "boot",
)  # what packages ship: behind a link never ours


class Planner:
    """Makes the plan of one tree. Nothing that it does changes anything."""

    def __init__(self, tree: Tree, around: Surroundings, machine_id: str) -> None:
        """``machine_id``: what /etc/machine-id is to say."""
        self.tree = tree
        self.around = around
        self.machine_id = machine_id
        self.finder = Finder(tree, frozenset(around.foreign))
        self.plan = Plan()
        self._claims: dict[Parts, Deed] = {}
        self._store = store_place(tree)
        self._gone: frozenset[Parts] = frozenset()  # directories that go, with all that is in them
        self._links: list[tuple[Deed, Parts]] = []  # a link that is to be removed, and what it leads to

    def make(self, items: Sequence[Item], keep: Sequence[str], also: Also = ()) -> Plan:
        """The whole plan but for what is asked of the clone (``judge_all()``). ``also``: where each item
        is to be looked for beside its patterns, for all items or none."""
        for number, item in enumerate(items):
            wish = Wish(item, kept=why_kept(item, keep))
            self.plan.wishes.append(wish)
            try:
                self._look(wish, also[number] if also else ())
            except (OSError, PersistError) as e:
                self.plan.errors.append(f"{item.source}: {e}")
        self._settle_links()
        self._drop_what_goes_anyway()
        self._order()
        self._obstacles()
        for point in sorted(self.finder.met):
            if self.around.hides(point):
                self.plan.errors.append(
                    f"'/{'/'.join(point)}' is a mount of '{self.around.foreign[point].source}', which is not "
                    "the image's and hides what the image has there. Unmount it."
                )
        return self.plan

    def _look(self, wish: Wish, also: Sequence[Place]) -> None:
        item = wish.item
        for pattern in item.patterns:
            found = self.finder.find(pattern)
            for way in self.finder.stopped:
                self._stopped(item, way.path, way.why)
            if not found:
                wish.stale.append(pattern)
            self._found(wish, found)
        for place in also:
            self._found(wish, [each for each in self.finder.at(place) if each.path not in wish.matched])

    def _found(self, wish: Wish, found: Sequence[Found]) -> None:
        for each in found:
            if each.path not in wish.matched:
                wish.matched.append(each.path)
            if not wish.kept and wish.item.action != "run":
                wish.places[each.path] = self._take(wish.item, each)

    def _stopped(self, item: Item, path: str, why: str) -> None:
        """A link that is not followed, and what that means for what lies behind it."""
        text = {
            "leaves": f"{item.source}: the link '{path}' leads out of the tree.",
            "loop": f"{item.source}: the link '{path}' leads to itself.",
            "stranger": f"{item.source}: the link '{path}' was made by somebody who does not own what it "
            "leads to; it is not followed.",
        }[why]
        if why == "leaves" or item.cls in SECRETS:
            self.plan.errors.append(text)
        else:
            self.plan.notes.append(text)

    def _take(self, item: Item, found: Found) -> Parts:
        """Claim what an item's action is for; the place behind a link that is followed, else the place."""
        if is_a_packages(found, found.parts):
            text = f"{item.source}: a link in '{found.of}' leads to '{found.path}', which is a package's."
            (self.plan.errors if item.cls in SECRETS else self.plan.notes).append(text)
            return found.parts
        if not stat.S_ISLNK(found.mode):
            self._on(item, found, found.parts, found.mode)
            return found.parts
        removes = item.action == REMOVE
        unlink = Deed(UNLINK, found.parts, found.mode, item, found.path, found.named)
        if self.tree.text_of_link(found.parts) == "/dev/null":
            return found.parts  # that is where it is to go
        if item.cls not in SECRETS and not found.named:
            if removes:
                self._claim(unlink)  # what lies in /tmp leads to things that nobody meant
            return found.parts
        link = self.tree.behind(found.parts)
        if link.parts is None:
            self._not_followed(item, found, link.why, unlink)
            return found.parts
        self._behind(item, found, link.parts, unlink)
        return link.parts

    def _not_followed(self, item: Item, found: Found, why: str, unlink: Deed) -> None:
        if why == "dangling":
            return  # the place of what will be made again, or was wiped before
        if item.action == REMOVE and why != "leaves":
            self._claim(unlink)
            self.plan.notes.append(
                f"{item.source}: '{found.path}' is removed, a link that is not followed; what it leads to "
                "stays."
            )
            return
        self._stopped(item, found.path, why)

    def _behind(self, item: Item, found: Found, parts: Parts, unlink: Deed) -> None:
        """The action of an item on what a link leads to."""
        removes = item.action == REMOVE
        there = self.tree.lstat(parts)
        target = "/" + "/".join(parts)
        if there is None or any(parts[: len(point)] == point for point in self.around.foreign):
            self.plan.errors.append(f"{item.source}: the link '{found.path}' leads to '{target}', a mount.")
        elif not parts or is_a_packages(found, parts):
            text = f"{item.source}: the link '{found.path}' leads to '{target}', which is a package's."
            (self.plan.notes if removes else self.plan.errors).append(text)
            if removes:
                self._claim(unlink)
        elif not removes:
            self._on(item, found, parts, there.st_mode)
        elif stat.S_ISREG(there.st_mode):
            self._links.append((unlink, parts))
        elif stat.S_ISDIR(there.st_mode):
            pending = bool(self.tree.entries(parts))
            self._claim(Deed(EMPTY, parts, there.st_mode, item, found.path, found.named, pending))
        else:
            self._claim(unlink)

    def _on(self, item: Item, found: Found, parts: Parts, mode: int) -> None:
        """The action of an item on a place that is no link."""
        kind, path = item.action, "/" + "/".join(parts)
        directory, regular = stat.S_ISDIR(mode), stat.S_ISREG(mode)
        there = self.tree.lstat(parts)
        pending = True
        if kind == REMOVE:
            if directory and len(parts) == 1:
                self.plan.errors.append(
                    f"{item.source}: '{path}' is a directory below /, and is not removed."
                )
                return
        elif kind == EMPTY:
            if not directory:
                self._misfit(item, found, "no directory")
                return
            pending = bool(self.tree.entries(parts))
        elif not regular or there is None:
            if directory:
                self._misfit(item, found, "a directory")
            elif kind == WRITE:
                self._misfit(item, found, "no file")
            return  # a pipe or a socket holds nothing that could be emptied
        else:
            wanted = self.content(item, found.path) if kind == WRITE else b""
            pending = there.st_size != len(wanted) or self.tree.read(path, len(wanted) + 1) != wanted
            if pending and there.st_nlink > 1:
                self.plan.errors.append(
                    f"{item.source}: '{path}' has another name (a hard link), which would lose its content, "
                    f"too. 'cp -p' makes a file of its own; 'find -samefile' finds the others."
                )
                return
        self._claim(Deed(kind, parts, mode, item, found.path, found.named, pending))

    def content(self, item: Item, name: str) -> bytes:
        """What Action=write leaves under a name: of the machine-id, what [Seal] says."""
        text = item.content if name != MACHINE_ID else self.machine_id
        return text.encode("utf-8", "surrogateescape")

    def _misfit(self, item: Item, found: Found, what: str) -> None:
        """A name that a pattern says in full and that is something else; what a wildcard meets is passed
        over."""
        if found.named:
            self.plan.errors.append(
                f"{item.source}: '{found.path}' is {what}; Action={item.action} is for others."
            )

    def _claim(self, deed: Deed) -> None:
        """One place, one deed: a pattern that says the name before one with a wildcard, removal before what
        leaves something, and else what was read first."""
        own = self._store
        if deed.kind in (REMOVE, EMPTY) and own[: len(deed.parts)] == deed.parts:
            self.plan.errors.append(
                f"{deed.item.source}: '{deed.path}' is where seal's own files are; name what is in it."
            )
            return
        if deed.parts in ((*own, REPORT), (*own, LIST)):
            return
        old = self._claims.get(deed.parts)
        if old is None or deed.named and not old.named:
            self._claims[deed.parts] = deed
        elif old.kind != deed.kind and old.named == deed.named:
            if not old.named and deed.kind in (REMOVE, UNLINK):
                self._claims[deed.parts] = deed
            elif old.named:
                self.plan.notes.append(
                    f"{deed.item.source}: Action={deed.item.action} for '{deed.name}' has no effect, "
                    f"{old.item.source} was read first."
                )

    def _settle_links(self) -> None:
        """A link whose target is removed by its own name goes with it; else the target goes, and the link
        stays for whoever makes it again (Debian 13: /var/lib/wtmpdb/wtmp.db)."""
        gone = {parts for parts, deed in self._claims.items() if deed.kind == REMOVE}
        for unlink, target in self._links:
            if any(target[:length] in gone for length in range(1, len(target) + 1)):
                self._claim(unlink)
            elif target not in self._claims or self._claims[target].kind == UNLINK:
                there = self.tree.lstat(target)
                mode = 0 if there is None else there.st_mode
                self._claims[target] = Deed(REMOVE, target, mode, unlink.item, unlink.name, unlink.named)

    def _drop_what_goes_anyway(self) -> None:
        """Nothing is to be done to what lies in a directory that is removed or emptied."""
        gone = {
            parts: deed
            for parts, deed in self._claims.items()
            if stat.S_ISDIR(deed.mode) and deed.kind in (REMOVE, EMPTY)
        }
        self._gone = frozenset(gone)
        for parts, other in list(self._claims.items()):
            above = next((parts[:n] for n in range(1, len(parts)) if parts[:n] in gone), None)
            if above is None:
                continue
            del self._claims[parts]
            if other.kind in (WRITE, TRUNCATE) and other.named:
                self.plan.errors.append(
                    f"{other.item.source}: '{other.name}' is to be left empty or written, and "
                    f"{gone[above].item.source} takes away the directory that it is in."
                )

    def _order(self) -> None:
        """What makes room first; links before what they lead to, so that a run that is cut can be
        finished."""
        kinds = (UNLINK, REMOVE, EMPTY, TRUNCATE, WRITE)
        self.plan.deeds = sorted(
            self._claims.values(), key=lambda d: (d.item.cls in SECRETS, kinds.index(d.kind), d.parts)
        )
        for wish in self.plan.wishes:
            runs = wish.item.action == "run" and not wish.kept
            wish.pending = [n for n in wish.matched if runs or self._changes(wish.places.get(n))]

    def _changes(self, place: Parts | None) -> bool:
        """Whether something is to be done to a place, by whichever item."""
        if place is None:
            return False
        if any(place[:n] in self._gone for n in range(1, len(place))):
            return True
        return place in self._claims and self._claims[place].pending

    def _obstacles(self) -> None:
        obstacles = Obstacles(self.tree, self.around)
        removed: dict[Parts, Item] = {}
        for deed in self.plan.deeds:
            if not deed.pending:
                continue
            try:
                wrong = obstacles.of(deed.parts, unlink=deed.kind in (UNLINK, REMOVE), mode=deed.mode)
            except (OSError, PersistError) as e:
                wrong = str(e)
            if wrong:
                self.plan.errors.append(f"'{deed.path}': {wrong}.")
            if deed.kind == REMOVE:
                removed[deed.parts] = deed.item
        for places in second_names(self.tree, list(removed)):
            items = [removed[place] for place in places]
            text = (
                f"{items[0].source}: '/{'/'.join(places[0])}' has another name (a hard link), under which "
                "its content would stay. 'find -samefile' finds it."
            )
            secret = any(item.cls in SECRETS for item in items)
            (self.plan.errors if secret else self.plan.notes).append(text)
