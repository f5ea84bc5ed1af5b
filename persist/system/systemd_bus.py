# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one place that talks D-Bus (dbus-next): the service manager's view of units
(org.freedesktop.systemd1(5))."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dbus_next import AuthError, BusType, DBusError, InvalidAddressError, Message, MessageType
from dbus_next.aio import MessageBus

from persist.errors import PersistError
from persist.record import Record

SYSTEMD = "org.freedesktop.systemd1"
TIMEOUT = 10.0


class UnitState(Record):
    """ActiveState, SubState, and the STATUS= text of a service."""

    active: str
    sub: str
    text: str


async def _call(
    bus: MessageBus, path: str, interface: str, member: str, signature: str, body: list[object]
) -> list[object]:
    reply = await bus.call(
        Message(
            destination=SYSTEMD, path=path, interface=interface, member=member, signature=signature, body=body
        )
    )
    if reply is None or reply.message_type == MessageType.ERROR:
        raise PersistError(
            f"The service manager refused {member}: {reply.body[0] if reply and reply.body else 'no answer'}"
        )
    body_: list[object] = reply.body
    return body_


async def _property(bus: MessageBus, path: str, interface: str, name: str) -> str:
    found = await _call(bus, path, "org.freedesktop.DBus.Properties", "Get", "ss", [interface, name])
    return str(getattr(found[0], "value", ""))


async def _states(names: Sequence[str]) -> dict[str, UnitState]:
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    try:
        states = {}
        for name in names:
            path = str(
                (
                    await _call(
                        bus, "/org/freedesktop/systemd1", f"{SYSTEMD}.Manager", "LoadUnit", "s", [name]
                    )
                )[0]
            )
            unit = f"{SYSTEMD}.Unit"
            text = (
                await _property(bus, path, f"{SYSTEMD}.Service", "StatusText")
                if name.endswith(".service")
                else ""
            )
            states[name] = UnitState(
                await _property(bus, path, unit, "ActiveState"),
                await _property(bus, path, unit, "SubState"),
                text,
            )
        return states
    finally:
        bus.disconnect()


def unit_states(names: Sequence[str]) -> dict[str, UnitState]:
    """The state of each unit. Raises PersistError where there is no system bus or no systemd on it."""
    try:
        return asyncio.run(asyncio.wait_for(_states(names), TIMEOUT))
    except (OSError, EOFError, AuthError, DBusError, InvalidAddressError, TimeoutError) as e:
        raise PersistError(f"Failed to ask the service manager over D-Bus: {e or type(e).__name__}") from e
