# SPDX-License-Identifier: LGPL-2.1-or-later
"""packaging/dracut: what the module asks dracut for, and when PID 1 of the initrd starts its unit."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from persist.boot.ini import words

MODULE = Path(__file__).parents[2] / "packaging/dracut/90persist"

# dracut's functions write down how they are called.
_DRACUT = r"""
set -u
note() { printf '%s\n' "$*"; }
require_binaries() { note "require_binaries $*"; [[ " ${has-} " == *" $1 "* ]]; }
inst_multiple() { note "inst_multiple $*"; }
inst_script() { note "inst_script $*"; }
inst_simple() { note "inst_simple $*"; }
systemctl() { note "systemctl $*"; }
mount_needs=${mount_needs-} initdir=/initrd moddir=/dracut/90persist SYSTEMCTL=systemctl
systemdsystemunitdir=/usr/lib/systemd/system
. "$0"
"$@"
echo "status $?"
"""


def called(function: str, **variables: str) -> list[str]:
    """What a function of the module does, a line for each call."""
    done = subprocess.run(
        ["/bin/bash", "-c", _DRACUT, MODULE / "module-setup.sh", function],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **variables},
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_it_is_there_where_a_root_can_be_changed() -> None:
    assert called("check", has="sh chroot") == ["require_binaries chroot", "status 0"]
    assert called("check", has="sh") == ["require_binaries chroot", "status 1"]
    # dracut looks for what the root's filesystem needs: not this.
    assert called("check", has="sh chroot", mount_needs="1") == ["status 1"]


def test_the_services_that_it_waits_for_are_there() -> None:
    assert called("depends") == ["dracut-systemd", "status 0"]


def test_what_is_installed() -> None:
    assert called("install") == [
        "inst_multiple chroot",
        "inst_script /usr/lib/persist/persist-stage",
        "inst_simple /dracut/90persist/persist-stage.service /usr/lib/systemd/system/persist-stage.service",
        "systemctl -q --root /initrd add-wants initrd.target persist-stage.service",
        "status 0",
    ]


def settings() -> dict[str, set[str]]:
    """The unit's settings, each with all words of it."""
    found: dict[str, set[str]] = {}
    for line in (MODULE / "persist-stage.service").read_text(encoding="utf-8").split("\n"):
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, set()).update(words(value))
    return found


def test_the_root_is_whole_when_the_unit_starts() -> None:
    unit = settings()
    assert unit["DefaultDependencies"] == {"no"}, "else it would be a requirement of the targets before it"
    assert unit["After"] == {
        "initrd-fs.target",
        "initrd-usr-fs.target",
        "dracut-mount.service",
        "dracut-pre-pivot.service",
    }
    assert unit["Before"] == {"initrd-cleanup.service", "shutdown.target"}
    assert unit["Conflicts"] == {"shutdown.target", "emergency.target"}
    assert unit["ConditionPathExists"] == {"/etc/initrd-release"}
    assert not {"OnFailure", "Requires", "RemainAfterExit"} & unit.keys()


def test_what_is_said_on_the_way_is_kept() -> None:
    """Nothing but what PID 1 says of a start is below the limit."""
    unit = settings()
    assert unit["LogLevelMax"] == unit["SyslogLevel"] == {"notice"}


def test_the_unit_gives_up_after_the_stage_itself() -> None:
    unit = settings()
    stage = (MODULE.parents[1] / "initrd/persist-stage").read_text(encoding="utf-8")
    limits = {tuple(map(int, found)) for found in re.findall(r"timeout -k (\d+) (\d+) ", stage)}
    assert len(limits) == 1
    [(grace, seconds)] = limits
    [minutes] = re.findall(r"^(\d+)min$", " ".join(unit["TimeoutStartSec"]))
    assert int(minutes) * 60 > grace + seconds


def test_pid_1_takes_the_unit_without_a_word(tmp_path: Path) -> None:
    """The mode too: one that is executable is warned about."""
    unit = MODULE / "persist-stage.service"
    assert unit.stat().st_mode & 0o777 == 0o644
    program = "/usr/lib/persist/persist-stage"
    text = unit.read_text(encoding="utf-8")
    assert program in text
    copy = tmp_path / "persist-stage.service"
    copy.write_text(text.replace(program, "/bin/true"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
