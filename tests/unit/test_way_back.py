# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a clone gets an identity of its own: unit files of images that were never booted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persist.seal import again
from persist.seal.again import Again
from persist.seal.section import Item
from persist.seal.way_back import judge, regenerate_list

UNITS = "usr/lib/systemd/system"
ETC = "etc/systemd/system"
BUS = "usr/share/dbus-1/system-services"
# What every Debian has: multi-user.target and all that it needs.
BASE = {
    f"{UNITS}/default.target": "-> graphical.target",
    f"{UNITS}/graphical.target": "[Unit]\nRequires=multi-user.target\n",
    f"{UNITS}/multi-user.target": "[Unit]\nRequires=basic.target\n",
    f"{UNITS}/basic.target": (
        "[Unit]\nRequires=sysinit.target\nWants=sockets.target timers.target\nWants=paths.target\n"
    ),
    f"{UNITS}/sysinit.target": "[Unit]\nWants=local-fs.target\n",
    f"{UNITS}/sockets.target": "[Unit]\n",
    f"{UNITS}/timers.target": "[Unit]\n",
    f"{UNITS}/paths.target": "[Unit]\n",
    f"{UNITS}/local-fs.target": "[Unit]\n",
    "usr/bin/true": "#!",
    "bin": "-> usr/bin",
}
KEYGEN = "[Service]\nType=oneshot\nExecStart=/bin/true\n"
FIRST = "[Unit]\nConditionFirstBoot=yes\n"
OURS = {
    f"{UNITS}/persist-regenerate.service": KEYGEN,
    f"{UNITS}/sysinit.target.wants/persist-regenerate.service": "-> ../persist-regenerate.service",
}
PATHS = ("/etc/x/key", "/etc/x/key.pub")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, BASE)
    return tmp_path


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(text[3:])
            continue
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)


def item(action: str = "remove", cls: str = "identity", by: str = "", regenerate: str = "") -> Item:
    return Item(PATHS, action, cls, regenerated_by=by, regenerate=regenerate, source="x.conf:3")


def why(root: Path, machine_id: str = "empty", by: str = "keygen.service", **more: str) -> str:
    return judge(item(by=by, **more), PATHS, str(root), machine_id)


