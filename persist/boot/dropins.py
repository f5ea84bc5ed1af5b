# SPDX-License-Identifier: LGPL-2.1-or-later
"""Configuration fragments over four directories (UAPI configuration files specification). Boot-safe."""

import posix as os  # see __init__.py

from .ini import ERROR, WARNING, Problem
from .paths import DIRECTORIES as DIRECTORIES
from .paths import READ

MAX_BYTES = 1 << 20  # a registry file is some lines; more is a mistake or an attack
_PIECE = 1 << 13
_S_IFMT, _S_IFIFO = 0o170000, 0o010000  # as in stat, which is one more module


def fragments(
    root: str,
    directory: str,
    problems: list[Problem],
    bases: tuple[str, ...] = DIRECTORIES,
) -> list[tuple[str, str]]:
    """The ``*.conf`` files of e.g. ``persist.d`` in force, sorted by name: (path to open, path to show).

    The same name in a higher directory replaces; an empty file or a link to /dev/null masks (both read as
    nothing).
    """
    found: dict[str, tuple[str, str]] = {}
    for base in bases:
        shown = base + "/" + directory
        try:
            names = sorted(os.listdir(root + shown))
        except FileNotFoundError:
            continue
        except OSError as e:
            problems.append(
                Problem(ERROR, shown, "Failed to list: %s. The directory is ignored." % e.strerror)
            )
            continue
        there, here = root + shown + "/", shown + "/"
        for name in names:
            if name[-5:] == ".conf" and name[0] != "." and name not in found:
                if not name.isprintable():  # it would go into SourcePath= and into messages
                    problems.append(
                        Problem(
                            WARNING,
                            shown,
                            "The file name %a is not printable UTF-8 text, the file is ignored. Rename it."
                            % name,
                        )
                    )
                    continue
                found[name] = (there + name, here + name)
    return [found[name] for name in sorted(found)]


def inside(path: str, root: str) -> str:
    """The file behind a link, with absolute targets taken below ``root`` (an image's own links)."""
    if not root:
        return path
    for _ in range(16):
        try:
            target = os.readlink(path)
        except OSError:
            return path
        if target == "/dev/null":
            return target  # a mask, also where the image has no /dev
        path = root + target if target[0] == "/" else path.rpartition("/")[0] + "/" + target
    return path


def _open(path: str, root: str) -> int:
    """A descriptor to read. A link is asked about only where there is one. Raises OSError."""
    if root:
        try:
            return os.open(path, READ | os.O_NOFOLLOW)
        except OSError as e:
            import errno  # takes as long as a module of ours

            if e.errno != errno.ELOOP:
                raise
            path = inside(path, root)
    return os.open(path, READ)


def read(path: str, shown: str, problems: list[Problem], root: str = "") -> bytes | None:
    """The content of a file, behind links ``inside()`` of ``root``, or None with a problem. Never blocks on a
    FIFO and never reads without end."""
    try:
        fd = _open(path, root)
    except OSError as e:
        problems.append(Problem(ERROR, shown, "Failed to read: %s. The file is ignored." % e.strerror))
        return None
    try:
        data = os.read(fd, _PIECE)
        if len(data) == _PIECE:
            while len(data) <= MAX_BYTES and (piece := os.read(fd, 1 << 16)):
                data += piece
        elif not data and os.fstat(fd).st_mode & _S_IFMT == _S_IFIFO:
            problems.append(Problem(ERROR, shown, "Is a named pipe and not a file, ignoring it."))
            return None
    except OSError as e:
        problems.append(Problem(ERROR, shown, "Failed to read: %s. The file is ignored." % e.strerror))
        return None
    finally:
        os.close(fd)
    if len(data) > MAX_BYTES:
        problems.append(Problem(ERROR, shown, "Larger than 1 MiB, the file is ignored."))
        return None
    return data
