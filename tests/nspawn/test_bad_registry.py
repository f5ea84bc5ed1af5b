# SPDX-License-Identifier: LGPL-2.1-or-later
"""A registry with mistakes of all kinds: garbage costs itself."""

from __future__ import annotations

import uuid

from tests.vm.checks import codes, entries, records, state

from .conftest import Boot
from .disk import Disk
from .registry import ENABLED, LABEL, NOTES, ODD, PRESET

GARBAGE = {
    "/usr/lib/persist.d/garbage.conf": "\x7fELF\x01 \x02 nonsense [[[\n=\n[Path\nPath=/x\n",
    "/usr/lib/persist.d/absent.conf": "[Path]\nPath=/opt/not/in/the/image\nMethod=bind\n",
    "/usr/lib/persist.d/refused.conf": "[Path]\nPath=/usr/share/doc\n",
    "/usr/lib/persist.d/good.conf": "[Path]\nPath=/opt/good\nMethod=bind\n",
    "/opt/good/file": "seed\n",
}
# While there is no journal: the generator, and what PID 1 says of a unit that fails.
SAID = (
    "is neither a section nor a setting",
    "Bad section header",
    "Will not keep /usr/share/doc",
    "Failed to start persist-seed@opt-not",
)


def test_bad_registry(disk: Disk, container: Boot) -> None:
    """What is good is kept (on a disk that nothing names, as AllowRemovable= says), what is bad is named with
    file and line, the verdict is degraded."""
    disk.make_volume(str(uuid.uuid4()))
    one = container(files={**ENABLED, **PRESET, **NOTES, **ODD, **LABEL, **GARBAGE}, read_only=True)
    one.start(devices=disk.nodes())
    one.wait_for_boot()
    found = state(one)
    assert found["verdict"] == "degraded"
    assert (found["volume"]["kind"], found["volume"]["device"]) == ("btrfs", disk.node), found["volume"]
    seen = entries(found)
    assert seen["/opt/good"] == "mounted" and seen["/etc"] == "early"
    assert seen["/opt/not/in/the/image"] == "failed"
    assert seen["/usr/share/doc"] == "refused"
    assert one.succeed("cat /opt/good/file") == "seed\n"
    assert {"entry-failed", "registry"} <= codes(found)
    for name in ("VERDICT_DEGRADED", "REGISTRY_PROBLEM", "ENTRY_REFUSED", "SEED_FAILED"):
        assert records(one, name), name
    said = one.console_text() + one.succeed("journalctl -b -q --no-pager -o cat")
    assert not [text for text in SAID if text not in said], said
    where = {r.get("PERSIST_SOURCE", "") for r in records(one, "REGISTRY_PROBLEM")}
    assert any(w.startswith("/usr/lib/persist.d/garbage.conf:") for w in where), where
    assert {r["PERSIST_PATH"] for r in records(one, "SEED_FAILED")} == {"/opt/not/in/the/image"}
    assert "DEGRADED" in one.succeed("cat /run/issue.d/persist.issue")
    one.shutdown()
