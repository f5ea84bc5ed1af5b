# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stage before PID 1, in its order: switches, registry, claims, the volume, what comes beside it, /etc,
all of that looked at again as /etc says it now, the other entries, the word that it is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from persist.boot import paths
from persist.boot.load import Loaded, load
from persist.boot.paths import VOLUME
from persist.boot.units import READ_BY_PID1
from persist.early import coldplug, firmware, from_before, left, no_settle, table
from persist.early.in_place import InPlace
from persist.early.root import will_be
from persist.entries import as_seeded, bind, set_up, stores
from persist.errors import PersistError
from persist.migrate import at_boot
from persist.note import DEBUG, INFO, WARNING, Note, Say, Status, of
from persist.record import replace
from persist.system import mountinfo
from persist.system.blockdev import Disk
from persist.system.files import write_atomically
from persist.volume import outcome, root_kept
from persist.volume.find import around, candidates
from persist.volume.find.decision import Known
from persist.volume.find.later import words as later_words
from persist.volume.find.search import what_is_known
from persist.volume.format import asking
from persist.volume.mount import fallback, writable
from persist.volume.outcome import Outcome

_MOUNT = 300.0  # seconds that a mount may take, as each program
NEXT_ROOT = "/run/nextroot"  # systemd-soft-reboot.service(8)
SwapOn = Callable[[str], None]


