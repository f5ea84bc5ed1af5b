# SPDX-License-Identifier: LGPL-2.1-or-later
"""The three waits for the throw-away machine: until it reports that sealing runs, until it reports how that
went, and until it has powered off. Pure: what was heard goes in, what is to be shown or raised comes out."""

from __future__ import annotations

from persist.errors import PersistError

BOOT, WORK, STOP, DONE = "boot", "work", "stop", "done"
DID_NOT_RUN, FAILED, DID_NOT_STOP = 3, 4, 5  # exit statuses


class GuestError(PersistError):
    """The machine did not do what it was asked for; ``status`` is the exit status."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


_NOT_RUN_HINT = (
    "What the console said is above. The system in the image needs persist with its seal boot, and a kernel "
    "command line that names no other target; --timeout= waits longer."
)


class Waits:
    """Where the machine is, and since when. ``timeout`` is for each of the three."""

    def __init__(self, timeout: float, now: float) -> None:
        self.state = BOOT
        self.took: dict[str, float] = {}  # seconds of each wait that is over
        self._timeout = timeout
        self._since = now

    def _next(self, state: str, now: float) -> None:
        self.took[self.state] = round(now - self._since, 1)
        self.state, self._since = state, now

    def waited(self, now: float) -> float:
        """Seconds of the wait that goes on."""
        return now - self._since

    def heard(self, line: str, now: float) -> str:
        """One line of the port; what is to be shown of it, '' for nothing. Raises GuestError for an error."""
        if self.state == BOOT and line == "running":
            self._next(WORK, now)
            return "sealing runs"
        if line.startswith("output: "):
            return line.removeprefix("output: ")
        if line.startswith("error: "):
            raise GuestError(FAILED, f"The machine was not sealed: {line.removeprefix('error: ')}")
        if self.state == WORK and line == "success":
            self._next(STOP, now)
            return "sealed, waiting for the power-off"
        return ""

    def gone(self, reason: str, now: float) -> None:
        """The machine has stopped, for a reason that QEMU gives (guest-shutdown, guest-reset, ...). Raises
        GuestError where that is not how it ends."""
        how = {"guest-shutdown": "powered off", "guest-reset": "restarted"}.get(reason, f"ended ({reason})")
        if self.state == BOOT:
            raise GuestError(
                DID_NOT_RUN, f"The machine {how} before it reported that sealing runs.", _NOT_RUN_HINT
            )
        if self.state == WORK:
            raise GuestError(
                FAILED,
                f"The machine {how} before it reported success.",
                "An operator script must not power off or restart the machine: persist-operator-script(7).",
            )
        if reason != "guest-shutdown":
            raise GuestError(
                FAILED, f"The machine {how} after it was sealed; what it has on its disk is not whole."
            )
        self._next(DONE, now)

    def check(self, now: float) -> None:
        """Raises GuestError when a wait takes too long."""
        if self.waited(now) < self._timeout:
            return
        after = f"in {self._timeout:g} s"
        if self.state == BOOT:
            raise GuestError(
                DID_NOT_RUN, f"The machine did not report {after} that sealing runs.", _NOT_RUN_HINT
            )
        if self.state == WORK:
            raise GuestError(
                FAILED,
                f"The machine reported neither success nor an error {after}.",
                "What the console said is above; --timeout= waits longer.",
            )
        raise GuestError(
            DID_NOT_STOP,
            f"The machine reported success and did not power off {after}.",
            "Its disk is not taken: what is not written out would be missing. --timeout= waits longer.",
        )
