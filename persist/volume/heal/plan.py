# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is to be done next for a volume that is not whole. Pure; heal/healer.py looks and acts.
docs/volume.md, "Healing"."""

from __future__ import annotations

from typing import Literal

from persist.record import Record, made
from persist.volume.members.in_kernel import LiveDevice

Kind = Literal["wait", "resume", "cancel", "replace", "add", "remove", "record", "balance", "clear", "finish"]


class Spare(Record):
    """A partition that may become a member. ``devid``: the device that it was, 0 for a new one; ``size`` in
    bytes, ``part_id`` its PARTUUID.

    ``wiped``: it was ours, and healing stopped after it was wiped.
    """

    node: str
    size: int
    part_id: str
    devid: int = 0
    wiped: bool = False


class State(Record):
    """What is there: devices, exclusive operation of the kernel ('none' for none), and what else could be
    used.

    ``suspended``: a replace that was stopped and is not going on. ``part_ids`` are the PARTUUIDs of the
    devices in use by devid, ``recorded`` those of volume.json. ``profiles`` and ``wanted`` are of data and
    metadata, None where nobody says. ``counters`` are those of the marks in use, one for each that has a
    mark. ``joined`` are nodes whose claim is still to be erased.
    """

    devices: tuple[LiveDevice, ...]
    operation: str = "none"
    suspended: bool = False
    spares: tuple[Spare, ...] = ()
    part_ids: dict[int, str] = made(dict)
    recorded: tuple[str, ...] = ()
    profiles: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    wanted: tuple[str, str] | None = None
    counters: tuple[int, ...] = ()
    joined: tuple[str, ...] = ()


class Step(Record):
    """One thing to do: to a device of the volume, with a partition."""

    kind: Kind
    devid: int = 0
    node: str = ""
    text: str = ""


def _fits(spare: Spare, gone: LiveDevice) -> bool:
    return spare.size >= gone.size


def _for_gone(state: State, gone: list[LiveDevice], present: list[LiveDevice]) -> Step | None:
    """What to put in the place of a device that is gone."""
    ids = {m.devid for m in gone}
    own = [s for s in state.spares if s.devid in ids]
    spares = own + sorted(
        (s for s in state.spares if s not in own and not s.devid), key=lambda s: not s.wiped
    )
    # As many as the record counts are here again: the one that is gone was to be dropped, and a stop came
    # before that was done.
    if state.recorded and len(present) >= len(state.recorded):
        return Step("remove", gone[0].devid, text=f"dropping device {gone[0].devid}, which is gone")
    for spare in spares:
        device = next((m for m in gone if m.devid == spare.devid), gone[0])
        if _fits(spare, device):
            return Step(
                "replace", device.devid, spare.node, f"copying what device {device.devid} had to {spare.node}"
            )
    if spares:
        return Step(
            "add",
            gone[0].devid,
            spares[0].node,
            f"adding {spares[0].node}, which is smaller than device {gone[0].devid} was",
        )
    return None


def _profiles(state: State) -> Step | None:
    if state.wanted is None or all(
        found <= {wanted} for found, wanted in zip(state.profiles, state.wanted, strict=True)
    ):
        return None
    return Step("balance", text=f"converting data to {state.wanted[0]} and metadata to {state.wanted[1]}")


def _finish(state: State) -> Step | None:
    return (
        Step("finish", node=state.joined[0], text=f"erasing the claim of {state.joined[0]}")
        if state.joined
        else None
    )


def next_step(state: State) -> Step | None:
    """The next thing to do, None where nothing is left that could be done now."""
    if state.operation != "none":
        return Step(
            "resume" if "paused" in state.operation else "wait",
            text=f"the kernel is busy ({state.operation})",
        )
    if state.suspended:
        return Step("cancel", text="cancelling a replace whose disk is gone")
    present = [m for m in state.devices if m.ok and m.devid]
    gone = [m for m in state.devices if not m.ok and m.devid]
    if gone:
        # A disk that has joined is this machine's from then on, whoever goes away after that.
        return _for_gone(state, gone, present) or _finish(state)
    if set(state.recorded) != set(state.part_ids.values()):
        return Step("record", text="noting the members")
    fresh = [s for s in state.spares if not s.devid and not s.wiped]
    if fresh:
        return Step("add", 0, fresh[0].node, f"adding {fresh[0].node}")
    balance = _profiles(state)
    if balance is not None:
        return balance
    if any(state.counters):
        return Step("clear", text="clearing the degraded marks")
    return _finish(state)
