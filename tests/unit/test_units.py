# SPDX-License-Identifier: LGPL-2.1-or-later
"""systemd-analyze verify has nothing to say about the units that are shipped and those that the generator
writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist.boot import paths
from persist.boot.rare.services import OUR_TEMPLATES, OURS
from persist.boot.units import BACKLIGHT, BIND_SERVICE, BIND_UNIT, EARLY_USERS
from persist.verdict.say import NOTICES
from persist.volume import outcome
from persist.volume.format import asking

TOP = Path(__file__).resolve().parents[2]
UNITS = sorted(p for p in (TOP / "units").iterdir() if p.suffix in (".service", ".target", ".timer", ".path"))
SYSTEM_UNITS = Path("/usr/lib/systemd/system")

# Besides the preset: all methods, all settings that reach a unit, and names that need escaping (but for a
# colon, which systemd-analyze takes for an alias; tests/generator has it).
REGISTRY = """
[Path]
Path=/srv/data
Method=bind
Services=ssh.service
Required=service

[Path]
Path=/srv/must
Method=bind
Required=boot

[Path]
Path=/var/lib/linked
Method=symlink

[Path]
Path=/srv/pl ain-%n x;ü'\\\\y
Method=overlay

[Path]
Path=/opt/state/token
Method=bind
Type=file
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root directory with everything of ours as it is installed, and systemd's own units."""
    directory = tmp_path_factory.mktemp("root")
    subprocess.run(
        ["make", "--silent", "-C", str(TOP), "install-persist", f"DESTDIR={directory}"], check=True
    )
    shutil.copytree(SYSTEM_UNITS, directory / "usr/lib/systemd/system", symlinks=True, dirs_exist_ok=True)
    for link in ("lib", "sbin", "bin"):
        (directory / link).symlink_to(f"usr/{link}")
    (directory / "usr/bin").mkdir()
    for program in ("rm", "sleep", "udevadm"):
        (directory / "usr/bin" / program).touch(0o755)
    yield directory
    shutil.rmtree(directory)


def verify(root: Path, units: list[str]) -> str:
    """What systemd-analyze says about units below a root, standard output and error together."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={root}", *units],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout + (f"exit status {done.returncode}" if done.returncode else "")


def name(unit: Path) -> str:
    """The unit's name, a template's with an instance."""
    return unit.name.replace("@.", "@etc.")


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_shipped_units_are_silent(unit: Path, root: Path) -> None:
    assert verify(root, [name(unit)]) == ""


def test_all_shipped_units_together_have_no_cycle(root: Path) -> None:
    assert verify(root, [*map(name, UNITS), "multi-user.target"]) == ""


@pytest.fixture(scope="module")
def generated(root: Path) -> list[str]:
    """The units of the preset whole-system and of REGISTRY, written where the manager reads them; their
    names."""
    directory = root / "run/systemd/system"
    directory.mkdir(parents=True)
    wants = root / "etc/systemd/system/local-fs.target.wants"
    wants.mkdir(parents=True)
    (wants / "persist-setup.target").symlink_to("/usr/lib/systemd/system/persist-setup.target")
    (root / "etc/persist.d").mkdir()
    (root / "etc/persist.d/whole.conf").symlink_to("/usr/share/persist/presets/whole-system.conf")
    (root / "etc/persist.d/10-all.conf").write_text(REGISTRY, encoding="utf-8")
    environment = {
        "PATH": os.environ["PATH"],
        "PERSIST_LIBRARY": str(TOP),
        "PERSIST_GENERATOR_ROOT": str(root),
        "SYSTEMD_PROC_CMDLINE": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [TOP / "generators/persist-generator", directory],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return sorted(p.name for p in directory.iterdir() if p.is_file())


def test_the_generated_units_are_the_ones_meant(generated: list[str]) -> None:
    bound = ["persist-bind@srv-data.service", "persist-bind@opt-state-token.service"]
    assert "etc.mount" not in generated, "PID 1 reads /etc before any unit could mount it"
    for expected in ("var.mount", "persist-bind@home.service", "tmp.mount", *bound):
        if not (SYSTEM_UNITS / expected).exists():
            assert expected in generated


def test_generated_units_are_silent(root: Path, generated: list[str]) -> None:
    assert verify(root, generated) == ""


def test_the_mounts_of_a_steady_boot_are_mounted_without_a_word(root: Path, generated: list[str]) -> None:
    for file in generated:
        lines = _lines(root / "run/systemd/system" / file)
        # What mount(8) prints would be at info, and be gone with the rest; that a directory to mount over is
        # not empty is told at notice.
        quiet = (
            {"LogLevelMax=notice"}
            if file.endswith(".service")
            else {"LogLevelMax=warning", "SyslogLevel=warning"}
        )
        assert quiet <= set(lines), file


def test_generated_units_together_have_no_cycle(root: Path, generated: list[str]) -> None:
    assert (
        verify(
            root,
            [
                *generated,
                "persist-setup.target",
                "local-fs.target",
                "multi-user.target",
                "ssh.service" if (SYSTEM_UNITS / "ssh.service").exists() else "sysinit.target",
            ],
        )
        == ""
    )


def test_generated_units_do_not_outlive_their_source(root: Path, generated: list[str]) -> None:
    for unit in generated:
        text = (root / "run/systemd/system" / unit).read_text(encoding="utf-8")
        assert text.startswith("# Automatically generated by persist-generator\n")
        assert "\nSourcePath=/" in text


EVERYTHING_BOUND = """
[Path]
Path=/var
Method=bind

