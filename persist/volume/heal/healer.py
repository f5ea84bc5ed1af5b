# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bring the mounted volume back to full strength, one step after the other, each decided anew by what is on
the disks (heal/plan.py).

A stop at any moment costs what the kernel was doing and nothing else: a replace goes on at the next mount, a
removal or a conversion begins again with what is left of it, and everything else takes no time.
``PERSIST_TEST_KILL_AFTER=STEP`` is a test hook as in format/steps.py.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack

from persist import log
from persist.boot.config import Config
from persist.errors import CommandError, PersistError
from persist.system import blockdev, btrfs
from persist.system.run import run
from persist.system.udev_lock import without_udev
from persist.volume.format import joining
from persist.volume.format.joining import Joiner
from persist.volume.heal import look, wipe
from persist.volume.heal.plan import Spare, State, Step, next_step
from persist.volume.members import in_kernel
from persist.volume.members.in_kernel import LiveDevice
from persist.volume.members.lost import mark_lost
from persist.volume.ondisk import degraded_mark, partition_table, store
from persist.volume.space import reserve

Status = Callable[[str, str], None]
Watch = Callable[[list[LiveDevice]], None]
_CHUNK = 1 << 30  # as large a chunk of data gets, on a small device a tenth of it
_USAGES = (0, 20, 50)  # percent; as reserve.py has it
_FULL = (
    "Remove what is not needed, then 'systemctl start persist-heal.service'. Until then it has no second "
    "copy."
)
_POLL = 1.0  # seconds between two looks at how far the kernel is
_SHORT = 20  # the first ones come so much sooner


def _killed_after(step: str) -> None:
    if os.environ.get("PERSIST_TEST_KILL_AFTER") == step:
        os.kill(os.getpid(), signal.SIGKILL)


def progress(path: str, operation: str) -> str:
    """How far the kernel is, in its tools' words, '' where it does not say. Raises CommandError."""
    if operation == "device replace":
        return run("btrfs", "replace", "status", "-1", path).strip()
    if operation.startswith("balance"):
        return run("btrfs", "balance", "status", path, ok=(0, 1)).strip().rpartition("\n")[2]
    return ""


def swap_parts(nodes: list[str]) -> list[str]:
    """The PARTUUIDs of the swap partitions of ours on the disks of these data partitions. Raises
    PersistError."""
    found = []
    for disk in {d.sys_path: d for d in (blockdev.whole(blockdev.by_node(n)) for n in nodes)}.values():
        for part in blockdev.partitions(disk):
            p = blockdev.probe(part.node)
            if (
                p.get("TYPE") == "swap"
                and p.get("PART_ENTRY_NAME") == partition_table.SWAP_NAME
                and p.get("LABEL") == partition_table.SWAP_NAME
            ):
                found.append(p.get("PART_ENTRY_UUID", "").lower())
    return sorted(filter(None, found))


