# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry stays what it was seeded as: whole-system kept /home by an overlay once, and by a bind now."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from persist.boot import paths
from persist.boot.load import Loaded, load
from persist.entries import as_seeded, bind, stores
from persist.entries.bring_up import bring_up
from persist.entries.take_back import TakeBack
from persist.seed.intent import Intent
from persist.seed.tree import Progress, Summary
from persist.services import bind as bind_service
from persist.services import seed as seed_service
from persist.system import mountinfo
from persist.verdict import current
from persist.verdict.entry_state import EntryState, Here, entry_state
from persist.verdict.look import Look
from persist.volume import outcome
from persist.volume.ondisk import store
from persist.volume.outcome import Outcome

from .namespace import disk, kept, kept_overlay, own_machine, registry, sh

BIND = "[Path]\nPath=/srv/home\nMethod=bind\n"
BELOW = "[Path]\nPath=/srv/home/data\nMethod=bind\n"


def seeded(path: str, method: str) -> None:
    """Its marker, with the method."""
    Path(f"{paths.STORE}/seed/{paths.escape(path)}.json").write_text(
        f'{{"version": 1, "method": "{method}"}}'
    )


def overlay() -> None:
    """/srv/home of the image, and what an overlay entry has kept of it."""
    disk()
    os.makedirs("/srv/home/image")
    (kept_overlay("/srv/home") / "mine").write_text("mine")
    seeded("/srv/home", "overlay")
    # /srv is a mount of its own here.
    sh("umount /run/persist/private/lower; mount --rbind / /run/persist/private/lower")


def boot(loaded: Loaded) -> list[str]:
    """What persist-volume.service has to say."""
    return [str(p) for p in bring_up(loaded, Outcome("btrfs"), print)]


def states(loaded: Loaded) -> list[EntryState]:
    """What the verdict says of the entries of the plan."""
    as_seeded.settle(loaded, root_kept=True)
    look = Look()
    return [
        entry_state(planned, Here(look, look.mount(paths.VOLUME), "btrfs", "/mnt/state"))
        for planned in loaded.plan.entries
    ]


@own_machine
def test_what_an_overlay_has_kept_is_in_sight() -> None:
    overlay()
    assert boot(registry(BIND)) == []
    at = mountinfo.at("/srv/home")
    assert at is not None and at.fstype == "overlay" and at.lacks("nosuid,nodev") == ""
    assert sorted(os.listdir("/srv/home")) == ["image", "mine"]
    assert [(e.path, e.state, e.method, e.reason) for e in states(registry(BIND))] == [
        ("/srv/home", "mounted", "overlay", "")
    ]
    assert (
        boot(registry(BIND)) == [] and sum(m.mount_point == "/srv/home" for m in mountinfo.mounts()) == 1
    ), "once"
    assert bind_service.main("srv-home") == 0 and mountinfo.at("/srv/home") == at


@own_machine
def test_a_bind_below_it_is_in_sight_too() -> None:
    """A bind above it would keep it, an overlay does not: what it has lies beside the overlay's."""
    overlay()
    kept("/srv/home/data", "kept")
    seeded("/srv/home/data", "bind")
    registry(BIND)
    Path("/run/persist.d/t.conf").write_text(BIND + BELOW)
    loaded = load("", os.environ)
    assert [out.state for out in loaded.plan.outside] == ["ignored"]
    assert boot(loaded) == []
    assert (Path("/srv/home/data/f").read_text(), Path("/srv/home/mine").read_text()) == ("kept", "mine")
    assert [(e.path, e.state, e.method) for e in states(load("", os.environ))] == [
        ("/srv/home", "mounted", "overlay"),
        ("/srv/home/data", "mounted", "bind"),
    ]
    assert not loaded.plan.outside and not [p for p in loaded.problems if "keeps it already" in str(p)]


