# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the container tests: a tree for each release, containers, and what is left of a failure.

Environment: PERSIST_DEBS, PERSIST_TEST_CACHE and PERSIST_TEST_ARTIFACTS as for the VM tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.vm import scene
from tests.vm.recipe import SUITES

from . import tree as trees
from .container import Container, needed
from .disk import Disk

HERE = Path(__file__).resolve().parent
Boot = Callable[..., Container]

_failed: pytest.StashKey[bool] = pytest.StashKey()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where what lives here cannot run, that is a failure and not a skip."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.nspawn)
    if ours and (missing := needed()):
        raise pytest.UsageError(
            f"the container tests need {', '.join(missing)}; 'make test-deps' installs what they need"
        )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Remember whether the test failed, for the fixtures that end after it."""
    outcome = yield
    if outcome.get_result().failed:
        item.stash[_failed] = True


@pytest.fixture(scope="session", params=SUITES)
def tree(request: pytest.FixtureRequest) -> Path:
    """The root directory of each release in turn."""
    return trees.build(request.param, scene.packages())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A blank disk of 512 MiB. It comes before ``container`` among a test's arguments, and so ends after
    it."""
    one = Disk(tmp_path, 512, b"")
    try:
        yield one
    finally:
        one.unplug()


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Disk]:
    """Another one."""
    place = tmp_path / "second"
    place.mkdir()
    one = Disk(place, 512, b"")
    try:
        yield one
    finally:
        one.unplug()


@pytest.fixture
def container(request: pytest.FixtureRequest, tree: Path) -> Iterator[Boot]:
    """container(files=..., ...): a Container that is removed after the test; a failure leaves its traces."""
    label = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.node.name).strip("-")
    with ExitStack() as stack:
        made: list[Container] = []

        def make(**options: Any) -> Container:
            one = stack.enter_context(Container(tree, f"{label}.{len(made)}", **options))
            made.append(one)
            return one

        yield make
        if request.node.stash.get(_failed, False):
            for one in made:
                one.save_artifacts(f"nspawn-{one.name}")