class Healer:
    """One volume, mounted at ``path``. ``status(step, text)`` is called as a step begins (step set) and while
    it goes on (step '').

    ``watch(lost)`` is called each second of a step that takes long, with the members that went away since the
    last time and were marked.
    """

    def __init__(self, path: str, config: Config, status: Status, watch: Watch = lambda lost: None) -> None:
        self.path = path
        self.uuid = btrfs.filesystem_uuid(path)
        self.config = config
        self.status = status
        self.watch = watch
        self._state = State(())
        self._joiners: list[Joiner] = []
        self._last: Step | None = None

    def _tick(self) -> None:
        """What cannot wait for the end of a step: whoever goes away now must not come back unnoticed. Raises
        OSError."""
        gone = {m.devid for m in self._state.devices if not m.ok}
        self.watch(mark_lost(self.uuid, in_kernel.glance(self.path), gone))
        in_kernel.level(in_kernel.glance(self.path))

    def _operation(self) -> str:
        return btrfs.attribute(self.uuid, "exclusive_operation") or "none"

    def _run(self, text: str, *argv: str) -> None:
        """As _follow(), of a program."""
        self._follow(text, lambda: run(*argv, timeout=None))

    def _say_progress(self, text: str) -> None:
        how_far = progress(self.path, self._operation())
        self.status("", f"{text}: {how_far}" if how_far else text)

    def _follow(
        self, text: str, work: Callable[[], object], begun: Callable[[], None] = lambda: None
    ) -> None:
        """Do what may take hours, and say how far it is; ``begun`` is called once the kernel is at it. Raises
        CommandError and OSError."""
        errors: list[CommandError | OSError] = []

        def body() -> None:
            try:
                work()
            except (CommandError, OSError) as e:
                errors.append(e)

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        busy = 0
        while True:
            thread.join(_POLL if busy > _SHORT else _POLL / _SHORT)
            if self._operation() != "none":
                busy += 1
                begun()
            self._tick()
            if not thread.is_alive():
                break
            if not busy:
                continue
            self._say_progress(text)
        if errors:
            raise errors[0]

    def _wait(self, step: Step) -> None:
        waiting = threading.Event()
        while self._operation() not in ("none", "balance paused"):
            self._say_progress(step.text)
            self._tick()
            waiting.wait(_POLL)
        self._tick()

    def _erase(self, node: str, state: State) -> None:
        """Make a partition one that the kernel takes. It has its mark before it is a member, or a stop in
        between makes it one that nothing proves an ancestor. Raises PersistError and OSError."""
        wipe.erase(node, self.uuid, lambda member: in_kernel.split(member, state.devices))
        _killed_after("wipe")
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
                self._run(
                    f"Making room before {text}", "btrfs", "balance", "start", f"-dusage={usage}", self.path
                )
            except CommandError as e:
                log.log(
                    log.NOTICE,
                    f"No room could be made before {text}: {e.message}",
                    "HEAL_STEP",
                    PERSIST_UUID=self.uuid,
                    PERSIST_STEP="room",
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
            stack.enter_context(without_udev([step.node]))
            self._erase(step.node, state)
            self._follow(
                step.text, lambda: btrfs.replace_device(self.path, step.devid, step.node), begun=stack.close
            )
        btrfs.sync(self.path)  # from now on its superblock says which device it is
        in_kernel.level(in_kernel.glance(self.path))
        _killed_after("copy")
        self._shrink(step.node)
        blockdev.trigger(step.node)

    def _add(self, step: Step, state: State, spare: Spare) -> None:
        if step.devid:
            self._need_room(step, 1)
        with without_udev([step.node]):
            self._erase(step.node, state)
            btrfs.add_device(self.path, step.node)
        if len(state.devices) == 1:
            in_kernel.begin(self.path)  # a copy of the one may get a second disk of its own elsewhere
        _killed_after("device")
        if step.devid:
            # From now on the record counts the new one and not the one that is gone: that is what has the
            # next step drop it.
            self._record([*state.part_ids.values(), spare.part_id])
        self._shrink(step.node)
        blockdev.trigger(step.node)

    def _record(self, ids: list[str]) -> None:
        record = store.read_record(self.path)
        if not record:
            return  # a volume that persist did not make
        nodes = [m.node for m in in_kernel.glance(self.path) if m.ok]
        store.write_record(
            self.path, record | {"members": sorted(filter(None, ids)), "swap": swap_parts(nodes)}
        )

    def note_serials(self) -> None:
        """Note the serial numbers of the disks in the volume's record: of one that is missing nobody can ask
        it any more. Raises PersistError, OSError."""
        record = store.read_record(self.path)
        if not record:
            return
        devices = [m for m in in_kernel.glance(self.path) if m.devid]
        noted = store.serials(record)
        now = {
            m.devid: blockdev.whole(blockdev.by_node(m.node)).serial if m.ok else noted.get(m.devid, "")
            for m in devices
        }
        if now != noted:
            store.write_record(self.path, record | {"serials": {str(k): v for k, v in now.items()}})

    def _balance(self, state: State) -> None:
        assert state.wanted is not None
        data, metadata = state.wanted
        self._run(
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
                self._wait(step)
            case "resume":
                self._run(step.text, "btrfs", "balance", "resume", self.path)
            case "cancel":
                run("btrfs", "replace", "cancel", self.path)
            case "replace":
                self._replace(step, state)
            case "add":
                self._add(step, state, next(s for s in state.spares if s.node == step.node))
            case "remove":
                self._need_room(step, 2)
                self._run(step.text, "btrfs", "device", "remove", str(step.devid), self.path)
            case "record":
                self._record(list(state.part_ids.values()))
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
        self._state, self._joiners = look.gather(self.path, self.config)
        return next_step(self._state)

    def picture(self) -> str:
        """What the last next() decided upon, in one line: the same picture gives the same step."""
        state = self._state
        return repr(
            ([(m.devid, m.node, m.state) for m in state.devices], state.spares, state.joined, state.operation)
        )

    def do(self, step: Step) -> None:
        """Do what next() has just returned. Raises PersistError and OSError, also where the same was done
        just before and did not help."""
        if step == self._last and step.kind != "wait":
            raise PersistError(
                f"{step.text[:1].upper()}{step.text[1:]} did not help.",
                hint="See 'journalctl -b -k' for errors of the disks.",
            )
        self.status(step.kind, step.text)
        self._do(step, self._state, self._joiners)
        _killed_after(step.kind)
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
