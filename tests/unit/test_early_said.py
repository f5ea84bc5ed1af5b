# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the stage before PID 1 has said reaches the kernel's log and, once, the journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from persist.early.said import Said, kernel_line, taken
from persist.note import DEBUG, ERR, INFO, WARNING, Note

MOUNTED = Note(
    INFO, "The state volume is mounted from /dev/vdb2.", "VOLUME_MOUNTED", {"PERSIST_DEVICE": "/dev/vdb2"}
)
ODD = Note(
    ERR, "'/srv/\x1b[2J\u2028\udcff' failed.", "ENTRY_FAILED", {"PERSIST_PATH": "/srv/\x1b[2J\u2028\udcff"}
)


def test_each_note_is_given_once(tmp_path: Path) -> None:
    kept, kernel = tmp_path / "said", tmp_path / "kmsg"
    kernel.touch()
    say = Said(str(kept), str(kernel), clock=lambda: 4.25)
    say(MOUNTED)
    say(ODD)
    say(Note(DEBUG, "no news", "FAILED"))
    assert kernel.read_bytes() == (
        b"<6>persist-early: The state volume is mounted from /dev/vdb2."
        b"<3>persist-early: error: '/srv/\\x1b[2J\\u2028\\udcff' failed."
    )
    found = list(taken(str(kept)))
    assert [n.message for n in found] == [MOUNTED.message, ODD.message, "no news"]
    assert found[0].fields == {"PERSIST_DEVICE": "/dev/vdb2", "PERSIST_EARLY_AT": "4.25"}
    assert found[1].fields["PERSIST_PATH"] == ODD.fields["PERSIST_PATH"]
    assert not kept.exists() and list(taken(str(kept))) == []


def test_a_second_run_of_the_boot_adds_to_it(tmp_path: Path) -> None:
    kept = tmp_path / "said"
    Said(str(kept), str(tmp_path / "no-kmsg"))(MOUNTED)
    Said(str(kept), str(tmp_path / "no-kmsg"))(ODD)
    assert [n.message_id for n in taken(str(kept))] == ["VOLUME_MOUNTED", "ENTRY_FAILED"]


def test_no_place_to_keep_it(tmp_path: Path) -> None:
    kernel = tmp_path / "kmsg"
    kernel.touch()
    Said(str(tmp_path / "not-there/said"), str(kernel))(MOUNTED)
    assert kernel.read_bytes() == kernel_line(MOUNTED)
    Said(str(tmp_path / "said"), str(tmp_path))(MOUNTED)  # a directory
    assert len(list(taken(str(tmp_path / "said")))) == 1


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "said").symlink_to(tmp_path / "victim")
    Said(str(tmp_path / "said"), str(tmp_path / "no-kmsg"))(MOUNTED)
    assert (tmp_path / "victim").read_text() == "untouched"


@pytest.mark.parametrize(
    "line",
    ["[]", "{}", "nonsense", '{"at": 1, "priority": "x", "message": "", "message_id": "", "fields": {}}'],
)
def test_a_file_that_is_not_whole(tmp_path: Path, line: str) -> None:
    """The stage was killed, or somebody else has written there."""
    kept = tmp_path / "said"
    Said(str(kept), str(tmp_path / "no-kmsg"))(MOUNTED)
    with kept.open("a") as f:
        f.write(line + "\n" + '{"at": 2, "prior')
    found = list(taken(str(kept)))
    assert [n.priority for n in found] == [INFO, WARNING] and line[:10] in found[1].message


def test_a_long_note_fits_a_record_of_the_kernel() -> None:
    assert len(kernel_line(Note(ERR, "\u00e9" * 5000, "FAILED"))) < 1000
