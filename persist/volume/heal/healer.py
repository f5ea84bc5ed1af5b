# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bring the mounted volume back to full strength, one step after the other, each decided anew by what is on
the disks (heal/plan.py).

A stop at any moment costs what the kernel was doing and nothing else: a replace goes on at the next mount, a
removal or a conversion begins again with what is left of it, and everything else takes no time.
``PERSIST_TEST_KILL_AFTER=STEP`` is a test hook as in format/steps.py.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack

from persist import cut
from persist.boot.config import Config
from persist.errors import CommandError, PersistError
from persist.note import NOTICE, Note, Say
from persist.system import blockdev, btrfs, udevd
from persist.system.run import run
from persist.volume.format import joining
from persist.volume.format.joining import Joiner
from persist.volume.heal import look, recorded, wipe
from persist.volume.heal.kernel_work import KernelWork, Status, Watch
from persist.volume.heal.plan import Spare, State, Step, next_step
from persist.volume.members import in_kernel
from persist.volume.ondisk import degraded_mark, partition_table
from persist.volume.space import reserve

_CHUNK = 1 << 30  # as large a chunk of data gets, on a small device a tenth of it
_USAGES = (0, 20, 50)  # percent; as reserve.py has it
_FULL = (
    "Remove what is not needed, then 'systemctl start persist-heal.service'. Until then there is no second "
    "copy."
)


