# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cache of the tests' images, where several runs ask for one thing."""

from __future__ import annotations

import fcntl
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.vm import cache

RUNS = 4


def _build(target: Path) -> None:
    time.sleep(0.1)
    with (target.parent / "builds").open("a", encoding="utf-8") as file:
        file.write("built\n")


def _run(mine: Connection) -> None:
    """Obtain it, say so, and live on until the test has seen everybody."""
    mine.send(cache.obtain("thing", "key", _build, 2).is_dir())
    mine.recv()


def test_who_comes_second_waits_for_the_thing_and_not_for_the_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSIST_TEST_CACHE", str(tmp_path))
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe() for _ in range(RUNS)]
    runs = [fork.Process(target=_run, args=(theirs,)) for _, theirs in pipes]
    (tmp_path / "locks").mkdir()
    # All of them find that it is not there, and cannot build it yet.
    with (tmp_path / "locks/thing-key.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        for run in runs:
            run.start()
        time.sleep(0.3)
        fcntl.flock(lock, fcntl.LOCK_UN)  # the runs have this descriptor, too
    try:
        assert all(ours.poll(30) and ours.recv() for ours, _ in pipes)
        assert (tmp_path / "builds").read_text(encoding="utf-8") == "built\n"
        for ours, _ in pipes:
            ours.send("")
    finally:
        for run in runs:
            run.join(10)
            run.kill()
            run.join()
