# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries that PID 1 reads and that were not mounted before it, with all that lies below: their states, the
reasons, and hints that can help. verdict_scene.py has the machinery."""

from __future__ import annotations

from pathlib import Path

import pytest

from persist.boot.load import load
from persist.early import left
from persist.record import replace
from persist.system.mountinfo import Mount
from persist.verdict import judge as v
from persist.verdict.not_before_pid1 import missing
from persist.volume.outcome import Outcome

from .verdict_scene import BTRFS, ROOT, VOLUME_MOUNT, FakeLook, Scene, codes, overlay, states

HOOK, DRACUT = "/usr/share/initramfs-tools/hooks/persist", "/usr/lib/dracut/modules.d/90persist"
_DONE = "and restart the machine; if that was done already, see 'journalctl -k -b -t persist-early'."
REBUILD = f"Run 'update-initramfs -u' {_DONE}"
BELOW = "/etc|overlay\n/etc/app|bind\n/etc/app/hole|image\n/etc/link|symlink\n/etc/memory|tmpfs\n/srv|overlay"
HERE = [ROOT, VOLUME_MOUNT, overlay("/srv", 31)]


@pytest.fixture
def late(tmp_path: Path) -> Scene:
    """A machine whose PID 1 has started before anything of ours was mounted."""
    scene = Scene(tmp_path)
    scene.mountinfo(ROOT)
    return scene


def test_all_that_is_below(late: Scene) -> None:
    """Each has the state; a hole in what is not kept is where it should be, and needs no reason."""
    late.registry(BELOW)
    found = late.judge(FakeLook(HERE, there=(HOOK,)))
    assert states(found) == {"/srv": "mounted"} | dict.fromkeys(
        ("/etc", "/etc/app", "/etc/app/hole", "/etc/link", "/etc/memory"), "not-before-pid1"
    )
    assert found.verdict == v.DEGRADED and set(codes(found)) == {"not-before-pid1"}
    assert [r.path for r in found.reasons] == ["/etc", "/etc/app", "/etc/link", "/etc/memory"]
    assert [e.path for e in found.entries if e.unit] == ["/srv"]
    assert found.reasons[0].message == (
        "/etc is as the image has it on this boot: it was not mounted before PID 1 started."
    )
    assert found.reasons[1].message == (
        "/etc/app is as the image has it on this boot: /etc above it was not mounted before PID 1 started."
    )
    assert {r.hint for r in found.reasons} == {REBUILD}


def test_memory_that_is_not_needed(late: Scene) -> None:
    late.registry("/etc|overlay\n/etc/memory|tmpfs")
    found = late.judge(FakeLook(HERE, writable=True))
    assert states(found) == {"/etc": "not-before-pid1", "/etc/memory": "tmpfs"}


@pytest.mark.parametrize(
    ("volume", "mounts", "word", "state"),
    [
        (Outcome(kind="root", reason="missing", message="None."), [ROOT, VOLUME_MOUNT], v.ONLINE, "root"),
        (Outcome(reason="missing", message="None."), [ROOT], v.OFF, "waiting"),
        (Outcome(kind="tmpfs", reason="missing", message="None."), [ROOT, VOLUME_MOUNT], v.VOLATILE, ""),
    ],
)
def test_where_there_is_no_volume(
    late: Scene, volume: Outcome, mounts: list[Mount], word: str, state: str
) -> None:
    """A root that keeps what is written keeps /etc too, whenever PID 1 has read it."""
    late.registry("/etc|overlay")
    found = late.judge(FakeLook(mounts, writable=True), volume)
    assert found.verdict == word and states(found) == {"/etc": state or "not-before-pid1"}
    assert ("not-before-pid1" in codes(found)) is (state == "")


def test_somebody_elses_mount(late: Scene) -> None:
    """It is looked at as it is."""
    late.registry("/etc|overlay")
    found = late.judge(
        FakeLook([ROOT, VOLUME_MOUNT, Mount(30, 1, "0:9", "/", "/etc", "rw", "tmpfs", "x", "rw")])
    )
    assert states(found) == {"/etc": "failed"} and "umount /etc" in found.reasons[0].hint


@pytest.mark.parametrize(
    ("kind", "there", "told", "hint"),
    [
        (
            "btrfs",
            (),
            None,
            "Install persist-initramfs-tools or persist-dracut, whichever makes the initrd here",
        ),
        ("btrfs", (HOOK,), None, REBUILD),
        ("btrfs", (DRACUT,), None, f"Run 'dracut -f' {_DONE}"),
        ("btrfs", (HOOK, DRACUT), None, "Run 'update-initramfs -u' or 'dracut -f' and restart"),
        ("native", (HOOK,), None, "Before PID 1 only volumes made by persist (btrfs) are mounted. "),
        ("native", (), {"/etc": "It is an ext4."}, "Before PID 1 only volumes made by persist"),
        ("btrfs", (HOOK,), {}, "The entry was added after this boot had begun: restart the machine."),
        ("btrfs", (), {"/etc": "The disk is not there yet."}, "See 'journalctl -k -b -t persist-early'."),
        ("btrfs", (HOOK,), {"/etc": ""}, "See 'journalctl -k -b -t persist-early'."),
    ],
)
def test_advice_that_can_help(
    late: Scene, kind: str, there: tuple[str, ...], told: dict[str, str] | None, hint: str
) -> None:
    late.registry("/etc|overlay\n/etc/deep/app|bind")
    look = FakeLook(HERE, there=there)
    look.told = told
    found = late.judge(look, replace(BTRFS, kind=kind))
    assert codes(found) == ["not-before-pid1"] * 2
    assert all(r.hint.startswith(hint) for r in found.reasons), found.reasons
    said = [r.message.endswith(f" {why}") for r in found.reasons for why in (told or {}).values() if why]
    assert all(said), "what the stage has said of an entry holds for all below"


def test_a_boot_without_an_initrd(late: Scene) -> None:
    late.registry("/etc|overlay")
    late.environ["SYSTEMD_PROC_CMDLINE"] = "init=/usr/lib/persist/persist-init"
    found = late.judge(FakeLook(HERE, there=(HOOK,)))
    assert found.reasons[0].hint == "See 'journalctl -k -b -t persist-early'."


def test_what_no_stage_can_mount(late: Scene) -> None:
    (late.root / "etc/fstab").write_text(
        "LABEL=u /usr ext4 defaults 0 0\nLABEL=l /usr/local/lib ext4 defaults 0 0\n"
    )
    late.registry("/usr/local|overlay\n/usr/local/lib/systemd|overlay")
    late.mountinfo(ROOT, overlay("/usr/local", 30))
    mounts = [ROOT, VOLUME_MOUNT, overlay("/usr/local", 30)]
    found = late.judge(FakeLook(mounts, there=(HOOK,)))
    assert states(found) == {"/usr/local": "early", "/usr/local/lib/systemd": "not-before-pid1"}
    (reason,) = found.reasons
    assert "/etc/fstab:2 mounts /usr/local/lib above it" in reason.message
    assert reason.hint.startswith("Have the initrd mount /usr/local/lib, or ")


def test_what_is_missing_before_a_boot(tmp_path: Path) -> None:
    scene = Scene(tmp_path)

    def lacking(*there: str) -> str:
        return missing(load(str(scene.root), scene.environ), lambda path: path in there)

    scene.registry("/srv|overlay")
    assert lacking() == ""
    scene.registry("/etc|overlay\n/usr/local|bind\n/etc/systemd/system|image")
    assert lacking().startswith(
        "/etc /usr/local must be mounted before PID 1 starts, and nothing here does that."
    )
    assert lacking(HOOK) == lacking(DRACUT) == ""
    scene.environ["SYSTEMD_PROC_CMDLINE"] = "quiet init=/usr/lib/persist/persist-init"
    assert lacking() == ""


def test_an_image_is_taken_to_boot_well(late: Scene) -> None:
    """What this machine has mounted says nothing of the next boot."""
    late.registry(BELOW)
    wanted = load(str(late.root), late.environ, wanted=True).plan
    assert [p.path for p in wanted.entries if p.before_pid1] == ["/etc"] and wanted.outside == []
    (late.root / "proc/1/mountinfo").unlink()
    assert load(str(late.root), late.environ).plan.files == wanted.files


@pytest.mark.parametrize(
    ("text", "found"),
    [(None, None), ("", {}), ("[1]", {}), ("{", {}), ("\xff", {}), ('{"/etc": "Why."}', {"/etc": "Why."})],
)
def test_what_the_stage_has_left(tmp_path: Path, text: str | None, found: dict[str, str] | None) -> None:
    if text is not None:
        (tmp_path / "run/persist").mkdir(parents=True)
        (tmp_path / "run/persist/left").write_text(text, encoding="latin-1")
    assert left.read(str(tmp_path)) == found
