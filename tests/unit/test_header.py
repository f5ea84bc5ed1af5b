# SPDX-License-Identifier: LGPL-2.1-or-later
"""The second line of a claim, the mark of version 2, and the binding."""

from __future__ import annotations

import pytest

from persist.boot.config import DEFAULT_HEADER
from persist.errors import Refusal
from persist.volume.ondisk import binding, header
from persist.volume.ondisk.binding import Binding
from persist.volume.ondisk.header import Claim, FormatMark, Options

ID = "6a1e0b54-9a3a-4f0e-8a51-2f8f2d6f6b10"
VOLUME = "11111111-2222-4333-8444-555555555555"
WORD = DEFAULT_HEADER.encode()


def parsed(data: bytes) -> Claim | None:
    return header.parse(data.ljust(header.LENGTH, b"\0"), [DEFAULT_HEADER])


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("", Options()),
        ("version=1", Options()),
        ("version=1 layout=raid1 members=2", Options("raid1", 2)),
        ("layout=auto", Options("auto")),
        ("  members=3   layout=single ", Options("single", 3)),
        ("serial=WD-WCC%20%41", Options(serial="WD-WCC%20%41")),
        (f"join={str(VOLUME).upper()}", Options(join=str(VOLUME))),
        ("members=64", Options(members=64)),
    ],
)
def test_options(line: str, options: Options) -> None:
    for end in (b"", b"\n"):
        assert parsed(WORD + b"\n" + line.encode() + end) == Claim(DEFAULT_HEADER, None, options)
    assert parsed(header.encode(DEFAULT_HEADER, options)) == Claim(DEFAULT_HEADER, None, options)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("version=2", "header-version", "'2'"),
        ("version=2 future=1", "header-version", "'2'"),
        ("version=", "header-options", "not key=value"),
        ("layout=raid0", "header-options", "layout=raid0"),
        ("layout=Raid1", "header-options", "layout=Raid1"),
        ("members=0", "header-options", "members=0"),
        ("members=65", "header-options", "members=65"),
        ("members=-1", "header-options", "members=-1"),
        ("members=two", "header-options", "members=two"),
        ("members=2 members=2", "header-options", "twice"),
        ("join=yes", "header-options", "join=yes"),
        ("encrypt=luks", "header-options", "encrypt="),
        ("raid1", "header-options", "raid1"),
        ("members=2\tlayout=raid1", "header-options", "plain text"),
        ("serial=" + "x" * 65, "header-options", "serial="),
        ("layout=single\nmembers=2", "header-options", "more than one line"),
        ("layout=\xe9", "header-options", "plain text"),
    ],
)
def test_bad_options(line: str, code: str, said: str) -> None:
    with pytest.raises(Refusal) as caught:
        parsed(WORD + b"\n" + line.encode("latin-1"))
    assert (caught.value.code, caught.value.message_id) == (code, "CLAIM_REFUSED")
    assert said in caught.value.message
    assert caught.value.hint


def test_the_longest_header_fits() -> None:
    word = "x" * 48 + "-please-format-me"[:16]
    options = Options("single", 64, "s" * 64, str(VOLUME))
    assert len(header.encode(word, options)) == header.LENGTH


@pytest.mark.parametrize(
    "mark",
    [
        FormatMark(ID, 0, VOLUME),
        FormatMark(ID, 8192, VOLUME, 1, 2, False, "raid1"),
        FormatMark(ID, 192, VOLUME, 0, 1, True),
        FormatMark(ID, 999999999, VOLUME, 998, 999, False, "single"),
        FormatMark(ID, 64),
    ],
)
def test_mark(mark: FormatMark) -> None:
    data = (
        header.encode(DEFAULT_HEADER, Options("single", 64, "s" * 64, str(VOLUME)))[: header.MARK_OFFSET]
        + mark.encode()
    )
    assert len(data) == header.LENGTH
    found = parsed(data)
    assert found is not None and found.mark == mark