[Path]
Path=/etc
Method=bind

[Path]
Path=/usr/local
Method=bind
"""


def test_binds_of_what_early_services_use_have_no_cycle(root: Path, tmp_path: Path) -> None:
    registry = tmp_path / "usr/lib/persist.d"
    registry.mkdir(parents=True)
    (registry / "a.conf").write_text(EVERYTHING_BOUND, encoding="utf-8")
    wants = tmp_path / "etc/systemd/system/local-fs.target.wants"
    wants.mkdir(parents=True)
    (wants / "persist-setup.target").symlink_to("/usr/lib/systemd/system/persist-setup.target")
    directory = root / "run/systemd/system"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    subprocess.run(
        [TOP / "generators/persist-generator", directory],
        check=True,
        env={
            "PATH": os.environ["PATH"],
            "PERSIST_LIBRARY": str(TOP),
            "PERSIST_GENERATOR_ROOT": str(tmp_path),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    said = verify(
        root,
        [
            "persist-setup.target",
            "local-fs.target",
            "sysinit.target",
            "multi-user.target",
            "persist-bind@var.service",
            *sorted({unit for unit, _ in EARLY_USERS if (SYSTEM_UNITS / unit).exists()}),
        ],
    )
    shutil.rmtree(directory)
    # The programs of other packages are not in this root directory.
    assert [
        line for line in said.splitlines() if "is not executable" not in line and line != "exit status 1"
    ] == []


def early_users() -> dict[str, set[str]]:
    """Of the units of the systemd that is installed here: those that start before local-fs.target and name a
    path below /var, and which."""
    found: dict[str, set[str]] = {}
    tops = {"StateDirectory": "/var/lib/", "CacheDirectory": "/var/cache/", "LogsDirectory": "/var/log/"}
    for unit in SYSTEM_UNITS.glob("*.service"):
        text = unit.read_text(encoding="utf-8")
        late = re.search(r"^After=.*\b(local-fs|sysinit|basic|runlevel\d)\.target", text, re.MULTILINE)
        if late or not re.search(r"^DefaultDependencies=no", text, re.MULTILINE):
            continue
        used = {
            p for line in re.findall(r"^RequiresMountsFor=(.*)", text, re.MULTILINE) for p in line.split()
        }
        used |= {
            tops[key] + p
            for key, line in re.findall(
                r"^(StateDirectory|CacheDirectory|LogsDirectory)=(.*)", text, re.MULTILINE
            )
            for p in line.split()
        }
        if re.search(r"^PrivateTmp=yes", text, re.MULTILINE):
            used.add("/var/tmp")
        used = {p for p in used if p.startswith("/var/")}
        if used and "persist" not in unit.name:
            found[unit.name] = used
    return found


def test_instances_say_what_the_template_says() -> None:
    text = (TOP / "units/persist-bind@.service").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if not line.startswith("#")] == (
        "[Unit]\n" + BIND_UNIT + BIND_SERVICE
    ).splitlines()


@pytest.mark.parametrize("unit", [u for u in UNITS if u.suffix == ".service"], ids=lambda u: u.name)
def test_what_a_steady_boot_skips_is_skipped_without_a_word(unit: Path) -> None:
    """PID 1 says at info which unit it has skipped, a line for each entry; LogLevelMax= holds for what it
    says about a unit, too."""
    lines = _lines(unit)
    # These run at each boot, are started by what has happened, or never in a steady boot.
    skipped = any(line.startswith("Condition") for line in lines) and unit.name not in (
        "persist-volume-net.service",
        "persist-heal.service",
        "persist-scrub.service",
        "persist-operator-script.service",
        "persist-seal-end.service",
    )
    assert ("LogLevelMax=notice" in lines) == skipped


def test_all_early_users_of_var_are_known() -> None:
    known = {*EARLY_USERS, BACKLIGHT}
    # On its way out of the machine, or of another boot.
    others = {"systemd-update-utmp-runlevel.service"}
    missing = {
        (unit, path) for unit, used in early_users().items() if unit not in others for path in used
    } - known
    assert not missing


def test_the_volume_comes_before_all_early_users() -> None:
    text = (TOP / "units/persist-volume.service").read_text(encoding="utf-8")
    before = {unit for line in re.findall(r"^Before=(.*)", text, re.MULTILINE) for unit in line.split()}
    assert {unit for unit, _ in EARLY_USERS} <= before


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_named_manual_pages_and_programs_are_shipped(unit: Path, root: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    for page, section in re.findall(r"man:([\w.-]+)\((\d)\)", text):
        assert (TOP / f"packaging/man/{page}.{section}").is_file()
    for program in re.findall(r"^ExecStart=[-@:+!]*(/\S+)", text, re.MULTILINE):
        assert os.access(f"{root}{program}", os.X_OK)


def test_rules_name_no_missing_unit() -> None:
    known = {p.name for p in UNITS}
    for rules in (TOP / "units").glob("*.rules"):
        for unit in re.findall(
            r"persist-[\w@.-]+\.(?:service|target|path)", rules.read_text(encoding="utf-8")
        ):
            assert unit in known


def _lines(unit: Path) -> list[str]:
    return [line for line in unit.read_text().replace("\\\n", " ").splitlines() if not line.startswith("#")]


STAGE = "persist-soft-reboot-stage.service"


def test_the_guard_of_a_boot_ends_with_the_boot_alone(root: Path) -> None:
    """A unit that others may stop (systemctl isolate, systemctl stop) takes away nothing that says that the
    boot is over: what was held back would be mounted over services that run. Only soft-reboot.target, after
    which PID 1 boots again with the same /run, may."""
    removing = {}
    for unit in UNITS:
        lines = [line for line in _lines(unit) if line.startswith("Exec") and "/run/persist" in line]
        if lines:
            removing[unit.name] = lines
    assert list(removing) == ["persist-soft-reboot.service"]
    (line,) = removing["persist-soft-reboot.service"]
    assert line.startswith("ExecStart=/usr/bin/rm -rf ") and {
        "/run/persist/booted",
        "/run/persist/online",
    } <= set(line.split())
    wanted = [p.parent.name for p in (root / "usr/lib/systemd/system").glob("*/persist-soft-reboot.service")]
    assert wanted == ["soft-reboot.target.wants"]
    assert not [
        u.name
        for u in UNITS
        if u.name not in ("persist-soft-reboot.service", STAGE) and "persist-soft-reboot" in u.read_text()
    ]


def test_a_soft_reboot_has_a_stage_of_its_own(root: Path) -> None:
    """Once all is unmounted and the boot before is forgotten, and before PID 1 reads anything again."""
    unit = set(_lines(next(u for u in UNITS if u.name == STAGE)))
    assert {
        "After=umount.target persist-soft-reboot.service",
        "Before=systemd-soft-reboot.service",
        "ExecStart=/usr/lib/persist/persist-stage /",
    } <= unit
    wanted = [p.parent.name for p in (root / "usr/lib/systemd/system").glob(f"*/{STAGE}")]
    assert wanted == ["soft-reboot.target.wants"]


def test_a_soft_reboot_forgets_what_speaks_of_the_boot_before() -> None:
    unit = next(u for u in UNITS if u.name == "persist-soft-reboot.service")
    assert {"DefaultDependencies=no", "Before=systemd-soft-reboot.service"} <= set(_lines(unit))
    (line,) = [line for line in _lines(unit) if line.startswith("ExecStart=")]
    gone = set(line.split()[2:])
    assert {
        outcome.RECORD,
        outcome.BEFORE,
        outcome.FORMATTED,
        paths.MOUNT_ENTRIES,
        paths.PERSISTENT,
        paths.BOOTED,
        paths.STALE,
        paths.STATE,
        paths.ONLINE,
        paths.STAGED,
        paths.WAITED,
        paths.SAID,
        paths.REFUSED,
        paths.HEAL_FAILED,
        *NOTICES,
    } <= gone
    assert not {g for g in gone if paths.VOLUME.startswith(g)}, "mounts are still there"
    assert paths.LEFT not in gone, "the stage makes it anew, and where it does not, the old one explains more"
    assert paths.STORES not in gone, "the stage compares /etc, which is still mounted, and takes them away"
    assert paths.MEMBERS_GONE not in gone, "it is for one mark on the disks, and believed with that one alone"
    assert not {paths.HEAL, paths.FORMAT} & gone, "word that nobody has heard yet"
    writers = [
        w
        for u in UNITS
        for w in [u.name]
        if f"persist-service {u.stem.removeprefix('persist-').split('@')[0]}" in u.read_text()
    ]
    after = next(line for line in _lines(unit) if line.startswith("After="))
    assert {f"persist-{w}.service" for w in ("volume", "verify", "heal", "format")} <= set(
        after[6:].split()
    ) & set(writers)


def test_word_for_the_healer_is_one_file() -> None:
    """Who leaves it, who waits for it and who takes it away mean the same; and nothing else but its timer
    starts the service."""
    assert f"PathExists={outcome.HEAL}" in _lines(TOP / "units/persist-heal.path")
    rules = (TOP / "units/65-persist.rules").read_text(encoding="utf-8")
    assert re.findall(r'^ACTION=="(\w+)", .*RUN\+="([^"]*)"', rules, re.MULTILINE) == [
        ("remove", f"/usr/bin/touch {outcome.HEAL}"),
        ("add", f"/usr/bin/touch {outcome.HEAL}"),
    ]
    # A false condition would leave the word where it is, and the path unit would start the service until it
    # hits its limit.
    assert not [
        line
        for line in _lines(TOP / "units/persist-heal.service")
        if line.startswith(("Condition", "Assert"))
    ]
    starting = [
        p.name
        for p in (TOP / "persist").rglob("*.py")
        if re.search(r'"start",[^)]*persist-heal', p.read_text(encoding="utf-8"))
    ]
    assert starting == []


def test_word_for_the_formatter_is_one_file() -> None:
    """As for the healer; and the path unit is there only where the service may run, for a false condition
    would leave the word where it is."""
    path, service = (_lines(TOP / f"units/persist-format.{kind}") for kind in ("path", "service"))
    assert f"PathExists={asking.WORD}" in path
    rules = (TOP / "units/65-persist.rules").read_text(encoding="utf-8")
    assert re.findall(r'RUN\+="([^"]*)"', rules.partition("head -c 64")[2]) == [
        f"/usr/bin/touch {asking.WORD}"
    ]
    conditions = [line for line in service if line.startswith(("Condition", "Assert"))]
    assert [line for line in path if line.startswith("Condition")] == conditions[:-1]
    assert conditions[-1] == f"ConditionDirectoryNotEmpty={asking.TAGS}", (
        "which is true where the rule leaves word"
    )


def test_the_generator_knows_which_units_are_ours() -> None:
    names = {p.name for p in UNITS}
    assert set(OURS) == {name for name in names if "@" not in name}
    made = {"persist-migrate@"}  # by the generator alone, each with all that it says
    assert set(OUR_TEMPLATES) == {name.partition("@")[0] + "@" for name in names if "@" in name} | made
