# SPDX-License-Identifier: LGPL-2.1-or-later
"""``make test``: all layers, on two processors at once.

Each layer is a target of the Makefile. Those that look at all loop devices go one after the other; beside
them go the others, cheap ones first, and last the VM layer, with one machine until the first lane has ended,
and with two from then on. What a layer says is printed in whole when it has ended, and that of the last one
as it comes. A layer that fails does not hide what the others say. What ends this program ends all that it has
started.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import BinaryIO

from tests.processes import BESIDE, LOOK_SEC, Processes, Stopped, stop_at_signals

# What several want, and one makes.
FIRST = "test-parts"
LOOPS = ("test-storage", "test-nspawn")
OTHERS = ("lint", "test-generator", "test-unit", "deb-check", "test-install", "test-vm")
ONE_BY_ONE = ("lint", "test-generator", "test-unit", *LOOPS, "deb-check", "test-install", "test-vm")
# What the tests need is installed: a test that is left out is a failure.
STRICT = {"PERSIST_TEST_STRICT": "1"}
MAKE = ("make", "--no-print-directory")
HEARTBEAT_SEC = 30.0
GRACE_SEC = 60.0


@dataclass
class Job:
    """A layer that runs, or has run."""

    layer: str
    process: Popen[bytes]
    said: Path
    begin: float
    shown: int = 0  # bytes of what it said

    def news(self) -> bytes:
        """What it said and nobody has seen yet."""
        with self.said.open("rb") as file:
            file.seek(self.shown)
            news = file.read()
        self.shown += len(news)
        return news

    def last_line(self) -> str:
        """The last line that it said, or the end of it."""
        lines = self.said.read_bytes()[-4000:].decode(errors="replace").split("\n")
        return next((line.strip()[-90:] for line in reversed(lines) if line.strip()), "")


@dataclass
class Lane:
    """Layers that run one after the other."""

    waiting: list[str]
    job: Job | None = None

    @property
    def over(self) -> bool:
        """Whether nothing of it is left."""
        return self.job is None and not self.waiting


class Run:
    """All layers, and what became of them."""

    def __init__(
        self,
        directory: Path,
        out: BinaryIO,
        make: Sequence[str] = MAKE,
        *,
        environment: Mapping[str, str] = os.environ,
        heartbeat: float = HEARTBEAT_SEC,
    ) -> None:
        self.results: list[tuple[str, bool, float]] = []
        self._directory, self._out, self._make, self._heartbeat = directory, out, make, heartbeat
        self._beside = directory / "beside"
        self._environment = {**environment, **STRICT, BESIDE: str(self._beside)}
        self._processes = Processes()
        self._lanes: list[Lane] = []
        self._begin = self._beat = time.monotonic()
        self._followed: Job | None = None

    def lanes(self, *lanes: Sequence[str]) -> None:
        """Run the layers of these lanes, each lane beside the others."""
        self._lanes = [Lane(list(lane)) for lane in lanes]
        # Held as long as the first lane runs; by us alone, so that it is free whatever becomes of us.
        with self._beside.open("wb") as first:
            fcntl.flock(first, fcntl.LOCK_EX)
            while not all(lane.over for lane in self._lanes):
                for lane in self._lanes:
                    self._advance(lane)
                if self._lanes[0].over:
                    fcntl.flock(first, fcntl.LOCK_UN)
                self._show()
                time.sleep(LOOK_SEC)

    def end(self, grace: float = 0) -> None:
        """End what is left; what still runs has so many seconds to take apart what it has made."""
        stopped = [lane.job for lane in self._lanes if lane.job is not None]
        try:
            self._processes.stop(grace)
        finally:
            for job in stopped:
                self._print(job)
                self._say(f"=== {job.layer}: stopped after {time.monotonic() - job.begin:.0f} s")

    def summary(self) -> int:
        """One line for each layer, and one for all; exit status 0 only if all have passed."""
        self._say("\n=== summary")
        for layer, passed, seconds in self.results:
            self._say(f"{layer:<16} {'passed' if passed else 'FAILED'} in {seconds:.0f} s")
        failed = [layer for layer, passed, _ in self.results if not passed]
        if failed:
            self._say(f"FAILED: {' '.join(failed)}")
            return 1
        self._say(f"all {len(self.results)} layers passed in {time.monotonic() - self._begin:.0f} s")
        return 0

    def _advance(self, lane: Lane) -> None:
        job = lane.job
        if job is not None and job.process.poll() is not None:
            lane.job = None
            passed, seconds = job.process.returncode == 0, time.monotonic() - job.begin
            self.results.append((job.layer, passed, seconds))
            self._print(job)
            self._say(f"=== {job.layer}: {'passed' if passed else 'FAILED'} in {seconds:.0f} s")
        if lane.job is None and lane.waiting:
            layer = lane.waiting.pop(0)
            said = self._directory / layer
            process = self._processes.start([*self._make, layer], said, self._environment)
            lane.job = Job(layer, process, said, time.monotonic())

    def _show(self) -> None:
        """What the last one says, as it comes; while there are several a line now and then."""
        running = [lane.job for lane in self._lanes if lane.job is not None]
        now = time.monotonic()
        if len(running) == 1 and not any(lane.waiting for lane in self._lanes):
            self._print(running[0])
        elif now - self._beat > self._heartbeat:
            self._beat = now
            each = (f"{job.layer} for {now - job.begin:.0f} s: {job.last_line()}" for job in running)
            self._say(f"[{now - self._begin:.0f} s] {' | '.join(each)}")

    def _print(self, job: Job) -> None:
        if job is not self._followed:
            self._followed = job
            self._say(f"\n=== make {job.layer}")
        self._out.write(job.news())
        self._out.flush()

    def _say(self, text: str) -> None:
        self._out.write(f"{text}\n".encode())
        self._out.flush()


def run_all(run: Run, processors: int) -> int:
    """All layers; exit status."""
    try:
        run.lanes([FIRST])
        run.lanes(*([LOOPS, OTHERS] if processors > 1 else [ONE_BY_ONE]))
    except BaseException as error:
        with suppress(Stopped):  # by one who has no patience: all has been killed then
            run.end(GRACE_SEC)
        if isinstance(error, Stopped):
            return 128 + error.number
        raise
    run.end()
    return run.summary()


def main() -> int:
    """Run all layers; exit status 0 only if all have passed."""
    stop_at_signals()
    with tempfile.TemporaryDirectory(prefix="persist-test.") as directory:
        return run_all(Run(Path(directory), sys.stdout.buffer), len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    sys.exit(main())
