# SPDX-License-Identifier: LGPL-2.1-or-later
"""Exceptions of the library half. The library raises, the command (``persistctl``, ``persist-service``) logs
and exits."""

from __future__ import annotations


class PersistError(Exception):
    """Something persist could not do.

    ``message`` says what and where, ``hint`` what to do about it, ``message_id`` is a name in
    :mod:`persist.messages` and ``fields`` are the journal fields (``PERSIST_PATH`` and so on) to log with it.
    """

    def __init__(self, message: str, *, hint: str = "", message_id: str = "FAILED", **fields: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.message_id = message_id
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip() if self.hint else self.message


class CommandError(PersistError):
    """A tool that we ran failed. ``argv``, ``returncode`` and ``stderr`` tell how."""

    def __init__(self, argv: list[str], returncode: int, stderr: str, *, reason: str = "") -> None:
        self.argv = argv
        self.returncode = returncode
        self.stderr = stderr
        what = reason or f"exit status {returncode}"
        # mount(8) ends with a hint to look at the kernel's log; the reason stands before it.
        lines = [line.strip(" \t\r") for line in stderr.split("\n")]
        tail = next((line for line in reversed(lines) if line and not line.startswith("dmesg(1) ")), "")
        super().__init__(f"'{' '.join(argv)}' failed: {what}{': ' + tail if tail else ''}")


class Refusal(PersistError):
    """A disk that persist will not touch. ``code`` is a stable word for the verdict and for tests."""

    def __init__(self, code: str, message: str, *, hint: str = "", **fields: str) -> None:
        super().__init__(message, hint=hint, message_id="CLAIM_REFUSED", PERSIST_REASON=code, **fields)
        self.code = code
