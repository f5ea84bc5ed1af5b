# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl image create, with QEMU and guests of 512 bytes: what is left when, and which error is whose."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.image import accel, disk
from persist.image.machine import QEMU
from persist.image.source import Source, check_chain
from persist.image.work import PREFIX

from .boot_sector import Sector, good
from .namespace import own_machine, sh

pytestmark = [
    pytest.mark.storage,
    pytest.mark.skipif(not shutil.which(QEMU) or not shutil.which("qemu-img"), reason="QEMU"),
]
TOP = Path(__file__).resolve().parents[2]


def started(source: Path, output: Path, timeout: float) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "tests.storage.image_run", str(source), str(output), str(timeout)]
    return subprocess.Popen(line, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def create(source: Path, output: Path, timeout: float = 20) -> tuple[int, str]:
    process = started(source, output, timeout)
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def put(directory: Path, guest: Sector, size: int = 1 << 20) -> Path:
    source = directory / "source.raw"
    source.write_bytes(guest.image(size))
    return source


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def raw(image: Path) -> bytes:
    """What a machine would read from an image."""
    out = image.with_suffix(".read")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, out], check=True)
    return out.read_bytes()


def running(directory: Path) -> list[str]:
    """The processes whose command line names the directory, but for this one's own."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words.startswith("qemu-") and str(directory) in words:
            found.append(words)
    return found


def wait_for(what: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def test_an_image_is_made_and_source_is_as_it_was(tmp_path: Path) -> None:
    source, output = put(tmp_path, good()), tmp_path / "out.qcow2"
    before = digest(source)
    status, said = create(source, output)
    assert status == 0, said
    assert "hello from the script\n" in said and "sealing runs\n" in said
    assert digest(source) == before
    assert names(tmp_path) == ["out.qcow2", "source.raw"]
    made = raw(output)
    assert made[512:1024] == made[:512] == source.read_bytes()[:512], "what the machine wrote is in OUTPUT"
    assert source.read_bytes()[512:1024] == bytes(512)
    assert b"source.raw" not in output.read_bytes(), "OUTPUT stands alone"
    assert create(source, tmp_path / "again.qcow2")[0] == 0, "SOURCE starts again as if nothing had happened"


@pytest.mark.parametrize(
    ("guest", "timeout", "status", "sentence"),
    [
        (Sector(), 2, 3, "did not report in 2 s that sealing runs"),
        (Sector().power_off(), 20, 3, "powered off before it reported that sealing runs"),
        (Sector().restart(), 20, 3, "restarted before it reported that sealing runs"),
        (Sector().say("success").power_off(), 20, 3, "powered off before it reported that sealing runs"),
        (Sector().say("running"), 2, 4, "reported neither success nor an error in 2 s"),
        (Sector().say("running", "error: no way back"), 20, 4, "The machine was not sealed: no way back"),
        (Sector().say("error: a foreign process"), 20, 4, "The machine was not sealed: a foreign process"),
        (Sector().say("running", "output: success").power_off(), 20, 4, "before it reported success"),
        (Sector().say("running", "success").restart(), 20, 4, "restarted after it was sealed"),
        (Sector().say("running", "success"), 2, 5, "did not power off in 2 s"),
    ],
)
def test_each_end_has_its_own_error(
    guest: Sector, timeout: float, status: int, sentence: str, tmp_path: Path
) -> None:
    done, said = create(put(tmp_path, guest), tmp_path / "out.qcow2", timeout)
    assert (done, sentence in said) == (status, True), said
    assert names(tmp_path) == ["source.raw"]
    assert running(tmp_path) == []


def has_converted(directory: Path) -> bool:
    return any(path.stat().st_size > 1 << 20 for path in directory.glob(f"{PREFIX}*/output.qcow2"))


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGKILL, "overlay"),
        (signal.SIGKILL, "running"),
        (signal.SIGKILL, "convert"),
        (signal.SIGTERM, "convert"),
        (signal.SIGINT, "running"),
        (signal.SIGHUP, "overlay"),
    ],
)
def test_ended_by_a_signal(number: signal.Signals, moment: str, tmp_path: Path) -> None:
    """SIGKILL takes QEMU along, and the next run takes the rest away; the others leave nothing."""
    guest = good() if moment == "convert" else Sector().say("running")
    source, output = put(tmp_path, guest), tmp_path / "out.qcow2"
    if moment == "convert":
        with source.open("ab") as file:
            file.write(os.urandom(48 << 20))
    process = started(source, output, 60)
    try:
        if moment == "running":
            assert process.stderr is not None and process.stderr.readline() == "sealing runs\n"
            assert [line for line in running(tmp_path) if line.startswith(QEMU)]
        else:
            wait_for(
                {"overlay": lambda: list(tmp_path.glob(f"{PREFIX}*/overlay.qcow2"))}.get(
                    moment, lambda: has_converted(tmp_path)
                )
            )
        process.send_signal(number)
        process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    wait_for(lambda: not running(tmp_path), 5)
    left = names(tmp_path)
    assert "out.qcow2" not in left
    if number != signal.SIGKILL:
        assert left == ["source.raw"]
        return
    assert len(left) == 2 and left[0].startswith(PREFIX)
    source.write_bytes(good().image())
    status, said = create(source, output)
    assert status == 0 and f"removed what an earlier run had left: {left[0]}" in said
    assert names(tmp_path) == ["out.qcow2", "source.raw"]


def test_a_run_leaves_alone_what_another_one_works_on(tmp_path: Path) -> None:
    source = put(tmp_path, good())
    first = started(source, tmp_path / "one.qcow2", 60)
    try:
        wait_for(lambda: list(tmp_path.glob(f"{PREFIX}*/overlay.qcow2")))
        assert create(source, tmp_path / "two.qcow2")[0] == 0
        _, said = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 0, said
    assert names(tmp_path) == ["one.qcow2", "source.raw", "two.qcow2"]


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_a_source_in_use(form: str, tmp_path: Path) -> None:
    """A machine that runs on SOURCE is seen; and while SOURCE is read, none starts on it."""
    source = tmp_path / f"source.{form}"
    subprocess.run(["qemu-img", "create", "-q", "-f", form, source, "1M"], check=True)
    blockdev = f"driver={form},node-name=disk,file.driver=file,file.filename={source}"
    line = [QEMU, "-nodefaults", "-display", "none", "-S", "-blockdev", blockdev]
    line += ["-device", "virtio-blk-pci,drive=disk"]
    other = subprocess.Popen([*line, "-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off"])
    try:
        wait_for((tmp_path / "qmp").exists)
        status, said = create(source, tmp_path / "out.qcow2")
    finally:
        other.kill()
        other.wait()
    assert (status, "is in use: a virtual machine runs on it" in said) == (1, True), said
    held = Source(str(source))
    try:
        done = subprocess.run(line, stderr=subprocess.PIPE, text=True, timeout=20, check=False)
        assert done.returncode == 1 and 'Failed to get "write" lock' in done.stderr
        Source(str(source)).close()  # two images may be made of one machine at a time
    finally:
        held.close()


def test_a_source_that_was_changed(tmp_path: Path) -> None:
    path = put(tmp_path, good())
    source = Source(str(path))
    source.check_unchanged()
    with path.open("r+b") as file:
        file.write(b"x")
    with pytest.raises(PersistError, match="was changed by somebody else"):
        source.check_unchanged()
    source.close()


def test_what_was_discarded_is_not_in_the_image(tmp_path: Path) -> None:
    """A deleted key of one block: the guest's fstrim tells the disk, and its bytes are not taken over from
    SOURCE, and its neighbours' are."""
    source, overlay, whole = tmp_path / "source.raw", tmp_path / "overlay", tmp_path / "whole.qcow2"
    before, key, after = os.urandom(8192), os.urandom(4096), os.urandom(1 << 17)
    source.write_bytes(before + key + after)
    disk.lay_over(str(source), "raw", overlay)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-d", "unmap", "-c", "discard 8k 4k", overlay],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    disk.flatten(overlay, whole, lambda text, stays: None)
    assert raw(whole) == before + bytes(4096) + after


