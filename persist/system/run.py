# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one place that starts other programs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress

from persist.errors import CommandError

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}


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
    args = [os.fspath(a) for a in argv]
    try:
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
    except FileNotFoundError as e:
        raise CommandError(args, 127, "", reason="not installed") from e
    except OSError as e:
        raise CommandError(args, 126, "", reason=e.strerror or str(e)) from e
    except subprocess.TimeoutExpired as e:
        raise CommandError(args, 124, "", reason=f"timed out after {timeout:.0f} s") from e
    if done.returncode not in ok:
        raise CommandError(args, done.returncode, done.stderr.decode("utf-8", "surrogateescape"))
    # Not text=True: that takes a carriage return in a name for the end of a line.
    return done.stdout.decode("utf-8", "surrogateescape")


def follow(
    *argv: str | os.PathLike[str], tick: Callable[[], str], every: float = 1.0, pass_fds: Sequence[int] = ()
) -> None:
    """Run a program that takes as long as its work does, and call ``tick`` every so many seconds meanwhile.

    What ``tick`` returns, if anything, is why the program has to end. Raises CommandError as run(), and with
    that reason; a program that the kernel does not let go is left behind then.
    """
    args = [os.fspath(a) for a in argv]
    try:
        process = subprocess.Popen(
            args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            pass_fds=pass_fds,
        )
    except FileNotFoundError as e:
        raise CommandError(args, 127, "", reason="not installed") from e
    except OSError as e:
        raise CommandError(args, 126, "", reason=e.strerror or str(e)) from e
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


def status(*argv: str | os.PathLike[str], timeout: float | None = 300) -> int:
    """Run a program for its exit status alone. Raises CommandError when it cannot be started or takes too
    long."""
    args = [os.fspath(a) for a in argv]
    try:
        return subprocess.run(
            args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            env=ENVIRONMENT,
            check=False,
        ).returncode
    except FileNotFoundError as e:
        raise CommandError(args, 127, "", reason="not installed") from e
    except OSError as e:
        raise CommandError(args, 126, "", reason=e.strerror or str(e)) from e
    except subprocess.TimeoutExpired as e:
        raise CommandError(args, 124, "", reason=f"timed out after {timeout:.0f} s") from e
