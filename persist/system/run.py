# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one place that starts other programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from persist.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

# subprocess(3) is loaded by those that need it: with what it loads itself it takes a tenth of the time that
# the stage before PID 1 takes to start, and start() comes first.

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}

_MOST_AFTER = 1 << 20  # bytes that are read of what a program has left running when it had ended


@contextmanager
def _started(args: list[str]) -> Iterator[None]:
    """Around what starts a program: raises CommandError for the OSError of that."""
    try:
        yield
    except FileNotFoundError as e:
        raise CommandError(args, 127, "", reason="not installed") from e
    except OSError as e:
        raise CommandError(args, 126, "", reason=e.strerror or str(e)) from e


def run(
    *argv: str | os.PathLike[str],
    ok: Sequence[int] = (0,),
    stdin: str | None = None,
    timeout: float | None = 300,
    pass_fds: Sequence[int] = (),
) -> str:
    """Run a program to its end and return what it printed on standard output.

    ``timeout`` is in seconds. The environment is small and fixed, so that a stray variable changes nothing.

    Raises CommandError when the program is missing, exits with a status that is not in ``ok``, or takes too
    long.
    """
    import subprocess

    args = [os.fspath(a) for a in argv]
    try:
        with _started(args):
            done = subprocess.run(
                args,
                input=None if stdin is None else stdin.encode("utf-8", "surrogateescape"),
                stdin=subprocess.DEVNULL if stdin is None else None,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=timeout,
                env=ENVIRONMENT,
                check=False,
                pass_fds=pass_fds,
            )
    except subprocess.TimeoutExpired as e:
        raise CommandError(args, 124, "", reason=f"timed out after {timeout:.0f} s") from e
    if done.returncode not in ok:
        raise CommandError(args, done.returncode, done.stderr.decode("utf-8", "surrogateescape"))
    # Not text=True: that takes a carriage return in a name for the end of a line.
    return done.stdout.decode("utf-8", "surrogateescape")


def _bound() -> Callable[[], None]:
    """What a child does before it becomes another program: it asks the kernel for SIGKILL when its parent is
    gone, and ends by itself where that was already so."""
    import ctypes  # 5 ms, which the services do not need

    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def bind() -> None:
        if prctl(1, 9, 0, 0, 0) != 0 or os.getppid() != parent:  # PR_SET_PDEATHSIG, SIGKILL
            os._exit(126)

    return bind


class Child:
    """A program that runs beside us and ends with us, whatever ends us (PR_SET_PDEATHSIG). What it says goes
    to the open file ``log``; the terminal's signals do not reach it.

    The kernel looks at the thread that called, not at the process: make it in one that stays. Raises
    CommandError when it cannot be started.
    """

    def __init__(self, *argv: str | os.PathLike[str], log: int, pass_fds: Sequence[int] = ()) -> None:
        import subprocess

        args = [os.fspath(a) for a in argv]
        with _started(args):
            self._process = subprocess.Popen(
                args,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=_bound(),  # noqa: PLW1509  # none of us has threads where it is used
            )

    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def end(self) -> None:
        """SIGKILL, where it still runs."""
        import subprocess

        if self._process.poll() is None:
            self._process.kill()
        # In the kernel, for a disk or a server that does not answer.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)


def follow(
    *argv: str | os.PathLike[str],
    tick: Callable[[], str],
    every: float = 1.0,
    pass_fds: Sequence[int] = (),
    bound: bool = False,
) -> None:
    """Run a program that takes as long as its work does, and call ``tick`` every so many seconds meanwhile.

    ``bound``: it ends with us, as a Child does. What ``tick`` returns, if anything, is why the program has to
    end. Raises CommandError as run(), and with that reason; a program that the kernel does not let go is left
    behind then.
    """
    import subprocess

    args = [os.fspath(a) for a in argv]
    with _started(args):
        process = subprocess.Popen(
            args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            pass_fds=pass_fds,
            preexec_fn=_bound() if bound else None,  # noqa: PLW1509
        )
    try:
        while True:
            try:
                _, stderr = process.communicate(timeout=every)
                break
            except subprocess.TimeoutExpired:
                why = tick()
            if why:
                raise CommandError(args, 124, "", reason=why)
    except BaseException:
        process.kill()
        # In the kernel, for a disk or a server that does not answer.
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=10)
        raise
    if process.returncode:
        raise CommandError(args, process.returncode, stderr.decode("utf-8", "surrogateescape"))


