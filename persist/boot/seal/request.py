# SPDX-License-Identifier: LGPL-2.1-or-later
"""A request that this machine be sealed, as it stands in files and in words. Boot-safe, but for json.

It destroys, and it comes back: command lines and credentials at every boot, files with every clone. So it
names the machine, and has an ID that is honoured once."""

from ..paths import SEAL_REQUEST

LOCAL, COMMAND_LINE, CREDENTIAL = "local", "command-line", "credential"
OUTSIDE = (COMMAND_LINE, CREDENTIAL)  # of a request from there, whoever has the host decides
KEY = "persist.seal"  # on the command line, and the name of the credential
THEN = ("poweroff", "reboot", "halt")
OLDEST = 3600  # seconds after which nobody thinks of a local request any more
ID_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
LONGEST_ID = 64
_HEX = "0123456789abcdef"
NAMES = {
    LOCAL: SEAL_REQUEST,
    COMMAND_LINE: "%s= on the kernel command line" % KEY,
    CREDENTIAL: "the credential %s" % KEY,
}
WAYS_OUT = {
    LOCAL: "It is taken away before any service starts, but in emergency mode; 'persistctl seal' asks anew.",
    COMMAND_LINE: "Correct %s= on the kernel command line, or take it away there." % KEY,
    CREDENTIAL: "Correct the credential %s, or take it away, where this machine gets it from." % KEY,
}


class Request:
    """What is asked, and by whom. ``machine_id`` and ``uuid`` are 32 hex digits or ''; of a request from
    outside the one that it names is in ``machine``, and they are ''. ``time`` is in seconds of the epoch, 0
    where nobody has noted it."""

    __slots__ = ("id", "source", "machine", "machine_id", "uuid", "time", "keep", "then", "include_volume")

    def __init__(
        self,
        id: str,  # as in the file
        source: str = LOCAL,
        *,
        machine: str = "",
        machine_id: str = "",
        uuid: str = "",
        time: int = 0,
        keep: "tuple[str, ...]" = (),
        then: str = "poweroff",
        include_volume: bool = False,
    ) -> None:
        self.id = id
        self.source = source
        self.machine = machine
        self.machine_id = machine_id
        self.uuid = uuid
        self.time = time
        self.keep = keep
        self.then = then
        self.include_volume = include_volume

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and as_dict(self) == as_dict(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Request(%r)" % as_dict(self)


def as_dict(request: Request) -> "dict[str, object]":
    """The fields of a request, as in its file."""
    found: dict[str, object] = {name: getattr(request, name) for name in Request.__slots__}
    found["keep"] = list(request.keep)
    return found


def digits(text: str) -> str:
    """The 32 hex digits of a machine-id or UUID, '' for what is none or names nobody."""
    low = text.strip(" \t\r\n").lower().replace("-", "")
    return low if len(low) == 32 and not low.strip(_HEX) and low.strip("0") and low.strip("f") else ""


def serialise(request: Request) -> str:
    """The text of /etc/persist/seal.request and of /run/persist/seal."""
    import json

    return json.dumps(as_dict(request), sort_keys=True) + "\n"


def parse_words(text: str, source: str) -> Request:
    """The request that ``MACHINE:ID`` makes. Raises ValueError that says what is wrong with it."""
    machine, colon, name = text.partition(":")
    if not colon:
        raise ValueError("is not MACHINE:ID")
    if len(machine.replace("-", "")) != 32 or machine.lower().replace("-", "").strip(_HEX):
        raise ValueError("has a MACHINE that is not 32 hexadecimal digits")
    _check_id(name)
    return Request(name, source, machine=digits(machine))


def parse(data: bytes, *, begun: bool = False) -> Request:
    """The request in a file, which is local but where it says otherwise in /run/persist/seal (``begun``).
    Raises ValueError that says what is wrong with it."""
    import json

    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("is not one JSON object")
    texts = {name: found.get(name, "") for name in ("id", "source", "machine", "machine_id", "uuid")}
    texts["then"] = found.get("then", THEN[0])
    when, keep, volume = found.get("time"), found.get("keep", []), found.get("include_volume", False)
    if not all([isinstance(value, str) for value in texts.values()]):
        raise ValueError("has a value that is not text")
    if not isinstance(when, int) or isinstance(when, bool) or not isinstance(volume, bool):
        raise ValueError("has no time, or include_volume is neither true nor false")
    if not isinstance(keep, list) or not all([isinstance(word, str) for word in keep]):
        raise ValueError("has a list of what to keep that is none")
    if texts["then"] not in THEN:
        raise ValueError("says to do what is not one of %s" % ", ".join(THEN))
    _check_id(texts["id"])
    source = texts["source"] if begun and texts["source"] in OUTSIDE else LOCAL
    return Request(
        texts["id"],
        source,
        machine=digits(texts["machine"]) if source != LOCAL else "",
        machine_id=digits(texts["machine_id"]),
        uuid=digits(texts["uuid"]),
        time=when,
        keep=tuple(keep),
        then=texts["then"],
        include_volume=volume,
    )


def _check_id(name: str) -> None:
    if not 0 < len(name) <= LONGEST_ID or name.strip(ID_CHARACTERS):
        raise ValueError("has an ID that is not 1 to %d of A-Z a-z 0-9 . _ -" % LONGEST_ID)
