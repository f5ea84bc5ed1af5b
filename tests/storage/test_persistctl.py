# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl on a machine: the kernel command line of its boot, and users who may not change it."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

import pytest

from persist.cli.main import main

from .namespace import own_machine, registry, sh


def said(*argv: str) -> tuple[int, str, str]:
    """Exit status, output and errors of persistctl."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(argv))
    return status, out.getvalue(), err.getvalue()


def booted_with(cmdline: str) -> None:
    """The kernel command line is this one."""
    Path("/run/cmdline").write_text(f"{cmdline}\n", encoding="utf-8")
    sh("mount --bind /run/cmdline /proc/cmdline")


@pytest.mark.parametrize(
    ("cmdline", "state", "told"),
    [
        ("quiet persist=off", "off", "Nothing of this is in force: persist=off on the kernel command line."),
        (
            "persist=volatile",
            "declared",
            "Nothing is kept on this boot: persist=volatile is on the kernel command line.",
        ),
        (
            "persist=of",
            "declared",
            "Nothing is kept on this boot: persist=of is on the kernel command line, which",
        ),
        (
            "persist=ro",
            "declared",
            "What this boot writes is not kept: persist=ro is on the kernel command line.",
        ),
        ("systemd.mount-extra=/dev/vdb:/var/lib/app:ext4", "elsewhere", ""),
        ("persist=on", "declared", ""),
    ],
)
@own_machine
def test_list_knows_the_kernel_command_line(cmdline: str, state: str, told: str) -> None:
    registry("[Path]\nPath=/var/lib/app\nMethod=bind\n")
    Path("/run/persist.d/bad.conf").write_text("[Path]\nPath=/usr/share/x\n", encoding="utf-8")
    booted_with(cmdline)
    status, out, _ = said("list", "--json")
    found = json.loads(out)
    states = {e["path"]: e["state"] for e in found["entries"] if e["source"].startswith("/run/")}
    assert (status, states) == (1, {"/usr/share/x": "refused", "/var/lib/app": state})
    assert found["reason"].startswith(told) and bool(found["reason"]) == bool(told)
    status, out, err = said("list")
    assert status == 1 and err.startswith(told)
    assert f" {state} " in out and "/var/lib/app: off" not in out


@own_machine
def test_the_command_line_of_this_boot_is_nothing_to_an_image() -> None:
    registry("[Path]\nPath=/var/lib/app\nMethod=bind\n")
    sh(
        "mkdir -p /srv/etc/systemd/system /srv/usr/lib /run/systemd/system; "
        "cp -a /run/systemd/system/local-fs.target.wants /srv/etc/systemd/system; "
        "cp -a /run/persist.d /srv/usr/lib"
    )
    booted_with("persist=off")
    for verb in ("list", "plan"):
        assert "persist=off" in said(verb)[2]
        status, _, err = said(verb, "--root", "/srv")
        assert status == 0 and "persist=off" not in err


@pytest.mark.parametrize("action", ["enable", "disable"])
@own_machine
def test_presets_are_roots(action: str) -> None:
    presets = Path("/srv/usr/share/persist/presets")
    presets.mkdir(parents=True)
    (presets / "one.conf").write_text("[Path]\nPath=/srv/one\nMethod=bind\n", encoding="utf-8")
    for known in ("enable", "disable", *(("enable",) if action == "disable" else ())):  # loaded as root
        assert said("preset", known, "one", "--root", "/srv")[0] == 0
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    status, _, err = said("preset", action, "one", "--root", "/srv")
    assert status == 1 and f"Only root can {action} presets (" in err
    assert "Permission denied" in err and "/srv/etc/persist.d" in err


@pytest.mark.parametrize("argv", [["claim", "--yes", "/dev/none"], ["volume", "add", "--yes", "/dev/none"]])
@own_machine
def test_who_gives_a_disk_away_hears_what_is_wrong_with_persist_conf(argv: list[str]) -> None:
    """A default stands in for what was meant, and nobody said so."""
    conf = Path("/run/persist/persist.conf")
    conf.write_text("[Volume]\nSwapSize=lots\nAllowRemoveable=yes\n", encoding="utf-8")
    status, _, err = said(*argv)
    assert status == 1
    lines = err.splitlines()
    assert lines[0].startswith(f"{conf}:2: SwapSize=lots: must be")
    assert lines[1].startswith(f"{conf}:3: Unknown key") and lines[2].startswith("persistctl: ")
