# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only writer of units. Boot-safe."""

import posix as os  # see __init__.py

from .ini import ERROR, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .plan import Plan


def emit(plan: "Plan", directory: str, problems: list[Problem]) -> int:
    """Write the units of a plan into ``directory`` and return how many files were written.

    Files are created exclusively: one that is there already is another generator's, and is left alone with a problem.
    """
    written = 0
    made: set[str] = set()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    for name, text in plan.files.items():
        path = directory + "/" + name
        try:
            if "/" in name:
                parent = path.rpartition("/")[0]
                if parent not in made:
                    made.add(parent)
                    try:
                        os.mkdir(parent, 0o755)
                    except FileExistsError:
                        pass  # of another generator, or of an earlier run by hand
            fd = os.open(path, flags, 0o644)
        except FileExistsError:
            problems.append(Problem(ERROR, path, "Another generator has written this unit already; leaving the path to it."))
            continue
        except OSError as e:
            problems.append(Problem(ERROR, path, "Cannot be written: %s. The path is not kept on this boot." % e.strerror))
            continue
        try:
            data = text.encode("utf-8", "surrogateescape")
            count = os.write(fd, data)
            while count < len(data):
                count += os.write(fd, data[count:])
        except OSError as e:
            problems.append(Problem(ERROR, path, "Cannot be written: %s. The path is not kept on this boot." % e.strerror))
            try:
                os.unlink(path)  # half a unit is worse than none
            except OSError:
                pass  # said above that it is bad
            continue
        finally:
            os.close(fd)
        written += 1
    return written