@own_machine
def test_all_else_is_as_ever() -> None:
    disk()
    for path, method in (("/srv/bind", "bind"), ("/srv/late", "overlay")):
        os.makedirs(path)
        kept(path, "kept")
        seeded(path, method)
    os.makedirs("/srv/new")
    text = "".join(f"[Path]\nPath={p}\nMethod=bind\n" for p in ("/srv/bind", "/srv/new", "/srv/late/x"))
    loaded = registry(text, fstab="tmpfs /srv/late tmpfs defaults 0 0\n")
    assert as_seeded.settle(loaded, root_kept=True) == as_seeded.Settled()
    assert boot(loaded) == []
    assert Path("/srv/bind/f").read_text() == "kept"


@own_machine
def test_a_marker_that_is_none() -> None:
    """Nothing is guessed, and what is wrong is said once."""
    overlay()
    Path(f"{paths.STORE}/seed/srv-home.json").write_text("[")
    problems = boot(registry(BIND))
    assert len(problems) == 1 and "is not a marker of persist" in problems[0]
    assert mountinfo.at("/srv/home") is None


def whole_marker(path: str, method: str) -> None:
    """Its marker as seeding writes it."""
    made = Intent(path, method, "directory", "", path, adopted=False, summary=Summary(), listed=False)
    Path(f"{paths.STORE}/seed/{paths.escape(path)}.json").write_bytes(made.to_json(paths.escape(path)))


def in_memory() -> None:
    """What stands for a volume as well, where no filesystem of a kind is needed."""
    sh(f"mkdir -p {paths.VOLUME}; mount -t tmpfs none {paths.VOLUME}")
    store.make(paths.VOLUME)


def content(method: str, path: str = "/srv/x", make: Callable[[], None] = disk) -> None:
    """A bind or symlink entry on the volume, and what the image has at the path: a directory, or the link."""
    make()
    kept(path, "kept")
    whole_marker(path, method)
    if method == "bind":
        os.makedirs(path)
        Path(f"{path}/image").touch()
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(paths.VOLUME + path, path)


def says(method: str, path: str = "/srv/x", **more: str) -> Loaded:
    """The registry now."""
    return registry(f"[Path]\nPath={path}\nMethod={method}\n", **more)


def begins(loaded: Loaded, **root: Any) -> list[str]:
    """persist-volume.service, and what it leaves for the services after it."""
    stores.clear()
    result = Outcome("btrfs", **root)
    problems = [str(p) for p in bring_up(loaded, result, print)]
    outcome.write(result)
    return problems


def now() -> list[tuple[str, ...]]:
    """What the verdict says, with its notices."""
    found, _ = current.current({})  # the tests may run in a container
    assert not [r for r in found.reasons if r.path], found.reasons
    return [(e.method, e.state, *[n.message for n in found.notices]) for e in found.entries]


def stays(form: str, says: str) -> str:
    return f"/srv/x was seeded for Method={form} and stays so; Method={says} in its entry has no effect."


@own_machine
def test_a_bind_that_says_overlay_stays_a_bind() -> None:
    content("bind")
    loaded = says("overlay")
    assert "ConditionPathIsMountPoint=!/srv/x\n" in loaded.plan.files["srv-x.mount"]
    assert begins(loaded) == []
    assert os.listdir("/srv/x") == ["f"] and stores.flag("srv-x")
    assert not os.path.exists(f"{paths.STORE}/overlay/srv-x")
    assert now() == [("bind", "mounted", stays("bind", "overlay"))]


@own_machine
def test_a_link_that_says_overlay_stays_a_link() -> None:
    content("symlink")
    assert begins(says("overlay")) == []
    assert mountinfo.at("/srv/x") is None and Path("/srv/x/f").read_text() == "kept"
    for _ in range(2):
        assert not stores.flag("srv-x"), "PID 1 would mount an overlay on it"
        assert seed_service.main("srv-x") == 0
    assert now() == [("symlink", "linked", stays("symlink", "overlay"))]