def stream(*argv: str | os.PathLike[str], line: Callable[[str], None], cwd: str = "/") -> int:
    """Run a program that says what it does as it goes: each line of both its outputs goes to ``line``.
    Returns its exit status, with a minus the signal that ended it.

    What it leaves running may hold its output open: that is not waited for. Raises CommandError when it
    cannot be started.
    """
    import select
    import subprocess

    args = [os.fspath(a) for a in argv]
    try:
        process = subprocess.Popen(
            args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            cwd=cwd,
        )
    except OSError as e:
        raise CommandError(args, 126, "", reason=e.strerror or str(e)) from e
    assert process.stdout is not None
    with process.stdout as out:
        left, more = b"", _MOST_AFTER
        while True:
            ended = process.poll() is not None
            ready, _, _ = select.select([out], [], [], 0 if ended else 0.1)
            data = os.read(out.fileno(), 1 << 16) if ready else b""
            *lines, left = (left + data).split(b"\n")
            more -= len(data) if ended else 0
            if (not ready and ended) or (ready and not data) or more < 0:
                lines += [left] if left else []
                left = b""
            for each in lines:
                line(each.decode("utf-8", "surrogateescape"))
            if (not data and (ready or ended)) or more < 0:
                return process.wait()


def status(
    *argv: str | os.PathLike[str],
    timeout: float | None = 300,
    bound: bool = False,
    more: Mapping[str, str] | None = None,
    loud: bool = False,
) -> int:
    """Run a program for its exit status alone, with a minus the signal that ended it; ``bound``: it ends with
    us, as a Child does. ``more`` is for its environment; ``loud``: its outputs are ours. Raises CommandError
    when it cannot be started or takes too long."""
    import subprocess

    args = [os.fspath(a) for a in argv]
    try:
        with _started(args):
            return subprocess.run(
                args,
                stdin=subprocess.DEVNULL,
                stdout=None if loud else subprocess.DEVNULL,
                stderr=None if loud else subprocess.DEVNULL,
                timeout=timeout,
                env=ENVIRONMENT | dict(more or {}),
                check=False,
                preexec_fn=_bound() if bound else None,  # noqa: PLW1509
            ).returncode
    except subprocess.TimeoutExpired as e:
        raise CommandError(args, 124, "", reason=f"timed out after {timeout:.0f} s") from e


def start(*argv: str) -> Callable[[], int]:
    """Start a program that says nothing, and go on. Returns what waits for it and has its exit status, less
    than 0 for a signal; it has to be called once. Raises CommandError when it cannot be started."""
    args, null = list(argv), os.devnull
    with _started(args):
        pid = os.posix_spawn(
            _found(args[0]),
            args,
            ENVIRONMENT,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _found(name: str) -> str:
    """The path of a program. Raises FileNotFoundError."""
    for directory in ENVIRONMENT["PATH"].split(":"):
        if os.access(path := f"{directory}/{name}", os.X_OK):
            return path
    raise FileNotFoundError(name)


@contextmanager
def unpacking(*argv: str, stdin: int) -> Iterator[IO[bytes]]:
    """What a program makes of an open file, as it makes it. Who does not read to the end ends the program.
    Raises CommandError when it cannot be started, or has failed at its end."""
    import subprocess

    args = list(argv)
    try:
        process = subprocess.Popen(
            args, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT
        )
    except OSError as e:
        raise CommandError(args, 126, "", reason=e.strerror or str(e)) from e
    assert process.stdout is not None
    try:
        with process.stdout as out:
            yield out
            ended = not out.read(1)
        status = process.wait() if ended else 0
    finally:
        process.kill()
        process.wait()
    if status:
        raise CommandError(args, status, "")
