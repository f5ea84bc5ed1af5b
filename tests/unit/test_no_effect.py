# SPDX-License-Identifier: LGPL-2.1-or-later
"""What persistctl verify says of lines that do nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_foresee import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    found = Machine(tmp_path)
    for directory in ("srv/d", "srv/full"):
        (tmp_path / directory).mkdir()
    found.file("srv/full/file")
    return found


def _said(machine: Machine, capsys: pytest.CaptureFixture[str], level: int, *files: str) -> list[str]:
    problems = machine.verify(capsys, *files)[1]
    assert all(p["level"] == level for p in problems), problems
    return [f"{p['where'].rpartition(':')[2]}: {p['message']}" for p in problems]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("Format=blank", ["Format=blank in persist.conf has no effect"]),
        ("Ephemeral=yes\nDevice=LABEL=x", ["Ephemeral=yes in persist.conf has no effect"]),
        ("Format=blank\nEphemeral=yes\nDevice=LABEL=x /dev/vdb", []),
        ("Format=claimed\nEphemeral=no", []),
        ("Options=noatime,_netdev", ["Options=noatime in persist.conf has no effect with Device=auto"]),
        ("Options=noatime\nDevice=LABEL=x", []),
        ("Options=", []),
    ],
)
def test_settings_that_need_another(
    machine: Machine, capsys: pytest.CaptureFixture[str], lines: str, said: list[str]
) -> None:
    machine.file("usr/lib/persist/persist.conf", f"[Volume]\n{lines}\n")
    machine.registry("[Path]\nPath=/srv/d\nMethod=bind\nServices=there.service\n")
    machine.file("usr/lib/systemd/system/there.service")
    found = _said(machine, capsys, 5)
    assert len(found) == len(said) and all(words in text for words, text in zip(said, found, strict=True)), (
        found
    )


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        ("Format=blank", "2"),
        ("Format=claimed\nEphemeral=yes", "3"),
        ("Options=noatime\nSwapSize=0\nOptions=noexec", "4"),
        ("Mount=/mnt/absent", "2"),
    ],
)
def test_settings_of_persist_conf_have_a_line(
    machine: Machine, capsys: pytest.CaptureFixture[str], lines: str, where: str
) -> None:
    machine.file("usr/lib/persist/persist.conf.d/10-x.conf", f"[Volume]\n{lines}\n")
    machine.registry("[Path]\nPath=/srv/d\nMethod=bind\n")
    assert [p["where"] for p in machine.verify(capsys)[1]] == [
        f"/usr/lib/persist/persist.conf.d/10-x.conf:{where}"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[Seal]\nReset=yes\n[Registry]\nA=b\nX-Mine=1\nC=d\n",
            [
                "2: Unknown key 'Reset=' in section [Seal], ignoring.",
                "4: Unknown key 'A=' in section [Registry], ignoring.",
                "6: Unknown key 'C=' in",
            ],
        ),
        ("[Seal]\n[Registry]\n[X-Mine]\nA=b\n", []),
        (
            "[Volume]\nMuont=/srv/d\n",
            ["2: Unknown key 'Muont=' in section [Volume], ignoring. Did you mean Mount=?"],
        ),
    ],
)
@pytest.mark.parametrize("directory", ["usr/lib/persist", "etc/persist"])
def test_unknown_keys_of_persist_conf(
    machine: Machine, capsys: pytest.CaptureFixture[str], text: str, said: list[str], directory: str
) -> None:
    """In sections without settings, too: nothing that somebody wrote is passed over without a word."""
    machine.file(f"{directory}/persist.conf", text)
    machine.registry("[Path]\nPath=/srv/d\nMethod=bind\n")
    if "[Volume]" in text and directory.startswith("etc"):
        said = ["1: [Volume] is ignored in /etc"]
    found = _said(machine, capsys, 4)
    assert len(found) == len(said) and all(
        text.startswith(words) for words, text in zip(said, found, strict=True)
    ), found


def test_nothing_follows_from_a_device_that_was_refused(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.file("usr/lib/persist/persist.conf", "[Volume]\nFormat=blank\nDevice=/dev/vdb,/dev/vdc\n")
    assert len(_said(machine, capsys, 3)) == 1


NONE = "[Path]\nPath=%s\nMethod=none\n"


@pytest.mark.parametrize(
    ("path", "others", "said"),
    [
        (
            "/vra",
            "[Path]\nPath=/var\n",
            "2: Method=none has no effect: nothing else declares /vra. Did you mean /var?",
        ),
        ("/opt", "[Path]\nPath=/var\n", "2: Method=none has no effect: nothing else declares /opt."),
        (
            "/var/lib",
            "[Path]\nPath=/var\n",
            "2: Method=none has no effect: /var above /var/lib keeps it. Use Method=image to leave it to the "
            "image.",
        ),
        (
            "/var/lib",
            "[Path]\nPath=/var\n[Path]\nPath=/var/lib\nMethod=bind\n",
            "2: Method=none has no effect: /var above /var/lib keeps it. Use",
        ),
        ("/var/lib", "[Path]\nPath=/var\n[Path]\nPath=/var/lib\nMethod=image\n", ""),
        ("/var", "[Path]\nPath=/var\n", ""),
        ("/var", "[Path]\nPath=/var\nMode=x\n", ""),
        ("/srv/link", "[Path]\nPath=/srv/d\n", ""),
    ],
)
def test_paths_that_are_taken_out_in_vain(
    machine: Machine, capsys: pytest.CaptureFixture[str], path: str, others: str, said: str
) -> None:
    machine.link("srv/link", "d")
    machine.registry(NONE % path)
    machine.file("usr/lib/persist.d/u.conf", others)
    found = _said(machine, capsys, 5)
    assert len(found) == bool(said) and all(text.startswith(said) for text in found), found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Required=service\n", "4: Required=service has no effect, because Services= names no unit."),
        ("Required=service\nServices=there.service\n", ""),
        ("Required=boot\n", ""),
        ("Snapshot=no\n", ""),
        (
            "Method=tmpfs\nSnapshot=no\n",
            "5: Snapshot=no has no effect: it is for directories",
        ),
        ("Snapshot=yes\n", ""),
        ("[Identity]\nPath=/etc/x\nAction=remove\n", ""),
        ("[Migration]\nId=1\nPath=/srv/d\nExec=/usr/bin/true\n", ""),
        ("[Link]\nPath=/x\n", "4: [Link] has no effect in this version"),
        ("[X-Mine]\nPath=/x\n", ""),
    ],
)
def test_keys_and_sections_of_later_versions(
    machine: Machine, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    machine.registry(f"[Path]\nPath=/srv/d\nMethod=bind\n{text}")
    machine.file("usr/lib/systemd/system/there.service")
    machine.file("usr/bin/true")
    for files in ([], [str(machine.top / "usr/lib/persist.d/t.conf")]):
        found = _said(machine, capsys, 5, *files)
        assert len(found) == bool(said) and all(words.startswith(said) for words in found), found


@pytest.mark.parametrize(
    ("path", "seed", "said"),
    [
        (
            "/srv/d",
            "/srv/absent",
            "SeedFrom=/srv/absent does not exist in the image, and /srv/d is empty there: it will be empty.",
        ),
        ("/srv/full", "/srv/absent", ""),
        ("/srv/d", "/srv/full", ""),
        ("/srv/d", "/srv/link", ""),
        ("/srv/d", "/mounted/x", ""),
    ],
)
def test_a_seed_that_the_image_has_not(
    machine: Machine, capsys: pytest.CaptureFixture[str], path: str, seed: str, said: str
) -> None:
    machine.link("srv/link", "full")
    machine.file("etc/fstab", "/dev/vdc /mounted ext4 defaults 0 0\n")
    machine.registry(f"[Path]\nPath={path}\nMethod=bind\nSeedFrom={seed}\n")
    found = _said(machine, capsys, 4)
    assert len(found) == bool(said) and all(said in text for text in found), found
