# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only writer of units. Boot-safe."""

import posix as os  # see __init__.py

from .ini import ERROR, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .plan import Plan

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def emit(plan: "Plan", directory: str, problems: list[Problem]) -> int:
    """Write the units of a plan into ``directory`` and return how many files were written.

    Files are created exclusively: one that is there already is another generator's, and is left alone with a
    problem.
    """
    try:
        # So that the kernel looks for it once.
        at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        problems.append(
            Problem(ERROR, directory, "Failed to write: %s. No path is kept on this boot." % e.strerror)
        )
        return 0
    written = 0
    made: set[str] = set()
    try:
        for name, text in plan.files.items():
            try:
                _write(at, name, text, made)
                written += 1
            except FileExistsError:
                problems.append(
                    Problem(
                        ERROR,
                        directory + "/" + name,
                        "Another generator has written this unit already; leaving the path to it.",
                    )
                )
            except OSError as e:
                problems.append(
                    Problem(
                        ERROR,
                        directory + "/" + name,
                        "Failed to write: %s. The path is not kept on this boot." % e.strerror,
                    )
                )
    finally:
        os.close(at)
    return written


def _write(at: int, name: str, text: str, made: set[str]) -> None:
    """Write one file below an open directory, ``made`` has the directories that are there already. Raises
    OSError."""
    if "/" in name:
        parent = name.partition("/")[0]
        if parent not in made:
            made.add(parent)
            try:
                os.mkdir(parent, 0o755, dir_fd=at)
            except FileExistsError:
                pass  # of another generator, or of an earlier run by hand
    fd = os.open(name, _NEW, 0o644, dir_fd=at)
    try:
        data = text.encode("utf-8", "surrogateescape")
        count = os.write(fd, data)
        while count < len(data):
            count += os.write(fd, data[count:])
    except OSError:
        try:
            os.unlink(name, dir_fd=at)  # half a unit is worse than none
        except OSError:
            pass  # what is said of the first error holds
        raise
    finally:
        os.close(fd)
