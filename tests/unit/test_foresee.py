# SPDX-License-Identifier: LGPL-2.1-or-later
"""What persistctl verify says of an image before it boots, beside the reasons that a verdict can have."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from persist.cli.main import main
from persist.foresee.checks import FORESEEN, NOT_BEFORE
from persist.verdict import not_before_pid1
from persist.volume import mode
from persist.volume.members import oddity
from persist.volume.mount import foreign, strange

VOLUME = "/run/persist/volume"


class Machine:
    """An image with nothing wrong: the target enabled, a stage in its initrd, a public name for the
    volume."""

    def __init__(self, top: Path) -> None:
        self.top = top
        for directory in (
            "etc/systemd/system/local-fs.target.wants",
            "usr/lib/persist.d",
            "usr/lib/systemd/system",
            "mnt/state",
            "var/lib",
            "srv",
            "usr/share/initramfs-tools/hooks",
            "usr/lib/sysusers.d",
            "usr/bin",
        ):
            (top / directory).mkdir(parents=True)
        (top / "usr/share/initramfs-tools/hooks/persist").touch()
        (top / "usr/lib/systemd/system/persist-setup.target").touch()
        (top / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        (top / "etc/group").write_text("root:x:0:\nadm:x:4:\n")
        (top / "usr/lib/sysusers.d/d.conf").write_text('# comment\nu! daemon-user - "A user" /\ng shared -\n')
        self.link(
            "etc/systemd/system/local-fs.target.wants/persist-setup.target",
            "/usr/lib/systemd/system/persist-setup.target",
        )

    def link(self, name: str, target: str) -> None:
        (self.top / name).symlink_to(target)

    def file(self, name: str, text: str = "") -> None:
        (self.top / name).parent.mkdir(parents=True, exist_ok=True)
        (self.top / name).write_text(text)

    def registry(self, text: str) -> None:
        self.file("usr/lib/persist.d/t.conf", text)

    def verify(self, capsys: pytest.CaptureFixture[str], *files: str) -> tuple[int, list[dict[str, Any]]]:
        status = main(["verify", "--json", f"--root={self.top}", *files])
        found = json.loads(capsys.readouterr().out)
        assert (status == 0) == found["ok"]
        return status, found["problems"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def _one(problems: list[dict[str, Any]]) -> dict[str, Any]:
    assert len(problems) == 1, problems
    return problems[0]


def test_nothing_is_wrong(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    (machine.top / "srv/data").mkdir()
    machine.registry(
        "[Path]\nPath=/srv/data\nMethod=bind\nUser=daemon-user\nGroup=shared\n[Path]\nPath=/srv/data/sub\nMethod=overlay\n"
    )
    assert machine.verify(capsys) == (0, [])
    assert main(["verify", f"--root={machine.top}"]) == 0
    assert capsys.readouterr().out == "2 entries: nothing is wrong.\n"


ENTRIES = [
    # (setting up, the section after [Path], level, what is said)
    (
        "",
        "Path=/srv/d\nMethod=bind\nUser=nobody-knows",
        3,
        "User=nobody-knows: neither /etc/passwd nor sysusers.d",
    ),
    (
        "",
        "Path=/srv/d\nMethod=bind\nGroup=nobody-knows",
        3,
        "Group=nobody-knows: neither /etc/group nor sysusers.d",
    ),
    ("", "Path=/srv/d\nMethod=bind\nGroup=adm", 0, ""),
    ("", "Path=/srv/d\nMethod=bind\nUser=4711", 0, ""),
    (
        "",
        "Path=/srv/f\nMethod=overlay",
        3,
        "/srv/f is a file in the image and the entry needs a directory. Use Method=bind.",
    ),
    (
        "",
        "Path=/srv/f\nMethod=bind\nType=directory",
        3,
        "/srv/f is a file in the image and the entry needs a directory. Correct Type=",
    ),
    (
        "",
        "Path=/srv/d\nMethod=bind\nType=file",
        3,
        "/srv/d is a directory in the image and the entry needs a file.",
    ),
    ("", "Path=/srv/f\nMethod=bind", 0, ""),
    ("", "Path=/srv/absent\nMethod=bind\nType=directory", 5, "/srv/absent does not exist in the image"),
    (
        "etc/fstab",
        "Path=/srv/absent\nMethod=overlay",
        4,
        "/srv/absent does not exist in the image, and its root is read-only (/etc/fstab)",
    ),
    (
        "etc/fstab",
        "Path=/srv/absent\nMethod=symlink",
        4,
        f"Put the link into the image: 'ln -sT {VOLUME}/srv/absent DIR/srv/absent'.",
    ),
    (
        "",
        "Path=/srv/d\nMethod=symlink",
        5,
        f"Move the directory away first, and make the link: 'ln -sT {VOLUME}/srv/d DIR/srv/d'.",
    ),
    (
        "etc/fstab",
        "Path=/srv/d\nMethod=symlink",
        4,
        "/srv/d is a directory and not a link to the volume, and its root is read-only (/etc/fstab)",
    ),
    (f"/srv/good -> {VOLUME}/srv/good", "Path=/srv/good\nMethod=symlink", 0, ""),
    ("/srv/public -> /mnt/state/srv/public", "Path=/srv/public\nMethod=symlink", 0, ""),
    ("/srv/bad -> /somewhere", "Path=/srv/bad\nMethod=symlink", 3, f"'ln -sfn {VOLUME}/srv/bad DIR/srv/bad'"),
    (
        "",
        "Path=/srv/d\nMethod=bind\nServices=absent.service",
        4,
        "Services=absent.service: the image has no such unit.",
    ),
    ("", "Path=/srv/d\nMethod=bind\nServices=there.service there@x.service", 0, ""),
    (
        "",
        "Path=/srv/d\nMethod=bind\nMdoe=0700",
        4,
        "Unknown key 'Mdoe=' in section [Path], ignoring. Did you mean Mode=?",
    ),
    (
        "",
        "Path=/srv/d\nMethod=bind\nXyzzyPlugh=1",
        4,
        "Unknown key 'XyzzyPlugh=' in section [Path], ignoring.",
    ),
]


@pytest.mark.parametrize(("setup", "section", "level", "said"), ENTRIES)
def test_entries(
    machine: Machine, capsys: pytest.CaptureFixture[str], setup: str, section: str, level: int, said: str
) -> None:
    (machine.top / "srv/d").mkdir()
    machine.file("srv/f")
    machine.file("usr/lib/systemd/system/there.service")
    machine.file("usr/lib/systemd/system/there@.service")
    if setup == "etc/fstab":
        machine.file(setup, "# /dev/none / ext4 rw\nLABEL=root / ext4 noatime,ro 0 1\n")
    elif setup:
        name, _, target = setup.partition(" -> ")
        machine.link(name[1:], target)
    machine.registry(f"[Path]\n{section}\n")
    status, problems = machine.verify(capsys)
    assert status == (1 if level in (3, 4) else 0)
    if not level:
        assert problems == []
        return
    found = _one(problems)
    assert found["level"] == level and said.replace("DIR", str(machine.top)) in found["message"], (
        "a command must not change the build host"
    )
    assert found["where"].startswith("/usr/lib/persist.d/t.conf:")
    if not said.startswith("Unknown key 'Mdoe"):
        assert said.endswith("ignoring.") == found["message"].endswith("ignoring.")


@pytest.mark.parametrize(
    ("unit", "made"),
    [
        ("data.mount", True),
        ("data-my\\x2ddisk.mount", True),
        ("swapfile.swap", True),
        ("other.mount", False),
        ("other.swap", False),
        ("srv-over.mount", True),
        ("systemd-cryptsetup@my\\x2dstate.service", True),
        ("systemd-cryptsetup@other.service", False),
        ("old.service", True),
        ("old.socket", False),
        ("system-getty.slice", True),
        ("dev-vdb.device", True),
        ("-.mount", True),
        ("other.service", False),
    ],
)
def test_services_that_are_made_when_it_boots(
    machine: Machine, capsys: pytest.CaptureFixture[str], unit: str, made: bool
) -> None:
    """They have no file in the image: fstab, crypttab and init scripts become units, and so do our
    entries."""
    for directory in ("srv/d", "srv/over", "etc/init.d"):
        (machine.top / directory).mkdir()
    machine.file("etc/init.d/old")
    machine.file(
        "etc/fstab",
        "/dev/vdb /data ext4 defaults 0 0\n/dev/vdc /data/my-disk ext4 defaults 0 0\n/swapfile none swap sw "
        "0 0\n",
    )
    machine.file("etc/crypttab", "# other /dev/vdz\nmy-state /dev/vdd none luks\n")
    machine.registry(f"[Path]\nPath=/srv/d\nMethod=bind\nServices={unit}\n[Path]\nPath=/srv/over\n")
    # Of / and slices, which start before us.
    problems = [p["message"] for p in machine.verify(capsys)[1] if "cannot wait for" not in p["message"]]
    assert problems == (
        [] if made else [f"Services={unit}: the image has no such unit. Correct it, or take it out."]
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("User=nobody-knows", "Correct it, or ship a sysusers.d file."),
        ("Group=nobody-knows", "Correct it, or ship a sysusers.d file."),
        (
            "Services=there.service absent.service",
            "Services=absent.service: the image has no such unit. Correct it, or take it out.",
        ),
        ("Services=systemd-remount-fs.service", "Services=systemd-remount-fs.service starts before"),
        ("SeedFrom=/srv/absent", "SeedFrom=/srv/absent does not exist in the image"),
        ("Method=bind\nEarly=yes", "Early= has no effect"),
    ],
)
def test_a_problem_with_a_key_points_at_its_line(
    machine: Machine, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    for unit in ("there.service", "systemd-remount-fs.service"):
        machine.file(f"usr/lib/systemd/system/{unit}")
    text = f"[Path]\nPath=/srv/new\nMethod=bind\nServices=there.service\n{line}\n"
    machine.registry(text)
    found = _one([p for p in machine.verify(capsys)[1] if said in p["message"]])
    assert (
        found["where"] == f"/usr/lib/persist.d/t.conf:{text.count(chr(10))}" and found["path"] == "/srv/new"
    )


def test_what_an_entry_above_can_make_on_the_volume_need_not_be_in_the_image(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    (machine.top / "srv/d").mkdir()
    machine.registry("[Path]\nPath=/srv/d\nMethod=overlay\n[Path]\nPath=/srv/d/new\nMethod=bind\n")
    assert machine.verify(capsys) == (0, [])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tmpfs /srv/x tmpfs mode=755 0 0", "/etc/fstab:2 mounts a tmpfs, which is lost at power-off"),
        ("/dev/sda1 /srv/x ext4 ro 0 0", "/etc/fstab:2 mounts it read-only"),
        (
            "/dev/sda1 /srv/x ext4 nofail,noauto 0 0",
            "/etc/fstab:2 mounts it only when it is asked to (noauto)",
        ),
        ("/dev/sda1 /srv/x ext4 errors=remount-ro 0 0", ""),
        ("/dev/sda1 /srv/x", ""),
        ("unit", "/usr/lib/systemd/system/srv-x.mount mounts a tmpfs, which is lost at power-off"),
    ],
)
def test_what_others_mount_and_do_not_keep(
    machine: Machine, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    """The verdict of the first boot would be degraded by it, and of each one after."""
    machine.registry("[Path]\nPath=/srv/x\nMethod=bind\n")
    if line == "unit":
        machine.file("usr/lib/systemd/system/srv-x.mount", "[Mount]\nWhat=tmpfs\nWhere=/srv/x\nType=tmpfs\n")
    else:
        machine.file("etc/fstab", f"# fstab\n{line}\n")
    status, problems = machine.verify(capsys)
    found = [p["message"] for p in problems if "is not kept" in p["message"]]
    assert (status, len(found)) == ((1, 1) if said else (0, 0)) and all(said in m for m in found), problems


def test_the_switch_is_said_and_the_registry_judged_all_the_same(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    (machine.top / "etc/systemd/system/local-fs.target.wants/persist-setup.target").unlink()
    machine.registry("[Path]\nPath=/usr/share/x\n")
    status, problems = machine.verify(capsys)
    assert status == 1
    assert [p["path"] for p in problems if p["level"] == 3] == ["/usr/share/x"]
    assert (
        f"'systemctl --root={machine.top} enable persist-setup.target'"
        in _one([p for p in problems if p["level"] == 4])["message"]
    )


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        (
            "absent",
            "persist is not installed in ROOT (/usr/lib/systemd/system/persist-setup.target is not there), "
            "so no entry takes effect. "
            "Install the package persist there.",
        ),
        (
            "masked",
            "persist-setup.target is masked (/etc/systemd/system/persist-setup.target), so no entry "
            "takes effect. "
            "Run 'systemctl --root=ROOT unmask persist-setup.target'.",
        ),
        ("masked in /run", "Run 'systemctl --root=ROOT --runtime unmask persist-setup.target'."),
        ("absent and masked", "persist is not installed in ROOT"),
    ],
)
def test_an_image_in_which_persist_cannot_start(
    machine: Machine, capsys: pytest.CaptureFixture[str], setup: str, said: str
) -> None:
    """Enabling the target is what helps only where it can be enabled."""
    if "absent" in setup:
        (machine.top / "usr/lib/systemd/system/persist-setup.target").unlink()
        (machine.top / "etc/systemd/system/local-fs.target.wants/persist-setup.target").unlink()
    if "masked" in setup:
        base = "run" if "/run" in setup else "etc"
        (machine.top / base / "systemd/system").mkdir(parents=True, exist_ok=True)
        machine.link(f"{base}/systemd/system/persist-setup.target", "/dev/null")
    status, problems = machine.verify(capsys)
    assert (status, _one(problems)["level"]) == (1, 4) and said.replace("ROOT", str(machine.top)) in _one(
        problems
    )["message"]


def test_an_image_without_a_stage_before_pid_1(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    (machine.top / "usr/share/initramfs-tools/hooks/persist").unlink()
    machine.registry("[Path]\nPath=/etc\nMethod=overlay\n")
    status, problems = machine.verify(capsys)
    assert (
        status == 1
        and _one(problems)["level"] == 3
        and "persist-initramfs-tools" in _one(problems)["message"]
    )


@pytest.mark.parametrize("spec", ["vdb", "UID=1234", "sda1,sdb1"])
def test_a_device_that_is_none(machine: Machine, capsys: pytest.CaptureFixture[str], spec: str) -> None:
    machine.file("usr/lib/persist/persist.conf", f"[Volume]\nDevice={spec}\n")
    assert any(f"Device={spec}" in p["message"] and p["level"] == 3 for p in machine.verify(capsys)[1])


OVERLAY = "[Path]\nPath=/var\nMethod=overlay\n"


@pytest.mark.parametrize(
    ("file", "text", "path", "where"),
    [
        ("etc/fstab", "/var/swap\\040file none swap sw 0 0\n", "/var/swap file", "/etc/fstab:1"),
        ("etc/exports", "# exports\n/var/share *(rw)\n", "/var/share", "/etc/exports:2"),
        ("etc/exports.d/more.exports", "/var/more *(rw)\n", "/var/more", "/etc/exports.d/more.exports:1"),
        ("usr/sbin/dockerd", "", "/var/lib/docker", "/usr/sbin/dockerd"),
        ("usr/bin/podman", "", "/var/lib/containers", "/usr/bin/podman"),
        ("usr/bin/containerd", "", "/var/lib/containerd", "/usr/bin/containerd"),
    ],
)
def test_what_an_overlay_cannot_do(
    machine: Machine, capsys: pytest.CaptureFixture[str], file: str, text: str, path: str, where: str
) -> None:
    machine.file(file, text)
    machine.registry(OVERLAY)
    found = _one(machine.verify(capsys)[1])
    assert (found["level"], found["path"], found["where"]) == (4, path, where)
    assert f"{path} would lie on the overlay of /var (/usr/lib/persist.d/t.conf:2)" in found["message"]
    assert ("Method=bind" in found["message"]) != (
        f"'persistctl preset enable --root={machine.top} " in found["message"]
    )
    machine.registry(OVERLAY + f'[Path]\nPath="{path}"\nMethod=bind\n')
    assert machine.verify(capsys) == (0, []), "an entry of its own"


def test_files_that_are_not_installed(
    machine: Machine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    machine.registry("[Path]\nPath=relative\n")
    (machine.top / "srv/d").mkdir()
    file = tmp_path / "package.persist"
    file.write_text("[Path]\nPath=/srv/d\nMethod=bind\nMdoe=0700\n[Path]\nPath=/usr/share/x\n")
    status, problems = machine.verify(capsys, str(file))
    assert status == 1
    assert sorted((p["level"], p["where"]) for p in problems) == [
        (3, f"{file}:6"),
        (4, f"{file}:4"),
        (5, str(file)),
    ]
    assert "does not end in .conf" in problems[-1]["message"]
    assert not [
        p for p in machine.verify(capsys, str(file.rename(file.with_suffix(".conf"))))[1] if p["level"] == 5
    ]
    assert main(["verify", str(tmp_path / "absent")]) == 1
    assert "is not a file" in capsys.readouterr().err


def test_a_path_that_is_taken_out_is_no_problem(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.registry(
        "[Path]\nPath=/srv\nMethod=none\n[Path]\nPath=/srv\n[Path]\nPath=/srv/hole\nMethod=image\n"
    )
    assert machine.verify(capsys) == (0, [])


def test_links_that_lead_nowhere_or_to_the_host_end_nothing(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an image, absolute links lead within it; a loop is told where it matters, and all the rest is
    judged."""
    (machine.top / "srv/d").mkdir()
    (machine.top / "var/opt/public").mkdir(parents=True)
    machine.link("l1", "l2")
    machine.link("l2", "l1")
    machine.link("lnk", "/var/opt")
    (machine.top / "usr/local/lib").mkdir(parents=True)
    machine.link("usr/local/lib/systemd", "/l1")
    machine.file("usr/lib/persist/persist.conf", "[Volume]\nMount=/lnk/public\n")
    machine.registry(
        "[Path]\nPath=/srv/d\nMethod=bind\nSeedFrom=/l1/q\nServices=absent.service\n[Path]\nPath=/usr/share/x\n"
    )
    status, problems = machine.verify(capsys)
    assert status == 1 and {p["path"] for p in problems} == {"/srv/d", "/usr/share/x"}, problems
    assert any("absent.service" in p["message"] for p in problems)


