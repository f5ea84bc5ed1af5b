# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stage before PID 1, in its order: switches, registry, claims, the volume, what comes beside it, /etc,
all of that looked at again as /etc says it now, the other entries, the word that it is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from persist.boot import paths
from persist.boot.load import Loaded, load
from persist.boot.paths import VOLUME
from persist.boot.units import READ_BY_PID1
from persist.early import coldplug, firmware, left, table
from persist.early.in_place import InPlace
from persist.early.root import will_be
from persist.entries import as_seeded, bind, read_only_boot, set_up, stores
from persist.errors import PersistError
from persist.note import DEBUG, INFO, WARNING, Note, Say, Status, of
from persist.record import replace
from persist.system import mountinfo
from persist.system.blockdev import Disk
from persist.system.files import write_atomically
from persist.volume import outcome, root_kept
from persist.volume.find import around, candidates
from persist.volume.find.later import words as later_words
from persist.volume.find.search import what_is_known
from persist.volume.format import asking
from persist.volume.format.claims import format_claimed
from persist.volume.mount import fallback, writable
from persist.volume.outcome import Outcome

NEXT_ROOT = "/run/nextroot"  # systemd-soft-reboot.service(8)
SwapOn = Callable[[str], None]


class Stage:
    """One run of it. ``loaded`` is what the image says, and after /etc is mounted what that says."""

    def __init__(self, environ: Mapping[str, str], say: Say, status: Status, swap_on: SwapOn | None) -> None:
        self.environ, self.say, self.status, self.swap_on = environ, say, status, swap_on
        self.loaded: Loaded = load("", environ, wanted=True)
        self.result = Outcome()
        self.root_comes_writable = False

    def _leave(self, why: str) -> None:
        self.say(Note(INFO, f"Left to the real root: {why}", "EARLY"))

    def _later(self, why: str) -> None:
        self._leave(why)
        self._note(why)

    def _note(self, why: str) -> None:
        """Say for the verdict why no entry that PID 1 reads is mounted."""
        left.note({p.path: why for p in self.loaded.plan.entries if p.before_pid1})

    def run(self) -> None:
        """Do all that can be done now. Raises PersistError and OSError; what is mounted then is what
        persist-volume.service finds, and goes on from."""
        loaded = self.loaded
        done = next((p for p in (paths.STAGED, paths.BOOTED) if os.path.lexists(p)), "")
        container = self.environ.get("container", "")
        nothing = f"{done} is there" if done else table.nothing_to_do(loaded, container)
        if nothing:
            self.say(Note(DEBUG, f"Nothing is done before the service manager starts: {nothing}.", "EARLY"))
            return
        self._note("The stage before PID 1 did not end.")
        why = table.another_root(os.path.isdir(f"{NEXT_ROOT}/usr"))
        if why is not None:
            self.say(Note(WARNING, f"{why.message} {why.hint}", "EARLY", {"PERSIST_REASON": why.code}))
            self._note(why.message)
            return
        why = table.before_looking(loaded.config, credentials=firmware.credentials())
        if why is None and mountinfo.at(VOLUME) is not None:
            self._later(f"Something is mounted at {VOLUME} already.")
            return
        if why is not None:
            self._later(f"{why.message} {why.hint}")
            return
        coldplug.load(self.say)
        now = root_kept.look()
        root = will_be(loaded.facts, now)
        self.result.on_root(root)
        self.root_comes_writable = now.read_only and not root.read_only
        if self._volume():
            self._entries()

    # -- the volume

    def _claimed(self) -> list[Disk]:
        """The disks that carry a claim and were not refused. Raises OSError."""
        disks = asking.tagged()
        return [d for d, _ in asking.claimed(disks, self.loaded.config.magic_headers, lambda note: None)]

    def _volume(self) -> bool:
        """Whether there is a volume now, or what stands in for it."""
        loaded, result = self.loaded, self.result
        told = what_is_known(loaded.facts, self.say)
        if loaded.facts.mode == "on" and asking.heads(asking.tagged(), loaded.config.magic_headers):
            format_claimed(asking.tagged(), loaded.config, told, self.say, self.status)
            told = what_is_known(loaded.facts, self.say)  # what was made is known now
        held: list[Note] = []  # no warning of what persist-volume.service may find in its place
        say = held.append if loaded.facts.mode == "on" else self.say
        set_up.find(loaded, told, result, say, self.status, table.not_this_one)
        takes_writes = False
        if result.kind in outcome.REAL:
            set_up.where_it_lies(result)
            takes_writes = writable.takes_writes(result, self.say, fresh=True)
        elif result.kind == "none":
            policy = fallback.policy(loaded.config, result)
            around_ = around.gather(loaded.config, candidates.everything())
            asked = [f"UUID={told.named}"] if told.named else loaded.config.device
            later = later_words(asked, around_, allow_removable=loaded.config.allow_removable)
            claimed = [d.node for d in self._claimed()] if loaded.facts.mode == "on" else []
            why = table.no_memory(result, policy, later=later, claimed=claimed)
            if why is not None:
                self._say_held(held, INFO)
                self._later(f"{why.message} {why.hint}")
                return False
            self._say_held(held)
            held = []
            fallback.tmpfs(result, self.say)
        self._say_held(held)
        self.refused = set_up.beside(
            loaded, result, self.say, takes_writes=takes_writes, swap_on=self.swap_on
        )
        return True

    def _say_held(self, held: list[Note], least: int = 0) -> None:
        for note in held:
            self.say(replace(note, priority=max(note.priority, least)))

    # -- entries

    def _in_place(self, only: tuple[str, ...] | None = None) -> InPlace:
        """Bring entries into place. Raises PersistError and OSError."""
        loaded = self.loaded
        as_seeded.settle(loaded)
        problems: list[PersistError] = []
        if loaded.plan.read_only and self.result.kind == "tmpfs":
            problems += read_only_boot.prepare(loaded, lambda text: self.status(text, 60))
        problems += bind.note_stores(loaded)
        for problem in problems:
            self.say(of(problem, WARNING))
        done = InPlace(loaded, self.say, self.status, root_writable=not self.result.root_read_only)
        done.bring(only)
        return done

    def _entries(self) -> None:
        not_there: list[str] = []
        if table.may_mount(self.result):
            if any(p.path in READ_BY_PID1 for p in self.loaded.plan.entries):
                self._in_place(READ_BY_PID1)
                # fstab, masks, more of the registry and the master switch may lie in what has come up.
                self.loaded = load("", self.environ, wanted=True)
            done = self._in_place()
            not_there = done.left
            too_late = [p.path for p in self.loaded.plan.entries if p.before_pid1 and p.path in not_there]
            left.note({path: done.why.get(path, "") for path in too_late})
        else:
            self._note(self.result.message)
        outcome.write(self.result)
        if self._nothing_left(not_there):
            write_atomically(paths.STAGED, "")

    def _nothing_left(self, not_there: list[str]) -> bool:
        """Whether persist-volume.service could do nothing that was not done; it says what is only said."""
        if self.refused and self.root_comes_writable:
            self._leave("The root filesystem is read-only for now.")
            return False
        for note in self.refused:
            self.say(note)
        if not table.may_mount(self.result):
            return False  # binds may have to be held
        # A seeded bind whose mount point has to be made first, on a root that takes no writes yet.
        waiting = [p for p in self.loaded.plan.entries if p.path in not_there and p.entry.method == "bind"]
        return not (self.root_comes_writable and any(stores.flag(p.name) for p in waiting))


def run(environ: Mapping[str, str], say: Say, status: Status, swap_on: SwapOn | None = None) -> int:
    """Run the stage; returns an exit status, 1 after the unexpected. Never raises. ``swap_on`` as of
    set_up.beside()."""
    try:
        os.makedirs("/run/persist", 0o755, exist_ok=True)
        Stage(environ, say, status, swap_on).run()
        return 0
    except PersistError as e:
        say(of(e))
    except Exception as e:  # noqa: BLE001  # whatever it is, it is said, and the boot goes on
        say(Note(WARNING, f"The stage before PID 1 failed: {type(e).__name__}: {e}.", "FAILED"))
    return 1
