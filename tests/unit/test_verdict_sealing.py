# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the verdict says of a request to seal, in the ordinary boot that came of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persist.boot.facts import gather
from persist.boot.seal.look import UNITS
from persist.reason import Reason
from persist.verdict import judge as v
from persist.verdict import say, sealing
from persist.volume.outcome import Outcome

MACHINE = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine that runs: past sysinit.target."""
    for directory in ("etc/persist", "run/persist", "var/lib/persist", "usr/lib/systemd/system", "proc"):
        (tmp_path / directory).mkdir(parents=True)
    for unit in UNITS:
        (tmp_path / "usr/lib/systemd/system" / unit).write_text("[Unit]\n")
    (tmp_path / "etc/machine-id").write_text(MACHINE + "\n")
    (tmp_path / "run/persist/ordinary").touch()
    return tmp_path


def told(root: Path, cmdline: str = "", **environ: str) -> sealing.Sealing:
    known = gather(str(root), {"SYSTEMD_PROC_CMDLINE": cmdline, **environ})
    return sealing.look_back(known, environ)


def test_nobody_has_asked(root: Path) -> None:
    assert told(root) == sealing.Sealing()


def test_a_command_line_of_another_machine(root: Path) -> None:
    [reason] = told(root, f"persist.seal={MACHINE[::-1]}:one").reasons
    assert reason.code == "seal-refused" and "it names another machine" in reason.message
    assert "kernel command line" in reason.hint


def test_a_command_line_that_comes_back(root: Path) -> None:
    """The machine is as it was asked to be; that somebody still asks costs nothing."""
    (root / "etc/persist/seal.done").write_text("one\n")
    (root / "var/lib/persist/seal.json").write_text(json.dumps({"request": "one", "sealed": True}))
    found = told(root, f"persist.seal={MACHINE}:one")
    assert found.reasons == () and [n.code for n in found.notices] == ["seal-refused"]


def test_a_boot_that_ought_to_have_sealed(root: Path) -> None:
    """Where the generator could not make its links."""
    [reason] = told(root, f"persist.seal={MACHINE}:one").reasons
    assert "(ID one), and this boot has not done so" in reason.message


@pytest.mark.parametrize(
    "environ, says", [({}, ""), ({"SYSTEMD_CONFIDENTIAL_VIRTUALIZATION": "sev"}, "confidential")]
)
def test_a_credential(root: Path, environ: dict[str, str], says: str) -> None:
    (root / "run/credentials/@system").mkdir(parents=True)
    (root / "run/credentials/@system/persist.seal").write_text(f"{MACHINE}:one\n")
    [reason] = told(root, CREDENTIALS_DIRECTORY=sealing.CREDENTIALS, **environ).reasons
    assert reason.code == "seal-refused" and says in reason.message


def test_a_local_request_that_was_taken_away(root: Path) -> None:
    (root / "run/persist/seal-refused").write_text(
        json.dumps({"source": "local", "code": "too-old", "sentence": "Not sealing.", "hint": "Ask."})
    )
    assert told(root).reasons == (Reason("seal-refused", "Not sealing.", "Ask."),)
    # One that is made now is for the next boot.
    (root / "etc/persist/seal.request").write_text("nonsense")
    assert len(told(root).reasons) == 1


def test_two_that_did_not_agree_are_one_reason(root: Path) -> None:
    (root / "run/persist/seal-refused").write_text(
        json.dumps({"code": "two", "sentence": "They do not agree."})
    )
    (root / "etc/persist/seal.done").write_text("one refused\ntwo refused\n")
    found = told(root, f"persist.seal={MACHINE}:one")
    assert [r.message for r in found.reasons] == ["They do not agree."]


def test_honoured_with_a_word_behind_it(root: Path) -> None:
    (root / "etc/persist/seal.done").write_text("one refused\n")
    found = told(root, f"persist.seal={MACHINE}:one")
    assert "it was honoured" in found.notices[0].message and found.reasons == ()


def test_what_the_stage_took_it_for(root: Path) -> None:
    (root / "run/persist/seal-seen").touch()
    [reason] = told(root, f"persist.seal={MACHINE[::-1]}:one").reasons
    assert reason.message.endswith("took it for a boot that seals, and has mounted nothing.")
    assert told(root).reasons == ()


def test_begun_and_cut(root: Path) -> None:
    (root / "etc/persist/seal.done").write_text("zero\none\n")
    (root / "var/lib/persist/seal.json").write_text(json.dumps({"request": "zero", "sealed": True}))
    [reason] = told(root).reasons
    assert reason.code == "seal-begun" and "(ID one)" in reason.message and "It was cut" in reason.message
    (root / "var/lib/persist/seal-failed").write_text("zero\nsomething of old\n")
    assert "It was cut" in told(root).reasons[0].message
    (root / "var/lib/persist/seal-failed").write_text("one\n/srv is not mounted.\nNothing was wiped.\n")
    assert told(root).reasons[0].message.endswith("is not: /srv is not mounted. Nothing was wiped.")
    both = told(root, f"persist.seal={MACHINE[::-1]}:two")
    assert [r.code for r in both.reasons] == ["seal-begun", "seal-refused"]


@pytest.mark.parametrize(
    "report", ["", "{", "[]", '{"request": "one"}', '{"request": "one", "sealed": "yes"}']
)
def test_not_sealed_by_that_report(root: Path, report: str) -> None:
    (root / "etc/persist/seal.done").write_text("one\n")
    (root / "var/lib/persist/seal.json").write_text(report)
    assert [r.code for r in told(root).reasons] == ["seal-begun"]


def test_seen_to(root: Path) -> None:
    (root / "etc/persist/seal.done").write_text("zero\none kept\n")
    (root / "var/lib/persist/seal.json").write_text(json.dumps({"request": "zero", "sealed": True}))
    assert told(root) == sealing.Sealing()


def test_said_where_the_verdict_is_off(tmp_path: Path) -> None:
    """Who only seals keeps nothing, and is to hear of it."""
    off = Reason("off", "persist does nothing on this boot: persist-setup.target is not enabled.")
    found = v.Verdict(
        v.OFF, Outcome(), reasons=[off, Reason("seal-begun", "It is not sealed.", "Ask again.")]
    )
    notes = say.records(found, None)
    assert [(n.priority, n.message_id) for n in notes] == [(5, "VERDICT_OFF"), (4, "SEAL_BEGUN")]
    assert notes[1].message == "It is not sealed. Ask again."
    console = tmp_path / "console"
    say.notices(found, str(console), (str(tmp_path / "motd"),))
    assert "*** It is not sealed." in console.read_text()


def test_the_environment_of_generators(tmp_path: Path) -> None:
    assert sealing.environment(str(tmp_path), ("false",)) == {}
    (tmp_path / "run/credentials/@system").mkdir(parents=True)
    (tmp_path / "run/credentials/@system/persist.seal").touch()
    there = {"CREDENTIALS_DIRECTORY": "/run/credentials/@system"}
    assert sealing.environment(str(tmp_path), ("echo", "none")) == there
    assert sealing.environment(str(tmp_path), ("sh", "-c", "exit 7")) == there, "252 has no such option"
    there["SYSTEMD_CONFIDENTIAL_VIRTUALIZATION"] = "tdx"
    assert sealing.environment(str(tmp_path), ("echo", "tdx")) == there
