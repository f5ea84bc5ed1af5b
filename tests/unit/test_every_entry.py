# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every entry of the registry leaves the verdict with a state and, where it is not in place, a reason; each
state is reached."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from persist.boot.load import load
from persist.boot.paths import IMAGE, STALE, VOLUME, escape
from persist.cli.main import main
from persist.record import replace
from persist.system.mountinfo import Mount
from persist.verdict import judge as v
from persist.verdict.look import Fragment
from persist.volume.outcome import Outcome

from .verdict_scene import (
    BTRFS,
    IMAGE_MOUNT,
    ROOT,
    VOLUME_MOUNT,
    FakeLook,
    Scene,
    bind,
    codes,
    hole,
    overlay,
    states,
)

STATES = {
    "mounted",
    "early",
    "linked",
    "image",
    "tmpfs",
    "root",
    "stale",
    "waiting",
    "failed",
    "elsewhere",
    "ignored",
    "none",
    "refused",
    "off",
}
IN_PLACE = {"mounted", "early", "linked", "image", "tmpfs", "root", "stale"}
ASKED = [ROOT, VOLUME_MOUNT, IMAGE_MOUNT]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def disk(path: str, number: int, *, parent: int = 1, options: str = "rw,relatime") -> Mount:
    """A filesystem of somebody else."""
    return Mount(number, parent, f"8:{number}", "/", path, options, "ext4", f"/dev/sd{number}", "rw")


def memory(path: str, number: int, *, parent: int = 1, fstype: str = "tmpfs", options: str = "rw") -> Mount:
    return Mount(number, parent, f"0:{number}", "/", path, options, fstype, fstype, "rw")


def fstab(scene: Scene, *lines: str) -> None:
    (scene.root / "etc/fstab").write_text("".join(f"{line}\n" for line in lines))


def unit(scene: Scene, name: str, directory: str = "usr/lib/systemd/system") -> None:
    (scene.root / directory).mkdir(parents=True, exist_ok=True)
    (scene.root / directory / name).write_text("[Mount]\n")


# -- the property

PATHS = [
    "/home",
    "/home/a",
    "/home/a/b",
    "/srv",
    "/srv/x",
    "/tmp",
    "/usr/share/x",
    "/opt/alias/x",
    "/opt/real/x",
    "/var",
    "/var/lib",
    "relative",
    "/srv/../x",
    "/srv/a\u2028b",
    "/srv/a\u0085b",
    "/srv/two words",
]
METHODS = ["overlay", "bind", "symlink", "image", "tmpfs", "none", "copy"]


def _machine(scene: Scene, chance: random.Random) -> tuple[set[str], FakeLook]:
    """A random registry and random facts: what fstab and shipped units say, what is mounted, what is a
    link."""
    wanted = set()
    for name in chance.sample(["00-local", "a", "b", "zz-preset-x"], chance.randint(1, 3)):
        text = ""
        for path in chance.choices(PATHS, k=chance.randint(1, 8)):
            wanted.add(path)
            text += f'[Path]\nPath="{path}"\nMethod={chance.choice(METHODS)}\n' + chance.choice(
                ["", "", "Mode=9\n", "Type=file\n", "Early=yes\n"]
            )
        scene.registry(text, name)
    (scene.root / "opt").mkdir(exist_ok=True)
    (scene.root / "opt/alias").unlink(missing_ok=True)
    if chance.random() < 0.5:
        (scene.root / "opt/alias").symlink_to(chance.choice(["real", "/usr/share", "alias", "/home"]))
    fstab(
        scene,
        *(
            f"/dev/sda1 {p.replace(' ', chr(92) + '040')} ext4 defaults 0 0"
            for p in chance.sample(PATHS[:8], chance.randint(0, 3))
        ),
    )
    for path in chance.sample(PATHS[:6], chance.randint(0, 2)):
        unit(scene, f"{escape(path)}.mount")
    mounts = [*ASKED] if chance.random() < 0.7 else [ROOT]
    for number, path in enumerate(chance.sample(PATHS[:12], chance.randint(0, 5)), 30):
        mounts.append(chance.choice([disk, memory, overlay, bind])(path, number))
    look = FakeLook(
        mounts,
        seeded=chance.sample([escape(p) for p in PATHS], 8),
        there=chance.sample(PATHS, 4),
        writable=chance.random() < 0.5,
    )
    for path in chance.sample(PATHS[:6], chance.randint(0, 2)):
        look.fragments[path] = Fragment(
            "/run/systemd/generator/x.mount", "somebody", "", "", chance.choice(["", "ext4", "tmpfs"])
        )
    return wanted, look