# Files of the image -> a piece of the sentence, '' where the clone gets its key.
STARTED = {
    "not-there": ({}, "is not there"),
    "not-enabled": ({f"{UNITS}/keygen.service": KEYGEN}, "is not enabled"),
    "masked": (
        {f"{UNITS}/keygen.service": KEYGEN, f"{ETC}/keygen.service": "-> /dev/null"},
        "is masked",
    ),
    "masked-by-an-empty-file": (
        {f"{UNITS}/keygen.service": KEYGEN, f"{ETC}/keygen.service": ""},
        "is masked",
    ),
    "enabled": (
        {
            f"{UNITS}/keygen.service": KEYGEN,
            f"{ETC}/multi-user.target.wants/keygen.service": f"-> /{UNITS}/keygen.service",
        },
        "",
    ),
    "enabled-for-a-target-that-nothing-starts": (
        {
            f"{UNITS}/keygen.service": KEYGEN,
            f"{UNITS}/rescue.target": "[Unit]\n",
            f"{ETC}/rescue.target.wants/keygen.service": f"-> /{UNITS}/keygen.service",
        },
        "is not enabled",
    ),
    "the-link-is-masked": (
        {
            f"{UNITS}/keygen.service": KEYGEN,
            f"{ETC}/multi-user.target.wants/keygen.service": "-> /dev/null",
        },
        "is not enabled",
    ),
    "wanted-by-its-user": (
        {
            f"{UNITS}/keygen.service": KEYGEN,
            f"{UNITS}/user.service": "[Unit]\nWants=other.service \\\n  keygen.service\n",
            f"{ETC}/multi-user.target.wants/user.service": f"-> /{UNITS}/user.service",
        },
        "",
    ),
    "wanted-by-a-user-that-is-not-enabled": (
        {f"{UNITS}/keygen.service": KEYGEN, f"{UNITS}/user.service": "[Unit]\nWants=keygen.service\n"},
        "is not enabled",
    ),
    "wanted-no-more-by-a-drop-in": (
        {
            f"{UNITS}/keygen.service": KEYGEN,
            f"{UNITS}/user.service": "[Unit]\nWants=keygen.service\n",
            f"{ETC}/user.service.d/own.conf": "[Unit]\nWants=\n",
            f"{ETC}/multi-user.target.wants/user.service": f"-> /{UNITS}/user.service",
        },
        "is not enabled",
    ),
    "wanted-by-a-drop-in-of-all-instances": (
        {
            f"{UNITS}/keygen.service": KEYGEN,
            f"{UNITS}/user@.service": KEYGEN,
            f"{UNITS}/user@.service.d/own.conf": "[Unit]\nRequires=keygen.service\n",
            f"{ETC}/multi-user.target.wants/user@one.service": f"-> /{UNITS}/user@.service",
        },
        "",
    ),
    "by-a-socket": (
        {
            f"{UNITS}/keygen.service": KEYGEN,
            f"{UNITS}/keygen.socket": "[Socket]\nListenStream=/run/x\n",
            f"{ETC}/sockets.target.wants/keygen.socket": f"-> /{UNITS}/keygen.socket",
        },
        "",
    ),
    "by-a-socket-of-another-name": (
        {
            f"{UNITS}/keygen.service": KEYGEN,
            f"{UNITS}/other.socket": "[Socket]\nListenStream=/run/x\nService=keygen.service\n",
            f"{ETC}/sockets.target.wants/other.socket": f"-> /{UNITS}/other.socket",
        },
        "",
    ),
    "by-a-timer": (
        {
            f"{UNITS}/keygen.service": KEYGEN,
            f"{UNITS}/keygen.timer": "[Timer]\nOnBootSec=1\n",
            f"{ETC}/timers.target.wants/keygen.timer": f"-> /{UNITS}/keygen.timer",
        },
        "",
    ),
    "by-a-path": (
        {
            f"{UNITS}/keygen.service": KEYGEN,
            f"{UNITS}/other.path": "[Path]\nPathExists=/x\nUnit=keygen.service\n",
            f"{ETC}/paths.target.wants/other.path": f"-> /{UNITS}/other.path",
        },
        "",
    ),
    "by-a-bus-name": (
        {
            f"{UNITS}/keygen.service": KEYGEN,
            f"{ETC}/dbus-x.service": f"-> /{UNITS}/keygen.service",
            f"{BUS}/x.service": "[D-BUS Service]\nName=x\nSystemdService=dbus-x.service\n",
        },
        "",
    ),
    "by-a-device": (
        {
            f"{UNITS}/keygen@.service": KEYGEN,
            f"{UNITS}/keygen.service": "[Unit]\n",
            f"{UNITS}/keygen@.service.wants/keygen.service": "-> ../keygen.service",
            "usr/lib/udev/rules.d/80-x.rules": 'KERNEL=="x*", ENV{SYSTEMD_WANTS}+="keygen@$name.service"\n',
        },
        "",
    ),
    "an-alias": (
        {
            f"{UNITS}/real.service": KEYGEN,
            f"{ETC}/keygen.service": f"-> /{UNITS}/real.service",
            f"{ETC}/multi-user.target.wants/real.service": f"-> /{UNITS}/real.service",
        },
        "",
    ),
    "of-an-init-script": (
        {"etc/init.d/keygen": "#!/bin/sh\n", "etc/rc2.d/S01keygen": "-> ../init.d/keygen"},
        "",
    ),
    "of-an-init-script-that-is-not-started": (
        {"etc/init.d/keygen": "#!/bin/sh\n", "etc/rc2.d/K01keygen": "-> ../init.d/keygen"},
        "is not enabled",
    ),
    "by-a-generator": (
        {
            f"{UNITS}/cloud-init.target": "[Unit]\n",
            f"{UNITS}/keygen.service": KEYGEN,
            f"{UNITS}/cloud-init.target.wants/keygen.service": "-> ../keygen.service",
            "usr/lib/systemd/system-generators/cloud-init-generator": "#!/bin/sh\n",
        },
        "",
    ),
    "a-generator-that-is-not-there": (
        {
            f"{UNITS}/cloud-init.target": "[Unit]\n",
            f"{UNITS}/keygen.service": KEYGEN,
            f"{UNITS}/cloud-init.target.wants/keygen.service": "-> ../keygen.service",
        },
        "is not enabled",
    ),
    "another-default": (
        {
            f"{ETC}/default.target": f"-> /{UNITS}/own.target",
            f"{UNITS}/own.target": "[Unit]\nWants=keygen.service\n",
            f"{UNITS}/keygen.service": KEYGEN,
        },
        "",
    ),
    "a-circle": (
        {
            f"{UNITS}/keygen.service": "[Unit]\nWants=a.service\n",
            f"{UNITS}/a.service": "[Unit]\nWants=keygen.service\n",
        },
        "is not enabled",
    ),
    "a-link-that-leads-to-itself": ({f"{UNITS}/keygen.service": "-> keygen.service"}, "is masked"),
}


