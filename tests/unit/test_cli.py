# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl: each verb against a scratch image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persist.boot.seal.request import Request, parse
from persist.cli import seal_here
from persist.cli.main import main
from persist.cli.show import safe
from persist.errors import PersistError

PRESETS = Path(__file__).parents[2] / "units" / "presets"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with the shipped presets, an enabled target and one registry file."""
    shipped = tmp_path / "usr/share/persist/presets"
    shipped.mkdir(parents=True)
    for preset in PRESETS.glob("*.conf"):
        (shipped / preset.name).write_text(preset.read_text())
    registry = tmp_path / "usr/lib/persist.d"
    registry.mkdir(parents=True)
    (registry / "app.conf").write_text("[Path]\nPath=/var/lib/app\nMethod=bind\n")
    wants = tmp_path / "etc/systemd/system/local-fs.target.wants"
    wants.mkdir(parents=True)
    (wants / "persist-setup.target").symlink_to("/usr/lib/systemd/system/persist-setup.target")
    target = tmp_path / "usr/lib/systemd/system/persist-setup.target"
    target.parent.mkdir(parents=True)
    target.touch()
    return tmp_path


def test_list(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image / "usr/lib/persist.d/bad.conf").write_text("[Path]\nPath=/usr/share/x\n")
    assert main(["list", "--json", "--root", str(image)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(e["path"], e["state"]) for e in found["entries"]] == [
        ("/usr/share/x", "refused"),
        ("/var/lib/app", "declared"),
    ]
    assert found["problems"][0]["where"] == "/usr/lib/persist.d/bad.conf:2"


def test_list_text(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--root", str(image)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split() == [
        "/var/lib/app",
        "bind",
        "no",
        "declared",
        "/usr/lib/persist.d/app.conf:2",
    ]


def test_list_before_it_is_switched_on(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image / "etc/systemd/system/local-fs.target.wants/persist-setup.target").unlink()
    assert main(["list", "--root", str(image)]) == 0
    shown = capsys.readouterr()
    assert (
        " declared " in shown.out
        and shown.err == "Nothing of this is in force: persist-setup.target is not enabled.\n"
    )


def test_list_says_each_path_that_is_left_out_with_its_reason(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(image)
    assert main(["preset", "enable", "whole-system", "--without=/home", "--root", root]) == 0
    capsys.readouterr()
    assert main(["list", "--json", "--root", root]) == 0
    found = [
        (e["state"], e["reason"])
        for e in json.loads(capsys.readouterr().out)["entries"]
        if e["path"] == "/home"
    ]
    out = "/etc/persist.d/zz-preset-whole-system-without.conf:4"
    assert found == [
        ("none", f"{out} takes it out (Method=none)"),
        ("ignored", f"taken out by {out} (Method=none)"),
    ]


def test_preset_enable_disable(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(image)
    link = image / "etc/persist.d/zz-preset-whole-system.conf"
    assert main(["preset", "enable", "whole-system", "--root", root]) == 0
    assert link.readlink() == Path("/usr/share/persist/presets/whole-system.conf")
    assert "initramfs" in capsys.readouterr().err, "the missing initrd stage must be said"
    (image / "usr/share/initramfs-tools/hooks").mkdir(parents=True)
    (image / "usr/share/initramfs-tools/hooks/persist").touch()
    assert main(["preset", "enable", "whole-system", "--root", root]) == 0, "enabling twice is no error"
    assert capsys.readouterr().err == "", "no initrd has to be made for it"
    assert main(["preset", "list", "--json", "--root", root]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed["whole-system"]["enabled"] and listed["whole-system"]["without"] == []
    assert main(["plan", "--json", "--root", root]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["before_pid1"] == ["/etc"]
    assert "var.mount" in plan["files"], "the link of a preset is followed inside the image"
    assert main(["preset", "disable", "whole-system", "--root", root]) == 0
    assert not link.is_symlink()


def test_preset_without_a_path(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(image)
    assert (
        main(["preset", "enable", "whole-system", "--without=/var/", "--without", "/home", "--root", root])
        == 0
    )
    capsys.readouterr()
    assert main(["plan", "--json", "--root", root]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["before_pid1"] == ["/etc"] and not [
        name for name in plan["files"] if name.startswith(("var", "home", "persist-bind@home"))
    ]
    assert not [p for p in plan["problems"] if p["level"] <= 4], (
        "what lies below a path that is left out goes with it"
    )
    assert "persist-bind@var-lib-app.service" in plan["files"], "a package's own file still counts"
    assert main(["preset", "list", "--root", root]) == 0
    assert "without /home /var" in capsys.readouterr().out
    assert main(["preset", "enable", "whole-system", "--without", "/opt", "--root", root]) == 1
    assert "does not keep '/opt'" in capsys.readouterr().err
    assert main(["preset", "enable", "whole-system", "--root", root]) == 0, "all of it again"
    assert list((image / "etc/persist.d").iterdir()) == [image / "etc/persist.d/zz-preset-whole-system.conf"]
    assert main(["preset", "enable", "whole-system", "--without", "/home", "--root", root]) == 0
    assert main(["preset", "disable", "whole-system", "--root", root]) == 0
    assert list((image / "etc/persist.d").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "/etc/ssh",
            "'/etc/ssh' has no entry of its own in the preset 'whole-system', /etc keeps it.\n"
            "To leave it to the image, write Path=/etc/ssh and Method=image",
        ),
        ("/home/me", "/home keeps it"),
        ("/var/lib/dpkg/info", "does not keep '/var/lib/dpkg/info'"),
        ("etc", "--without=etc is not an absolute path"),
        (
            "/home,/etc",
            "--without=/home,/etc looks like a list, and takes one path.\nSay --without= once for each path.",
        ),
        ("/home /etc", "looks like a list"),
    ],
)
def test_preset_without_what_it_does_not_declare(
    image: Path, capsys: pytest.CaptureFixture[str], path: str, said: str
) -> None:
    assert main(["preset", "enable", "whole-system", f"--without={path}", "--root", str(image)]) == 1
    assert said in capsys.readouterr().err
    assert list((image / "etc/persist.d").iterdir()) == []


def test_preset_enable_where_persist_cannot_start(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(image)
    (image / "etc/systemd/system/persist-setup.target").symlink_to("/dev/null")
    assert main(["preset", "enable", "docker", "--root", root]) == 0
    assert (
        "is masked (/etc/systemd/system/persist-setup.target), so nothing is kept. Run 'systemctl"
        in capsys.readouterr().err
    )
    (image / "etc/systemd/system/local-fs.target.wants/persist-setup.target").unlink()
    (image / "etc/systemd/system/persist-setup.target").unlink()
    assert main(["preset", "enable", "docker", "--root", root]) == 0
    assert (
        f"so nothing is kept. Run 'systemctl --root={root} enable persist-setup.target'."
        in capsys.readouterr().err
    )
    (image / "usr/lib/systemd/system/persist-setup.target").unlink()
    assert main(["preset", "enable", "docker", "--root", root]) == 0
    assert f"persist is not installed in {root} (" in capsys.readouterr().err


def test_whole_system_keeps_the_stores_of_containers_in_a_way_that_works(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(image)
    program = image / "usr/sbin/dockerd"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    assert main(["preset", "enable", "whole-system", "--root", root]) == 0
    assert "The preset docker is enabled, too: the image has /usr/sbin/dockerd" in capsys.readouterr().err
    assert sorted(f.name for f in (image / "etc/persist.d").iterdir()) == [
        "zz-preset-docker.conf",
        "zz-preset-whole-system.conf",
    ]
    main(["verify", "--root", root])
    assert "/var/lib/docker would lie" not in capsys.readouterr().out
    assert main(["plan", "--json", "--root", root]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert {"persist-bind@var-lib-docker.service", "persist-bind@home.service", "var.mount"} <= set(files)


@pytest.mark.parametrize("choice", ["--without", "mask"])
def test_a_preset_that_comes_along_leaves_an_earlier_choice_alone(
    image: Path, capsys: pytest.CaptureFixture[str], choice: str
) -> None:
    """It would keep again what somebody had taken out; and a file that somebody put there stopped the preset
    that was asked for."""
    root, links = str(image), image / "etc/persist.d"
    (image / "usr/sbin").mkdir()
    (image / "usr/sbin/dockerd").touch(0o755)
    if choice == "mask":
        links.mkdir(parents=True)
        (links / "zz-preset-docker.conf").symlink_to("/dev/null")
    else:
        assert main(["preset", "enable", "docker", "--without=/var/lib/docker", "--root", root]) == 0
    before = {f.name: f.readlink() if f.is_symlink() else f.read_text() for f in links.iterdir()}
    assert main(["preset", "enable", "whole-system", "--root", root]) == 0
    assert "The preset docker" not in capsys.readouterr().err
    after = {f.name: f.readlink() if f.is_symlink() else f.read_text() for f in links.iterdir()}
    assert before.items() <= after.items() and "zz-preset-whole-system.conf" in after
    if choice == "--without":
        assert main(["preset", "enable", "docker", "--root", root]) == 0, "by name it is whole again"
        assert not (links / "zz-preset-docker-without.conf").exists()


def test_preset_unknown(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preset", "enable", "nothing", "--root", str(image)]) == 1
    err = capsys.readouterr().err
    assert "nothing" in err and "whole-system" in err


def test_preset_does_not_replace_a_file(image: Path) -> None:
    there = image / "etc/persist.d/zz-preset-whole-system.conf"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    assert main(["preset", "enable", "whole-system", "--root", str(image)]) == 1
    assert there.read_text() == "mine"


def test_plan_is_what_the_generator_writes(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--root", str(image)]) == 0
    out = capsys.readouterr().out
    assert (
        "# persist-bind@var-lib-app.service\n" in out
        and "ConditionPathExists=/run/persist/stores/var-lib-app\n" in out
    )


def test_plan_not_enabled(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image / "etc/systemd/system/local-fs.target.wants/persist-setup.target").unlink()
    assert main(["plan", "--json", "--root", str(image)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["reason"] == "persist-setup.target is not enabled"
    assert "persist-bind@var-lib-app.service" in plan["files"], "what it would be"
    assert main(["plan", "--root", str(image)]) == 0
    assert capsys.readouterr().err == "Nothing of this is written: persist-setup.target is not enabled.\n"


def test_verify(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(image)
    assert main(["verify", "--root", root]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 entry: 2 notices."
    (image / "usr/lib/persist.d/bad.conf").write_text("[Path]\nPath=relative\n[Path]\nPath=/etc\n")
    assert main(["verify", "--root", root]) == 1
    out = capsys.readouterr().out
    assert "/usr/lib/persist.d/bad.conf:2: " in out
    assert "persist-initramfs-tools" in out


def test_terminal_escapes_are_shown_not_obeyed() -> None:
    assert safe("/a\x1b[2J\n\udcff") == "/a\\x1b[2J\\n\\udcff"


def test_wrong_call() -> None:
    with pytest.raises(SystemExit) as e:
        main(["nonsense"])
    assert e.value.code == 2


def test_a_machine_that_does_not_reboot_is_not_asked_later(tmp_path: Path) -> None:
    """The request is there while the machine goes down, and gone where it does not."""
    (tmp_path / "etc").mkdir()
    left = tmp_path / "etc/persist/seal.request"
    seen: list[str] = []

    def reboot() -> None:
        seen.append(parse(left.read_bytes()).id)
        assert left.stat().st_mode & 0o777 == 0o600

    waited: list[float] = []
    with pytest.raises(PersistError, match="still runs 90 s after"):
        seal_here.ask(Request("id", time=1), root=str(tmp_path), reboot=reboot, sleep=waited.append)
    assert seen == ["id"] and waited == [90] and not left.exists()

    def fails() -> None:
        raise PersistError("no bus")

    with pytest.raises(PersistError, match="no bus"):
        seal_here.ask(Request("id", time=1), root=str(tmp_path), reboot=fails, sleep=waited.append)
    assert not left.exists()


def test_seal_of_an_image_has_no_end_of_its_own(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seal", "--root", str(image), "--then", "reboot"]) == 1
    assert "--then is for a machine that seals itself, not for --root" in capsys.readouterr().err
    assert main(["seal", "--root", str(image), "--include-volume"]) == 1
    assert "a state volume is sealed by the machine that it belongs to" in capsys.readouterr().err