@pytest.mark.parametrize(
    ("mark", "code"),
    [
        (f"persist-format-begun 2 {ID} 0 {VOLUME} 2/2 new auto\n", "header-unknown"),
        (f"persist-format-begun 2 {ID} 0 {VOLUME} 0/0 new auto\n", "header-unknown"),
        (f"persist-format-begun 2 {ID} 0 {VOLUME} 0/1 new raid5\n", "header-unknown"),
        (f"persist-format-begun 2 {ID} 0 {VOLUME} 0/1 old auto\n", "header-unknown"),
        (f"persist-format-begun 2 {ID} 0\n", "header-unknown"),
        (f"persist-format-begun 2 {'-' * 36} 0 {VOLUME} 0/1 new auto\n", "header-unknown"),
        (f"persist-format-begun 2 {ID} 0 {VOLUME} 0/1 new auto\nx", "header-unknown"),
        (f"persist-format-begun 3 {ID} 0 {VOLUME} 0/1 new auto encrypted\n", "header-version"),
    ],
)
def test_bad_marks(mark: str, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        parsed(WORD.ljust(header.MARK_OFFSET, b"\0") + mark.encode())
    assert caught.value.code == code


def test_join() -> None:
    assert Claim(DEFAULT_HEADER).join == ""
    assert Claim(DEFAULT_HEADER, FormatMark(ID, 0, VOLUME)).join == ""
    assert Claim(DEFAULT_HEADER, FormatMark(ID, 0, VOLUME, join=True)).join == str(VOLUME)
    assert Claim(DEFAULT_HEADER, None, Options(join=str(VOLUME))).join == str(VOLUME)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("WD-1234", "WD-1234"),
        ("QEMU HARD DISK", "QEMU%20HARD%20DISK"),
        (" x ", "x"),
        ("a\tb\x01", "a%09b%01"),
        ("é", "%C3%A9"),
        ("", ""),
        ("y" * 70, "y" * 64),
    ],
)
def test_text(raw: str, text: str) -> None:
    assert header.text(raw) == text


@pytest.mark.parametrize(
    "bound",
    [Binding(str(VOLUME)), Binding(str(VOLUME), str(ID), "a%20b"), Binding(str(VOLUME), serial="s" * 64)],
)
def test_binding(bound: Binding) -> None:
    data = bytes(header.MARK_OFFSET) + binding.encode(bound)
    assert len(data) == header.LENGTH
    assert binding.parse(data + b"\xff" * 72) == bound
    assert header.parse(data, [DEFAULT_HEADER]) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "persist-bound 2 x",
        f"persist-bound 1 {VOLUME} dmi=- serial=\n",
        f"persist-bound 1 {VOLUME} dmi=x serial=-\n",
        f"persist-bound 1 {VOLUME} dmi=- serial=-",
        f"persist-bound 1 {VOLUME} dmi=- serial=-\nx",
    ],
)
def test_no_binding(text: str) -> None:
    assert binding.parse(bytes(header.MARK_OFFSET) + text.encode().ljust(184, b"\0")) is None


@pytest.mark.parametrize(
    ("dmi", "serial", "machine", "disk", "same"),
    [
        ("m", "s", "m", "s", True),
        ("m", "s", "m", "other", False),
        ("m", "s", "other", "s", False),
        ("m", "-", "m", "s", True),
        ("-", "s", "m", "s", True),
        ("-", "-", "-", "-", False),
        ("-", "-", "m", "s", False),
        ("m", "s", "-", "s", False),
        ("m", "s", "M", "s", True),
    ],
)
def test_matches(dmi: str, serial: str, machine: str, disk: str, same: bool) -> None:
    assert binding.matches(Binding("v", dmi, serial), machine, disk) == same


@pytest.mark.parametrize(
    ("found", "dmi"),
    [
        (str(ID).upper() + "\n", str(ID)),
        ("00000000-0000-0000-0000-000000000000\n", "-"),
        ("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "-"),
        ("03000200-0400-0500-0006-000700080009", "-"),
        ("Not Settable", "-"),
        ("", "-"),
        (None, "-"),
    ],
)
def test_machine_dmi(tmp_path: object, found: str | None, dmi: str) -> None:
    path = f"{tmp_path}/product_uuid"
    if found is not None:
        with open(path, "w", encoding="ascii") as f:
            f.write(found)
    assert binding.machine_dmi(path) == dmi
