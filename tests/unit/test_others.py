# SPDX-License-Identifier: LGPL-2.1-or-later
"""Another volume that is attached beside the one in use: a line for people, and facts for programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from persist.boot.config import Config
from persist.cli import status, volume
from persist.record import as_dict, replace
from persist.volume import outcome
from persist.volume.find.choose import decide
from persist.volume.find.decision import Candidate, Found, Known
from persist.volume.outcome import Outcome

U1, U2 = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
ONE = Candidate("/dev/vdb2", "254:18", "254:16", U1, "s1", "persist-data")
TWO = Candidate("/dev/vdc2", "254:34", "254:32", U2, "s2", "persist-data")
STICK = Candidate("/dev/sdb1", "8:17", "8:16", U2, "s9", "persist-data", untrusted="on USB")
OTHERS = [{"device": "/dev/vdc2", "uuid": U2}]
LINE = f"/dev/vdc2 (UUID={U2}) could be a state volume, too, and is left alone"


@pytest.mark.parametrize(
    ("every", "others"),
    [
        ((ONE,), ()),
        ((ONE, TWO), ((TWO.node, U2),)),
        ((ONE, STICK), ((STICK.node, U2),)),
        ((ONE, Candidate("/dev/vdd1", "1:1", "1:0", "x", "y", "home")), ()),
        # A second device of the same filesystem is none.
        ((ONE, Candidate("/dev/vdd2", "1:2", "1:0", U1, "s3", "persist-data")), ()),
    ],
)
def test_which(every: tuple[Candidate, ...], others: tuple[tuple[str, str], ...]) -> None:
    found = decide(Config(), Known(bound=lambda c: c is ONE), every, lambda path: "")
    assert isinstance(found, Found) and (found.uuid, found.others) == (U1, others)


def test_status() -> None:
    record = Outcome(kind="native", device="/dev/vdb2", others=OTHERS)
    assert ("Beside", LINE) in status._volume(record)
    assert not [line for line in status._volume(replace(record, others=[])) if line[0] == "Beside"]


def test_volume_show(capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = {
        "uuid": U1,
        "path": "/",
        "layout": "auto",
        "profiles": {"data": ["single"], "metadata": ["dup"]},
        "size": 0,
        "used": 0,
        "free": 0,
        "reserve_used": False,
        "operation": "none",
        "progress": "",
        "scrub": "",
        "members": [],
        "reasons": [],
        "others": OTHERS,
    }
    volume.print_members(found, full=False)
    assert LINE in capsys.readouterr().out


def test_record() -> None:
    """The verdict's reader takes it."""
    written = json.dumps(as_dict(Outcome(kind="btrfs", others=OTHERS)))
    assert outcome.of(json.loads(written)).others == OTHERS
    with pytest.raises(ValueError, match="others"):
        outcome.of({"kind": "btrfs", "others": [{"device": 3}]})
