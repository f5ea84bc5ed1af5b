# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the service manager knows, asked on its own socket: the way of systemctl(1) for root, also where no
message bus runs (org.freedesktop.systemd1(5), the D-Bus specification).

Not systemctl itself: that has PID 1 tell all of two hundred properties of each unit, and of sixty services
this took a fifth of all instructions of a boot that seals (tried, 252). Standard library only.
"""

from __future__ import annotations

import os
import struct
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket  # socket(3) makes enumerations of all names
from collections.abc import Sequence

from persist.errors import PersistError
from persist.record import Record

SOCKET = "/run/systemd/private"
SYSTEMD = "org.freedesktop.systemd1"
_TOP = "/org/freedesktop/systemd1"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_TIMEOUT = 90.0  # of each answer; PID 1 may be at work
_AT_ONCE = 50  # calls that are under way: what is not read yet has to fit into the socket
_MOST = 64 << 20  # bytes of a message
_CALL, _RETURN, _ERROR = 1, 2, 3
_PATH, _INTERFACE, _MEMBER, _REPLY_TO, _DESTINATION, _SIGNATURE = 1, 2, 3, 5, 6, 8
_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "h": "I", "x": "q", "t": "Q", "d": "d"}
_ALIGNED = {"g": 1, "v": 1, "s": 4, "o": 4, "a": 4, "(": 8, "{": 8} | {
    code: struct.calcsize(form) for code, form in _FIXED.items()
}


class Call(Record):
    """One question; its arguments are texts and lists of texts."""

    path: str
    interface: str
    member: str
    args: tuple[str | tuple[str, ...], ...] = ()


class Listed(Record):
    """A unit that the service manager has loaded, and its object."""

    name: str
    load: str
    active: str
    path: str


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<I", len(data)) + data + b"\0"


def _align(out: bytearray, size: int) -> None:
    out += bytes(-len(out) % size)


def _body(args: Sequence[str | tuple[str, ...]]) -> tuple[bytes, str]:
    out, signature = bytearray(), ""
    for arg in args:
        _align(out, 4)
        if isinstance(arg, str):
            out += _text(arg)
            signature += "s"
            continue
        texts = bytearray()
        for each in arg:
            _align(texts, 4)
            texts += _text(each)
        out += struct.pack("<I", len(texts)) + texts
        signature += "as"
    return bytes(out), signature


def message(call: Call, serial: int) -> bytes:
    """A call as it goes over the wire."""
    body, signature = _body(call.args)
    fields = bytearray()
    for code, kind, text in (
        (_PATH, "o", call.path),
        (_INTERFACE, "s", call.interface),
        (_MEMBER, "s", call.member),
        (_DESTINATION, "s", SYSTEMD),
        (_SIGNATURE, "g", signature),
    ):
        if text:
            _align(fields, 8)
            fields += bytes((code, 1)) + kind.encode() + b"\0"
            fields += _text(text) if kind != "g" else bytes((len(text),)) + text.encode() + b"\0"
    head = bytearray(struct.pack("<cBBBIII", b"l", _CALL, 0, 1, len(body), serial, len(fields)))
    head += fields
    _align(head, 8)
    return bytes(head) + body


class _Reader:
    """Reads values from a message. Raises struct.error, IndexError, ValueError for what is none."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data = data
        self.order = order
        self.at = 0

    def _number(self, form: str) -> int | float:
        size = struct.calcsize(form)
        self.at += -self.at % size
        (found,) = struct.unpack_from(self.order + form, self.data, self.at)
        self.at += size
        number: int | float = found
        return number

    def _bytes(self, length: int) -> str:
        if length > len(self.data) - self.at:
            raise ValueError("a text that is too long")
        found = self.data[self.at : self.at + length]
        self.at += length + 1
        return found.decode("utf-8", "surrogateescape")

    def value(self, signature: str, index: int) -> tuple[object, int]:
        """The value of the type that begins at an index of a signature, and the index behind it."""
        code = signature[index]
        if code in _FIXED:
            return self._number(_FIXED[code]), index + 1
        if code in "so":
            return self._bytes(int(self._number("I"))), index + 1
        if code == "g":
            return self._bytes(int(self._number("B"))), index + 1
        if code == "v":
            return self.value(self._bytes(int(self._number("B"))), 0)[0], index + 1
        if code == "a":
            length = int(self._number("I"))
            self.at += -self.at % _ALIGNED[signature[index + 1]]
            end, many = self.at + length, []
            while self.at < end:
                many.append(self.value(signature, index + 1)[0])
            return many, _behind(signature, index + 1)
        if code in "({":
            self.at += -self.at % 8
            found, index = [], index + 1
            while signature[index] not in ")}":
                one, index = self.value(signature, index)
                found.append(one)
            return tuple(found), index + 1
        raise ValueError(f"a type {code}")

    def values(self, signature: str) -> list[object]:
        """All values of a signature."""
        found, index = [], 0
        while index < len(signature):
            one, index = self.value(signature, index)
            found.append(one)
        return found