class Stage:
    """One run of it. ``loaded`` is what the image says, and after /etc is mounted what that says."""

    def __init__(
        self,
        environ: Mapping[str, str],
        say: Say,
        status: Status,
        swap_on: SwapOn | None,
        filesystems: coldplug.Filesystems | None,
    ) -> None:
        self.environ, self.say, self.status, self.swap_on = environ, say, status, swap_on
        self.filesystems = filesystems
        self.loaded: Loaded = load("", environ, wanted=True)
        self.result = Outcome()
        self.root_comes_writable = False
        self.drivers = coldplug.Drivers(say)
        self.tried: dict[str, str] = {}  # what failed, by path: it is said once
        self.complained: set[str] = set()
        self.held: list[Note] = []
        self.before: dict[str, str] = {}

    def _leave(self, why: str) -> None:
        self.say(Note(INFO, f"Left to the real root: {why}", "EARLY"))

    def _later(self, why: str) -> None:
        self._leave(why)
        self._note(why)

    def _note(self, why: str) -> None:
        """Say for the verdict why no entry that PID 1 reads is mounted."""
        left.note({p.path: why for p in self.loaded.plan.entries if p.before_pid1})

    def failed(self, why: str) -> None:
        """It ended before its time. Never raises."""
        with suppress(OSError):  # then the verdict only knows that it did not end
            if os.path.lexists(paths.LEFT) and not os.path.lexists(paths.STAGED):
                self._note(why)

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
        told = firmware.credentials()
        if self._seals(told):
            return
        why = table.before_looking(loaded.config, credentials=[c for c in told if c != firmware.SEAL])
        if why is None and mountinfo.at(VOLUME) is not None:
            self._later(f"Something is mounted at {VOLUME} already.")
            return
        if why is not None:
            self._later(f"{why.message} {why.hint}")
            return
        self.before = from_before.flags()
        from_before.unmount(loaded, self.before, self.say)
        (self.filesystems or coldplug.filesystems())(self.say)
        now = root_kept.look()
        root = will_be(loaded.facts, now)
        self.result.on_root(root)
        self.root_comes_writable = now.read_only and not root.read_only
        try:
            there = self._volume()
        finally:
            self.drivers.stop()
        if there:
            self._entries()

    def _seals(self, told: Sequence[str] = ()) -> bool:
        """Whether this may be a boot that seals, which is to find all as it was. Raises OSError."""
        if not firmware.seal_asked(self.loaded.facts.cmdline, told):
            return False
        from persist.early import sealing  # rare

        who = sealing.noted(self.loaded.facts, self.environ)
        if who:
            self._later(f"This may be a boot that seals the machine, as {who} asks for it.")
        return bool(who)

    # -- the volume

    def _claimed(self) -> list[Disk]:
        """The disks that carry a claim and were not refused. Raises OSError."""
        disks = asking.tagged()
        return [d for d, _ in asking.claimed(disks, self.loaded.config.magic_headers, lambda note: None)]

    def _waiting(self, text: str, seconds: float) -> None:
        """A ``Status``: where somebody waits for a disk, it may be one that has no driver yet."""
        if seconds:
            self.drivers.while_waiting()
            write_atomically(paths.WAITED, "")
        self.status(text, seconds)

    def _later_words(self, told: Known) -> list[str]:
        """Words of Device= that only the running system can resolve. Raises CommandError and OSError."""
        config = self.loaded.config
        asked = [f"UUID={told.named}"] if told.named else config.device
        here = around.gather(config, candidates.everything())
        return later_words(asked, here, allow_removable=config.allow_removable)

    def _format(self, told: Known) -> bool:
        """Format what is claimed; whether there was anything. All disks have to be here, and what names them:
        a refusal is for the whole boot, and a volume that comes later would be a second one. Raises
        CommandError and OSError."""
        config = self.loaded.config
        if self.loaded.facts.mode != "on" or not asking.heads(asking.tagged(), config.magic_headers):
            return False
        self.drivers.now()
        if self._later_words(told):
            return False
        from persist.volume.format.claims import format_claimed  # rare

        format_claimed(asking.tagged(), config, told, self.say, self._waiting)
        return True

    def _find(self) -> Known:
        """Find the volume, made of what is claimed where that is so; also of what a driver has brought while
        it was waited for. Raises PersistError and OSError."""
        loaded, result = self.loaded, self.result
        told = what_is_known(loaded.facts, self.say)
        if self._format(told):
            told = what_is_known(loaded.facts, self.say)  # what was made is known now
        held: list[Note] = []  # no warning of what persist-volume.service may find in its place
        say = held.append if loaded.facts.mode == "on" else self.say
        self.status("", _MOUNT)
        set_up.find(loaded, told, result, say, self._waiting, table.not_this_one)
        # In this order: what a driver has brought may carry a claim.
        if result.kind == "none" and (self.drivers.finish() | self._format(told)):
            told = what_is_known(loaded.facts, self.say)
            held.clear()
            result.because("", "", "")
            set_up.find(loaded, told, result, say, self._waiting, table.not_this_one)
        self.held = held
        return told

    def _volume(self) -> bool:
        """Whether there is a volume now, or what stands in for it."""
        loaded, result = self.loaded, self.result
        told = self._find()
        takes_writes = False
        if result.kind in outcome.REAL:
            set_up.where_it_lies(result)
            takes_writes = writable.takes_writes(result, self.say, fresh=True)
        elif result.kind == "none":
            why = self._no_memory(told)
            if why is not None:
                self._say_held(INFO)
                self._later(f"{why.message} {why.hint}")
                return False
            self._say_held()
            fallback.fall_back(loaded.config, result, self.say)
        self._say_held()
        if result.kind == "tmpfs":
            outcome.write(result)  # a run that is killed leaves memory, and why
        self.refused = set_up.beside(
            loaded, result, self.say, takes_writes=takes_writes, swap_on=self.swap_on
        )
        return True

    def _no_memory(self, told: Known) -> table.Left | None:
        config, result = self.loaded.config, self.result
        policy = fallback.policy(config, result)
        if policy == "root" and result.root_read_only:
            policy = "tmpfs"  # as fall_back() has it
        claimed = [d.node for d in self._claimed()] if self.loaded.facts.mode == "on" else []
        return table.no_memory(
            result,
            policy,
            later=self._later_words(told),
            claimed=claimed,
            removable=config.allow_removable,
        )

    def _say_held(self, least: int = 0) -> None:
        for note in self.held:
            self.say(replace(note, priority=max(note.priority, least)))
        self.held = []

    # -- entries

    def _in_place(self, only: tuple[str, ...] | None = None) -> InPlace:
        """Bring entries into place. Raises PersistError and OSError."""
        loaded = self.loaded
        settled = as_seeded.settle(loaded, root_kept=self.result.root_kept)
        problems: list[PersistError] = []
        if loaded.plan.read_only and self.result.kind == "tmpfs":
            from persist.entries import read_only_boot  # rare

            problems += read_only_boot.prepare(loaded, lambda text: self.status(text, 60))
        problems += bind.note_stores(loaded, but=settled.convert)
        for problem in problems:
            if problem.message not in self.complained:
                self.say(of(problem, WARNING))
            self.complained.add(problem.message)
        done = InPlace(
            loaded,
            self.say,
            self.status,
            root_writable=not self.result.root_read_only,
            failed=self.tried,
            later=settled.convert,
        )
        done.bring(only)
        self.tried = done.why
        return done

    def _entries(self) -> None:
        not_there: list[str] = []
        stores.clear()  # not before: where the stage leaves the volume, the service asks what they say
        if self.before and from_before.take_away(self.loaded, self.before, self.say):
            self.loaded = load("", self.environ, wanted=True)
        at_boot.begin(self.result, self.loaded, self.say, self.status)
        if table.may_mount(self.result):
            if any(p.path in READ_BY_PID1 for p in self.loaded.plan.entries):
                self._in_place(READ_BY_PID1)
                # fstab, masks, more of the registry and the master switch may lie in what has come up.
                self.loaded = load("", self.environ, wanted=True)
                if self._seals():
                    outcome.write(self.result)
                    return
            done = self._in_place()
            not_there = done.left
            too_late = [p.path for p in self.loaded.plan.entries if p.before_pid1 and p.path in not_there]
            left.note({path: done.why.get(path, "") for path in too_late})
        else:
            self._note(self.result.message)
        outcome.write(self.result)
        if self._nothing_left(not_there):
            write_atomically(paths.STAGED, "")
            no_settle.mask()  # after that: whoever has something to do waits for udev

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
