# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl seal: the commands of the tree that it runs, hooks and Exec=."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persist.system.mountinfo import mounts
from tests.unit.seal_tree import MadeUp

from .seal_rig import AS_ROOT, SEAL_JSON, hook, shell

pytestmark = AS_ROOT


def test_hooks_in_order_and_masks(made: MadeUp) -> None:
    hook(made, "20-b", "echo b >> /count")
    hook(made, "10-a", "echo a >> /count; test ! -s /etc/machine-id; test ! -e /var/lib/persist/seal.json")
    hook(made, "30-masked", "echo masked >> /count")
    hook(made, "40-empty", "echo masked >> /count")
    hook(made, "50-c", "echo of-usr >> /count")
    hook(made, "50-c", "echo c >> /count", "/etc")
    hook(made, "60-old~", "echo old >> /count")
    hook(made, "70-not", "echo not >> /count")
    made.at("/usr/lib/persist/seal.d/70-not").chmod(0o644)
    made.at("/usr/lib/persist/seal.d/80-dir").mkdir()
    made.link("/etc/persist/seal.d/30-masked", "/dev/null")
    made.put("/run/persist/seal.d/40-empty", "", 0o755)
    result = made.seal()
    assert not result.touched and result.errors == [
        "/usr/lib/persist/seal.d/70-not: Is not executable, and would not be run: 'chmod +x' makes it a "
        "hook. An empty file of its name in /etc/persist/seal.d takes it out.",
        "/usr/lib/persist/seal.d/80-dir: Is not a regular file, and would not be run. "
        "An empty file of its name in /etc/persist/seal.d takes it out.",
    ]
    made.put("/etc/persist/seal.d/70-not", "")
    made.put("/etc/persist/seal.d/80-dir", "")
    result = made.seal()
    assert result.failures == result.notes == [] and made.text("/count") == "a\nb\nc\n"


def test_all_that_a_failing_hook_said_is_told(made: MadeUp) -> None:
    hook(made, "50-x", "echo one >&2; echo two >&2; echo three >&2; exit 4")
    result = made.seal()
    name = "/usr/lib/persist/seal.d/50-x"
    assert result.said == [(name, "one\ntwo")]
    assert result.failures == [f"{name} failed: exit status 4: three"]


def test_a_hook_that_fails(made: MadeUp) -> None:
    hook(made, "10-a", "echo no way >&2; exit 3")
    hook(made, "20-b", "echo b >> /count")
    result = made.seal()
    assert result.failures == ["/usr/lib/persist/seal.d/10-a failed: exit status 3: no way"]
    assert result.touched and not result.sealed and not made.has("/count") and not made.has(SEAL_JSON)


def test_a_hook_that_brings_something_back(made: MadeUp) -> None:
    made.put("/etc/key")
    made.section("/etc/key", "remove")
    hook(made, "10-a", "echo new > /etc/key")
    result = made.seal()
    assert not result.sealed and not made.has(SEAL_JSON)
    assert result.failures == [
        "'/etc/key' is there again, after it was wiped (/usr/lib/persist/identity.d/t.conf:1)."
    ]


def test_what_a_hook_leaves_running_ends_with_it(made: MadeUp) -> None:
    for place in ("proc", "dev/x"):
        made.at(place).mkdir(parents=True)
    late = "(sleep 600; echo late > /late) >/dev/null 2>&1 &"
    hook(
        made, "10-a", f"test -e /proc/self/mounts; test -c /dev/null; test ! -e /dev/x; : > /dev/null; {late}"
    )
    result = made.seal()
    assert result.failures == []
    assert made.seal().errors == [], "no process is in the tree"
    assert not [m for m in mounts(str(made.root))]
    assert os.listdir(made.at("/dev")) == ["x"] and os.listdir(made.at("/proc")) == []


@pytest.mark.parametrize("place", ["dev", "proc"])
def test_nothing_is_mounted_behind_a_link(made: MadeUp, place: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    if made.has(place):
        made.at(place).rmdir()
    made.link(place, str(tmp_path / "outside"))
    hook(made, "10-a", f"test ! -e /{place}/null; test ! -e /{place}/self")
    assert made.seal().failures == []
    assert os.listdir(tmp_path / "outside") == []


def test_a_hook_sees_the_tree_and_nothing_else(made: MadeUp) -> None:
    hook(
        made,
        "10-a",
        'cat /etc/machine-id; echo "$SYSTEMD_OFFLINE"; test ! -e /etc/debian_version; echo "$HOME"',
    )
    result = made.seal()
    assert result.failures == [] and result.said == [("/usr/lib/persist/seal.d/10-a", "1\n\n")]


def test_exec(made: MadeUp) -> None:
    shell(made)
    made.put("/etc/conf", "HOST=old\nOTHER=x\n")
    made.section(
        "/etc/conf", "run", more="Exec=/bin/sh -c 'echo OTHER=x > \"$1\"' sh /etc/conf\nRegeneratedBy=none"
    )
    made.section("/etc/absent", "run", more="Exec=/bin/false\nRegeneratedBy=none")
    assert made.seal().failures == []
    assert made.text("/etc/conf") == "OTHER=x\n"
    made.section("/etc/conf", "run", more="Exec=/bin/nothing\nRegeneratedBy=none")
    failures = made.seal().failures
    assert len(failures) == 1 and failures[0].startswith(
        "Exec= of /usr/lib/persist/identity.d/t.conf:13 failed: exit status 127"
    )
