# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which entries come from this image, and have been through its migrations; they are stamped before their
markers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from persist.record import replace
from persist.seed.request import Result

from .test_seed_basic import Rig
from .test_seed_cuts import killed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root")


class Stamped(Rig):
    """A rig that notes what is stamped, and whether its marker was there."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.note = top / "stamped"
        self.image("7")

    def image(self, version: str) -> None:
        self.roots = replace(self.roots, image_version=version, stamp=self._stamp)

    def _stamp(self, path: str) -> None:
        assert self.marker(path) is None
        with self.note.open("a") as f:
            f.write(f"{path}\n")

    def stamped(self) -> list[str]:
        return self.note.read_text().split() if self.note.exists() else []


@pytest.fixture
def rig(tmp_path: Path) -> Stamped:
    return Stamped(tmp_path)


@pytest.mark.parametrize("method", ["bind", "symlink", "overlay"])
@pytest.mark.parametrize("there", [True, False])
def test_of_the_image(rig: Stamped, method: str, there: bool) -> None:
    rig.put("/srv/x")
    if there:
        rig.put("/srv/data/f")
    rig.seed("/srv/data", method)
    assert rig.stamped() == ["/srv/data"] and (rig.marker("/srv/data") or {})["fresh"] is True
    rig.seed("/srv/data", method)
    assert rig.stamped() == ["/srv/data"], "once"


def test_seeded_from_the_image_by_name(rig: Stamped) -> None:
    rig.put("/usr/share/factory/srv/data/f")
    (rig.root / "usr/share/link").symlink_to("factory")
    rig.seed("/srv/data", seed_from="/usr/share/link/srv/data")
    assert rig.stamped() == ["/srv/data"]


@pytest.mark.parametrize("method", ["bind", "overlay"])
def test_what_is_adopted_is_of_any_age(rig: Stamped, method: str) -> None:
    rig.put("/srv/data/f")
    if method == "bind":
        rig.at("/srv/data").mkdir(parents=True)
        (rig.at("/srv/data") / "f").touch()
    else:
        rig.at("/.persist/overlay/srv-data").mkdir(parents=True, mode=0o700)
        for part in (".persist", ".persist/overlay"):
            rig.at(part).chmod(0o700)
    rig.seed("/srv/data", method)
    assert rig.stamped() == [] and (rig.marker("/srv/data") or {})["fresh"] is False


def _apart(rig: Stamped, top: Path) -> None:
    """The root shows more than the image."""
    shutil.copytree(rig.root, top / "image")
    rig.roots = replace(rig.roots, image=str(top / "image"), lower=str(top / "image"))


def test_what_the_machine_had_there_is_of_any_age(rig: Stamped, tmp_path: Path) -> None:
    rig.put("/srv/data/f")
    _apart(rig, tmp_path)
    rig.seed("/srv/data")
    assert rig.stamped() == []


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("method", ["bind", "overlay"])
def test_below_an_overlay(rig: Stamped, tmp_path: Path, method: str, kept: bool) -> None:
    """What that one has kept of the path is of any age; what it only shows is the image's."""
    rig.put("/srv/data/f")
    rig.seed("/srv", "overlay")
    _apart(rig, tmp_path)
    if kept:
        (rig.at("/.persist/overlay/srv/upper") / "data").mkdir()
    rig.seed("/srv/data", method)
    assert rig.stamped() == ["/srv"] + ([] if kept else ["/srv/data"])


def test_not_by_another_image_that_completes_it(rig: Stamped) -> None:
    rig.put("/srv/data/f")
    assert killed(lambda: rig.seed("/srv/data"), "placed")
    rig.image("8")
    rig.seed("/srv/data")
    assert rig.stamped() == [], "what image 7 has copied has not been through the migrations of 8"


@pytest.mark.parametrize("step", ["copied", "synced", "intent", "placed", "manifest"])
def test_a_cut_loses_no_stamp(rig: Stamped, step: str) -> None:
    rig.put("/srv/data/f")
    assert killed(lambda: rig.seed("/srv/data"), step)
    result: Result = rig.seed("/srv/data")
    assert result.state == "seeded" and set(rig.stamped()) == {"/srv/data"}


def test_a_stamp_that_cannot_be_written_costs_the_seed(rig: Stamped) -> None:
    rig.put("/srv/data/f")

    def full(path: str) -> None:
        raise OSError(28, "No space left on device")

    rig.roots = replace(rig.roots, stamp=full)
    with pytest.raises(Exception, match="No space left"):
        rig.seed("/srv/data")
    assert rig.marker("/srv/data") is None
    rig.image("7")
    rig.seed("/srv/data")
    assert rig.stamped() == ["/srv/data"]


def test_markers_of_before(rig: Stamped) -> None:
    """A marker-to-be that an older persist has left says nothing of it."""
    rig.put("/srv/data/f")
    assert killed(lambda: rig.seed("/srv/data"), "placed")
    marker = rig.at("/.persist/tmp/srv-data/marker")
    marker.write_text(json.dumps({k: v for k, v in json.loads(marker.read_text()).items() if k != "fresh"}))
    rig.seed("/srv/data")
    assert rig.stamped() == []
