# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl seal without --root: the machine that runs is to seal itself, in a boot of its own."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence

from persist.boot import config, facts, paths
from persist.boot.seal.decide import REFUSED, decide
from persist.boot.seal.look import look
from persist.boot.seal.request import Request, serialise
from persist.cli import show
from persist.errors import CommandError, PersistError
from persist.seal import report
from persist.seal.boot import consume, tree
from persist.seal.boot.asked import CREDENTIALS
from persist.seal.boot.machine import opened
from persist.seal.engine import Result
from persist.system import mountinfo
from persist.system.run import run as run_program
from persist.system.run import status
from persist.system.safepath import Dir
from persist.volume.format import asking

GIVE_UP_SEC = 90  # a reboot that has not come about by then is none
_OUTSIDE = (
    "Ask from outside, by 'persist.seal=MACHINE:ID' on the kernel command line or as credential "
    "(persistctl(8)), or seal an image of it with 'persistctl seal --root=DIR'."
)


def _made(keep: Sequence[str], then: str, *, include_volume: bool) -> Request:
    """A request of this machine, with an ID that nobody has used."""
    seen = look(facts.gather("", os.environ), {})
    return Request(
        uuid.uuid4().hex,
        machine_id=seen.machine_id,
        uuid=seen.uuid,
        time=int(time.time()),
        keep=tuple(keep),
        then=then,
        include_volume=include_volume,
    )


def _refuse_what_the_boot_would(request: Request) -> None:
    """Ask now what the generator will be asked: a request that is refused then is not made. Raises
    PersistError."""
    known = {**os.environ, "CREDENTIALS_DIRECTORY": CREDENTIALS}
    seen = look(facts.gather("", known), known)
    seen.local, seen.local_wrong = serialise(request).encode("ascii"), ""
    seen.begun, seen.ordinary = None, False
    answer = decide(seen)
    if answer.kind == REFUSED:
        raise PersistError(answer.sentence, hint=answer.hint)


def _refuse_this_machine() -> None:
    """What a boot cannot mend. Raises PersistError, OSError."""
    if status("systemd-detect-virt", "--quiet", "--container") == 0:
        raise PersistError("This is a container, which has no boot of its own. Seal its tree from outside.")
    over = mountinfo.at("/etc")
    for path in ("/", "/etc") if over is not None else ("/",):
        lost = tree.memory(path)
        if lost:
            raise PersistError(
                f"'{path}' is {lost}: a request would not be there after the reboot.", hint=_OUTSIDE
            )
    if os.statvfs("/etc").f_flag & os.ST_RDONLY:
        raise PersistError("/etc is read-only, so that no request can be left there.", hint=_OUTSIDE)
    claims = asking.heads(asking.tagged(), config.load("", []).magic_headers)
    if claims:
        raise PersistError(
            "A disk of this machine asks to be formatted, and might be before the request is seen.",
            hint="'persistctl claim --release' takes that back, or take the disk away.",
        )


def first_pass(keep: Sequence[str], *, include_volume: bool = False) -> Result:
    """The first pass over this machine's own tree, while it runs. Raises PersistError, OSError."""
    copy = tree.make(writable=False, whole=True)
    with opened(copy, keep, looking=True, include_volume=include_volume) as work:
        return work.first_pass()


def _typed(host: str, lines: list[str]) -> bool:
    """Show what it is about, and have the name of the machine typed."""
    for line in lines:
        print(show.safe(line), file=sys.stderr)
    print(
        "\nThis machine restarts, wipes that, and is switched off. From inside there is no way back. Type "
        f"its name, {show.safe(host)}, to go on: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return sys.stdin.readline().strip() == host


def leave(request: Request, root: str = "/") -> None:
    """Leave the request for the next boot. Raises OSError, PersistError."""
    directory, name = paths.SEAL_REQUEST.strip("/").rsplit("/", 1)
    with Dir.at(root) as top, top.descend(directory.split("/"), consume.made) as there:
        there.must_be_ours()
        temporary = f".{name}.tmp"
        there.write(temporary, serialise(request).encode("ascii"))
        os.rename(temporary, name, src_dir_fd=there.fd, dst_dir_fd=there.fd)
        there.sync()


def _reboot() -> None:
    """Raises CommandError."""
    run_program("systemctl", "reboot")


def ask(
    request: Request,
    *,
    root: str = "/",
    reboot: Callable[[], None] = _reboot,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Leave the request, and reboot. Where that does not come about the request is taken away again: it must
    not seal the machine weeks later. Raises PersistError, OSError."""
    leave(request, root)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # whose terminal goes first
    try:
        reboot()
        sleep(GIVE_UP_SEC)
    except BaseException as e:
        if not isinstance(e, SystemExit):
            consume.take_away([root])
        raise
    consume.take_away([root])
    raise PersistError(
        f"The machine still runs {GIVE_UP_SEC} s after it was asked to reboot. The request was taken away.",
        hint="'systemctl list-jobs' and 'systemd-inhibit --list' say what holds it.",
    )


def run(arguments: argparse.Namespace) -> int:
    """Look, ask, leave the request, reboot."""
    if os.geteuid() != 0:
        raise PersistError("Only root can seal a machine.", hint="Run it as root, with sudo for one.")
    _refuse_this_machine()
    request = _made(arguments.keep, arguments.then, include_volume=arguments.include_volume)
    _refuse_what_the_boot_would(request)
    result = first_pass(arguments.keep, include_volume=arguments.include_volume)
    if arguments.json:
        show.print_json(report.document(result, dry_run=True))
    elif arguments.dry_run:
        for line in report.of_plan(result):
            print(show.safe(line))
    for line in [f"notice: {note}" for note in [*result.notes, *report.of_traces(result)]] + [
        f"error: {error}" for error in result.errors
    ]:
        print(show.safe(line), file=sys.stderr)
    if result.errors or arguments.dry_run:
        if not arguments.json:
            print(show.safe(report.summary(result, dry_run=True)))
        return 1 if result.errors else 0
    host = os.uname().nodename
    if not arguments.yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise PersistError("Nobody is there to type the machine's name.", hint="--yes goes without.")
        if not _typed(host, [*report.of_plan(result), report.summary(result, dry_run=True)]):
            raise PersistError("Nothing was touched.")
    print("The machine restarts to be sealed.", file=sys.stderr)
    try:
        ask(request)
    except CommandError as e:
        raise PersistError(f"The reboot failed, and the request was taken away: {e.message}") from e
    return 1