@own_machine
def test_an_overlay_that_says_symlink_stays_an_overlay() -> None:
    overlay()
    os.rename("/srv/home", "/srv/x")
    os.rename(f"{paths.STORE}/overlay/srv-home", f"{paths.STORE}/overlay/srv-x")
    seeded("/srv/x", "overlay")
    assert begins(says("symlink")) == []
    assert sorted(os.listdir("/srv/x")) == ["image", "mine"]
    assert seed_service.main("srv-x") == 0 and sorted(os.listdir("/srv/x")) == ["image", "mine"]
    assert now() == [("overlay", "mounted", stays("overlay", "symlink"))]


@own_machine
def test_an_overlay_cannot_be_mounted_over_a_link() -> None:
    """Nothing is begun anew behind the link, and it is said where the content is."""
    disk()
    kept_overlay("/srv/x")
    seeded("/srv/x", "overlay")
    os.symlink(f"{paths.VOLUME}/srv/x", "/srv/x")
    problems = begins(says("symlink"))
    assert len(problems) == 1 and "is in '/run/persist/volume/.persist/overlay/srv-x/upper'" in problems[0]
    assert seed_service.main("srv-x") == 1 and not os.path.lexists(f"{paths.VOLUME}/srv/x")


@own_machine
def test_a_bind_becomes_a_link() -> None:
    content("bind")
    loaded = says("symlink")
    assert begins(loaded) == [] and not stores.flag("srv-x") and mountinfo.at("/srv/x") is None
    assert seed_service.main("srv-x") == 0
    assert os.readlink("/srv/x") == f"{paths.VOLUME}/srv/x" and Path("/srv/x/f").read_text() == "kept"
    assert os.listdir("/srv/x.persist-orig") == ["image"]
    assert now() == [("symlink", "linked")]
    assert begins(says("symlink")) == [] and stores.flag("srv-x"), (
        "and at the next boot nothing is to be done"
    )


@own_machine
def test_a_link_becomes_a_bind() -> None:
    content("bind")
    assert begins(says("symlink")) == [] and seed_service.main("srv-x") == 0
    assert begins(says("bind")) == [] and not stores.flag("srv-x")
    assert seed_service.main("srv-x") == 0 and os.listdir("/srv/x") == ["image"], "what was laid aside"
    assert bind_service.main("srv-x") == 0
    assert os.listdir("/srv/x") == ["f"] and not os.path.lexists("/srv/x.persist-orig")
    assert now() == [("bind", "mounted")]


@own_machine
@pytest.mark.parametrize("root", [{"root_memory": "in memory"}, {"root_read_only": True}])
def test_where_the_root_keeps_nothing_nothing_is_converted(root: dict[str, Any]) -> None:
    """The image would be back at the next boot."""
    content("bind")
    assert begins(says("symlink"), **root) == [] and stores.flag("srv-x")
    assert os.listdir("/srv/x") == ["f"] and mountinfo.at("/srv/x") is not None
    assert now() == [("bind", "mounted", stays("bind", "symlink"))]
    sh("umount /srv/x; rm -r /srv/x; ln -s /run/persist/volume/srv/x /srv/x")
    whole_marker("/srv/x", "symlink")
    assert begins(says("bind"), **root) == [] and bind_service.main("srv-x") == 0
    assert os.path.islink("/srv/x") and stores.flag("srv-x")
    assert now() == [("symlink", "linked", stays("symlink", "bind"))]


@own_machine
def test_what_cannot_be_converted_is_kept_all_the_same() -> None:
    content("bind")
    os.mkdir("/srv/x.persist-orig")
    assert begins(says("symlink")) == []
    assert seed_service.main("srv-x") == 0
    assert os.listdir("/srv/x") == ["f"] and not os.path.islink("/srv/x") and stores.flag("srv-x")
    assert now() == [("bind", "mounted", stays("bind", "symlink"))]


