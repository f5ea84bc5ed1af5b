# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way to the service manager's own socket: its messages are those that dbus-next knows, and what is no
message ends in an error. That PID 1 of both releases answers is shown by tests/nspawn/test_seal_boot.py."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dbus_next import Message, MessageType, Variant
from dbus_next._private.unmarshaller import Unmarshaller

from persist.errors import PersistError
from persist.seal.boot import machine, manager
from persist.seal.boot.manager import Call, Listed, Manager
from persist.seal.boot.unmounted import Known

UNIT = "org.freedesktop.systemd1.Unit"
Serve = Callable[[Message], Message]


@contextmanager
def served(directory: Path, serve: Serve, greeting: bytes = b"OK 0123\r\n") -> Iterator[str]:
    """A service manager that answers with what ``serve`` returns, after a signal that nobody asked for."""
    path = str(directory / "private")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(1)

    def work() -> None:
        with listening, listening.accept()[0] as one, one.makefile("rwb") as stream:
            assert stream.readline().startswith(b"\0AUTH EXTERNAL ")
            assert stream.readline() == b"BEGIN\r\n"
            stream.write(greeting)
            stream.flush()
            serial = 0
            while stream.peek(1):
                asked = Unmarshaller(stream).unmarshall()
                noise = Message(
                    message_type=MessageType.SIGNAL, path="/a", interface="a.b", member="C", serial=serial + 1
                )
                serial += 2
                answer = serve(asked)
                answer.serial = serial
                stream.write(bytes(noise._marshall()) + bytes(answer._marshall()))
                stream.flush()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield path
    finally:
        thread.join(10)


def test_calls_are_messages(tmp_path: Path) -> None:
    """Texts, lists of texts with none, one and two of odd lengths; the answers come in their order."""
    heard: list[object] = []

    def serve(asked: Message) -> Message:
        heard.append(
            (asked.path, asked.interface, asked.member, asked.destination, asked.signature, asked.body)
        )
        return Message.new_method_return(asked, "s", [asked.member])

    calls = [
        Call("/a", UNIT, "One", ("x", (), "yy")),
        Call("/a/b", UNIT, "Two", (("abc", "d"), "\u00e4")),
        Call("/", "a.b", "Three"),
    ]
    with served(tmp_path, serve) as path, Manager(path) as one:
        assert one.ask(calls) == [["One"], ["Two"], ["Three"]]
    assert heard == [
        ("/a", UNIT, "One", manager.SYSTEMD, "sass", ["x", [], "yy"]),
        ("/a/b", UNIT, "Two", manager.SYSTEMD, "ass", [["abc", "d"], "\u00e4"]),
        ("/", "a.b", "Three", manager.SYSTEMD, "", []),
    ]


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("v", [Variant("t", 1 << 40)]),
        ("v", [Variant("a(sasb)", [["a", ["b", "c"], True], ["", [], False]])]),
        ("a(ssssssouso)", [[["n", "d", "l", "a", "s", "", "/o", 7, "", "/"]] * 3]),
        ("a(ssssssouso)", [[]]),
        ("yas(bx)a{sv}g", [1, ["", "x"], [True, -5], {"k": Variant("d", 1.5)}, "a(ss)"]),
        ("a{sa{ss}}s", [{}, "behind"]),
    ],
)
def test_values(signature: str, body: list[object]) -> None:
    said = Message(
        message_type=MessageType.METHOD_RETURN, reply_serial=9, signature=signature, body=body, serial=1
    )
    got = manager.answer(bytes(said._marshall()))
    assert (got.to, got.error) == (9, "") and got.values == [plain(value) for value in body]


def plain(value: object) -> object:
    """A value of dbus-next without its variants, structs as tuples."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return [(key, plain(each)) for key, each in value.items()]
    if isinstance(value, list):
        every = [plain(each) for each in value]
        struct = len({type(each) for each in every}) > 1
        return tuple(every) if struct else every
    return value


def test_units_and_their_properties(tmp_path: Path) -> None:
    """What a mount unit says; one that is not loaded is, and what is no name is left out."""
    said = {
        "LoadState": "loaded",
        "ActiveState": "active",
        "What": "/dev/vda2",
        "Type": "ext4",
        "Options": "rw",
    }

    def serve(asked: Message) -> Message:
        if asked.member == "ListUnitsByPatterns":
            assert asked.body == [[], ["*.mount"]]
            row = ["var.mount", "", "loaded", "active", "mounted", "", "/u/var", 0, "", "/"]
            return Message.new_method_return(asked, "a(ssssssouso)", [[row]])
        if asked.member == "LoadUnit":
            if asked.body[0] in ("x.mount", "gone.mount"):
                return Message.new_method_return(asked, "o", [f"/u/{asked.body[0][:-6]}"])
            return Message.new_error(asked, "org.freedesktop.DBus.Error.InvalidArgs", "no name")
        if asked.path == "/u/x":
            said_of_x = {"Id": "x.mount", "LoadState": "loaded", "ActiveState": "inactive", "Where": "/x"}
            return Message.new_method_return(asked, "v", [Variant("s", said_of_x.get(asked.body[1], ""))])
        if asked.path == "/u/gone":
            assert asked.body[1] in ("Id", "LoadState", "ActiveState"), "nothing more is asked of it"
            return Message.new_method_return(asked, "v", [Variant("s", "not-found")])
        name = asked.body[1]
        return Message.new_method_return(asked, "v", [Variant("s", said.get(name, "/var"))])

    with served(tmp_path, serve) as path, Manager(path) as one:
        assert one.listed(".mount") == [Listed("var.mount", "loaded", "active", "/u/var")]
        assert machine.of_manager(one, ["var.mount", "bad", "x.mount", "gone.mount"]) == [
            Known("var.mount", "/var", "/dev/vda2", "ext4", "rw", True),
            Known("x.mount", "/x", "", ""),
        ]


def test_what_is_refused_is_none(tmp_path: Path) -> None:
    def serve(asked: Message) -> Message:
        return Message.new_error(asked, "org.freedesktop.DBus.Error.UnknownProperty", "no")

    with served(tmp_path, serve) as path, Manager(path) as one:
        assert one.of_manager("NoSuchProperty") is None
        with pytest.raises(PersistError, match="which jobs"):
            one.jobs()


def test_who_is_not_let_in(tmp_path: Path) -> None:
    with (
        served(tmp_path, lambda asked: asked, b"REJECTED EXTERNAL\r\n") as path,
        pytest.raises(PersistError, match="REJECTED"),
    ):
        Manager(path)
    with pytest.raises(FileNotFoundError):
        Manager(str(tmp_path / "none"))


def test_nonsense_is_an_error(tmp_path: Path) -> None:
    """What is cut, or names a type that there is not."""

    def serve(asked: Message) -> Message:
        return Message.new_method_return(asked, "s", ["text"])

    with served(tmp_path, serve, b"OK\r\n") as path, pytest.raises(PersistError, match="let us ask"):
        Manager(path)
    good = bytes(
        Message(
            message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="s", body=["text"], serial=1
        )._marshall()
    )
    for bad in (good.replace(b"\x04\0\0\0text", b"\xff\xff\0\0text"), good.replace(b"\x01s\0", b"\x01k\0")):
        assert bad != good
        with pytest.raises((ValueError, IndexError)):
            manager.answer(bad)