@pytest.mark.parametrize("seed", range(8))
def test_every_entry_has_a_state_and_a_reason(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(40):
        scene = Scene(tmp_path / str(number))
        wanted, look = _machine(scene, chance)
        if chance.random() < 0.1:
            scene.environ["SYSTEMD_PROC_CMDLINE"] = "persist=off"
        volume = replace(
            BTRFS,
            kind=chance.choice(["btrfs", "native", "tmpfs", "root", "none"]),
            reason="",
            root_read_only=chance.random() < 0.5,
        )
        found = scene.judge(look, volume)
        said = f"seed {seed}, round {number}: {states(found)}"
        assert {e.path for e in found.entries} == wanted, said
        assert {e.state for e in found.entries} <= STATES, said
        assert all(e.reason for e in found.entries if e.state not in IN_PLACE), said
        assert all(e.source.rpartition(":")[2].isdigit() for e in found.entries), said
        bad = [e for e in found.entries if e.state in ("failed", "refused")]
        assert all(e.hint for e in bad), said
        if bad:
            assert found.verdict != v.ONLINE, said
        json.dumps(found.as_dict())


def test_each_state_is_reached(scene: Scene) -> None:
    """By one machine for each, so that none is a word that nobody says."""
    seen = set()
    (scene.root / "opt").mkdir()
    fstab(scene, "/dev/sda1 /home ext4 defaults 0 0")
    scene.registry("/var|none\n/srv/twice|bind", "00-local")
    scene.registry(
        "/etc|overlay\n/home|overlay\n/opt/l|symlink\n/srv/a|overlay\n/srv/a/x|image\n/srv/b|bind\n/tmp|tmpfs\n/usr/x|bind\n/srv/twice|bind\n/var|bind"
    )
    mounts = [
        *ASKED,
        overlay("/etc", 30),
        disk("/home", 31),
        overlay("/srv/a", 32),
        hole("/srv/a/x", 33, parent=32),
    ]
    look = FakeLook(
        mounts, links={"/opt/l": VOLUME + "/opt/l"}, there=("/srv/a/x", IMAGE + "/srv/a/x"), writable=True
    )
    seen |= {e.state for e in scene.judge(look).entries}
    assert seen == {
        "none",
        "early",
        "elsewhere",
        "linked",
        "mounted",
        "image",
        "failed",
        "tmpfs",
        "refused",
        "ignored",
    }
    seen |= {e.state for e in scene.judge(FakeLook([ROOT]), Outcome(reason="missing")).entries}
    seen |= {
        e.state for e in scene.judge(FakeLook([ROOT, VOLUME_MOUNT]), replace(BTRFS, kind="root")).entries
    }
    held = Mount(30, 1, "254:0", "/srv/b", "/srv/b", "ro", "ext4", "/dev/vdb", "rw")
    seen |= {
        e.state
        for e in scene.judge(
            FakeLook([ROOT, held], there=(STALE,)), Outcome(reason="missing", expected=True)
        ).entries
    }
    scene.environ["SYSTEMD_PROC_CMDLINE"] = "persist=off"
    seen |= {e.state for e in scene.judge(FakeLook([ROOT])).entries}
    assert seen == STATES


def test_list_has_a_state_and_a_reason_for_each(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """E14: /tmp of Debian 13 was refused, and nobody said why."""
    unit(scene, "tmp.mount")
    fstab(scene, "/dev/sda1 /home ext4 defaults 0 0")
    scene.registry("/var|none\n/srv/twice|bind", "00-local")
    scene.registry(
        "/home|overlay\n/srv/kept|bind\n/srv/wrong|copy\n/srv/twice|bind\n/tmp|tmpfs\n/usr/x|bind\n/var|overlay"
    )
    assert main(["list", "--json", f"--root={scene.root}"]) == 1
    found = {
        (e["path"], e["source"].rpartition("/")[2]): (e["state"], e["reason"])
        for e in json.loads(capsys.readouterr().out)["entries"]
    }
    assert found == {
        ("/home", "app.conf:2"): ("elsewhere", "/etc/fstab:1 mounts it"),
        ("/srv/kept", "app.conf:5"): ("declared", ""),
        ("/srv/twice", "00-local.conf:5"): ("declared", ""),
        ("/srv/twice", "app.conf:11"): (
            "ignored",
            "/usr/lib/persist.d/00-local.conf:5 declares it and sorts first",
        ),
        ("/srv/wrong", "app.conf:9"): ("refused", found["/srv/wrong", "app.conf:9"][1]),
        ("/tmp", "app.conf:14"): ("elsewhere", "/usr/lib/systemd/system/tmp.mount mounts it"),
        ("/usr/x", "app.conf:17"): ("refused", "/usr belongs to the image"),
        ("/var", "00-local.conf:2"): (
            "none",
            "/usr/lib/persist.d/00-local.conf:2 takes it out (Method=none)",
        ),
        ("/var", "app.conf:20"): ("ignored", "taken out by /usr/lib/persist.d/00-local.conf:2 (Method=none)"),
    }
    assert "Method=copy must be one of" in found["/srv/wrong", "app.conf:9"][1]
    assert main(["list", f"--root={scene.root}"]) == 1
    shown = capsys.readouterr()
    assert "/tmp: elsewhere, /usr/lib/systemd/system/tmp.mount mounts it\n" in shown.out
    assert "/usr/x: refused, /usr belongs to the image\n" in shown.out and shown.err == "", (
        "each is said once"
    )


# -- somebody else

WHO = [("fstab", "/etc/fstab:1 mounts it"), ("unit", "/usr/lib/systemd/system/srv.mount mounts it")]
MOUNTED: list[tuple[list[Mount], str, str, str]] = [
    # what is mounted, method, state, end of the reason
    ([disk("/srv", 30)], "overlay", "elsewhere", " (ext4 on /dev/sd30)"),
    ([disk("/srv", 30)], "bind", "elsewhere", " (ext4 on /dev/sd30)"),
    ([disk("/srv", 30)], "symlink", "elsewhere", " (ext4 on /dev/sd30)"),
    ([memory("/srv", 30, fstype="autofs")], "bind", "elsewhere", " (autofs on autofs)"),
    ([], "overlay", "failed", "is not mounted"),
    ([], "bind", "failed", "is not mounted"),
    (
        [memory("/srv", 30)],
        "overlay",
        "failed",
        "is a tmpfs, and what is written to it is lost at power-off",
    ),
    ([memory("/srv", 30, fstype="ramfs")], "bind", "failed", "is a ramfs"),
    ([replace(disk("/srv", 30), source="/dev/zram0")], "bind", "failed", "is on zram0"),
    ([overlay("/srv", 30, upper="/mnt/x/upper")], "bind", "elsewhere", " (overlay on overlay)"),
    ([disk("/srv", 30), memory("/srv", 31, parent=30)], "bind", "failed", "is a tmpfs"),
    ([disk("/srv", 30, options="ro")], "bind", "failed", "is mounted read-only"),
    ([disk("/srv", 30)], "tmpfs", "elsewhere", " (ext4 on /dev/sd30)"),
    ([memory("/srv", 30)], "tmpfs", "elsewhere", " (tmpfs on tmpfs)"),
    ([memory("/srv", 30, options="ro")], "tmpfs", "failed", "is not writable"),
    ([], "tmpfs", "failed", "is not writable"),
    ([memory("/srv", 30)], "image", "elsewhere", " (tmpfs on tmpfs)"),
    ([], "image", "failed", "is not mounted"),
]


@pytest.mark.parametrize(("who", "why"), WHO)
@pytest.mark.parametrize("case", range(len(MOUNTED)))
def test_who_says_that_he_mounts_it_is_believed_of_mountinfo_only(
    scene: Scene, case: int, who: str, why: str
) -> None:
    mounts, method, state, reason = MOUNTED[case]
    if who == "fstab":
        fstab(scene, "/dev/sda1 /srv ext4 defaults 0 0")
    else:
        unit(scene, "srv.mount")
    scene.registry(f"/srv|{method}")
    look = FakeLook([*ASKED, *mounts])
    # tests/unit/test_root_kept.py has how that is known.
    look.forget = {m.mount_point: "on zram0" for m in mounts if m.source == "/dev/zram0"}
    found = scene.judge(look)
    entry = found.entries[0]
    assert (entry.path, entry.method, entry.state) == ("/srv", method, state)
    assert why in entry.reason and reason in entry.reason
    if state == "elsewhere":
        assert (found.verdict, found.reasons) == (v.ONLINE, [])
        assert [(n.code, n.path) for n in found.notices] == (
            [] if method == "tmpfs" else [("elsewhere", "/srv")]
        )
    else:
        assert (found.verdict, codes(found), found.notices) == (v.DEGRADED, ["entry-failed"], [])
        first = "See 'systemctl status srv.mount'" if not mounts or method == "tmpfs" else "Remove that mount"
        assert found.reasons[0].hint.startswith(first) and "Method=none" in found.reasons[0].hint


def test_a_tmpfs_entry_that_a_masked_unit_leaves_without(scene: Scene) -> None:
    """On a root that takes writes that is all that the entry wants; on another one it is not."""
    (scene.root / "etc/systemd/system/tmp.mount").symlink_to("/dev/null")
    scene.registry("/tmp|tmpfs\n/srv|bind")
    mounts = [*ASKED, bind("/srv", 30)]
    well = scene.judge(FakeLook(mounts, writable=True))
    assert (well.verdict, states(well)) == (v.ONLINE, {"/srv": "mounted", "/tmp": "tmpfs"})
    found = scene.judge(FakeLook(mounts))
    assert (found.verdict, states(found)) == (v.DEGRADED, {"/srv": "mounted", "/tmp": "failed"})
    assert "/etc/systemd/system/tmp.mount masks" in found.reasons[0].message


def test_a_whole_system_with_a_line_for_home(scene: Scene) -> None:
    """D3: degraded for ever, and the advice was to correct the vendor's file."""
    fstab(scene, "/dev/sda3 /home ext4 defaults 0 2", "/dev/sda4 /var ext4 defaults 0 2")
    scene.registry("/home|overlay\n/var|overlay\n/var/lib/dpkg|image\n/srv|bind", "zz-preset-whole-system")
    found = scene.judge(FakeLook([*ASKED, disk("/home", 30), disk("/var", 31), bind("/srv", 32)]))
    assert (found.verdict, found.reasons) == (v.ONLINE, [])
    assert states(found) == {
        "/home": "elsewhere",
        "/var": "elsewhere",
        "/var/lib/dpkg": "ignored",
        "/srv": "mounted",
    }
    assert (
        found.as_dict()["notices"][0]["message"]
        == "/home is left alone: /etc/fstab:1 mounts it (ext4 on /dev/sd30)."
    )


@pytest.mark.parametrize(
    ("fstype", "mounts", "word", "state"),
    [
        ("ext4", [disk("/srv", 30)], v.ONLINE, "elsewhere"),
        ("tmpfs", [memory("/srv", 30)], v.DEGRADED, "failed"),
        ("", [disk("/srv", 30)], v.ONLINE, "elsewhere"),
        ("ext4", [disk("/srv", 30, options="ro")], v.DEGRADED, "failed"),
        ("ext4", [memory("/srv", 30)], v.DEGRADED, "failed"),  # not what the unit says: by hand
        ("ext4", [bind("/srv", 30)], v.ONLINE, "mounted"),
        ("ext4", [disk("/srv", 30), bind("/srv", 31, parent=30)], v.ONLINE, "mounted"),
    ],
)
@pytest.mark.parametrize("kind", ["btrfs", "root", "none"])
def test_another_generator_had_the_path_first(
    scene: Scene, fstype: str, mounts: list[Mount], word: str, state: str, kind: str
) -> None:
    """What is in no fstab (systemd.mount-extra=, a GPT, a credential) is known by the unit that was made of
    it."""
    scene.registry("/srv|bind")
    look = FakeLook([*([] if kind == "none" else ASKED), ROOT, *mounts])
    look.fragments["/srv"] = Fragment(
        "/run/systemd/generator/srv.mount", "systemd-fstab-generator", "/proc/cmdline", "/dev/sd30", fstype
    )
    found = scene.judge(look, replace(BTRFS, kind=kind, reason="" if kind != "none" else "missing"))
    entry = found.entries[0]
    if state == "mounted":
        # Beside the others' unit it is in place, and hides what that would show: said once, by what was seen.
        assert kind != "btrfs" or (entry.state, codes(found)) == ("mounted", ["hides"])
        return
    if kind == "btrfs":
        assert (found.verdict, entry.state) == (word, state)
    if state == "elsewhere":
        assert entry.state == state
        assert entry.reason.startswith(
            "/run/systemd/generator/srv.mount (systemd-fstab-generator, from /proc/cmdline) mounts it"
        )


def test_what_somebody_mounts_by_hand_is_not_there_at_the_next_boot(scene: Scene) -> None:
    scene.registry("/srv|bind\n/var|overlay")
    found = scene.judge(FakeLook([*ASKED, disk("/srv", 30), disk("/var", 31)]))
    assert (found.verdict, states(found)) == (v.DEGRADED, {"/srv": "failed", "/var": "failed"})
    assert [r.hint.partition(",")[0] for r in found.reasons] == [
        "Unmount it with 'umount /srv'",
        "Unmount it with 'umount /var'",
    ]


@pytest.mark.parametrize(
    ("method", "mounts", "state"),
    [
        ("overlay", [memory("/srv", 30)], "failed"),
        ("bind", [memory("/srv", 30)], "failed"),
        ("overlay", [], "root"),
        ("overlay", [disk("/srv", 30)], "root"),
        ("tmpfs", [memory("/srv", 30)], "tmpfs"),
    ],
)
def test_memory_on_the_way_to_what_the_root_is_said_to_keep(
    scene: Scene, method: str, mounts: list[Mount], state: str
) -> None:
    """The root filesystem keeps what is on it, and not what a tmpfs on the way shows."""
    scene.registry(f"/srv|{method}" if method == "tmpfs" else f"/srv/x|{method}")
    found = scene.judge(FakeLook([ROOT, VOLUME_MOUNT, *mounts]), replace(BTRFS, kind="root"))
    assert found.entries[0].state == state and (found.verdict == v.ONLINE) == (state != "failed")


# -- none


def test_method_none(scene: Scene) -> None:
    """Takes a path out of what sorts later, with the holes in it, and mistakes for that path with it."""
    scene.registry("/var|none\n/srv/wrong|none", "00-local")
    scene.registry("/var|overlay\n/var/lib/dpkg|image\n/srv/wrong|copy\n/srv|bind", "zz-preset-x")
    found = scene.judge(FakeLook([*ASKED, bind("/srv", 30)]))
    assert (found.verdict, found.reasons, found.notices) == (v.ONLINE, [], [])
    assert [(e.path, e.method, e.state) for e in found.entries] == [
        ("/srv", "bind", "mounted"),
        ("/srv/wrong", "none", "none"),
        ("/var", "none", "none"),
        ("/var/lib/dpkg", "image", "ignored"),
        ("/var", "overlay", "ignored"),
        ("/srv/wrong", "", "ignored"),
    ]
    assert [
        e.reason.startswith("taken out by ")
        for e in found.entries
        if e.method == "overlay" and e.state == "ignored"
    ] == [True]
    assert not [p for p in load(str(scene.root), scene.environ).problems if p.level < 7], (
        "nobody is told what was asked for"
    )


def test_method_none_by_another_name(scene: Scene) -> None:
    (scene.root / "opt/real").mkdir(parents=True)
    (scene.root / "opt/alias").symlink_to("real")
    for first, second in itertools.permutations(["/opt/alias/x", "/opt/real/x"]):
        scene.registry(f"{first}|none", "00-local")
        scene.registry(f"{second}|overlay", "app")
        found = scene.judge(FakeLook(ASKED))
        assert (found.verdict, states(found)) == (v.ONLINE, {first: "none", second: "none"})


def test_method_none_that_sorts_last_takes_nothing_out(scene: Scene) -> None:
    scene.registry("/srv|bind", "app")
    scene.registry("/srv|none", "zz-local")
    found = scene.judge(FakeLook([*ASKED, bind("/srv", 30)]))
    assert [(e.method, e.state) for e in found.entries] == [("bind", "mounted"), ("none", "ignored")]


# -- hints


@pytest.mark.parametrize(
    ("name", "directory", "text", "hint"),
    [
        (
            "app",
            "usr/lib/persist.d",
            "[Path]\nPath=/usr/x\n",
            "The file belongs to a package: put a corrected copy at /etc/persist.d/app.conf, which takes "
            "precedence, or take /usr/x out with Method=none in /etc/persist.d/00-local.conf (persist.d(5)), "
            "then restart the machine.",
        ),
        (
            "app",
            "usr/local/lib/persist.d",
            "[Path]\nPath=/srv/x\nMode=9\n",
            "The file belongs to a package: put a corrected copy at /etc/persist.d/app.conf, "
            "which takes precedence, or take /srv/x out with Method=none in /etc/persist.d/00-local.conf "
            "(persist.d(5)), then restart the machine.",
        ),
        (
            "app",
            "usr/lib/persist.d",
            "[Path]\nMode=9\n",
            "The file belongs to a package: put a corrected copy at /etc/persist.d/app.conf, which takes "
            "precedence, then restart the machine.",
        ),
        (
            "app",
            "etc/persist.d",
            "[Path]\nPath=/usr/x\n",
            "Change or remove the entry (/etc/persist.d/app.conf:2), then restart the machine.",
        ),
        (
            "app",
            "etc/persist.d",
            "[Path]\nPath=/srv/x\nMode=9\n",
            "Correct /etc/persist.d/app.conf:3, then restart the machine.",
        ),
        (
            "zz-preset-x",
            "etc/persist.d",
            "[Path]\nPath=/usr/x\n",
            "The file belongs to a package: take /usr/x out with Method=none in /etc/persist.d/00-local.conf "
            "(persist.d(5)), then restart the machine.",
        ),
        (
            "persist",
            "usr/lib/persist",
            "[Volume]\nSwapSize=x\n",
            "Correct the file in the image, then restart the machine.",
        ),
        ("persist", "run/persist", "[Volume]\nSwapSize=x\n", "Correct the file, then restart the machine."),
    ],
)
def test_nobody_is_told_to_correct_a_file_of_the_vendors(
    scene: Scene, name: str, directory: str, text: str, hint: str
) -> None:
    (scene.root / directory).mkdir(parents=True, exist_ok=True)
    (scene.root / directory / f"{name}.conf").write_text(text)
    scene.registry("/srv|bind", "other")
    found = scene.judge(FakeLook([*ASKED, bind("/srv", 30)]))
    assert [(r.code, r.hint) for r in found.reasons] == [("registry", hint)]
    assert [e.hint for e in found.entries if e.state == "refused"] in ([hint], [])


@pytest.mark.parametrize(
    ("there", "writable", "hint"),
    [
        (
            False,
            False,
            "Put the link into the image: run 'ln -s /run/persist/volume/opt/l /opt/l' when the image is "
            "built.",
        ),
        (False, True, "Put the link into the image: run 'ln -s /run/persist/volume/opt/l /opt/l' here."),
        (
            True,
            False,
            "Remove what is there and run 'ln -s /run/persist/volume/opt/l /opt/l' when the image is built, "
            "or use Method=bind.",
        ),
    ],
)
def test_a_link_that_the_image_has_not_got(scene: Scene, there: bool, writable: bool, hint: str) -> None:
    """E7: the journal of a seed that was skipped has nothing to say."""
    scene.registry("/opt/l|symlink")
    found = scene.judge(FakeLook(ASKED, there=["/opt/l"] if there else [], writable=writable))
    assert found.entries[0].hint == hint and "journal" not in found.reasons[0].hint


@pytest.mark.parametrize("method", ["overlay", "bind", "symlink"])
def test_an_entry_that_came_after_the_boot(scene: Scene, method: str) -> None:
    """Its seed was never started, so neither its journal nor its status has anything to say."""
    scene.registry(f"/opt/l|{method}")
    look = FakeLook(ASKED, seeded=(), links={"/opt/l": VOLUME + "/opt/l"} if method == "symlink" else {})
    assert scene.judge(look).entries[0].hint == "See 'systemctl status persist-seed@opt-l.service'."
    look.was_asked = False
    assert (
        scene.judge(look).entries[0].hint
        == "The entry was added after this boot had begun: restart the machine."
    )


@pytest.mark.parametrize(
    ("maker", "what", "code", "hint"),
    [
        ("systemd-gpt-auto-generator", "/dev/gpt-auto-var", "gpt", "boot with systemd.gpt_auto=0"),
        (
            "systemd-fstab-generator",
            "tmpfs",
            "hides",
            "remove what /run/systemd/generator.late/var.mount is made from",
        ),
        ("", "", "hides", "remove what"),
    ],
)
def test_a_hint_names_only_what_was_seen(scene: Scene, maker: str, what: str, code: str, hint: str) -> None:
    """C7: with systemd.volatile=state nobody has seen a partition."""
    scene.registry("/var|overlay")
    look = FakeLook([*ASKED, overlay("/var", 30)])
    look.fragments["/var"] = Fragment("/run/systemd/generator.late/var.mount", maker, "", what, "")
    found = scene.judge(look)
    assert codes(found) == [code] and hint in found.reasons[0].hint
    assert (
        "artition" not in found.reasons[0].message
        and (maker or "of an unknown generator") in found.reasons[0].message
    )


def test_fragments_of_other_generators(tmp_path: Path) -> None:
    look = v.Look(str(tmp_path), [])
    assert look.fragment("/srv/a b") is None and not look.asked("srv.mount")
    for directory, maker in (
        ("generator", "persist-generator"),
        ("generator.late", "systemd-gpt-auto-generator"),
    ):
        file = tmp_path / "run/systemd" / directory / f"{escape('/srv/a b')}.mount"
        file.parent.mkdir(parents=True)
        file.write_text(
            "# Automatically generated by "
            f"{maker}\n\n[Unit]\nSourcePath=/x=y\n[Mount]\nWhat=/dev/a\nType=ext4\n"
        )
    found = look.fragment("/srv/a b")
    assert found == Fragment(
        "/run/systemd/generator.late/srv-a\\x20b.mount",
        "systemd-gpt-auto-generator",
        "/x=y",
        "/dev/a",
        "ext4",
    )
    assert (
        str(found) == "/run/systemd/generator.late/srv-a\\x20b.mount (systemd-gpt-auto-generator, from /x=y)"
    )
    wants = tmp_path / "run/systemd/generator/persist-setup.target.d/50-persist.conf"
    wants.parent.mkdir()
    wants.write_text("[Unit]\nWants=srv.mount\n")
    assert look.asked("srv.mount") and not look.asked("srv.moun")
