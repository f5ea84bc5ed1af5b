# SPDX-License-Identifier: LGPL-2.1-or-later
"""From SOURCE to OUTPUT: a throw-away copy of the machine seals itself, and what is on its disk then is the
image."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from persist.errors import PersistError
from persist.image import accel, disk, firmware
from persist.image.formats import format_of
from persist.image.guest import Guest, Show
from persist.image.machine import PORT_DEVICE, Machine
from persist.image.request import Request, handed
from persist.image.source import Source, check_chain
from persist.image.waits import GuestError, Waits
from persist.image.work import Work, sweep
from persist.record import Record
from persist.system import uuids


class Wish(Record):
    """What is asked for. ``accelerator`` '' is the best that works; ``port_device`` is for tests."""

    source: str
    output: str
    format: str = ""
    script: bytes = b""
    uefi: bool = False
    kernel: str = ""
    initrd: str = ""
    append: str = ""
    timeout: float = 300
    accelerator: str = ""
    firmware_directories: tuple[str, ...] = firmware.DIRECTORIES
    port_device: tuple[str, ...] = PORT_DEVICE


class Made(Record):
    """An image that was made."""

    output: str
    size: int
    uuid: str  # of the throw-away machine
    accelerator: str
    seconds: dict[str, float]


def create(wish: Wish, show: Show, tail: Callable[[list[str]], None]) -> Made:
    """Make the image. ``tail`` gets the end of the console where the machine did not do what it should.

    Raises GuestError then, and PersistError (CommandError for a tool) for all else. Whatever ends this, but
    for SIGKILL, leaves nothing; after SIGKILL the next run in that directory takes away what is left.
    """
    output = Path(os.path.abspath(wish.output))
    _check_output(output)
    form = format_of(wish.source, wish.format)
    for path in filter(None, (wish.kernel, wish.initrd)):
        if not os.access(path, os.R_OK) or not os.path.isfile(path):
            raise PersistError(f"'{path}' cannot be read.")
    source = Source(wish.source)
    try:
        check_chain(source.path, form)
        for name in sweep(output.parent):
            show(f"removed what an earlier run had left: {name}", True)
        work = Work(output.parent)
        try:
            return _made(wish, source, form, output, work, show, tail)
        except OSError as e:
            raise PersistError(f"'{work.path}' cannot be written: {e.strerror or e}.") from e
        finally:
            work.remove()
    finally:
        source.close()


def _check_output(output: Path) -> None:
    if os.path.lexists(output):
        raise PersistError(
            f"'{output}' is already there.", hint="It is not replaced: remove it, or take another name."
        )
    if not output.parent.is_dir():
        raise PersistError(f"'{output.parent}' is not a directory.")


def _made(
    wish: Wish,
    source: Source,
    form: str,
    output: Path,
    work: Work,
    show: Show,
    tail: Callable[[list[str]], None],
) -> Made:
    overlay = work.path / "overlay.qcow2"
    disk.lay_over(source.path, form, overlay)
    machine = _machine(wish, overlay, work, show)
    waits = Waits(wish.timeout, time.monotonic())
    guest = Guest(machine, work.path / "qemu.log", waits, show)
    try:
        guest.watch()
    except GuestError:
        tail(guest.tail())
        raise
    finally:
        guest.close()
    show("powered off", True)
    whole = work.path / "output.qcow2"
    disk.flatten(overlay, whole, show)
    source.check_unchanged()
    _check_output(output)
    size = whole.stat().st_size
    whole.rename(output)
    disk.sync(output.parent)
    return Made(str(output), size, machine.uuid, machine.accelerator, waits.took)


def _machine(wish: Wish, overlay: Path, work: Work, show: Show) -> Machine:
    """The machine with its own UUID, and the files that it is given."""
    accelerator = wish.accelerator
    if not accelerator:
        accelerator, why = accel.choose()
        if why:
            show(f"emulation, which is slow: {why}", True)
    uefi = firmware.find(wish.firmware_directories) if wish.uefi else None
    variables = ""
    if uefi:
        variables = str(work.path / "variables")
        shutil.copyfile(uefi.variables, variables)
    request = Request(uuids.new(), uuids.new().replace("-", ""), wish.script)
    way = handed(request)
    files = {name: str(work.file(name, content)) for name, content in way.files.items()}
    return Machine(
        str(overlay),
        request.machine,
        way,
        files,
        accelerator,
        cpus=min(2, os.cpu_count() or 1) if accelerator == "kvm" else 1,
        firmware=uefi,
        variables=variables,
        kernel=wish.kernel,
        initrd=wish.initrd,
        append=wish.append,
        port_device=wish.port_device,
    )