@pytest.mark.parametrize("case", STARTED)
def test_who_is_started(root: Path, case: str) -> None:
    files, piece = STARTED[case]
    put(root, files)
    said = why(root)
    assert piece in said if piece else said == ""
    if piece:
        assert said.startswith("RegeneratedBy=keygen.service ") and said.endswith("/etc/x/key anew.")


ENABLED = {f"{ETC}/multi-user.target.wants/keygen.service": f"-> /{UNITS}/keygen.service"}
CONDITIONS = {
    # conditions -> whether it runs with an empty id, and with an uninitialized one
    "ConditionFirstBoot=yes\n": (False, True),
    "ConditionFirstBoot=true\n": (False, True),
    "AssertFirstBoot=yes\n": (False, True),
    "ConditionFirstBoot=!yes\n": (True, False),
    "ConditionFirstBoot=no\n": (True, False),
    "ConditionFirstBoot=yes\nConditionFirstBoot=\n": (True, True),
    "ConditionFirstBoot=|yes\nConditionPathExists=|!/etc/x/key\n": (True, True),
    "ConditionFirstBoot=|yes\nConditionPathExists=!/etc/x/key\n": (False, True),
    "ConditionPathExists=!/etc/x/key\n": (True, True),
    "#ConditionFirstBoot=yes\n": (True, True),
}


@pytest.mark.parametrize("text", CONDITIONS)
def test_first_boot(root: Path, text: str) -> None:
    """Debian 13's sshd-keygen.service never runs where the machine-id was emptied."""
    put(root, ENABLED | {f"{UNITS}/keygen.service": f"[Unit]\n{text}{KEYGEN}"})
    found = [why(root, machine_id) for machine_id in ("empty", "uninitialized")]
    assert [said == "" for said in found] == list(CONDITIONS[text])
    assert all("FirstBoot=" in said and "first boot" in said for said in found if said)


def test_a_drop_in_takes_the_condition_away(root: Path) -> None:
    put(root, ENABLED | {f"{UNITS}/keygen.service": FIRST + KEYGEN})
    put(root, {f"{ETC}/keygen.service.d/always.conf": "[Unit]\nConditionFirstBoot=\n"})
    assert why(root) == ""


def test_a_section_of_another_unit_is_not_read(root: Path) -> None:
    """[Install] says what would be started, and not what is."""
    put(root, {f"{UNITS}/keygen.service": KEYGEN + "[Install]\nWantedBy=multi-user.target\n"})
    assert "is not enabled" in why(root)


