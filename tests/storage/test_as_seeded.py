# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry stays what it was seeded as: whole-system kept /home by an overlay once, and by a bind now."""

from __future__ import annotations

import os
from pathlib import Path

from persist.boot import paths
from persist.boot.load import Loaded, load
from persist.entries import as_seeded, stores
from persist.entries.bring_up import bring_up
from persist.services import bind as bind_service
from persist.system import mountinfo
from persist.verdict.entry_state import EntryState, Here, entry_state
from persist.verdict.look import Look
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
    as_seeded.settle(loaded)
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
    kept_overlay("/srv/over")
    seeded("/srv/over", "bind")
    text = "".join(f"[Path]\nPath={p}\nMethod=bind\n" for p in ("/srv/bind", "/srv/new", "/srv/late/x"))
    loaded = registry(text + "[Path]\nPath=/srv/over\n", fstab="tmpfs /srv/late tmpfs defaults 0 0\n")
    assert as_seeded.settle(loaded) == []
    problems = boot(loaded)
    assert (
        len(problems) == 1
        and "Refused to use '/srv/over'" in problems[0]
        and "was seeded for Method=bind" in problems[0]
    )
    assert not stores.flag("srv-over") and Path("/srv/bind/f").read_text() == "kept"


@own_machine
def test_a_marker_that_is_none() -> None:
    """Nothing is guessed, and what is wrong is said once."""
    overlay()
    Path(f"{paths.STORE}/seed/srv-home.json").write_text("[")
    problems = boot(registry(BIND))
    assert len(problems) == 1 and "is not a marker of persist" in problems[0]
    assert mountinfo.at("/srv/home") is None
