# SPDX-License-Identifier: LGPL-2.1-or-later
"""The small parsers of the generator, where a golden case would say too little."""

from __future__ import annotations

import os
import posixpath
import random
import re
from pathlib import Path

import pytest

from persist.boot import dropins, facts, ini
from persist.boot.config import Config, load
from persist.boot.dropins import inside
from persist.boot.paths import PLAIN, forbidden, wrong_path
from persist.boot.rare.settings import VOLUME, size
from persist.boot.rare.values import unquote
from persist.boot.registry import Registry, parse_file


@pytest.mark.parametrize(
    ("cmdline", "value"),
    [
        ("", None),
        ("quiet", None),
        ("persist", ""),
        ("persist=", ""),
        ("persist=off", "off"),
        ("persist=ro persist=off", "off"),
        ("xpersist=off", None),
        ("persist.volume=1", None),
        ('"persist=off"', "off"),
        ("'persist=off'", "off"),
        ('persist="of"f', "off"),
        ('a="b persist=off"', None),
        ("a='b persist=off", None),
        ('persist="a b"', "a b"),
        ("a\tpersist=off\n", "off"),
        ('"', None),
        ("persist=it's", "its"),
    ],
)
def test_command_line(cmdline: str, value: str | None) -> None:
    assert facts.option(cmdline, "persist") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("512M", 512 << 20),
        ("1K", 1024),
        ("4G", 4 << 30),
        ("2T", 2 << 40),
        ("", None),
        ("M", None),
        ("-1", None),
        ("1.5G", None),
        ("٣", None),
        ("9" * 5000, None),
        ("9" * 18, 10**18 - 1),
        ("1 G", None),
        ("0x10", None),
        ("1_0", None),
    ],
)
def test_size(text: str, value: int | None) -> None:
    assert size(text) == value


def values(text: str) -> list[tuple[str, str, int]]:
    problems: list[ini.Problem] = []
    return [s for section in ini.parse(text.encode(), "f", problems) for s in section.settings]


@pytest.mark.parametrize(
    ("lines", "said", "blank", "options", "netdev"),
    [
        ("", "", False, "", False),
        ("Format=blank\nOptions=noatime,_netdev", "", True, "noatime,_netdev", True),
        ("Format=blank\nFormat=claimed\nOptions=,a=b,\n", "", False, "a=b", False),
        ("Options=_netdev\nOptions=", "", False, "", False),
        ("Options=x_netdev,_netdevs", "", False, "x_netdev,_netdevs", False),
        ("Format=all", "must be one of claimed, blank", False, "", False),
        ("Options=a b", "without blanks", False, "", False),
        ('Options=a="b"', "without blanks", False, "", False),
        ("Options=a\x07b", "without blanks", False, "", False),
    ],
)
def test_format_and_options(
    tmp_path: Path, lines: str, said: str, blank: bool, options: str, netdev: bool
) -> None:
    file = tmp_path / "usr/lib/persist/persist.conf"
    file.parent.mkdir(parents=True)
    file.write_text(f"[Volume]\n{lines}\n")
    problems: list[ini.Problem] = []
    config = load(str(tmp_path), problems)
    assert (config.format_blank, config.options, config.netdev) == (blank, options, netdev)
    assert len(problems) == bool(said) and all(said in str(p) for p in problems)


def test_blanks_are_those_of_systemd() -> None:
    assert values("[S]\n\t K \t=\t v w \t\r\n") == [("K", "v w", 2)]
    assert values("[S]\nK=\u00a0v\u2003\x0c") == [("K", "\u00a0v\u2003\x0c", 2)]
    assert values("[S]\nK=a\u2028b\x85c") == [("K", "a\u2028b\x85c", 2)], "only a newline ends a line"


def test_continuation() -> None:
    assert values("[S]\nK=a \\\n# no\n  b\\\n c\nL=d") == [("K", "a b c", 2), ("L", "d", 6)]
    assert values("[S]\nK=a\\\\\nL=b") == [("K", "a\\\\", 2), ("L", "b", 3)]
    assert values("[S]\nK=a\\\\\\\nb") == [("K", "a\\\\ b", 2)]
    assert values("[S]\nK=a\\\n\nL=b") == [("K", "a", 2), ("L", "b", 4)]