def test_a_raw_disk_is_never_asked_for_its_format(tmp_path: Path) -> None:
    """The guest has written the header of a qcow2 file over a secret of the host into its disk."""
    secret, source = tmp_path / "secret", tmp_path / "source.raw"
    secret.write_bytes(b"the host's own".ljust(1 << 20, b"."))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", source], check=True)
    header = source.read_bytes()
    overlay, whole = tmp_path / "overlay", tmp_path / "whole.qcow2"
    check_chain(str(source), "raw")
    disk.lay_over(str(source), "raw", overlay)
    disk.flatten(overlay, whole, lambda text, stays: None)
    assert raw(whole)[: len(header)] == header
    assert b"the host's own" not in raw(whole)


def test_a_chain_has_to_say_its_formats(tmp_path: Path) -> None:
    base, middle, top = tmp_path / "base.raw", tmp_path / "middle.qcow2", tmp_path / "top.qcow2"
    base.write_bytes(bytes(1 << 16))
    for name, below, form in ((middle, base, "raw"), (top, middle, "qcow2")):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", form, name], check=True)
    check_chain(str(top), "qcow2")
    # As old versions wrote it: the header extension that names the format is not there.
    text = middle.read_bytes()
    at = text.index(bytes.fromhex("e2792aca"))
    middle.write_bytes(text[:at] + bytes.fromhex("00112233") + text[at + 4 :])
    with pytest.raises(PersistError, match="does not say in which format"):
        check_chain(str(top), "qcow2")


def test_the_probe_of_kvm(tmp_path: Path) -> None:
    assert accel.works("tcg"), "the guest of the probe is a good one"
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o755)
    since = time.monotonic()
    assert not accel.works("kvm", 0.5, str(hangs))
    assert time.monotonic() - since < 10
    device = tmp_path / "kvm"
    assert accel.choose(str(device)) == ("tcg", f"{device} is not there")
    device.touch()
    assert accel.choose(str(device), 0.5, str(hangs)) == ("tcg", f"a guest does not run with {device}")


@own_machine
def _full(kib: int, guest: Sector, size: int, sentence: str) -> None:
    sh(f"mount -o remount,size={kib}k /srv")
    source = put(Path("/opt"), guest, size)
    if size > 1 << 20:
        source.write_bytes(guest.image() + os.urandom(size))
    status, said = create(source, Path("/srv/out.qcow2"))
    assert (status, sentence in said) == (1, True), said
    assert os.listdir("/srv") == []


@pytest.mark.parametrize(
    ("kib", "size", "sentence"),
    [
        (12, 1 << 20, "No space left on device"),  # the overlay
        (20, 1 << 20, "cannot write to its disk: no space is left on the host's filesystem"),
        (2048, 8 << 20, "No space left on device"),  # the image
    ],
)
def test_a_full_disk(kib: int, size: int, sentence: str) -> None:
    _full(kib, good(), size, sentence)
