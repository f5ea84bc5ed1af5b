# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks that may not become the volume, because there is one or a certain one is expected: the code, what the
words must have, and what they must not. On a root of its own, which has the note of the volume."""

from __future__ import annotations

from pathlib import Path

import pytest

from persist.boot.config import Config
from persist.errors import Refusal
from persist.record import replace
from persist.volume.find import remembered
from persist.volume.find.decision import Candidate, Known
from persist.volume.format import only_volume
from tests.unit.test_hints import OTHER, OURS, U1

from .namespace import own_machine
from .own_root import own_class, own_root


def refusal(
    *every: Candidate,
    named: str = "",
    wrong: str = "",
    known_: str = "",
    note: str = "",
    device: str = "auto",
    **settings: object,
) -> Refusal:
    config = Config()
    config.device = device.split()
    for key, value in settings.items():
        setattr(config, key, value)
    if note:
        remembered.note(note)
    with pytest.raises(Refusal) as caught:
        only_volume.check_alone([], "", config, Known(named, known_, wrong=wrong), list(every))
    found: Refusal = caught.value
    return found


@pytest.mark.parametrize(
    ("case", "code", "must", "must_not"),
    [
        # A disk that carries no more than a claim may be claimed again.
        (dict(every=(OURS,)), "volume-exists", ["claim --join"], ["--force"]),
        (dict(every=(OURS,), join="no"), "volume-exists", ["detach that one"], ["--join"]),
        (
            dict(every=(replace(OURS, fstype="ext4"),), device="LABEL=persist-data"),
            "volume-exists",
            ["detach that one"],
            ["--join"],
        ),
        (dict(every=(OURS, OTHER)), "volume-exists", ["detach"], ["--join"]),
        (dict(every=(), named=U1), "volume-expected", ["persist.volume="], []),
        (dict(every=(), wrong="LABEL=x"), "volume-expected", ["persist.volume=UUID"], ["Attach"]),
        (dict(every=(), note=U1), "volume-expected", [remembered.PATH, "Attach it"], ["Ephemeral"]),
        (
            dict(every=(), note=U1, format_blank=True),
            "volume-expected",
            [remembered.PATH, "Ephemeral=yes"],
            [],
        ),
        (dict(every=(), known_=U1), "volume-expected", ["credential"], [remembered.PATH]),
    ],
)
@own_machine
def test_refused(
    tmp_path: Path, case: dict[str, object], code: str, must: list[str], must_not: list[str]
) -> None:
    own_root(str(tmp_path))
    own_class([])
    settings = dict(case)
    found = refusal(*settings.pop("every"), **settings)  # type: ignore[misc, arg-type]
    assert found.code == code and found.message and found.hint
    said = f"{found.message} {found.hint}"
    assert [word for word in must if word not in said] == [], said
    assert [word for word in must_not if word in found.hint] == [], said