@own_machine
@pytest.mark.parametrize(
    ("was", "wanted"), [("bind", "overlay"), ("overlay", "bind"), ("overlay", "symlink")]
)
def test_below_a_mount_of_fstab(was: str, wanted: str) -> None:
    """It comes after persist-volume.service, so the entry's own services mount it."""
    disk()
    if was == "bind":
        kept("/srv/late/x", "kept")
    else:
        (kept_overlay("/srv/late/x") / "f").touch()
    seeded("/srv/late/x", was)
    os.mkdir("/srv/late")
    loaded = says(wanted, "/srv/late/x", fstab="tmpfs /srv/late tmpfs defaults 0 0\n")
    assert begins(loaded) == []
    if wanted == "overlay":
        assert not stores.flag("srv-late-x"), "PID 1 would mount an overlay"
    sh("mount -t tmpfs none /srv/late; mkdir /srv/late/x")
    if not stores.flag("srv-late-x"):
        assert seed_service.main("srv-late-x") == 0
    if wanted == "bind":
        assert bind_service.main("srv-late-x") == 0
    assert os.listdir("/srv/late/x") == ["f"] and stores.flag("srv-late-x")
    assert [found[1] for found in now()] == ["mounted"]


@own_machine
def test_with_persist_ro_the_volume_says_the_form() -> None:
    disk(paths.READONLY)
    kept("/srv/x", "kept", paths.READONLY)
    Path(f"{paths.READONLY}/.persist/seed/srv-x.json").write_text('{"version": 1, "method": "bind"}')
    sh(f"mount -o remount,ro {paths.READONLY}; mkdir -p /srv/x {paths.VOLUME}")
    sh(f"mount -t tmpfs none {paths.VOLUME}")
    store.make(paths.VOLUME)
    loaded = says("overlay", cmdline="quiet persist=ro")
    assert [str(p) for p in bring_up(loaded, Outcome("tmpfs"), print)] == []
    assert Path("/srv/x/f").read_text() == "kept"


@own_machine
def test_a_link_that_was_replaced_is_taken_back() -> None:
    content("symlink")
    for name in ("link", "gone"):
        kept(f"/srv/{name}", "kept")
        sh(f"rm -r {paths.VOLUME}/srv/{name}; echo old >{paths.VOLUME}/srv/{name}; echo new >/srv/{name}")
    says("symlink", "/srv/link")
    assert seed_service.link_main("srv-gone") == 0 and Path("/srv/gone").read_text() == "new\n", "no entry"
    assert seed_service.link_main("srv-link") == 0
    assert os.readlink("/srv/link") == f"{paths.VOLUME}/srv/link" and Path("/srv/link").read_text() == "new\n"
    assert [f.read_text() for f in Path(f"{paths.STORE}/replaced").iterdir()] == ["old\n"]
    sh(f"rm /srv/link; echo newer >/srv/link; mount -o remount,ro {paths.VOLUME}")
    assert seed_service.link_main("srv-link") == 1 and Path("/srv/link").read_text() == "newer\n"
    assert not os.path.islink("/srv/link")
    sh(f"umount -l {paths.VOLUME}")
    assert seed_service.link_main("srv-link") == 1 and Path("/srv/link").read_text() == "newer\n"
    assert not os.path.islink("/srv/link") and not os.listdir(paths.VOLUME)


@own_machine
@pytest.mark.parametrize("method", ["bind", "overlay"])
def test_a_new_overlay_below_what_is_a_bind(method: str) -> None:
    content("bind")
    sh(f"mkdir /srv/x/app {paths.VOLUME}/srv/x/app; touch /srv/x/app/image {paths.VOLUME}/srv/x/app/mine")
    sh("umount /run/persist/private/lower; mount --rbind / /run/persist/private/lower")
    loaded = registry(f"[Path]\nPath=/srv/x\nMethod={method}\n[Path]\nPath=/srv/x/app\n")
    assert begins(loaded) == [] and "mine" in os.listdir("/srv/x/app")
    assert seed_service.main("srv-x-app") == 1 and not stores.flag("srv-x-app"), "so PID 1 does not mount it"
    # Where nothing would be hidden it is as ever.
    sh(f"rm -r {paths.VOLUME}/srv/x/app; cp -a /run/persist/private/lower/srv/x/app {paths.VOLUME}/srv/x/")
    assert seed_service.main("srv-x-app") == 0 and stores.flag("srv-x-app")


