# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parts of persist-verify.service: what it writes and says, without a machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from persist import log
from persist.system import files
from persist.verdict import current, say, written
from persist.verdict import judge as v
from persist.volume.outcome import Outcome


def degraded(*messages: str) -> v.Verdict:
    return v.Verdict(
        v.DEGRADED,
        Outcome(kind="btrfs"),
        reasons=[v.Reason("entry-failed", m, "Do this.", "/x") for m in messages],
    )


# -- its parts


def test_write_atomically(tmp_path: Path) -> None:
    path = tmp_path / "a/b/state.json"
    files.write_atomically(str(path), "one\n")
    with open(path, encoding="utf-8") as reader:
        files.write_atomically(str(path), "two\n")
        assert reader.read() == "one\n", "a reader keeps what it has opened"
    assert path.read_text() == "two\n" and os.listdir(path.parent) == ["state.json"]


def test_write_atomically_does_not_follow(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "link").symlink_to("target")
    files.write_atomically(str(tmp_path / "link"), "ours")
    assert (tmp_path / "target").read_text() == "theirs" and (tmp_path / "link").read_text() == "ours"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            v.Verdict(v.ONLINE, Outcome(kind="btrfs", device="/dev/vda2")),
            "Persistent state is online (/dev/vda2).",
        ),
        (v.Verdict(v.ONLINE, Outcome(kind="root", device="")), "Persistent state is online (root)."),
        (
            v.Verdict(v.VOLATILE, Outcome(kind="tmpfs"), reasons=[v.Reason("missing", "No disk.")]),
            "Persistent state is VOLATILE, what is written now is lost at power-off: No disk.",
        ),
        (
            v.Verdict(
                v.VOLATILE,
                Outcome(kind="none", expected=True),
                reasons=[v.Reason("known-volume-missing", "No disk.")],
            ),
            "Persistent state is VOLATILE, what is written now will be hidden by the volume later: No disk.",
        ),
        (
            v.Verdict(
                v.VOLATILE,
                Outcome(kind="none", root_memory="a tmpfs"),
                reasons=[v.Reason("missing", "No disk.")],
            ),
            "Persistent state is VOLATILE, what is written now is lost at power-off: No disk.",
        ),
        (degraded("One."), "Persistent state is DEGRADED: One."),
        (degraded("One.", "Two.", "Three."), "Persistent state is DEGRADED: One. (and 2 more)"),
        (
            v.Verdict(v.OFF, Outcome(), reasons=[v.Reason("off", "persist=off.")]),
            "Persistent state is off: persist=off.",
        ),
    ],
)
def test_summary(found: v.Verdict, expected: str) -> None:
    assert say.summary(found) == expected


def test_document() -> None:
    found = written.document(degraded("/x \udcff is not mounted."))
    assert found["verdict"] == "degraded" and found["version"] == 1 and found["device"] == ""
    assert found["uptime"] > 0 and found["time"].endswith("+00:00")
    assert len(found["boot_id"]) == 32 and "machine_id" in found
    json.dumps(found).encode("ascii")


def test_ids_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "id").write_bytes(b"\xff\n")
    assert (
        written._text(str(tmp_path / "id"))
        == written._text(str(tmp_path / "none"))
        == written._text(str(tmp_path))
        == ""
    )


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("echo", "none"), {}),
        (("true",), {}),
        (("sh", "-c", "echo none; exit 1"), {}),
        (("echo", "docker"), {"SYSTEMD_VIRTUALIZATION": "container:docker"}),
        (("persist-no-such-program",), {}),
    ],
)
def test_environment(command: tuple[str, ...], expected: dict[str, str]) -> None:
    assert current.environment(command) == expected


def test_text_without_the_journal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log.log(log.INFO, "a\udcff\x1b[2J\n", "FAILED")
    log.log(log.DEBUG, "not this", "FAILED")
    assert capsys.readouterr().err == "a\\udcff\\x1b[2J\\n\n"
