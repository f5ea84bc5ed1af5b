# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the VM tests: images, machines, and what is left of a failure.

Environment: PERSIST_DEBS (paths or patterns, blanks or colons between; default build/*.deb of the checkout),
PERSIST_TEST_SUITES (default "bookworm"), PERSIST_TEST_CACHE, PERSIST_TEST_ACCEL, PERSIST_TEST_ARTIFACTS.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import image as images
from . import scene
from .accel import QEMU
from .checks import healthy_boot
from .image import Image
from .machine import Machine
from .recipe import SUITES

HERE = Path(__file__).resolve().parent
NEEDED = (QEMU, "qemu-img", "qemu-io", "mmdebstrap", "mkfs.btrfs", "mkfs.ext4", "unshare", "setpriv")

ImageFactory = Callable[..., Image]
MachineFactory = Callable[..., Machine]

_reports: pytest.StashKey[bool] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", "vm: boots a virtual machine (needs root, QEMU and mmdebstrap)")
    config.addinivalue_line(
        "markers", "harness: looks at the harness and not at persist; left out of 'make test'"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives here; where it cannot run that is a failure and not a skip."""
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.vm)
    if ours and (missing or os.geteuid() != 0):
        raise pytest.UsageError(
            f"the VM tests need {', '.join(missing) or 'root'}; 'make test-deps' installs what they need"
        )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Remember whether the test failed, for the fixtures that end after it."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        item.stash[_reports] = True


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_call() -> Generator[None, Any, None]:
    """The journal gate: at the end of each test that has passed all machines are judged."""
    outcome = yield
    machines = list(Machine.every)
    if outcome.excinfo is not None:
        for machine in machines:
            machine.forget()
        return
    for machine in machines:
        machine.judge()


def built_debs() -> tuple[Path, ...]:
    """The packages under test: PERSIST_DEBS, else build/*.deb of the checkout."""
    patterns = re.split(r"[\s:]+", os.environ.get("PERSIST_DEBS", "").strip())
    if patterns == [""]:
        patterns = [str(HERE.parents[1] / "build" / "*.deb")]
    return tuple(sorted(Path(name) for pattern in patterns for name in glob.glob(pattern)))


def selected_suites() -> list[str]:
    """The suites to test on."""
    return os.environ.get("PERSIST_TEST_SUITES", "bookworm").split()


@pytest.fixture(scope="session", params=selected_suites())
def suite(request: pytest.FixtureRequest) -> str:
    """Each suite in turn."""
    name: str = request.param
    assert name in SUITES
    return name


@pytest.fixture(scope="session")
def debs() -> tuple[Path, ...]:
    """The packages under test."""
    found = built_debs()
    assert found, "no package built: set PERSIST_DEBS, or run 'make deb'"
    return found


@pytest.fixture(scope="session")
def make_image(suite: str, debs: tuple[Path, ...]) -> ImageFactory:
    """make_image(variant="ro", customize=..., files=...): an image of the suite with the packages."""

    def make(variant: str = "ro", **options: Any) -> Image:
        return images.build(suite, options.pop("debs", debs), variant, **options)

    return make


@pytest.fixture(scope="session")
def plain_image(suite: str) -> Callable[[str], Image]:
    """plain_image(variant): an image of the suite without any package of ours."""
    return lambda variant: images.build(suite, (), variant)


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[MachineFactory]:
    """machine(image, ...): a Machine that is removed after the test; a failure leaves its traces."""
    made: list[Machine] = []
    label = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.node.name).strip("-")

    def make(image: Image, name: str = "", **options: Any) -> Machine:
        one = Machine(image, name or label, **options)
        made.append(one)
        return one

    try:
        yield make
    finally:
        for number, one in enumerate(made):
            try:
                if request.node.stash.get(_reports, False):
                    one.save_artifacts(label if number == 0 else f"{label}.{number}")
            finally:
                one.close()


@pytest.fixture(scope="session")
def booted_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine of Debian 12 with a volume on its disk "state" of 2 GiB, kept as "booted" at the end of its
    first boot. It was made beside a stick that does not count."""
    with Machine(scene.story_image("bookworm"), "booted-once", extra=scene.DMI, buses=("usb",)) as one:
        one.add_disk("state", "2G", header=scene.HEADER)
        one.attach_disk(scene.stick(tmp_path_factory.mktemp("booted-once") / "stick.raw"), bus="usb")
        one.start()
        assert healthy_boot(one)["volume"]["device"] == "/dev/vdb2"
        one.detach_disk("stick")
        one.snapshot("booted")
        yield one


@pytest.fixture
def after_first_boot(request: pytest.FixtureRequest, booted_once: Machine) -> Iterator[Machine]:
    """That machine, at the end of its first boot; a test may do with it what it wants."""
    booted_once.restore("booted")
    yield booted_once
    if request.node.stash.get(_reports, False):
        booted_once.save_artifacts(request.node.name)


@pytest.fixture(scope="session")
def booted_without() -> Iterator[Machine]:
    """A machine of Debian 12 that has booted without any disk for a volume, kept as "ready"; claims that are
    plugged in now are formatted at once."""
    with Machine(scene.story_image("bookworm"), "booted-without") as machine:
        machine.expect("VOLUME_MISSING", "FALLBACK", "VERDICT_VOLATILE")
        machine.start()
        machine.wait_for_boot()
        machine.snapshot("ready")
        machine.judge()
        yield machine
