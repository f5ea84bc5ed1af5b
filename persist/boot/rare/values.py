# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values that are not plain: quoted names, what looks like several names, users. Boot-safe."""

from ..ini import words
from ..paths import PLAIN

DIGITS = "0123456789"


def unquote(value: str) -> str:
    """A value without the double quotes around it, ``\\\\`` and ``\\"`` resolved. Raises ValueError where
    they do not begin and end it."""
    if value[:1] != '"':
        return value
    out: list[str] = []
    i = 1
    while i < len(value):
        c = value[i]
        if c == '"':
            if i + 1 < len(value):
                raise ValueError("something follows the closing quote")
            return "".join(out)
        if c == "\\":
            i += 1
            c = value[i : i + 1]
            if c and c not in '\\"':
                raise ValueError("'\\%s' is not an escape, only \\\\ and \\\" are" % c)
        out.append(c)
        i += 1
    raise ValueError("the quote is not closed")


def not_a_name(value: str) -> str:
    """What an unquoted value is that somebody takes for more than one name, or an empty string. Quotes make
    it a name all the same."""
    if not value.strip(PLAIN) or not value.isprintable():
        return ""  # the usual name, or wrong_path() says what that is
    for c in "*?[]{}":
        if c in value:
            return "a pattern"
    if "$" in value:
        return "a variable"
    if " #" in value or "\t#" in value or " ;" in value or "\t;" in value:
        return "a comment behind a value"
    for part in words(value.replace(",", " "))[1:]:
        if part[0] == "/":
            return "a list"
    return ""


def number(value: str) -> int | None:
    """A user's or group's number: ASCII digits, at most 4294967294, for the one above it means "as it is" to
    chown(2). None for anything else."""
    value = value.lstrip("0") or value[:1]
    if not value or value.strip(DIGITS) or len(value) > 10 or int(value) > 0xFFFFFFFE:
        return None
    return int(value)


def is_owner(value: str) -> bool:
    """Whether a text is the name or the number of a user or a group."""
    if not value.strip(DIGITS):
        return number(value) is not None
    return (
        bool(value) and value.isascii() and all(c.isalnum() or c in "_-.$" for c in value) and value[0] != "-"
    )
