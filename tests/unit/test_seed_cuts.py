# SPDX-License-Identifier: LGPL-2.1-or-later
"""Killed after any step, the next start comes to the same result; and the symlink method, which has the most
steps."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from persist.entries import stores
from persist.errors import PersistError
from persist.record import replace
from persist.seed.steps import STEPS
from persist.system.safepath import Dir

from .test_seed_basic import ID, Rig

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root")


def snapshot(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory but for times."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        st = path.lstat()
        content = ""
        if path.is_symlink():
            content = os.readlink(path)
        elif stat.S_ISREG(st.st_mode) and path.suffix != ".manifest":
            content = "\n".join(x for x in path.read_text().splitlines() if '"time"' not in x)
        found[str(path.relative_to(top))] = (stat.filemode(st.st_mode), st.st_uid, st.st_gid, content)
    return found


def killed(work: Callable[[], object], step: str) -> bool:
    """Run in a child that dies after ``step``; whether it did."""
    child = os.fork()
    if child == 0:
        os.environ["PERSIST_TEST_KILL_AFTER"] = step
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _pid, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def tree(rig: Rig) -> None:
    """Something to keep at /var/lib/x."""
    for i in range(3):
        rig.put(f"/var/lib/x/d{i}/f", f"content {i}")
    os.chown(rig.root / "var/lib", 7, 7)


def etc(rig: Rig) -> None:
    """An /etc of a first boot."""
    rig.put("/etc/f", "x")
    rig.put("/etc/machine-id", "")
    rig.put("/run/machine-id", ID + "\n")


def old(rig: Rig) -> None:
    """Content that was on the volume before."""
    tree(rig)
    rig.at("/var/lib/x").mkdir(parents=True)
    rig.at("/var/lib/x/mine").touch()


def linked(rig: Rig) -> None:
    """A link that the image has, with a source."""
    rig.put("/usr/share/x/f", "factory")
    (rig.root / "var/lib").mkdir(parents=True)
    (rig.root / "var/lib/x").symlink_to("/mnt/state/var/lib/x")


def below(rig: Rig) -> None:
    """What an overlay above has kept of the path: a file, a removed one, and one directory in its place."""
    tree(rig)
    rig.put("/var/lib/x/gone", "image")
    upper = rig.at("/.persist/overlay/var/upper/lib/x")
    (upper / "d1").mkdir(parents=True)
    (upper / "d1/f").write_text("mine")
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    os.setxattr(upper / "d1", "trusted.overlay.opaque", b"y")
    for part in (".persist", ".persist/overlay"):
        rig.at(part).chmod(0o700)


def removed(rig: Rig) -> None:
    """An overlay above has removed the path: the mount point is made there anew."""
    tree(rig)
    (rig.root / "var/lib/x").rename(rig.root / "var/lib/y")
    rig.at("/.persist/overlay/var/upper/lib").mkdir(parents=True)
    os.mknod(rig.at("/.persist/overlay/var/upper/lib/x"), stat.S_IFCHR, 0)
    for part in (".persist", ".persist/overlay"):
        rig.at(part).chmod(0o700)


def nothing(_rig: Rig) -> None:
    """An image without the path."""


CASES: dict[str, tuple[Callable[[Rig], None], str, dict[str, str]]] = {
    "bind": (tree, "/var/lib/x", {"method": "bind", "user": "3", "mode": "0750"}),
    "bind-missing": (nothing, "/var/lib/x", {"method": "bind"}),
    "bind-file-missing": (nothing, "/var/lib/x", {"method": "bind", "type": "file", "mode": "0600"}),
    "bind-adopted": (old, "/var/lib/x", {"method": "bind"}),
    "bind-etc": (etc, "/etc", {"method": "bind"}),
    "bind-file": (etc, "/etc/f", {"method": "bind"}),
    "overlay": (tree, "/var/lib", {"method": "overlay"}),
    "overlay-missing": (nothing, "/var/lib", {"method": "overlay"}),
    "overlay-below": (below, "/var/lib/x", {"method": "overlay", "overlay_above": "/var"}),
    "overlay-removed": (removed, "/var/lib/x", {"method": "overlay", "overlay_above": "/var"}),
    "overlay-etc": (etc, "/etc", {"method": "overlay"}),
    "symlink": (tree, "/var/lib/x", {"method": "symlink", "group": "3"}),
    "symlink-file": (etc, "/etc/f", {"method": "symlink"}),
    "symlink-file-missing": (nothing, "/var/lib/x", {"method": "symlink", "type": "file"}),
    "symlink-missing": (nothing, "/var/lib/x", {"method": "symlink"}),
    "symlink-adopted": (old, "/var/lib/x", {"method": "symlink"}),
    "symlink-in-image": (linked, "/var/lib/x", {"method": "symlink", "seed_from": "/usr/share/x"}),
}


@pytest.mark.parametrize("case", CASES)
def test_cut_after_each_step(tmp_path: Path, case: str) -> None:
    prepare, path, entry = CASES[case]

    def rig(name: str) -> Rig:
        (tmp_path / name).mkdir()
        made = Rig(tmp_path / name)
        prepare(made)
        return made

    whole = rig("whole")
    expected_result = whole.seed(path, **entry)
    expected = snapshot(tmp_path / "whole")
    cuts = 0
    for name in STEPS:
        cut = rig(name)
        if not killed(lambda cut=cut: cut.seed(path, **entry), name):  # type: ignore[misc]
            continue
        cuts += 1
        finished = name in ("marker", "done")
        assert (cut.marker(path) is not None) == finished
        result = cut.seed(path, **entry)
        assert result.state == ("present" if finished else expected_result.state), name
        assert snapshot(tmp_path / name) == expected, name
        # Twice in the same place, then to the end.
        again = rig(name + "-twice")
        assert killed(lambda: again.seed(path, **entry), name)  # noqa: B023
        killed(lambda: again.seed(path, **entry), name)  # noqa: B023
        again.seed(path, **entry)
        assert snapshot(tmp_path / (name + "-twice")) == expected, name
    assert cuts >= 8


@pytest.mark.parametrize("path", ["/var/lib/x", "/etc/f"])
@pytest.mark.parametrize(("was", "says"), [("bind", "symlink"), ("symlink", "bind")])
def test_bind_and_symlink_become_each_other(tmp_path: Path, was: str, says: str, path: str) -> None:
    def rig(name: str) -> Rig:
        (tmp_path / name).mkdir()
        made = Rig(tmp_path / name)
        (tree if path == "/var/lib/x" else etc)(made)
        before = snapshot(made.root)
        made.seed(path, "bind")
        if was == "symlink":
            made.seed(path, "symlink")
        else:
            assert snapshot(made.root) == before
        return made

    whole = rig("whole")
    content = snapshot(whole.at(path))
    assert whole.notes(whole.seed(path, says)) == ["ENTRY_CONVERTED"]
    marker = whole.marker(path)
    assert marker is not None and marker["method"] == says
    live = whole.root / path[1:]
    assert live.is_symlink() == (says == "symlink")
    assert live.with_name(f"{live.name}.persist-orig").exists() == (says == "symlink")
    expected = snapshot(tmp_path / "whole")
    cuts = 0
    for name in STEPS:
        cut = rig(name)
        if killed(lambda cut=cut: cut.seed(path, says), name):  # type: ignore[misc]
            cuts += 1
            assert snapshot(cut.at(path)) == content, "what is on the volume is not touched"
            cut.seed(path, says)
            assert snapshot(tmp_path / name) == expected, name
    assert cuts >= 4


def test_a_link_that_leads_to_nothing_yet_is_not_converted(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.seed("/etc/key", "symlink", type="file")
    with pytest.raises(PersistError, match="does not exist, or not yet"):
        rig.seed("/etc/key", "bind", type="file")
    assert (rig.root / "etc/key").is_symlink()


def test_symlink_keeps_the_pristine_copy(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    tree(rig)
    rig.seed("/var/lib/x", "symlink")
    link = rig.root / "var/lib/x"
    assert os.readlink(link) == "/run/persist/volume/var/lib/x"
    assert (rig.root / "var/lib/x.persist-orig/d0/f").read_text() == "content 0"
    assert rig.at("/var/lib/x/d0/f").read_text() == "content 0"


def test_a_link_to_a_file_that_a_program_is_going_to_make(tmp_path: Path) -> None:
    """ssh-keygen stops with a question at an empty file, and writes through a link that leads nowhere."""
    rig = Rig(tmp_path)
    (rig.root / "etc/ssh").mkdir(parents=True)
    (rig.root / "etc/ssh").chmod(0o750)
    assert rig.seed("/etc/ssh/key", "symlink", type="file", mode="0600").state == "empty"
    assert os.readlink(rig.root / "etc/ssh/key") == "/run/persist/volume/etc/ssh/key"
    assert not os.path.lexists(rig.at("/etc/ssh/key")) and rig.leftovers() == []
    assert stat.S_IMODE(rig.at("/etc/ssh").stat().st_mode) == 0o750
    with Dir.at(str(rig.volume)) as volume:
        assert stores.look(volume, "/etc/ssh/key", "etc-ssh-key", "symlink") == "-"
        rig.at("/etc/ssh").rename(rig.at("/etc/gone"))
        with pytest.raises(PersistError, match="missing"):
            stores.look(volume, "/etc/ssh/key", "etc-ssh-key", "symlink")
        rig.at("/etc/gone").rename(rig.at("/etc/ssh"))
        rig.at("/etc/ssh/key").write_text("made")
        assert stores.look(volume, "/etc/ssh/key", "etc-ssh-key", "symlink") != "-"
    assert rig.seed("/etc/ssh/key", "symlink", type="file").state == "present"


def test_a_file_that_was_seeded_and_is_missing_is_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.put("/etc/key", "x")
    rig.seed("/etc/key", "symlink", type="file")
    rig.at("/etc/key").unlink()
    with Dir.at(str(rig.volume)) as volume, pytest.raises(PersistError, match="missing"):
        stores.look(volume, "/etc/key", "etc-key", "symlink")


def test_symlink_after_the_volume_was_lost(tmp_path: Path) -> None:
    """The link and the pristine copy are on the root, the volume is new: the copy is the source."""
    rig = Rig(tmp_path)
    tree(rig)
    (rig.root / "var/lib/x").rename(rig.root / "var/lib/x.persist-orig")
    (rig.root / "var/lib/x").symlink_to("../../run/persist/volume/var/lib/x")
    assert rig.seed("/var/lib/x", "symlink").state == "seeded"
    assert rig.at("/var/lib/x/d1/f").exists()


def test_symlink_elsewhere_is_refused(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    (rig.root / "srv").symlink_to("/somewhere")
    with pytest.raises(PersistError, match="'/srv' is a symbolic link to '/somewhere'"):
        rig.seed("/srv", "symlink")
    assert os.readlink(rig.root / "srv") == "/somewhere" and rig.marker("/srv") is None


def test_symlink_with_an_old_copy_in_the_way(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.put("/srv/f", "now")
    rig.put("/srv.persist-orig/f", "then")
    with pytest.raises(PersistError, match="neither is overwritten"):
        rig.seed("/srv", "symlink")
    assert (rig.root / "srv/f").read_text() == "now" and (
        rig.root / "srv.persist-orig/f"
    ).read_text() == "then"
    assert rig.leftovers() == []


def test_many_at_once(tmp_path: Path) -> None:
    """Siblings and even the same entry, all in the same moment."""
    rig = Rig(tmp_path)
    tree(rig)
    rig.put("/var/lib/y/f", "y")
    children = []
    for i in range(24):
        child = os.fork()
        if child == 0:
            try:
                rig.seed(("/var/lib/x", "/var/lib/y", "/var/lib/none")[i % 3])
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 24
    assert rig.leftovers() == [] and sorted(os.listdir(rig.at("/var/lib"))) == ["none", "x", "y"]
    assert rig.at("/var/lib/x/d2/f").exists() and rig.at("/var/lib").stat().st_uid == 7


@pytest.fixture
def left(tmp_path: Path) -> Rig:
    """A symlink entry that lived in the store of the root filesystem for a while, and a new volume."""
    (tmp_path / "root/var/lib/persist/root").mkdir(parents=True)
    before = Rig(tmp_path, tmp_path / "root/var/lib/persist/root")
    before.put("/srv/x/f", "old")
    before.seed("/srv/x", "symlink")
    before.at("/srv/x/f").write_text("newest")
    return Rig(tmp_path)


@pytest.mark.parametrize("more", [{}, {"seed_from": "/usr/share/factory"}])
@pytest.mark.parametrize("link", ["ours", "public", "none"])
def test_from_the_root_store_to_a_volume(left: Rig, link: str, more: dict[str, str]) -> None:
    left.put("/usr/share/factory/g", "factory")
    if link != "ours":
        (left.root / "srv/x").unlink()
    if link == "public":
        (left.root / "srv/x").symlink_to("/mnt/state/srv/x")
    result = left.seed("/srv/x", "symlink", **more)
    assert (result.state, result.source) == ("seeded", "/var/lib/persist/root/srv/x")
    assert left.at("/srv/x/f").read_text() == "newest" and os.listdir(left.at("/srv/x")) == ["f"]
    assert (left.root / "srv/x.persist-orig/f").read_text() == "old"
    assert (left.root / "var/lib/persist/root/srv/x/f").read_text() == "newest"


def test_what_the_path_shows_counts_before_the_root_store(left: Rig) -> None:
    (left.root / "srv/x").unlink()
    (left.root / "srv/x.persist-orig").rename(left.root / "srv/x")
    assert left.seed("/srv/x", "symlink").source == "/srv/x"
    assert left.at("/srv/x/f").read_text() == "old"


def test_the_root_store_is_no_source_for_itself(left: Rig) -> None:
    store = left.root / "var/lib/persist/root"
    shutil.rmtree(store / "srv")
    (store / ".persist/seed/srv-x.json").unlink()
    left.roots = replace(left.roots, volume=str(store))
    assert left.seed("/srv/x", "symlink").source == "/srv/x.persist-orig"
    shutil.rmtree(store / ".persist")
    assert left.seed("/srv/x", "symlink").state == "adopted"
    assert (store / "srv/x/f").read_text() == "old"


@pytest.mark.parametrize("where", ["srv", "srv/x"])
def test_links_in_the_root_store_are_refused(left: Rig, tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    (outside / "x").mkdir(parents=True)
    store = left.root / "var/lib/persist/root"
    shutil.rmtree(store / where)
    (store / where).symlink_to(outside)
    with pytest.raises(PersistError, match="symbolic link"):
        left.seed("/srv/x", "symlink")
    assert left.marker("/srv/x") is None and not left.at("/srv/x").exists()