@own_machine
@pytest.mark.parametrize(("was", "wanted"), [("bind", "symlink"), ("symlink", "bind")])
def test_converted_but_for_the_marker(was: str, wanted: str) -> None:
    """The marker cannot be replaced."""
    content(was)
    assert begins(says(wanted)) == []
    marker = f"{paths.STORE}/seed/srv-x.json"
    sh(f"chattr +i {marker}")
    assert seed_service.main("srv-x") == 0 and (wanted == "symlink" or bind_service.main("srv-x") == 0)
    sh(f"chattr -i {marker}")
    assert os.listdir("/srv/x") == ["f"] and stores.flag("srv-x")
    assert [found[0] for found in now()] == [wanted]
    assert begins(says(wanted)) == [] and os.listdir("/srv/x") == ["f"] and len(now()) == 1


@own_machine
def test_no_link_is_taken_back_into_memory() -> None:
    """The root filesystem may keep the file."""
    in_memory()
    sh("echo new >/srv/link")
    says("symlink", "/srv/link")
    assert seed_service.link_main("srv-link") == 0 and Path("/srv/link").read_text() == "new\n"
    assert not os.path.islink("/srv/link") and not os.path.lexists(f"{paths.VOLUME}/srv/link")


@own_machine
def test_an_overlay_on_what_the_image_has_not() -> None:
    """Its seed has made an empty directory there, in a root that was in memory, or another image's."""
    in_memory()
    sh(f"for d in image lower; do umount -R {paths.PRIVATE}/$d; mount --rbind / {paths.PRIVATE}/$d; done")
    (kept_overlay("/srv/x") / "mine").touch()
    seeded("/srv/x", "overlay")
    loaded = says("overlay")
    assert begins(loaded) == [] and os.listdir(f"{paths.LOWER}/srv/x") == []
    assert bind.mount_overlay(loaded.plan.entries[0], loaded) and os.listdir("/srv/x") == ["mine"]
    sh("umount /srv/x; rmdir /srv/x; mount -o remount,ro,bind /run/persist/private/image/srv")
    (said,) = begins(says("overlay"))
    assert "'/srv/x' from the state volume" in said and "cannot be made: Read-only file system" in said
    assert not bind.mount_overlay(loaded.plan.entries[0], loaded)


@own_machine
@pytest.mark.parametrize("method", ["bind", "symlink"])
@pytest.mark.parametrize("there", [True, False])
def test_below_an_overlay_that_stays_a_bind(method: str, there: bool) -> None:
    """The path is its own place on the volume: a link there would lead to itself."""
    content("bind", make=in_memory)
    if there:
        sh(f"mkdir {paths.VOLUME}/srv/x/data; touch {paths.VOLUME}/srv/x/data/mine")
    text = f"[Path]\nPath=/srv/x\n[Path]\nPath=/srv/x/data\nMethod={method}\n"
    for _ in range(2):
        assert begins(registry(text)) == []
        assert seed_service.main("srv-x-data") == 0
        assert method == "symlink" or bind_service.main("srv-x-data") == 0
        assert sorted(os.listdir("/srv/x")) == ["data", "f"] and stores.flag("srv-x-data")
        assert not os.path.islink("/srv/x/data") and os.listdir("/srv/x/data") == ["mine"] * there
        assert [found[0] for found in now()] == ["bind", method]
        sh("umount /srv/x")


@own_machine
def test_a_link_is_taken_back_onto_a_volume_that_is_nearly_full() -> None:
    """What is kept free for others when entries are seeded is there for this."""
    in_memory()
    sh(f"cd {paths.VOLUME}; mount -o remount,size=16M .; fallocate -l 15700K big; mkdir srv; echo old >srv/f")
    Path("/srv/f").write_text("new\n")
    assert TakeBack("/srv/f", Progress(print)).run()
    assert os.path.islink("/srv/f") and Path("/srv/f").read_text() == "new\n"
