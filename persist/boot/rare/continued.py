# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines that a backslash continues. Boot-safe; loaded only where a file has one, or is long."""

from ..ini import BLANKS, ERROR, MAX_LINE, WARNING, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def logical_lines(text: str, file: str, problems: list[Problem]) -> "Iterator[tuple[int, str]]":
    """The lines that are neither blank nor comments, those that a backslash continues made one, each with its
    number.

    The pieces of a line are put together once: a line that grew piece by piece would take the square of its
    length.
    """
    pieces: list[str] = []
    number = start = length = 0
    going_on = False
    for raw in text.split("\n"):
        number += 1
        line = raw.strip(BLANKS)
        if not going_on:
            if not line or line[0] in "#;":
                continue
            start, length = number, 0
        elif line and line[0] in "#;":
            continue
        going_on = line[-1:] == "\\" and (
            line[-2:-1] != "\\" or (len(line) - len(line.rstrip("\\"))) % 2 == 1
        )
        length += len(raw) + 1
        if length > MAX_LINE:
            pieces.clear()  # read to its end and not kept
            if not going_on:
                problems.append(
                    Problem(
                        ERROR,
                        "%s:%d" % (file, start),
                        "The line is longer than 64 KiB, ignoring it. Make several settings of it.",
                    )
                )
        elif going_on:
            pieces.append(line[:-1].strip(BLANKS))
        elif pieces:
            line = " ".join([piece for piece in (*pieces, line) if piece])
            pieces.clear()
            if line:
                yield start, line
        else:
            yield start, line
    if going_on:
        problems.append(
            Problem(WARNING, "%s:%d" % (file, start), "The last line ends in a backslash, ignoring it.")
        )