def parsed(text: str) -> tuple[list[tuple[str, int, list[tuple[str, str, int]]]], list[str]]:
    """Sections and problems of a text."""
    problems: list[ini.Problem] = []
    sections = ini.parse(text.encode(), "f", problems)
    return [(s.name, s.line, s.settings) for s in sections], [str(p) for p in problems]


def test_lines_that_are_plain() -> None:
    """The quick way through a file in which no line goes on is the long one's, to the last problem."""
    chosen = random.Random(9)
    pieces = [
        "\n",
        "\n",
        "\n",
        "[Path]",
        "Path=/a",
        "K = v",
        " ",
        "\t",
        "\r",
        "#",
        ";",
        "=",
        "é",
        "\u2028",
        "\x85",
        "\x0b",
        "\x1c",
        "\u00a0",
        "a" * 99,
    ]
    for _ in range(3000):
        text = "".join(chosen.choices(pieces, k=chosen.randint(0, 40)))
        found = [parsed(text + more) for more in ("", "\n#\\")]  # a comment does not go on
        assert found[0] == found[1], text
    problems: list[ini.Problem] = []
    assert not ini.parse(b"[" + b"x" * ini.MAX_LINE + b"]", "f", problems) and len(problems) == 1, (
        "too long is looked at"
    )
    assert values("[S]\nK=a\\\nb") == [("K", "a b", 2)], "and so is what goes on"


def test_paths_that_are_plain() -> None:
    """What is decided by PLAIN at once is decided as it would be else."""
    assert not set(PLAIN) & set("*?[]{}$#;,\"'\\%@ \t") and PLAIN.isascii() and PLAIN.isprintable()
    chosen = random.Random(10)
    seen = set()
    for _ in range(20_000):
        path = "".join(chosen.choices("//..ab-", k=chosen.randint(0, 8)))
        good = path[:1] == "/" and path[1:2] not in ("", "/") and posixpath.normpath(path) == path
        assert (wrong_path(path) == "") == good, path
        assert (wrong_path(path + "@") == "") == (
            path[:1] == "/" and posixpath.normpath(path + "@") == path + "@" and path[:2] != "//"
        ), path
        seen.add(good)
    assert seen == {True, False}


@pytest.mark.parametrize("text", ['"', '"a', '"a\\"', '"a"b"', '"\\n"', '"a\\'])
def test_unquote_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"quote|escape"):
        unquote(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"/x" # y', "something follows the closing quote"),
        ('"/x"y"', "something follows the closing quote"),
        ('"/x', "the quote is not closed"),
        ('"/x\\"', "the quote is not closed"),
        ('"/x\\', "the quote is not closed"),
        ('"', "the quote is not closed"),
    ],
)
def test_what_is_wrong_with_quotes(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        unquote(text)


@pytest.mark.parametrize(
    ("text", "value"), [('""', ""), ('"a b"', "a b"), ('"a\\"\\\\"', 'a"\\'), ("a", "a"), ("", "")]
)
def test_unquote(text: str, value: str) -> None:
    assert unquote(text) == value


def test_read_never_blocks_and_never_raises(tmp_path: Path) -> None:
    problems: list[ini.Problem] = []
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "exact").write_bytes(b"#" * dropins.MAX_BYTES)
    (tmp_path / "more").write_bytes(b"#" * (dropins.MAX_BYTES + 1))
    for name in ("fifo", "more", "missing", ".", "x" * 300):
        assert dropins.read(str(tmp_path / name), name, problems) is None
    assert len(problems) == 5
    assert len(dropins.read(str(tmp_path / "exact"), "exact", problems) or b"") == dropins.MAX_BYTES
    assert dropins.read("/dev/null", "null", problems) == b""
    assert len(problems) == 5