def _behind(signature: str, index: int) -> int:
    """The index behind one type."""
    if signature[index] == "a":
        return _behind(signature, index + 1)
    if signature[index] not in "({":
        return index + 1
    index += 1
    while signature[index] not in ")}":
        index = _behind(signature, index)
    return index + 1


class Answer(Record):
    """A message of the service manager's: to which call, its values, and the name of an error."""

    to: int
    values: list[object]
    error: str = ""


def answer(data: bytes) -> Answer:
    """Read one message. Raises as _Reader."""
    order = "<" if data[:1] == b"l" else ">"
    (length,) = struct.unpack_from(order + "I", data, 4)
    head = _Reader(data, order)
    head.at = 12
    fields, _ = head.value("a(yv)", 0)
    assert isinstance(fields, list)
    known = dict(fields)
    body = _Reader(data[len(data) - length :], order) if length else _Reader(b"", order)
    values = body.values(str(known.get(_SIGNATURE, "")))
    to = known.get(_REPLY_TO, 0) if data[1] in (_RETURN, _ERROR) else 0
    return Answer(to, values, str(known.get(4, "an error")) if data[1] == _ERROR else "")


class Manager:
    """A way to the service manager; a context manager. Raises OSError where there is none, PersistError for
    what it says wrong."""

    def __init__(self, path: str = SOCKET) -> None:
        self._socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        self._serial = 0
        self._left = b""
        try:
            self._socket.settimeout(_TIMEOUT)
            self._socket.connect(path)
            uid = str(os.geteuid()).encode().hex()
            self._socket.sendall(b"\0AUTH EXTERNAL " + uid.encode() + b"\r\nBEGIN\r\n")
            while b"\r\n" not in self._left:
                self._more()
        except BaseException:
            self._socket.close()
            raise
        said, _, self._left = self._left.partition(b"\r\n")
        if not said.startswith(b"OK "):
            self._socket.close()
            raise PersistError(f"The service manager does not let us ask: {said[:80]!a}.")

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _more(self) -> None:
        got = self._socket.recv(1 << 16)
        if not got:
            raise PersistError("The service manager has ended the conversation.")
        self._left += got

    def _next(self) -> Answer:
        """The next message."""
        while len(self._left) < 16:
            self._more()
        order = "<" if self._left[:1] == b"l" else ">"
        body, _, fields = struct.unpack_from(order + "III", self._left, 4)
        length = 16 + fields + -fields % 8 + body
        if length > _MOST:
            raise PersistError("The service manager has a message that is larger than 64 MiB.")
        while len(self._left) < length:
            self._more()
        data, self._left = self._left[:length], self._left[length:]
        return answer(data)

    def ask(self, calls: Sequence[Call]) -> list[list[object] | None]:
        """What each call returns, None for one that is refused. Raises OSError, PersistError."""
        found: dict[int, list[object] | None] = {}
        first = self._serial + 1
        try:
            for at in range(0, len(calls), _AT_ONCE):
                some = calls[at : at + _AT_ONCE]
                serials = range(self._serial + 1, self._serial + 1 + len(some))
                self._serial += len(some)
                self._socket.sendall(b"".join(map(message, some, serials)))
                waiting = set(serials)
                while waiting:
                    got = self._next()  # signals are among them
                    if got.to in waiting:
                        waiting.remove(got.to)
                        found[got.to] = None if got.error else got.values
        except (struct.error, IndexError, KeyError, ValueError, AssertionError) as e:
            raise PersistError(f"The service manager has said what is no message: {e}.") from e
        return [found[first + number] for number in range(len(calls))]

    def properties(self, asked: Sequence[tuple[str, str, str]]) -> list[object]:
        """The value of each property, by object, interface and name; None for one that is not there."""
        calls = [Call(path, _PROPERTIES, "Get", (f"{SYSTEMD}.{kind}", name)) for path, kind, name in asked]
        return [got[0] if got else None for got in self.ask(calls)]

    def of_manager(self, name: str) -> object:
        """A property of the manager itself, None for one that it has not."""
        return self.properties([(_TOP, "Manager", name)])[0]

    def listed(self, suffix: str) -> list[Listed]:
        """All units of a type that are loaded, whatever became of them."""
        (got,) = self.ask([Call(_TOP, f"{SYSTEMD}.Manager", "ListUnitsByPatterns", ((), (f"*{suffix}",)))])
        rows = got[0] if got else None
        if not isinstance(rows, list):
            raise PersistError("The service manager does not say which units it has.")
        return [Listed(row[0], row[2], row[3], row[6]) for row in rows]

    def loaded(self, names: Sequence[str]) -> list[str]:
        """The objects of units, which are loaded where they were not; '' for what is no name of a unit."""
        calls = [Call(_TOP, f"{SYSTEMD}.Manager", "LoadUnit", (name,)) for name in names]
        return [str(got[0]) if got else "" for got in self.ask(calls)]

    def jobs(self) -> list[str]:
        """The units that have a job."""
        (got,) = self.ask([Call(_TOP, f"{SYSTEMD}.Manager", "ListJobs")])
        rows = got[0] if got else None
        if not isinstance(rows, list):
            raise PersistError("The service manager does not say which jobs it has.")
        return [str(row[1]) for row in rows]
