# SPDX-License-Identifier: LGPL-2.1-or-later
"""Escaping: names of units as systemd-escape makes them, mount options as PID 1 and the kernel take them
apart."""

from __future__ import annotations

import ctypes
import glob
import random
import shutil
import subprocess

import pytest

from persist.boot.paths import escape, mount_options, overlay_option, specifiers, unescape

ALPHABET = "abcXYZ019:_.-\\@%,;'\"!|&$(){}[]*?~#=+<>^` /éß€データ💾\u00a0\u0085\u202e"


def paths(count: int = 3000) -> list[str]:
    chosen = random.Random(20)
    out = ["/" + c for c in ALPHABET if c not in " /."] + [
        "/etc",
        "/.",
        "/..a",
        "/.a/.b",
        "/a/.b",
        "/-",
        "/a-b/c-d",
        "/\\x2d",
        "/a\\",
    ]
    for number in range(count):
        alphabet = "aZ9:_.-" if number % 4 == 0 else ALPHABET.replace("/", "")
        parts = [
            "".join(chosen.choices(alphabet, k=chosen.randint(1, 8))) for _ in range(chosen.randint(1, 4))
        ]
        out.append("/" + "/".join(parts))
    return [p for p in out if not any(part in ("", ".", "..") for part in p[1:].split("/"))]


def test_round_trip() -> None:
    for path in [*paths(), "/", "/caf\udce9"]:
        assert unescape(escape(path)) == path
        assert escape(path).isascii() and "/" not in escape(path) and "%" not in escape(path)


@pytest.mark.skipif(not shutil.which("systemd-escape"), reason="no systemd-escape")
def test_as_systemd_escape() -> None:
    every = paths()
    done = subprocess.run(["systemd-escape", "--path", "--", *every], capture_output=True, check=True)
    # It separates names with a blank or, in later versions, with a newline; a name holds neither.
    assert done.stdout.decode("utf-8").split() == [escape(p) for p in every]


@pytest.mark.skipif(not shutil.which("systemd-escape"), reason="no systemd-escape")
def test_unescape_as_systemd_escape() -> None:
    for name in [escape(p) for p in paths(100)]:
        done = subprocess.run(
            ["systemd-escape", "--unescape", "--path", "--", name], capture_output=True, check=True
        )
        assert done.stdout.decode("utf-8")[:-1] == unescape(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "a-",
        "a--b",
        "..",
        "a-..-b",
        ".-a",
        "a\\",
        "a\\x",
        "a\\x2",
        "a\\xg0",
        "a\\x+1",
        "a\\x_1",
        "a\\x 1",
        "a\\n",
        "a\\x00b",
    ],
)
def test_unescape_refuses(name: str) -> None:
    with pytest.raises(ValueError, match="bad escape|not the name"):
        unescape(name)


def kernel(option: str) -> str:
    """What overlayfs makes of a backslash: the character after it, as it is."""
    out, i = "", 0
    while i < len(option):
        if option[i] == "\\" and i + 1 < len(option):
            i += 1
        out += option[i]
        i += 1
    return out


def test_overlay_option() -> None:
    for path in paths(500):
        option = overlay_option(path)
        assert kernel(option) == path
        assert ":" not in option.replace("\\\\", "").replace("\\:", ""), "a bare colon would split lowerdir="


def test_options_as_pid_1_takes_them() -> None:
    """fstab_filter_options() is what PID 1 calls on Options= before it runs mount(8)."""
    found = glob.glob("/usr/lib/*/systemd/libsystemd-shared-*.so") + glob.glob(
        "/usr/lib/systemd/libsystemd-shared-*.so"
    )
    if not found:
        pytest.skip("no libsystemd-shared")
    library = ctypes.CDLL(found[0])
    if not hasattr(library, "fstab_filter_options"):
        pytest.skip("no fstab_filter_options in " + found[0])
    for path in paths(500):
        if "," in path or path[-1] == "\\":
            continue  # refused for overlays
        upper = overlay_option(f"/store/{escape(path)}/upper")
        wanted = f"lowerdir={overlay_option(path)},upperdir={upper},index=off"
        written = mount_options(wanted)
        assert "%" not in written.replace("%%", "")
        got = ctypes.c_char_p()
        status = library.fstab_filter_options(
            written.replace("%%", "%").encode(),
            b"nofail\0noauto\0auto\0\0",
            None,
            None,
            None,
            ctypes.byref(got),
        )
        assert status == 0 and got.value is not None
        assert got.value.decode() == wanted
        lower, upper, _ = wanted.split(",")
        assert kernel(lower) == "lowerdir=" + path
        assert kernel(upper) == "upperdir=/store/" + escape(path) + "/upper"


def test_specifiers() -> None:
    assert specifiers("/a%b%%") == "/a%%b%%%%"