def test_counts_agree_and_the_severity_is_shown(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    (machine.top / "srv/d").mkdir()
    machine.registry(
        "[Path]\nPath=/srv/d\nMethod=bind\nMdoe=0700\nUser=absent\n[Path]\nPath=/usr/share/x\n[Path]\nPath=/srv/d\n"
    )
    assert main(["verify", f"--root={machine.top}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    words = [line.split(":")[0] for line in lines[:-1]]
    assert (words.count("error"), words.count("warning"), words.count("notice")) == (2, 1, 1)
    assert lines[-1] == "1 entry: 2 errors, 1 warning, 1 notice."


# Where the code stands among the arguments.
CODES_AT = {"Reason": 0, "because": 0, "Ambiguous": 0, "Missing": 2, "Untrusted": 3, "Oddity": 0}


def _codes(module: Path) -> set[str]:
    """The codes of all reasons that a module can give for a verdict."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call):
            name = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else node.func.id
                if isinstance(node.func, ast.Name)
                else ""
            )
            place = {
                "Reason": 0,
                "because": 0,
                "Ambiguous": 0,
                "Missing": 2,
                "Untrusted": 3,
                "Oddity": 0,
            }.get(name)
            if place is not None and len(node.args) > place:
                # Also where one of two is chosen.
                found |= {n.value for n in ast.walk(node.args[place]) if isinstance(n, ast.Constant)} - {
                    "code",
                    "PERSIST_REASON",
                    "reason",
                    "VOLUME_STRANGE",
                }
        elif (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == "code"
            and isinstance(node.value, ast.Constant)
        ):
            found.add(node.value.value)
    return {str(c) for c in found if c}


def test_each_reason_of_the_verdict_is_foreseen_or_cannot_be() -> None:
    code = (Path(__file__).parents[2] / "persist").rglob("*.py")
    # Why the stage before PID 1 leaves something to persist-volume.service is no reason of the verdict.
    every = set().union(*(_codes(m) for m in code if m.parent.name != "early"))
    every |= {
        oddity.MISSING,
        oddity.STALE,
        oddity.SPLIT,
        oddity.CLONED,
        oddity.NONE,
        oddity.REPLACING,
        oddity.UNDECIDED,
    }
    every |= {
        not_before_pid1.STATE,
        mode.READ_ONLY.code,
        foreign.CODE,
        strange.STRANGE,
        "broken",
        "volume-json",
        "volume-service",
    }
    assert len(every) > 25
    assert sorted(every - set(FORESEEN) - set(NOT_BEFORE)) == [], (
        "say in persist/foresee/checks.py what foresees it, or why nothing can"
    )
    assert sorted((set(FORESEEN) | set(NOT_BEFORE)) - every) == [], "nothing gives that reason any more"
    assert not set(FORESEEN) & set(NOT_BEFORE)


def test_identity_sections_are_judged(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the catalogue too, where no entry is; each mistake once."""
    section = "[Identity]\nPath=%s\nAction=%s\nColour=red\n"
    machine.registry(
        "[Path]\nPath=/srv/d\nMethod=bind\n" + section % ("/etc/x", "explode") + section % ("/*", "remove")
    )
    (machine.top / "srv/d").mkdir()
    machine.file("usr/lib/persist/identity.d/c.conf", section % ("relative", "remove"))
    found = [(p["where"].rpartition("/")[2], p["message"][:14]) for p in machine.verify(capsys)[1]]
    assert sorted(found) == [
        ("c.conf:2", "Path=relative:"),
        ("c.conf:4", "Unknown key 'C"),
        ("t.conf:11", "Unknown key 'C"),
        ("t.conf:6", "Action=explode"),
        ("t.conf:7", "Unknown key 'C"),
        ("t.conf:9", "Path=/*: '/*' "),
    ]
