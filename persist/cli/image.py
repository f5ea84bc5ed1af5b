# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl image: on the host, an image is made of a machine's disk."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from persist.cli import show
from persist.errors import PersistError
from persist.record import as_dict

if TYPE_CHECKING:
    from persist.image.create import Wish

FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc")


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser(
        "image",
        help="on the host: make images of machines that are fit to be cloned",
        description="Make an image of a virtual machine's disk that is fit to be cloned.",
    )
    actions = sub.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser(
        "create",
        help="let a throw-away copy of the machine seal itself, and write its disk to OUTPUT",
        description="Start a throw-away machine on a copy of SOURCE, have it seal itself, and write its disk "
        "to OUTPUT, a compressed qcow2 file. SOURCE is only read. Exit status 1: no machine was started, or "
        "the host failed; 3: the machine did not get as far as sealing; 4: sealing failed; 5: it did not "
        "power off.",
    )
    create.add_argument("source", metavar="SOURCE", help="the disk of a machine that is shut down")
    create.add_argument("output", metavar="OUTPUT", help="the image; must not be there yet")
    create.add_argument(
        "--format", choices=FORMATS, default="", help="of SOURCE, where its name does not tell"
    )
    create.add_argument("--operator-script", metavar="FILE", help="run in the machine when it is wiped")
    create.add_argument("--firmware", choices=("bios", "uefi"), default="bios", help="of the machine (bios)")
    create.add_argument("--kernel", metavar="FILE", default="", help="start this one, not the disk's own")
    create.add_argument("--initrd", metavar="FILE", default="", help="the initrd for --kernel")
    create.add_argument("--append", metavar="TEXT", default="", help="the command line for --kernel")
    create.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=300.0,
        help="for each of the three waits: until sealing runs, until it is done, until the power-off (300)",
    )
    show.options(create)
    create.set_defaults(run=run)


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise ValueError(text)
    return number


class _Stopped(BaseException):
    """A signal asked us to end: everything on the way is taken away."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop(number: int, _frame: object) -> NoReturn:
    for each in _ASKED:  # a second one would interrupt the tidying
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)


class _Progress:
    """On a terminal a line that is written again and again; elsewhere only what stays."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = 0.0

    def __call__(self, text: str, stays: bool) -> None:
        """One thing that is to be seen."""
        text = show.safe(text)
        if not self._terminal:
            if stays:
                print(text, file=sys.stderr, flush=True)
            return
        now = time.monotonic()
        if stays:
            print(f"\r\033[K{text}", file=sys.stderr, flush=True)
        elif now - self._last > 0.2:
            self._last = now
            print(f"\r\033[K{show.cut(text, show.columns() - 1)}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def tail(self, lines: list[str]) -> None:
        """The end of the console."""
        self.clear()
        for line in lines:
            print(f"console: {show.safe(line)}", file=sys.stderr)


def _script(path: str | None) -> bytes:
    from persist.image.request import check_script

    if path is None:
        return b""
    try:
        return check_script(Path(path).read_bytes(), path)
    except OSError as e:
        raise PersistError(f"'{path}' cannot be read: {e.strerror}.") from e


def run(arguments: argparse.Namespace) -> int:
    """Make the image."""
    try:
        from persist.image.create import Wish
    except ModuleNotFoundError as e:
        if e.name is None or not e.name.startswith("persist.image"):
            raise
        raise PersistError(
            "What makes images is not installed.", hint="It is in the package persist-image-tools."
        ) from e
    if (arguments.initrd or arguments.append) and not arguments.kernel:
        raise PersistError("--initrd= and --append= are for --kernel=.")
    wish = Wish(
        arguments.source,
        arguments.output,
        arguments.format,
        _script(arguments.operator_script),
        arguments.firmware == "uefi",
        arguments.kernel,
        arguments.initrd,
        arguments.append,
        arguments.timeout,
    )
    return make(wish, json=arguments.json)


def make(wish: Wish, *, json: bool = False) -> int:
    """Make the image that is wished for; the exit status."""
    from persist.image.create import create
    from persist.image.waits import GuestError

    progress = _Progress()
    before = {number: signal.signal(number, _stop) for number in _ASKED}
    try:
        made = create(wish, progress, progress.tail)
    except _Stopped as e:
        progress.clear()
        print("persistctl: interrupted", file=sys.stderr)
        return 128 + e.number
    except GuestError as e:
        progress.clear()
        for line in filter(None, (e.message, e.hint)):
            print(show.safe(f"persistctl: {line}" if line == e.message else line), file=sys.stderr)
        return e.status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    progress.clear()
    if json:
        show.print_json(as_dict(made))
    else:
        print(f"{show.safe(made.output)}: {-(-made.size >> 20)} MiB")
    return 0