class Healer:
    """One volume, mounted at ``path``. ``status(step, text)`` is called as a step begins (step set) and while
    it goes on (step '').

    ``watch(lost)`` is called each second of a step that takes long, with the members that went away since the
    last time and were marked.
    """

    def __init__(
        self, path: str, config: Config, say: Say, status: Status, watch: Watch = lambda lost: None
    ) -> None:
        self.path = path
        self.uuid = btrfs.filesystem_uuid(path)
        self.config = config
        self.say = say
        self.status = status
        self.work = KernelWork(path, status, watch)
        self._state = State(())
        self._joiners: list[Joiner] = []
        self._last: Step | None = None

    def _erase(self, node: str, state: State) -> None:
        """Make a partition one that the kernel takes. It has its mark before it is a member, or a stop in
        between makes it one that nothing proves an ancestor. Raises PersistError and OSError."""
        wipe.erase(node, self.uuid, lambda member: in_kernel.split(member, state.devices))
        cut.after("wipe")
        head = in_kernel.head(state.devices)
        if head is not None:
            degraded_mark.write([node], head)

    def _shrink(self, node: str) -> None:
        """Keep the reserve free on a device that has just become a member, where the volume has one. Raises
        OSError."""
        if not reserve.is_kept_back(self.path):
            return
        number = blockdev.number_of(node)
        for device in btrfs.devices(self.path):
            wanted = partition_table.filesystem_bytes(blockdev.by_node(node).size)
            if device.node and blockdev.number_of(device.node) == number and device.size != wanted:
                btrfs.resize(self.path, device.devid, wanted)

    def _has_room(self, devices: int) -> bool:
        """Whether so many devices in use have space that belongs to no chunk. Raises OSError."""
        free = [
            m.size - m.used >= min(m.size // 10, _CHUNK)
            for m in in_kernel.glance(self.path)
            if m.ok and m.devid
        ]
        return sum(free) >= devices

    def _make_room(self, text: str, devices: int) -> bool:
        """Give back chunks that are hardly used, should all space be in chunks. Returns whether there is room
        for a new one. Raises OSError."""
        for usage in _USAGES:
            if self._has_room(devices):
                return True
            try:
                self.work.run(
                    f"Making room before {text}", "btrfs", "balance", "start", f"-dusage={usage}", self.path
                )
            except CommandError as e:
                self.say(
                    Note(
                        NOTICE,
                        f"Failed to make room before {text}: {e.message}",
                        "HEAL_STEP",
                        {"PERSIST_UUID": self.uuid, "PERSIST_STEP": "room"},
                    )
                )
        return self._has_room(devices)

    def _need_room(self, step: Step, devices: int) -> None:
        """Raise PersistError where the kernel would run out of space half-way: it then takes the whole volume
        read-only, at each boot anew."""
        if not self._make_room(step.text, devices):
            raise PersistError(f"The state volume is too full for {step.text}.", hint=_FULL)

    def _replace(self, step: Step, state: State) -> None:
        try:
            self._copy(step, state)
        except OSError as e:
            # One that is alone cannot mirror: it copies no chunk without another one, of another profile.
            if e.errno != errno.ENOSPC:
                raise
            if not self._make_room(step.text, 1):
                raise PersistError(f"The state volume is too full for {step.text}.", hint=_FULL) from e
            self._copy(step, state)

    def _copy(self, step: Step, state: State) -> None:
        with ExitStack() as stack:
            # udev looks at it after the wipe, and a kernel before 6.4 has it for itself meanwhile: the
            # replace would find it busy.
            stack.enter_context(udevd.without_udev([step.node]))
            self._erase(step.node, state)
            self.work.follow(
                step.text, lambda: btrfs.replace_device(self.path, step.devid, step.node), begun=stack.close
            )
        btrfs.sync(self.path)  # from now on its superblock says which device it is
        in_kernel.level(in_kernel.glance(self.path))
        cut.after("copy")
        in_kernel.begin_whole(self.path)
        self._shrink(step.node)
        udevd.trigger(step.node)

    def _add(self, step: Step, state: State, spare: Spare) -> None:
        if step.devid:
            self._need_room(step, 1)
        with udevd.without_udev([step.node]):
            self._erase(step.node, state)
            btrfs.add_device(self.path, step.node)
        if len(state.devices) == 1:
            in_kernel.begin(self.path)  # a copy of the one may get a second disk of its own elsewhere
        cut.after("device")
        if step.devid:
            # From now on the record counts the new one and not the one that is gone: that is what has the
            # next step drop it.
            recorded.note_members(self.path, [*state.part_ids.values(), spare.part_id])
        self._shrink(step.node)
        udevd.trigger(step.node)

    def _balance(self, state: State) -> None:
        assert state.wanted is not None
        data, metadata = state.wanted
        self.work.run(
            "Converting",
            "btrfs",
            "balance",
            "start",
            f"-dconvert={data},soft",
            f"-mconvert={metadata},soft",
            "--force",
            self.path,
        )

    def _do(self, step: Step, state: State, joiners: list[Joiner]) -> None:
        match step.kind:
            case "wait":
                self.work.wait(step.text)
            case "resume":
                self.work.run(step.text, "btrfs", "balance", "resume", self.path)
            case "cancel":
                run("btrfs", "replace", "cancel", self.path)
            case "replace":
                self._replace(step, state)
            case "add":
                self._add(step, state, next(s for s in state.spares if s.node == step.node))
            case "remove":
                self._need_room(step, 2)
                self.work.run(step.text, "btrfs", "device", "remove", str(step.devid), self.path)
            case "record":
                recorded.note_members(self.path, list(state.part_ids.values()))
            case "balance":
                self._balance(state)
            case "clear":
                btrfs.sync(self.path)
                degraded_mark.clear([m.node for m in state.devices if m.ok], self.uuid)
            case "finish":
                joining.finish(next(j for j in joiners if j.node == step.node), self.config)

    def next(self) -> Step | None:
        """What is to be done next, None where nothing is left that could be done now. Raises PersistError and
        OSError."""
        in_kernel.level(in_kernel.glance(self.path))
        self._state, self._joiners = look.gather(self.path, self.config, self.say)
        self.work.gone = {m.devid for m in self._state.devices if not m.ok}
        return next_step(self._state)

    def picture(self) -> str:
        """What the last next() decided upon, in one line: the same picture gives the same step."""
        state = self._state
        return repr(
            ([(m.devid, m.node, m.state) for m in state.devices], state.spares, state.joined, state.operation)
        )

    def do(self, step: Step) -> None:
        """Do what next() has just returned. Raises PersistError and OSError, also where the same was done
        just before and had no effect."""
        if step == self._last and step.kind != "wait":
            raise PersistError(
                f"{step.text[:1].upper()}{step.text[1:]} had no effect.",
                hint="See 'journalctl -b -k' for errors of the disks.",
            )
        self.status(step.kind, step.text)
        self._do(step, self._state, self._joiners)
        cut.after(step.kind)
        self._last = step

    def heal(self) -> int:
        """Do all that can be done now; returns the number of steps. Raises PersistError and OSError."""
        count = 0
        while (step := self.next()) is not None:
            self.do(step)
            count += 1
        # A stop right after a device was added left it without a reserve.
        reserve.shrink_back(self.path)
        return count