def test_links_stay_inside_the_root(tmp_path: Path) -> None:
    root = str(tmp_path)
    (tmp_path / "a").symlink_to("/b/c")
    (tmp_path / "mask").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to("loop")
    assert inside(root + "/a", root) == root + "/b/c"
    assert inside(root + "/mask", root) == "/dev/null"
    assert inside(root + "/loop", root) == root + "/loop"
    assert inside("/etc/mtab", "") == "/etc/mtab"


def test_real_path(tmp_path: Path) -> None:
    root = str(tmp_path)
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "up").symlink_to("../../../lib/../lib")
    (tmp_path / "loop").symlink_to("/loop/x")
    known: dict[str, str] = {}
    assert facts.resolve(root, "/lib/foo", known) == "/usr/lib/foo"
    assert facts.resolve(root, "//lib//./foo/", known) == "/usr/lib/foo"
    assert facts.resolve(root, "/up/x", known) == "/usr/lib/x"
    assert facts.resolve(root, "/..", known) == ""
    with pytest.raises(OSError, match="Too many levels"):
        facts.resolve(root, "/loop", known)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "/",
        "//",
        "/a/",
        "/a//b",
        "/./a",
        "/a/..",
        "/a\nb",
        "/a\x7f",
        "/a ",
        "/a\\",
        "/a\udce9",
        "/a\ufdd0",
        "/a\U0001ffff",
    ],
)
def test_wrong_path(path: str) -> None:
    assert wrong_path(path)


@pytest.mark.parametrize(
    "path", ["/a", "/a b", "/a\\b", "/é", "/💾", "/-", "/...", "/..a", "/%", '/"', "/\u00a0"]
)
def test_right_path(path: str) -> None:
    assert not wrong_path(path)


def test_forbidden() -> None:
    assert not forbidden("/usr/local/share") and not forbidden("/mnt/stat", "/mnt/state")
    assert forbidden("/mnt", "/mnt/state") and forbidden("/usr/locale") and forbidden("/boot")


@pytest.mark.parametrize(
    ("value", "mount"),
    [
        ("/mnt/persist", "/mnt/persist"),
        ("/mnt/two words", "/mnt/two words"),
        ("/mnt/state # the volume", ""),
        ("/mnt/state ; the volume", ""),
        ("/", ""),
        ("/mnt/*", ""),
        ("/mnt/$NAME", ""),
        ("/mnt/a,/mnt/b", ""),
        ("/mnt/a /mnt/b", ""),
    ],
)
def test_the_public_name_is_one_name(tmp_path: Path, value: str, mount: str) -> None:
    file = tmp_path / "usr/lib/persist/persist.conf"
    file.parent.mkdir(parents=True)
    file.write_text(f"[Volume]\nMount={value}\n")
    problems: list[ini.Problem] = []
    assert load(str(tmp_path), problems).mount == (mount or "/mnt/state")
    assert [p.level for p in problems] == ([] if mount else [ini.ERROR])


def registry(text: str) -> list[str]:
    problems: list[ini.Problem] = []
    parse_file(text.encode(), "f", Registry(), problems)
    return [str(p) for p in problems]


