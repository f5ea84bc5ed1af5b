# SPDX-License-Identifier: LGPL-2.1-or-later
"""packaging/initramfs-tools: what the hook puts into an initrd, and what runs there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .made_up_root import SHELLS

GLUE = Path(__file__).parents[2] / "packaging/initramfs-tools"
HOOK = GLUE / "hooks/persist"
SCRIPT = GLUE / "scripts/init-bottom/persist"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
FUNCTIONS = """
copy_file() { echo "copy_file $*"; }
manual_add_modules() { echo "manual_add_modules $*"; }
"""


def run(*argv: str | Path, **variables: str) -> str:
    return subprocess.run(
        argv, capture_output=True, text=True, check=True, env=ENVIRONMENT | variables
    ).stdout


@pytest.mark.parametrize(("script", "before"), [(HOOK, ""), (SCRIPT, "overlayroot")])
def test_what_has_to_come_before(script: Path, before: str) -> None:
    assert run(script, "prereqs") == f"{before}\n"


def test_what_the_hook_adds(tmp_path: Path) -> None:
    """No table, no tool and no module: those come from the image's own tree."""
    functions = tmp_path / "functions"
    functions.write_text(FUNCTIONS)
    hook = HOOK.read_text().replace("/usr/share/initramfs-tools/hook-functions", str(functions))
    assert str(functions) in hook
    assert run("/bin/sh", "-c", hook).splitlines() == [
        "copy_file script /usr/lib/persist/persist-stage",
    ]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_stage_is_run_for_the_root(tmp_path: Path, shell: str) -> None:
    stage = tmp_path / "persist-stage"
    stage.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    stage.chmod(0o755)
    script = tmp_path / "persist"
    script.write_text(SCRIPT.read_text().replace("/usr/lib/persist/persist-stage", str(stage)))
    assert run(*SHELLS[shell][0].split(), script, rootmnt="/the root") == "/the root|"