def test_links_do_not_leave_the_image(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An absolute link is one of the image: what this machine has there does not count."""
    outside = tmp_path_factory.mktemp("outside")
    put(outside, {"keygen.service": KEYGEN})
    put(root, ENABLED | {f"{ETC}/keygen.service": f"-> {outside}/keygen.service"})
    assert "RegeneratedBy=keygen.service" in why(root)
    put(root, {f"{outside}/keygen.service".lstrip("/"): KEYGEN})


def test_neither(root: Path) -> None:
    for cls, wrong in (
        ("identity", True),
        ("secret", True),
        ("log", False),
        ("cache", False),
        ("user", False),
    ):
        assert bool(judge(item(cls=cls), PATHS, str(root), "empty")) == wrong
    assert judge(item(by="none"), PATHS, str(root), "empty") == ""


def test_what_is_not_wiped_needs_no_way_back(root: Path) -> None:
    assert judge(item(), [], str(root), "empty") == ""
    assert judge(item(action="report"), PATHS, str(root), "empty") == ""
    assert judge(item(cls="shared"), PATHS, str(root), "empty") == ""


def test_commands(root: Path) -> None:
    """They need somebody who runs them, and the program."""
    assert "persist-regenerate.service, which is not installed" in why(
        root, by="", regenerate="/usr/bin/true"
    )
    put(root, {f"{UNITS}/persist-regenerate.service": KEYGEN})
    other = root.parent / (root.name + "-2")  # an image is read once
    root.rename(other)
    assert "which nothing starts" in why(other, by="", regenerate="/usr/bin/true")
    third = root.parent / (root.name + "-3")
    put(third, BASE | OURS)
    assert why(third, by="", regenerate="/usr/bin/true -A") == ""
    assert why(third, by="", regenerate="/bin/true") == ""  # through a link of the image
    assert why(third, by="", regenerate="/usr/sbin/gone -A").startswith(
        "/usr/sbin/gone of Regenerate= is not"
    )
    assert "or no program" in why(third, by="", regenerate=f"/{UNITS}/sysinit.target")
    shell = "/usr/bin/true -c 'umask 077; /usr/sbin/{} >/etc/x/key'"
    assert why(third, by="", regenerate=shell.format("gone")).startswith(
        "/usr/sbin/gone of Regenerate= is not"
    )
    assert why(third, by="", regenerate=shell.format("../bin/true").replace("/usr/sbin/..", "/usr")) == ""
    # One way is enough, and both are named where none is.
    assert why(third, by="keygen.service", regenerate="/usr/bin/true") == ""
    both = why(third, by="keygen.service", regenerate="/usr/sbin/gone")
    assert "/usr/sbin/gone" in both and "keygen.service is not there" in both


def test_a_masked_service_runs_nothing(root: Path) -> None:
    put(root, {**OURS, f"{ETC}/persist-regenerate.service": "-> /dev/null"})
    assert "which is masked" in why(root, by="", regenerate="/usr/bin/true")


def lines(data: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in data.splitlines()]


def test_the_list() -> None:
    ssh = item(regenerate='/usr/bin/ssh-keygen -A -C "a b"')
    popcon = Item(("/etc/pop.conf",), "run", regenerate="/usr/sbin/pop --new", source="p.conf:9")
    ignored = [
        (item(by="x.service"), PATHS),
        (item(regenerate="/bin/a"), ()),
        (item("report", regenerate="/bin/b"), PATHS),
        (item(cls="shared", regenerate="/bin/c"), PATHS),
    ]
    data = regenerate_list([(ssh, PATHS), *ignored, (popcon, ["/etc/pop.conf"])])
    assert lines(data) == [
        {
            "paths": list(PATHS),
            "command": ["/usr/bin/ssh-keygen", "-A", "-C", "a b"],
            "source": "x.conf:3",
            "anyway": False,
        },
        {
            "paths": ["/etc/pop.conf"],
            "command": ["/usr/sbin/pop", "--new"],
            "source": "p.conf:9",
            "anyway": True,
        },
    ]
    assert regenerate_list([]) == b"" and regenerate_list(ignored) == b""


def test_a_list_that_is_there_stays() -> None:
    """What it asks for is gone already, and matches nothing any more."""
    first = regenerate_list([(item(regenerate="/bin/a"), ["/etc/x/key"])])
    assert regenerate_list([], first) == first
    again_ = regenerate_list([(item(regenerate="/bin/a"), ["/etc/x/key.pub"])], first)
    assert [each["paths"] for each in lines(again_)] == [["/etc/x/key", "/etc/x/key.pub"]]
    more = regenerate_list([(item(regenerate="/bin/b"), ["/etc/y"])], first)
    assert [each["command"] for each in lines(more)] == [["/bin/a"], ["/bin/b"]]


def test_names_that_are_no_text() -> None:
    odd = "/etc/x/\udcff\n\"'ü"
    data = regenerate_list([(item(regenerate="/bin/a"), [odd])])
    assert data.isascii() and data.count(b"\n") == 1
    assert again.parse(data) == ([Again((odd,), ("/bin/a",), "x.conf:3", False)], [])


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        "{}",
        '{"paths": [], "command": []}',
        '{"paths": "/a", "command": ["/b"]}',
        '{"paths": ["a"], "command": ["/b"]}',
        '{"paths": ["/a"], "command": ["b"]}',
        '{"paths": ["/a"], "command": "b"}',
        '{"paths": ["/a\\u0000"], "command": ["/b"]}',
        '{"paths": ["/a"], "command": [1]}',
        "\udcff",
    ],
)
def test_lines_that_are_none(line: str) -> None:
    good = '{"paths": ["/a"], "command": ["/b"]}\n'
    data = f"{good}{line}\n\n".encode("utf-8", "surrogateescape")
    items, wrong = again.parse(data)
    assert items == [Again(("/a",), ("/b",))]
    assert len(wrong) == 1 and wrong[0].startswith("line 2: ")


RO = "/dev/x / ext4 defaults,ro 0 1\n"
ON = {
    "usr/lib/systemd/system/persist-setup.target": "[Unit]\n",
    f"{ETC}/local-fs.target.wants/persist-setup.target": "-> /usr/lib/systemd/system/persist-setup.target",
}
# fstab and the registry of the image -> the mount point that takes no writes on a clone, '' for none.
FSTAB = {
    "none": ({}, ""),
    "of a comment": ({"etc/fstab": "# " + RO}, ""),
    "rw": ({"etc/fstab": "/dev/x / ext4 rw 0 1\n"}, ""),
    "ro": ({"etc/fstab": RO}, "'/'"),
    "a filesystem of its own": ({"etc/fstab": RO + "/dev/y /etc/x ext4 defaults\n"}, ""),
    "a read-only filesystem of its own": ({"etc/fstab": "/dev/y /etc/x/ ext4 ro\n"}, "'/etc/x'"),
    "another one": ({"etc/fstab": RO + "/dev/y /etc/xy ext4 rw\n"}, "'/'"),
    "kept": ({"etc/fstab": RO, "usr/lib/persist.d/e.conf": "[Path]\nPath=/etc\n", **ON}, ""),
    "not switched on": ({"etc/fstab": RO, "usr/lib/persist.d/e.conf": "[Path]\nPath=/etc\n"}, "'/'"),
    "in memory": (
        {"etc/fstab": RO, "usr/lib/persist.d/e.conf": "[Path]\nPath=/etc/x\nMethod=tmpfs\n", **ON},
        "'/'",
    ),
}


@pytest.mark.parametrize("name", FSTAB)
def test_what_takes_no_writes_on_a_clone(root: Path, name: str) -> None:
    """sshd without host keys does not start, and nobody can log in to see why."""
    files, at = FSTAB[name]
    put(root, OURS | files)
    said = judge(item(regenerate="/bin/true"), PATHS, str(root), "empty")
    assert (f"fstab mounts {at} read-only" in said and "/etc/x/key" in said) if at else said == ""