def test_a_misspelled_path_key_is_named() -> None:
    assert registry("[Path]\nPth=/srv/d\nX-Mine=1\n") == [
        "f:1: [Path] without Path=, the entry is ignored.",
        "f:2: Unknown key 'Pth=' in section [Path], ignoring. Did you mean Path=?",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Path=/srv/a,/srv/b", "this looks like a list .* Write one .Path. section for each path.$"),
        ("Path=/srv/*", "this looks like a pattern .* Name the directory that holds what is meant.$"),
        ("Path=/srv/$NAME", "this looks like a variable .* Write the path itself.$"),
        ("Path=/srv/a # mine", "this looks like a comment .* Comments stand on lines of their own.$"),
        (
            'Path="/srv/a" # mine',
            "something follows the closing quote, .* Comments stand on lines of their own.$",
        ),
        ('Path="/srv/a', "the quote is not closed, the entry is ignored.$"),
        ("Path=", ":2: Path= is empty, the entry is ignored.$"),
        (
            "Path=/srv/a,b",
            "Write one .Path. section for each path if this is a list; Method=bind keeps a path with a "
            "comma.$",
        ),
        ('Path="/srv/\\""', "Use Method=bind.$"),
        ("Path=/srv/a\nSeedFrom=/usr/share/*", "the entry for /srv/a is ignored. Name the directory"),
        ("Path=/srv/a\nServices=a.service,b.service", "blanks stand between units, not commas, "),
        ("Path=/srv/a\nServices=a", "such as foo.service, the entry"),
        (
            "Path=/srv/a\nOptions=noexec noatime",
            "Options=noexec noatime has 'noexec noatime', and commas stand between options, not blanks, ",
        ),
        ("Path=/srv/a\nOptions=", "Options= is empty, the entry for /srv/a is ignored.$"),
        ("Path=/srv/a\nOptions=noexec,sync", "has 'sync', which is none of"),
    ],
)
def test_what_to_do_about_a_value(line: str, said: str) -> None:
    found = registry(f"[Path]\n{line}\n")
    assert len(found) == 1 and re.search(said, found[0]), found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[Volume]\nDevise=auto\n",
            "usr/lib/persist/persist.conf:2: Unknown key 'Devise=' in section [Volume], ignoring. Did you "
            "mean Device=?",
        ),
        (
            "[Volumes]\nDevice=auto\n",
            "Unknown section [Volumes], ignoring. Known are [Volume], [Seal] and [Registry]. Did you mean "
            "[Volume]?",
        ),
        (
            "Device=auto\n",
            "Setting 'Device=' outside of a section, ignoring. Put it below a line such as [Volume].",
        ),
        (
            "[Volume]\nDevice=/dev/vdb,/dev/vdc\n",
            "'/dev/vdb,/dev/vdc' looks like a list, and blanks stand between devices, not commas, ignoring.",
        ),
        ("[Volume]\nDevice=UUID=1,LABEL=b\n", "blanks stand between devices, not commas, ignoring."),
        ("[Volume]\nDevice=LABEL=a,b\n", ""),
        (
            "[Volume]\nMount=/\n",
            "Mount=/: must be an absolute path without '..', and not / itself, ignoring.",
        ),
        ("[Volume]\nX-Mine=1\n", ""),
    ],
)
def test_what_is_said_of_persist_conf(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "usr/lib/persist/persist.conf"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    problems: list[ini.Problem] = []
    load(str(tmp_path), problems)
    assert len(problems) == bool(said) and all(said in str(p) for p in problems), list(map(str, problems))


def test_each_known_key_is_one_that_is_taken() -> None:
    for key, parse in VOLUME.items():
        assert parse(Config(), "\x07") or key == "MagicHeader", key


def test_settings_of_the_boot_that_seals(tmp_path: Path) -> None:
    at = tmp_path / "etc/persist/persist.conf"
    at.parent.mkdir(parents=True)
    for text, allow, seconds, wrong in (
        ("", (), None, ""),
        ("Allow=a.service b@.service\nAllow=c-.service", ("a.service", "b@.service", "c-.service"), None, ""),
        ("Allow=a.service\nAllow=\n", (), None, ""),
        ("Allow=a.service ssh.socket", (), None, "'ssh.socket' is not the name of a service"),
        ("Allow=../a.service", (), None, "'../a.service' is not the name of a service"),
        ("TimeoutSec=90", (), 90, ""),
        ("TimeoutSec=90s", (), 90, ""),
        ("TimeoutSec=0", (), None, "must be whole seconds, at most 18000"),
        ("TimeoutSec=18001", (), None, "must be whole seconds"),
        ("TimeoutSec=5min", (), None, "must be whole seconds"),
    ):
        at.write_text(f"[Seal]\n{text}\n")
        problems: list[ini.Problem] = []
        found = load(str(tmp_path), problems)
        assert (found.seal_allow, found.seal_timeout) == (allow, seconds)
        assert (len(problems) == 1 and wrong in problems[0].text) if wrong else not problems
